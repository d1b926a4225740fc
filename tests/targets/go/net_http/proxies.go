package main

import (
	"net/http"
	"net/http/httputil"
	"net/url"
)

// way is by what client a call goes to which of the next service's ports.
type way func() (client *http.Client, base string)

func (n *node) byPlain() (*http.Client, string) { return n.caller.plain, n.next.Main }
func (n *node) byTLS() (*http.Client, string)   { return n.caller.tls, n.next.TLS }

// forwarding hands the request on to a route of the next service, with all headers that it came with. It may be told to
// name a parent of its own choice.
func (n *node) forwarding(name string, by way, route string) shape {
	return func(w http.ResponseWriter, r *http.Request, id uint64) int {
		client, base := by()
		target, err := url.Parse(base)
		if err != nil {
			panic(err)
		}
		status := 0
		proxy := httputil.ReverseProxy{
			Transport: client.Transport,
			Director: func(out *http.Request) {
				out.URL.Scheme, out.URL.Host = target.Scheme, target.Host
				out.URL.Path = route + n.caller.announce(intent{id, name, mustFind})
				if own := r.Header.Get("X-Name-Parent"); own != "" {
					out.Header.Set("Sw8", own)
				}
			},
			ModifyResponse: func(response *http.Response) error {
				status = response.StatusCode
				return nil
			},
			ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
				status = http.StatusBadGateway
				http.Error(w, err.Error(), status)
			},
		}
		proxy.ServeHTTP(w, r)
		return status
	}
}

// behind calls a proxy: what that one forwards is then a header that names this call, not the proxy's own.
func (n *node) behind(route string) func(r *http.Request, id uint64) error {
	return func(r *http.Request, id uint64) error {
		return n.caller.get(r.Context(), n.caller.plain, intent{id, "behind", mustFind}, n.next.Main, route)
	}
}
