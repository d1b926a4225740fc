//! HTTP/2 of Go's own packages: requests served, calls sent. The one within `net/http` and `golang.org/x/net/http2` have
//! the same functions and structs of their own, so each has programs of its own, over one code.

mod call;
mod request;

use probe_common::field::GoField;

/// Where one of the packages keeps what is read.
trait Package {
    const FIELDS: GoField;
    const FRAME_STREAM_ID: GoField;
    /// Of the request that a handler gets.
    const REQUEST_METHOD: GoField;
    const REQUEST_URL: GoField;
    const REQUEST_HOST: GoField;
    const REQUEST_CONTENT_LENGTH: GoField;
    const REQUEST_CONTEXT: GoField;
    const WRITER_STATE: GoField;
    const WRITER_STREAM: GoField;
    const WRITER_STATUS: GoField;
    const WRITER_BYTES: GoField;
    const SERVER_STREAM_ID: GoField;
    const SERVER_TLS_STATE: GoField;
    const SERVER_CONN: GoField;
    /// Of the request that a client sends.
    const CLIENT_REQUEST_HEADER: GoField;
    const CLIENT_STREAM_CONN: GoField;
    const CLIENT_STREAM_ID: GoField;
    const CLIENT_CONN: GoField;
    const CLIENT_TLS_STATE: GoField;
}

/// Within `net/http`.
struct Standard;

impl Package for Standard {
    const FIELDS: GoField = GoField::Http2Fields;
    const FRAME_STREAM_ID: GoField = GoField::Http2StreamId;
    const REQUEST_METHOD: GoField = GoField::Http2RequestMethod;
    const REQUEST_URL: GoField = GoField::Http2RequestUrl;
    const REQUEST_HOST: GoField = GoField::Http2RequestHost;
    const REQUEST_CONTENT_LENGTH: GoField = GoField::Http2RequestContentLength;
    const REQUEST_CONTEXT: GoField = GoField::Http2RequestContext;
    const WRITER_STATE: GoField = GoField::Http2WriterState;
    const WRITER_STREAM: GoField = GoField::Http2WriterStream;
    const WRITER_STATUS: GoField = GoField::Http2WriterStatus;
    const WRITER_BYTES: GoField = GoField::Http2WriterBytes;
    const SERVER_STREAM_ID: GoField = GoField::Http2ServerStreamId;
    const SERVER_TLS_STATE: GoField = GoField::Http2ServerTlsState;
    const SERVER_CONN: GoField = GoField::Http2ServerConn;
    const CLIENT_REQUEST_HEADER: GoField = GoField::Http2ClientRequestHeader;
    const CLIENT_STREAM_CONN: GoField = GoField::Http2ClientStreamConn;
    const CLIENT_STREAM_ID: GoField = GoField::Http2ClientStreamId;
    const CLIENT_CONN: GoField = GoField::Http2ClientConn;
    const CLIENT_TLS_STATE: GoField = GoField::Http2ClientTlsState;
}

/// `golang.org/x/net/http2`.
struct XNet;

impl Package for XNet {
    const FIELDS: GoField = GoField::MetaHeadersFrameFields;
    const FRAME_STREAM_ID: GoField = GoField::FrameHeaderStreamId;
    const REQUEST_METHOD: GoField = GoField::RequestMethod;
    const REQUEST_URL: GoField = GoField::RequestUrl;
    const REQUEST_HOST: GoField = GoField::RequestHost;
    const REQUEST_CONTENT_LENGTH: GoField = GoField::RequestContentLength;
    const REQUEST_CONTEXT: GoField = GoField::RequestCtx;
    const WRITER_STATE: GoField = GoField::XHttp2WriterState;
    const WRITER_STREAM: GoField = GoField::XHttp2WriterStream;
    const WRITER_STATUS: GoField = GoField::XHttp2WriterStatus;
    const WRITER_BYTES: GoField = GoField::XHttp2WriterBytes;
    const SERVER_STREAM_ID: GoField = GoField::XHttp2ServerStreamId;
    const SERVER_TLS_STATE: GoField = GoField::XHttp2ServerTlsState;
    const SERVER_CONN: GoField = GoField::XHttp2ServerConn;
    const CLIENT_REQUEST_HEADER: GoField = GoField::RequestHeader;
    const CLIENT_STREAM_CONN: GoField = GoField::XHttp2ClientStreamConn;
    const CLIENT_STREAM_ID: GoField = GoField::XHttp2ClientStreamId;
    const CLIENT_CONN: GoField = GoField::XHttp2ClientConn;
    const CLIENT_TLS_STATE: GoField = GoField::XHttp2ClientTlsState;
}
