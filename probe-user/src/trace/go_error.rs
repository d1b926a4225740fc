//! A Go error in words, from what lay at the places where Go's error types keep their parts.
//!
//! The kernel side copies blindly; here the names of the types say which of the copies mean something. A type
//! that is not known keeps its name, and its text if that can be read.

use probe_common::event::go::net_http::{ErrorSnapshot, ErrorValue};

use super::TypeNames;

/// What a failed call's span says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GoError {
    /// The Go type, `*net.OpError`.
    pub kind: String,
    pub message: String,
}

/// Which of the snapshot's values is read; see [`ErrorSnapshot`].
#[derive(Clone, Copy)]
enum Place {
    Itself,
    InFirstWords,
    InOpError,
    InSyscallError,
}

pub(super) fn describe(snapshot: &ErrorSnapshot, tgid: u32, names: &dyn TypeNames) -> GoError {
    let reader = Reader {
        snapshot,
        tgid,
        names,
    };
    GoError {
        kind: reader
            .type_name(Place::Itself)
            .unwrap_or_else(|| "error".to_owned()),
        message: reader.message(Place::Itself),
    }
}

/// The type of the error that `values[1]` of the snapshot holds, if there is one.
pub(super) fn wrapped_kind(snapshot: &ErrorSnapshot, tgid: u32, names: &dyn TypeNames) -> Option<String> {
    let reader = Reader {
        snapshot,
        tgid,
        names,
    };
    reader.type_name(Place::InFirstWords)
}

struct Reader<'a> {
    snapshot: &'a ErrorSnapshot,
    tgid: u32,
    names: &'a dyn TypeNames,
}

impl Reader<'_> {
    fn value(&self, place: Place) -> &ErrorValue {
        let [itself, in_first_words, in_op_error, in_syscall_error] = &self.snapshot.values;
        match place {
            Place::Itself => itself,
            Place::InFirstWords => in_first_words,
            Place::InOpError => in_op_error,
            Place::InSyscallError => in_syscall_error,
        }
    }

    fn type_name(&self, place: Place) -> Option<String> {
        match self.value(place).type_address {
            0 => None,
            address => self.names.type_name(self.tgid, address),
        }
    }

    /// The value's first two words as a string, if they were one.
    fn text(&self, place: Place) -> Option<&str> {
        let value = self.value(place);
        let text = str::from_utf8(value.text.get(..value.text_len as usize)?).ok()?;
        let readable = !text.is_empty() && !text.chars().any(char::is_control);
        readable.then_some(text)
    }

    /// What the value at `place` says. Each arm that goes on goes to a later place, so this ends.
    fn message(&self, place: Place) -> String {
        let value = self.value(place);
        let Some(name) = self.type_name(place) else {
            return "the error's type is not known".to_owned();
        };
        let known = match name.as_str() {
            "syscall.Errno" => Some(errno(value.word)),
            "context.deadlineExceededError" => Some("context deadline exceeded".to_owned()),
            "*poll.DeadlineExceededError"
            | "poll.DeadlineExceededError"
            | "*net.timeoutError"
            | "net.timeoutError" => Some("i/o timeout".to_owned()),
            "poll.errNetClosing" => Some("use of closed network connection".to_owned()),
            "net.canceledError" => Some("operation was canceled".to_owned()),
            "http.tlsHandshakeTimeoutError" => Some("TLS handshake timeout".to_owned()),
            "x509.UnknownAuthorityError" => Some("certificate signed by unknown authority".to_owned()),
            "x509.HostnameError" => Some("certificate is not valid for this host".to_owned()),
            "x509.CertificateInvalidError" => Some("certificate is not valid".to_owned()),
            "*tls.CertificateVerificationError" => Some("certificate could not be verified".to_owned()),
            "tls.RecordHeaderError" => Some(
                self.text(place)
                    .unwrap_or("what came is not a TLS record")
                    .to_owned(),
            ),
            "tls.alert" | "tls.AlertError" => Some(alert(value.word)),
            "*net.DNSError" => Some(self.text(place).unwrap_or("name lookup failed").to_owned()),
            "*net.OpError" => Some(self.wrapped(place, "network operation", Place::InOpError)),
            "*os.SyscallError" => Some(self.wrapped(place, "system call", Place::InSyscallError)),
            "http.transportReadFromServerError" => {
                Some(self.wrapped(place, "reading from the server", Place::InFirstWords))
            }
            "http.nothingWrittenError" | "*http.nothingWrittenError" => {
                Some(self.wrapped(place, "sending", Place::InFirstWords))
            }
            // A stream or the last one, and behind it the code.
            "http.http2StreamError" | "http2.StreamError" => {
                Some(format!("the stream was reset: {}", http2_code(value.word >> 32)))
            }
            "http.http2GoAwayError" | "http2.GoAwayError" => Some(format!(
                "the server closes the connection: {}",
                http2_code(value.word >> 32)
            )),
            "http.http2ConnectionError" | "http2.ConnectionError" => Some(format!(
                "the connection failed: {}",
                http2_code(value.word & u64::from(u32::MAX))
            )),
            "*tls.permanentError" => Some(self.wrapped(place, "TLS", Place::InFirstWords)),
            _ => None,
        };
        known.unwrap_or_else(|| match self.text(place) {
            Some(text) => text.to_owned(),
            None => format!("failed with {name}"),
        })
    }

    /// What the value at `place` was doing, and what the value it wraps says.
    fn wrapped(&self, place: Place, otherwise: &str, inner: Place) -> String {
        let doing = match inner {
            // These have a string in front of the error; the others begin with the error.
            Place::InOpError | Place::InSyscallError => self.text(place).unwrap_or(otherwise),
            Place::Itself | Place::InFirstWords => otherwise,
        };
        let reachable = match (place, inner) {
            (Place::Itself, Place::InOpError | Place::InFirstWords) => true,
            (Place::InOpError, Place::InSyscallError) => true,
            // A snapshot holds what the error itself wraps, not what a wrapped one does in its turn.
            (Place::Itself | Place::InFirstWords | Place::InOpError | Place::InSyscallError, _) => false,
        };
        if reachable && self.value(inner).type_address != 0 {
            format!("{doing}: {}", self.message(inner))
        } else {
            format!("{doing} failed")
        }
    }
}

