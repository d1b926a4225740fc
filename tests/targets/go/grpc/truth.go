package main

// record is what really happened, once for each request served and each call made. The number that ends the path
// is the call's: the call and the request that it becomes elsewhere share it, and nothing else has it.
type record struct {
	ID      uint64 `json:"id"`
	Parent  uint64 `json:"parent"` // of a call: the request on whose behalf it was made
	Kind    string `json:"kind"`   // entry: a request served; exit: a call made
	Service string `json:"service"`
	RPC     string `json:"rpc"`    // of gRPC: unary, upload, download or chat; empty for HTTP
	Method  string `json:"method"` // of HTTP
	Path    string `json:"path"`
	Peer    string `json:"peer"`   // of a call: the target as it was dialled
	Status  int    `json:"status"` // of HTTP; 0: there is none, or it is not known
	Code    string `json:"code"`   // of gRPC; empty: not known
	StartNs int64  `json:"start_ns"`
	EndNs   int64  `json:"end_ns"` // 0: the end is not the program's to know
	Error   string `json:"error"`
	Shape   string `json:"shape"`  // in which way the call was made, or the route that served
	Expect  string `json:"expect"` // of a call: see mustFind
	TLS     bool   `json:"tls"`
	Bare    bool   `json:"bare"` // of a call: its connection cannot carry a header that names it

	// Of a stream, and of any call that is served, for a server does not know which is none.
	Messages *both `json:"messages,omitempty"`

	tally *tally
}

const (
	// mustFind: whoever watches from outside has to find this very parent.
	mustFind = "must"
	// mayFind: nothing ties the call to its parent any more. This parent or none, but no other.
	mayFind = "may"
)
