//! Bytes → [`Event`]: total, closed, its strings borrowed from the record.

pub mod recording;

use probe_common::event::process::ProcessEvent;
use probe_common::{
    event::{
        EventHeader, EventKind,
        go::{
            grpc::{BothWays, MESSAGES_COUNTED},
            net_http::{CALL_FAILED, CallEvent, ErrorSnapshot, RequestEvent},
        },
    },
    limits::SW8_MAX,
};
use zerocopy::{Immutable, KnownLayout, TryFromBytes};

/// A record understood.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A process replaced its program.
    ProcessExec(ProcessEvent),
    /// A process ended.
    ProcessExit(ProcessEvent),
    /// A Go server has finished a request.
    GoNetHttpRequest(Request<'a>),
    /// A Go client has finished a call.
    GoNetHttpCall(Call<'a>),
    /// A grpc-go server has answered a call.
    GoGrpcRequest(Request<'a>),
    /// A grpc-go client's call is over.
    GoGrpcCall(Call<'a>),
    /// A request served by HTTP/2.
    GoHttp2Request(Request<'a>),
    /// A call of an HTTP/2 client.
    GoHttp2Call(Call<'a>),
}

/// A request served, with its strings.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub fixed: RequestEvent,
    /// Of a stream of gRPC.
    pub messages: Option<BothWays>,
    pub method: &'a [u8],
    pub path: &'a [u8],
    pub host: &'a [u8],
    pub pattern: &'a [u8],
    pub operation: &'a [u8],
    pub sw8: &'a [u8],
    pub correlation: &'a [u8],
    pub sw8_x: &'a [u8],
    pub traceparent: &'a [u8],
}

/// A call sent, with its strings.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    pub fixed: CallEvent,
    /// Of a failed call; boxed, for it is long and seldom there.
    pub error: Option<Box<ErrorSnapshot>>,
    /// Of a stream of gRPC.
    pub messages: Option<BothWays>,
    pub method: &'a [u8],
    pub scheme: &'a [u8],
    pub peer: &'a [u8],
    pub path: &'a [u8],
}

/// Why a record is not an event. A span is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Undecodable {
    /// Its kind, or another closed list in it, has a number that we do not know.
    Unknown,
    /// It ends before its fixed part or its strings do.
    Short,
}

impl Undecodable {
    /// All reasons.
    pub const ALL: [Self; 2] = [Self::Unknown, Self::Short];

    /// The name under which it is reported.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "record_unknown",
            Self::Short => "record_short",
        }
    }
}

const _: () = assert!(
    SW8_MAX <= u16::MAX as usize,
    "lengths of strings are 16 bits wide"
);

/// What a record says. Bytes behind the last string are not looked at: records are padded.
pub fn decode(record: &[u8]) -> Result<Event<'_>, Undecodable> {
    let (header, _) = split::<EventHeader>(record)?;
    Ok(match header.kind {
        EventKind::ProcessExec => Event::ProcessExec(split(record)?.0),
        EventKind::ProcessExit => Event::ProcessExit(split(record)?.0),
        EventKind::GoNetHttpRequest => Event::GoNetHttpRequest(request(record)?),
        EventKind::GoNetHttpCall => Event::GoNetHttpCall(call(record)?),
        EventKind::GoGrpcRequest => Event::GoGrpcRequest(request(record)?),
        EventKind::GoGrpcCall => Event::GoGrpcCall(call(record)?),
        EventKind::GoHttp2Request => Event::GoHttp2Request(request(record)?),
        EventKind::GoHttp2Call => Event::GoHttp2Call(call(record)?),
    })
}

fn request(record: &[u8]) -> Result<Request<'_>, Undecodable> {
    let (fixed, rest) = split::<RequestEvent>(record)?;
    let (messages, strings) = messages(fixed.flags, rest)?;
    let mut strings = Strings(strings);
    Ok(Request {
        messages,
        method: strings.take(fixed.method_len)?,
        path: strings.take(fixed.path_len)?,
        host: strings.take(fixed.host_len)?,
        pattern: strings.take(fixed.pattern_len)?,
        operation: strings.take(fixed.operation_len)?,
        sw8: strings.take(fixed.sw8_len)?,
        correlation: strings.take(fixed.correlation_len)?,
        sw8_x: strings.take(fixed.sw8_x_len)?,
        traceparent: strings.take(fixed.traceparent_len)?,
        fixed,
    })
}

fn call(record: &[u8]) -> Result<Call<'_>, Undecodable> {
    let (fixed, mut rest) = split::<CallEvent>(record)?;
    let mut error = None;
    if fixed.flags & CALL_FAILED != 0 {
        let (snapshot, strings) =
            ErrorSnapshot::try_read_from_prefix(rest).map_err(|_short| Undecodable::Short)?;
        error = Some(Box::new(snapshot));
        rest = strings;
    }
    let (messages, strings) = messages(fixed.flags, rest)?;
    let mut strings = Strings(strings);
    Ok(Call {
        method: strings.take(fixed.method_len)?,
        scheme: strings.take(fixed.scheme_len)?,
        peer: strings.take(fixed.peer_len)?,
        path: strings.take(fixed.path_len)?,
        error,
        messages,
        fixed,
    })
}