/// Linux's errors that connections meet, in Go's words.
fn errno(number: u64) -> String {
    let text = match number {
        1 => "operation not permitted",
        11 => "resource temporarily unavailable",
        13 => "permission denied",
        22 => "invalid argument",
        24 => "too many open files",
        32 => "broken pipe",
        99 => "cannot assign requested address",
        100 => "network is down",
        101 => "network is unreachable",
        103 => "software caused connection abort",
        104 => "connection reset by peer",
        105 => "no buffer space available",
        107 => "transport endpoint is not connected",
        110 => "connection timed out",
        111 => "connection refused",
        112 => "host is down",
        113 => "no route to host",
        _ => return format!("errno {number}"),
    };
    text.to_owned()
}

/// The name of an error code of HTTP/2.
fn http2_code(code: u64) -> String {
    const NAMES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    let name = usize::try_from(code).ok().and_then(|code| NAMES.get(code));
    name.map_or_else(|| format!("code {code}"), |name| (*name).to_owned())
}

/// TLS's alerts. The value is one byte.
fn alert(word: u64) -> String {
    let text = match word & 0xff {
        0 => "close notify",
        10 => "unexpected message",
        20 => "bad record MAC",
        40 => "handshake failure",
        42 => "bad certificate",
        43 => "unsupported certificate",
        44 => "revoked certificate",
        45 => "expired certificate",
        46 => "unknown certificate",
        47 => "illegal parameter",
        48 => "unknown certificate authority",
        49 => "access denied",
        50 => "error decoding message",
        51 => "error decrypting message",
        70 => "protocol version not supported",
        71 => "insufficient security level",
        80 => "internal error",
        90 => "user canceled",
        112 => "unrecognized name",
        116 => "certificate required",
        120 => "no application protocol",
        number => return format!("TLS alert {number}"),
    };
    format!("TLS alert: {text}")
}

#[cfg(test)]
mod tests {
    use crate::event::{
        Event, decode,
        recording::{Recorded, Types},
    };

    use super::*;

    struct Recording(Types);

    impl TypeNames for Recording {
        fn type_name(&self, _tgid: u32, address: u64) -> Option<String> {
            self.0.name(address).map(str::to_owned)
        }
    }

