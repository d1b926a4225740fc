package main

// record is a line of the log, with the keys of ../grpc/truth.go, which says what they are.
type record struct {
	ID       uint64 `json:"id"`
	Parent   uint64 `json:"parent"`
	Kind     string `json:"kind"`
	Service  string `json:"service"`
	RPC      string `json:"rpc"`
	Method   string `json:"method"`
	Path     string `json:"path"`
	Peer     string `json:"peer"`
	Status   int    `json:"status"`
	Code     string `json:"code"`
	StartNs  int64  `json:"start_ns"`
	EndNs    int64  `json:"end_ns"`
	Error    string `json:"error"`
	Shape    string `json:"shape"`
	Expect   string `json:"expect"`
	TLS      bool   `json:"tls"`
	Bare     bool   `json:"bare"`
	Messages *both  `json:"messages,omitempty"`
}

type oneWay struct {
	Count   uint64 `json:"count"`
	FirstNs int64  `json:"first_ns"`
	LastNs  int64  `json:"last_ns"`
}

type both struct {
	Sent     oneWay `json:"sent"`
	Received oneWay `json:"received"`
}

// add counts a message unless it failed.
func (w *oneWay) add(err error) error {
	if err == nil {
		w.LastNs = now()
		if w.Count == 0 {
			w.FirstNs = w.LastNs
		}
		w.Count++
	}
	return err
}