/// The counted messages, where `rest` begins with them, and what follows.
fn messages(flags: u32, rest: &[u8]) -> Result<(Option<BothWays>, &[u8]), Undecodable> {
    if flags & MESSAGES_COUNTED == 0 {
        return Ok((None, rest));
    }
    let (messages, rest) = split(rest)?;
    Ok((Some(messages), rest))
}

/// The fixed part, copied: a record need not be aligned to be understood.
fn split<T: TryFromBytes + KnownLayout + Immutable>(record: &[u8]) -> Result<(T, &[u8]), Undecodable> {
    T::try_read_from_prefix(record).map_err(|error| match error {
        zerocopy::ConvertError::Size(_) => Undecodable::Short,
        zerocopy::ConvertError::Validity(_) => Undecodable::Unknown,
        zerocopy::ConvertError::Alignment(never) => match never {},
    })
}

/// The strings of a record that have not been taken yet.
struct Strings<'a>(&'a [u8]);

impl<'a> Strings<'a> {
    fn take(&mut self, len: u16) -> Result<&'a [u8], Undecodable> {
        let (string, rest) = self
            .0
            .split_at_checked(usize::from(len))
            .ok_or(Undecodable::Short)?;
        self.0 = rest;
        Ok(string)
    }
}

#[cfg(test)]
mod tests {
    use super::{recording::Recorded, *};

    const REQUEST: &str = r#"{"event":"request","tgid":7,"start_ns":1,"end_ns":2,"method":"GET","path":"/a","host":"h:80","pattern":"GET /a","operation":"GET:/a","sw8":"x","correlation":"c","sw8_x":"0-","traceparent":"t"}"#;
    const CALL: &str = r#"{"event":"call","tgid":7,"start_ns":1,"end_ns":2,"method":"GET","scheme":"http","peer":"h:80","path":"/b","error":[{"type":"*errors.errorString","text":"boom"}]}"#;

    fn bytes(line: &str) -> Vec<u8> {
        let mut types = recording::Types::default();
        Recorded::from_line(line).unwrap().to_bytes(&mut types)
    }

    #[test]
    fn strings_come_in_the_order_of_their_lengths() {
        let bytes = bytes(REQUEST);
        let Event::GoNetHttpRequest(request) = decode(&bytes).unwrap() else {
            panic!("not a request")
        };
        assert_eq!(request.fixed.header.tgid, 7);
        assert_eq!(request.method, b"GET");
        assert_eq!(request.path, b"/a");
        assert_eq!(request.host, b"h:80");
        assert_eq!(request.pattern, b"GET /a");
        assert_eq!(request.operation, b"GET:/a");
        assert_eq!(request.sw8, b"x");
        assert_eq!(request.correlation, b"c");
        assert_eq!(request.sw8_x, b"0-");
        assert_eq!(request.traceparent, b"t");
    }

    #[test]
    fn an_error_precedes_the_strings() {
        let bytes = bytes(CALL);
        let Event::GoNetHttpCall(call) = decode(&bytes).unwrap() else {
            panic!("not a call")
        };
        assert_eq!(call.error.unwrap().values[0].text_len, 4);
        assert_eq!(
            (call.method, call.scheme, call.peer, call.path),
            (&b"GET"[..], &b"http"[..], &b"h:80"[..], &b"/b"[..])
        );
    }

    #[test]
    fn cut_at_any_length_it_is_short_and_padded_it_is_the_same() {
        for line in [REQUEST, CALL, r#"{"event":"exit","tgid":7,"time_ns":3}"#] {
            let mut bytes = bytes(line);
            for end in 0..bytes.len() {
                assert_eq!(decode(&bytes[..end]).err(), Some(Undecodable::Short), "{end}");
            }
            let before = format!("{:?}", decode(&bytes).unwrap());
            bytes.extend([0xff; 9]);
            assert_eq!(before, format!("{:?}", decode(&bytes).unwrap()));
        }
    }

    #[test]
    fn unknown_numbers_are_said_to_be_unknown() {
        for kind in [0u8, 3, 15, 22, 255] {
            let mut bytes = bytes(REQUEST);
            bytes[0] = kind;
            assert_eq!(decode(&bytes).err(), Some(Undecodable::Unknown));
        }
        let mut bytes = bytes(REQUEST);
        let end = std::mem::offset_of!(RequestEvent, end);
        bytes[end] = 9;
        assert_eq!(decode(&bytes).err(), Some(Undecodable::Unknown));
    }

    #[test]
    fn alignment_does_not_matter() {
        let bytes = bytes(REQUEST);
        let expected = format!("{:?}", decode(&bytes).unwrap());
        for shift in 1..8 {
            let mut shifted = vec![0; shift];
            shifted.extend(&bytes);
            assert_eq!(expected, format!("{:?}", decode(&shifted[shift..]).unwrap()));
        }
    }
}