    #[track_caller]
    fn check(error: &str, kind: &str, message: &str) {
        let mut types = Types::default();
        let line = format!(r#"{{"event":"call","tgid":7,"start_ns":1,"end_ns":2,"error":{error}}}"#);
        let bytes = Recorded::from_line(&line).unwrap().to_bytes(&mut types);
        let Event::GoNetHttpCall(call) = decode(&bytes).unwrap() else {
            panic!("not a call")
        };
        let described = describe(&call.error.unwrap(), 7, &Recording(types));
        assert_eq!(
            (described.kind.as_str(), described.message.as_str()),
            (kind, message)
        );
    }

    #[test]
    fn refused() {
        check(
            r#"[{"type":"*net.OpError","text":"dial"},{},{"type":"*os.SyscallError","text":"connect"},{"type":"syscall.Errno","word":111}]"#,
            "*net.OpError",
            "dial: connect: connection refused",
        );
        check(
            r#"[{"type":"*net.OpError","text":"read"},{},{"type":"*os.SyscallError","text":"read"},{"type":"syscall.Errno","word":4000}]"#,
            "*net.OpError",
            "read: read: errno 4000",
        );
    }

    #[test]
    fn time_is_over() {
        check(
            r#"[{"type":"context.deadlineExceededError"}]"#,
            "context.deadlineExceededError",
            "context deadline exceeded",
        );
        check(
            r#"[{"type":"*errors.errorString","text":"context canceled"}]"#,
            "*errors.errorString",
            "context canceled",
        );
        check(
            r#"[{"type":"*http.timeoutError","text":"net/http: timeout awaiting response headers"}]"#,
            "*http.timeoutError",
            "net/http: timeout awaiting response headers",
        );
        check(
            r#"[{"type":"*net.OpError","text":"dial"},{},{"type":"*net.timeoutError"}]"#,
            "*net.OpError",
            "dial: i/o timeout",
        );
    }

    #[test]
    fn names_and_certificates() {
        check(
            r#"[{"type":"*net.OpError","text":"dial"},{},{"type":"*net.DNSError","text":"no such host"}]"#,
            "*net.OpError",
            "dial: no such host",
        );
        // Since Go 1.23 the text does not come first.
        check(
            r#"[{"type":"*net.OpError","text":"dial"},{},{"type":"*net.DNSError","text":"\u0001\u0002"}]"#,
            "*net.OpError",
            "dial: name lookup failed",
        );
        check(
            r#"[{"type":"*tls.CertificateVerificationError","text":"\u0000"}]"#,
            "*tls.CertificateVerificationError",
            "certificate could not be verified",
        );
        check(
            r#"[{"type":"*net.OpError","text":"remote error"},{},{"type":"tls.alert","word":298}]"#,
            "*net.OpError",
            "remote error: TLS alert: bad certificate",
        );
    }

    #[test]
    fn wrapped_in_the_first_words() {
        check(
            r#"[{"type":"http.transportReadFromServerError"},{"type":"*errors.errorString","text":"EOF"}]"#,
            "http.transportReadFromServerError",
            "reading from the server: EOF",
        );
        check(
            r#"[{"type":"http.nothingWrittenError"},{"type":"*net.OpError","text":"write"}]"#,
            "http.nothingWrittenError",
            "sending: write failed",
        );
    }

    #[test]
    fn errors_of_http2_have_a_code_behind_the_stream() {
        let stream_7_internal_error = (2_u64 << 32) | 7;
        let error = |kind: &str| format!(r#"[{{"type":"{kind}","word":{stream_7_internal_error}}}]"#);
        for kind in ["http.http2StreamError", "http2.StreamError"] {
            check(&error(kind), kind, "the stream was reset: INTERNAL_ERROR");
        }
        let goaway = "http2.GoAwayError";
        check(
            &error(goaway),
            goaway,
            "the server closes the connection: INTERNAL_ERROR",
        );
        let connection = "http2.ConnectionError";
        check(
            &error(connection),
            connection,
            "the connection failed: REFUSED_STREAM",
        );
        assert_eq!(http2_code(14), "code 14");
    }

    #[test]
    fn what_is_not_known_says_what_it_can() {
        check(
            r#"[{"type":"*shop.SoldOut","text":"sold out"}]"#,
            "*shop.SoldOut",
            "sold out",
        );
        check(
            r#"[{"type":"*shop.SoldOut"}]"#,
            "*shop.SoldOut",
            "failed with *shop.SoldOut",
        );
        check(r#"[{}]"#, "error", "the error's type is not known");
        check(
            r#"[{"type":"*net.OpError"}]"#,
            "*net.OpError",
            "network operation failed",
        );
    }

    #[test]
    fn a_length_beyond_the_text_is_no_text() {
        let mut types = Types::default();
        let line =
            r#"{"event":"call","tgid":7,"start_ns":1,"end_ns":2,"error":[{"type":"*a.B","text":"x"}]}"#;
        let bytes = Recorded::from_line(line).unwrap().to_bytes(&mut types);
        let Event::GoNetHttpCall(call) = decode(&bytes).unwrap() else {
            panic!("not a call")
        };
        let mut snapshot = *call.error.unwrap();
        snapshot.values[0].text_len = u32::MAX;
        assert_eq!(
            describe(&snapshot, 7, &Recording(types)).message,
            "failed with *a.B"
        );
    }
}
