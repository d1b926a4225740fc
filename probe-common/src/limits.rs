//! Every size that both sides agree on, each with its why.

/// Bytes of a request's path that are kept. OAP cuts endpoint names at 150 characters; the rest is for the
/// `url` tag.
pub const PATH_MAX: usize = 256;
/// Bytes of a method name: the longest registered one that programs use is `PROPPATCH`.
pub const METHOD_MAX: usize = 16;
/// Bytes of a host or peer: DNS names may be 253 bytes, but OAP never aliases a peer over 70.
pub const HOST_MAX: usize = 128;
/// Bytes of a peer: a host and the scheme's default port behind it, rounded up to a power of two.
pub const PEER_MAX: usize = 256;
/// Bytes of a `ServeMux` pattern. A power of two, as the other buffers that are read by a masked index.
pub const PATTERN_MAX: usize = 256;
/// Bytes of an incoming `sw8` value. SkyWalking bounds its parts so that real ones stay below 900.
pub const SW8_MAX: usize = 1024;
/// Bytes of the trace id in an `sw8`: base64 of the 150 characters that OAP's column has.
pub const TRACE_ID_BASE64_MAX: usize = 200;
/// Bytes of an incoming `sw8-correlation` value that is passed on.
pub const CORRELATION_MAX: usize = 512;
/// Bytes of `sw8-x`: a mode digit, a dash and a millisecond timestamp.
pub const SW8_X_MAX: usize = 32;
/// `00-<32 hex>-<16 hex>-<2 hex>`.
pub const TRACEPARENT_LEN: usize = 55;
/// Bytes of an incoming `traceparent` that are kept: a later version's may be longer.
pub const TRACEPARENT_BYTES: usize = 64;
/// Bytes of an operation name: OAP's endpoint column is 150 characters.
pub const OPERATION_MAX: usize = 150;
/// Bytes of a service or instance name: OAP cuts both at 70 characters.
pub const NAME_MAX: usize = 72;
/// Base64 of [`NAME_MAX`] bytes.
pub const NAME_BASE64_MAX: usize = NAME_MAX.div_ceil(3) * 4;
/// Bytes of the request head that is searched for headers: `bufio.Reader`'s default buffer, which is what
/// `net/http` uses for its connections.
pub const HEAD_MAX: usize = 4096;
/// Bytes of all header lines that one request may get.
pub const PREPARED_MAX: usize = 2048;
/// How many links of a `context.Context` chain are followed.
pub const CONTEXT_DEPTH_MAX: usize = 16;
/// Bytes of the kernel side's state of an open request, whose fields are its own.
pub const REQUEST_STATE_BYTES: usize = 2456;
/// Bytes of its state of an open call.
pub const CALL_STATE_BYTES: usize = 656;
/// Requests that may be open at once over all targets.
pub const OPEN_REQUESTS_MAX: u32 = 8192;
/// Processes that may be traced at once.
pub const TARGETS_MAX: u32 = 1024;
/// Client sockets that may be enrolled at once.
pub const SOCKETS_MAX: u32 = 65_536;
/// Connections whose beginning is remembered, to name the hops on them; the oldest are forgotten.
pub const CONNECTIONS_MAX: u32 = 16_384;
/// Calls over TLS that may wait at once for the other end to take what belongs to them.
pub const HOPS_MAX: u32 = 2048;
/// Bytes of the ring buffer; a record is 200 to 1,500 bytes, so this holds some 4,000 spans.
pub const RING_BYTES: u32 = 4 * 1024 * 1024;
