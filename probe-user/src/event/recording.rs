//! Events as lines of JSON: recordings hold events, not records, so that a change of the ABI does not spoil them.
//!
//! A line names what differs from an uneventful `GET` by its field of the ABI; flags go by their names in lower
//! case. Types of errors stand there by name; where a record has an address, [`Types`] makes one up.

use std::collections::HashMap;

use probe_common::event::process::ProcessEvent;
use probe_common::{
    event::{
        EventHeader, EventKind,
        go::grpc::{
            BothWays, CALL_CLIENT_STREAMS, CALL_SERVER_STREAMS, MESSAGES_COUNTED, Messages, STATUS_READ,
        },
        go::net_http::{
            CALL_FAILED, CALL_KEEP_PATH, CALL_TRACE_FOREIGN, CALL_TRUNCATED, CallEvent, ERROR_CHAIN,
            ERROR_TEXT_MAX, ErrorSnapshot, ErrorValue, ParentFound, REQUEST_CLIENT_GONE,
            REQUEST_HEAD_INCOMPLETE, REQUEST_KEEP_PATH, REQUEST_OPERATION_SENT, REQUEST_PATH_TRUNCATED,
            REQUEST_SW8_CONTINUED, REQUEST_SW8_MALFORMED, REQUEST_TLS, REQUEST_W3C_CONTINUED, RequestEnd,
            RequestEvent,
        },
    },
    propagation::Outcome,
};
use serde::Deserialize;
use zerocopy::IntoBytes;

/// One line of a recording.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub enum Recorded {
    Exec(RecordedProcess),
    Exit(RecordedProcess),
    Request(Box<RecordedRequest>),
    Call(Box<RecordedCall>),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedProcess {
    pub tgid: u32,
    pub time_ns: u64,
}

/// Field by field a [`RequestEvent`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedRequest {
    /// Of gRPC.
    #[serde(default)]
    pub rpc: bool,
    pub tgid: u32,
    pub start_ns: u64,
    pub end_ns: u64,
    #[serde(default)]
    pub goid: u64,
    #[serde(default)]
    pub trace_id: Id,
    #[serde(default)]
    pub segment_id: Id,
    #[serde(default)]
    pub request_bytes: i64,
    #[serde(default)]
    pub response_bytes: i64,
    #[serde(default)]
    pub end: RecordedEnd,
    #[serde(default)]
    pub flags: Vec<String>,
    #[serde(default = "one")]
    pub span_count: u32,
    #[serde(default)]
    pub status: u16,
    #[serde(default)]
    pub method: String,
    #[serde(default)]
    pub path: String,
    #[serde(default)]
    pub host: String,
    #[serde(default)]
    pub pattern: String,
    #[serde(default)]
    pub operation: String,
    #[serde(default)]
    pub sw8: String,
    #[serde(default)]
    pub correlation: String,
    #[serde(default)]
    pub sw8_x: String,
    #[serde(default)]
    pub traceparent: String,
    #[serde(default)]
    pub messages: Option<RecordedMessages>,
}

/// Each way: the count, and the times of the first and the last.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedMessages {
    pub sent: [u64; 3],
    pub received: [u64; 3],
}

/// Field by field a [`CallEvent`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedCall {
    /// Of gRPC.
    #[serde(default)]
    pub rpc: bool,
    pub tgid: u32,
    pub start_ns: u64,
    pub end_ns: u64,
    #[serde(default)]
    pub goid: u64,
    #[serde(default)]
    pub parent_goid: u64,
    #[serde(default)]
    pub trace_id: Id,
    #[serde(default)]
    pub segment_id: Id,
    #[serde(default = "unknown_size")]
    pub response_bytes: i64,
    #[serde(default)]
    pub span_id: u32,
    #[serde(default)]
    pub parent: RecordedParent,
    #[serde(default)]
    pub flags: Vec<String>,
    #[serde(default)]
    pub propagation: u32,
    #[serde(default)]
    pub status: u16,
    #[serde(default)]
    pub method: String,
    #[serde(default)]
    pub scheme: String,
    #[serde(default)]
    pub peer: String,
    #[serde(default)]
    pub path: String,
    /// Of a failed call: the values of an [`ErrorSnapshot`].
    #[serde(default)]
    pub error: Vec<RecordedError>,
    #[serde(default)]
    pub messages: Option<RecordedMessages>,
}

/// One value of an [`ErrorSnapshot`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedError {
    /// Empty for none.
    #[serde(default, rename = "type")]
    pub type_name: String,
    #[serde(default)]
    pub word: u64,
    #[serde(default)]
    pub text: String,
}

/// 16 bytes, in a recording 32 digits; fewer count from the left.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct Id(pub [u8; 16]);

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordedEnd {
    #[default]
    Finished,
    Hijacked,
    Panicked,
    Missed,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordedParent {
    #[default]
    None,
    Context,
    Goroutine,
    Ancestry,
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("this line of the recording is no event")]
    Line(#[from] serde_json::Error),
    #[error("id {0:?} is not at most 32 hexadecimal digits")]
    Id(String),
    #[error("there is no flag {0:?}")]
    Flag(String),
    #[error("{0} is not the number of an outcome")]
    Outcome(u32),
    #[error("{what} is longer than a record can say")]
    Long { what: &'static str },
}

/// Addresses made up for the names of types.
#[derive(Clone, Debug, Default)]
pub struct Types {
    addresses: HashMap<String, u64>,
}

// === impl Types ===

impl Types {
    fn address(&mut self, name: &str) -> u64 {
        if name.is_empty() {
            return 0;
        }
        let next = 0x40_0000 + 64 * self.addresses.len() as u64;
        *self.addresses.entry(name.to_owned()).or_insert(next)
    }

    /// The name of the type at `address`.
    pub fn name(&self, address: u64) -> Option<&str> {
        self.addresses
            .iter()
            .find(|(_, known)| **known == address)
            .map(|(name, _)| name.as_str())
    }
}

// === impl Recorded ===

impl Recorded {
    /// Reads one line. What could not become a record is an error here, so that [`Self::to_bytes`] is total.
    pub fn from_line(line: &str) -> Result<Self, Unreadable> {
        let recorded = serde_json::from_str::<Self>(line)?;
        match &recorded {
            Self::Exec(_) | Self::Exit(_) => {}
            Self::Request(request) => {
                request_flags(&request.flags)?;
                check_len("a string of a request", &request.strings())?;
            }
            Self::Call(call) => {
                call_flags(&call.flags)?;
                Outcome::from_number(call.propagation).ok_or(Unreadable::Outcome(call.propagation))?;
                check_len("a string of a call", &call.strings())?;
                if call.error.len() > ERROR_CHAIN {
                    return Err(Unreadable::Long {
                        what: "the chain of errors",
                    });
                }
            }
        }
        Ok(recorded)
    }

    /// The record that decodes to this event.
    pub fn to_bytes(&self, types: &mut Types) -> Vec<u8> {
        match self {
            Self::Exec(process) => process.to_bytes(EventKind::ProcessExec),
            Self::Exit(process) => process.to_bytes(EventKind::ProcessExit),
            Self::Request(request) => request.to_bytes(),
            Self::Call(call) => call.to_bytes(types),
        }
    }
}

impl RecordedProcess {
    fn to_bytes(&self, kind: EventKind) -> Vec<u8> {
        let header = EventHeader {
            kind,
            tgid: self.tgid,
        };
        ProcessEvent {
            header,
            time_ns: self.time_ns,
        }
        .as_bytes()
        .to_vec()
    }
}

impl RecordedRequest {
    fn strings(&self) -> [&str; 9] {
        [
            &self.method,
            &self.path,
            &self.host,
            &self.pattern,
            &self.operation,
            &self.sw8,
            &self.correlation,
            &self.sw8_x,
            &self.traceparent,
        ]
    }

    fn to_bytes(&self) -> Vec<u8> {
        let strings = self.strings();
        let [
            method_len,
            path_len,
            host_len,
            pattern_len,
            operation_len,
            sw8_len,
            correlation_len,
            sw8_x_len,
            traceparent_len,
        ] = strings.map(len);
        let fixed = RequestEvent {
            header: EventHeader {
                kind: if self.rpc {
                    EventKind::GoGrpcRequest
                } else {
                    EventKind::GoNetHttpRequest
                },
                tgid: self.tgid,
            },
            start_ns: self.start_ns,
            end_ns: self.end_ns,
            goid: self.goid,
            trace_id: self.trace_id.0,
            segment_id: self.segment_id.0,
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            end: match self.end {
                RecordedEnd::Finished => RequestEnd::Finished,
                RecordedEnd::Hijacked => RequestEnd::Hijacked,
                RecordedEnd::Panicked => RequestEnd::Panicked,
                RecordedEnd::Missed => RequestEnd::Missed,
            },
            flags: request_flags(&self.flags).unwrap_or_default() | counted(self.messages),
            span_count: self.span_count,
            status: self.status,
            method_len,
            path_len,
            host_len,
            pattern_len,
            operation_len,
            sw8_len,
            correlation_len,
            sw8_x_len,
            traceparent_len,
        };
        let mut bytes = fixed.as_bytes().to_vec();
        with_messages(&mut bytes, self.messages);
        with_strings(&bytes, &strings)
    }
}

impl RecordedCall {
    fn strings(&self) -> [&str; 4] {
        [&self.method, &self.scheme, &self.peer, &self.path]
    }

    fn to_bytes(&self, types: &mut Types) -> Vec<u8> {
        let strings = self.strings();
        let [method_len, scheme_len, peer_len, path_len] = strings.map(len);
        let mut flags = call_flags(&self.flags).unwrap_or_default() | counted(self.messages);
        if !self.error.is_empty() {
            flags |= CALL_FAILED;
        }
        let fixed = CallEvent {
            header: EventHeader {
                kind: if self.rpc {
                    EventKind::GoGrpcCall
                } else {
                    EventKind::GoNetHttpCall
                },
                tgid: self.tgid,
            },
            start_ns: self.start_ns,
            end_ns: self.end_ns,
            goid: self.goid,
            parent_goid: self.parent_goid,
            trace_id: self.trace_id.0,
            segment_id: self.segment_id.0,
            response_bytes: self.response_bytes,
            span_id: self.span_id,
            parent: match self.parent {
                RecordedParent::None => ParentFound::None,
                RecordedParent::Context => ParentFound::Context,
                RecordedParent::Goroutine => ParentFound::Goroutine,
                RecordedParent::Ancestry => ParentFound::Ancestry,
            },
            flags,
            propagation: self.propagation,
            status: self.status,
            method_len,
            scheme_len,
            peer_len,
            path_len,
            _pad: [0; 6],
        };
        let mut bytes = fixed.as_bytes().to_vec();
        if flags & CALL_FAILED != 0 {
            let empty = ErrorValue {
                type_address: 0,
                word: 0,
                text_len: 0,
                _pad: 0,
                text: [0; ERROR_TEXT_MAX],
            };
            let mut snapshot = ErrorSnapshot {
                values: [empty; ERROR_CHAIN],
            };
            for (value, error) in snapshot.values.iter_mut().zip(&self.error) {
                value.type_address = types.address(&error.type_name);
                value.word = error.word;
                for (to, from) in value.text.iter_mut().zip(error.text.bytes()) {
                    *to = from;
                    value.text_len += 1;
                }
            }
            bytes.extend(snapshot.as_bytes());
        }
        with_messages(&mut bytes, self.messages);
        with_strings(&bytes, &strings)
    }
}

// === Parts ===

fn counted(messages: Option<RecordedMessages>) -> u32 {
    if messages.is_some() { MESSAGES_COUNTED } else { 0 }
}

fn with_messages(bytes: &mut Vec<u8>, messages: Option<RecordedMessages>) {
    let one_way = |[count, first_ns, last_ns]: [u64; 3]| Messages {
        count,
        first_ns,
        last_ns,
    };
    if let Some(messages) = messages {
        let both = BothWays {
            sent: one_way(messages.sent),
            received: one_way(messages.received),
        };
        bytes.extend(both.as_bytes());
    }
}

fn with_strings(fixed: &[u8], strings: &[&str]) -> Vec<u8> {
    let mut bytes = fixed.to_vec();
    for string in strings {
        bytes.extend(string.as_bytes());
    }
    bytes
}

fn check_len(what: &'static str, strings: &[&str]) -> Result<(), Unreadable> {
    if strings.iter().any(|string| string.len() > usize::from(u16::MAX)) {
        return Err(Unreadable::Long { what });
    }
    Ok(())
}

fn len(string: &str) -> u16 {
    u16::try_from(string.len()).unwrap_or(u16::MAX)
}

fn one() -> u32 {
    1
}

fn unknown_size() -> i64 {
    -1
}

fn request_flags(names: &[String]) -> Result<u32, Unreadable> {
    flags(names, |name| {
        Some(match name {
            "client_gone" => REQUEST_CLIENT_GONE,
            "path_truncated" => REQUEST_PATH_TRUNCATED,
            "head_incomplete" => REQUEST_HEAD_INCOMPLETE,
            "sw8_continued" => REQUEST_SW8_CONTINUED,
            "tls" => REQUEST_TLS,
            "sw8_malformed" => REQUEST_SW8_MALFORMED,
            "operation_sent" => REQUEST_OPERATION_SENT,
            "w3c_continued" => REQUEST_W3C_CONTINUED,
            "keep_path" => REQUEST_KEEP_PATH,
            "status_read" => STATUS_READ,
            _ => return None,
        })
    })
}

fn call_flags(names: &[String]) -> Result<u32, Unreadable> {
    flags(names, |name| {
        Some(match name {
            "truncated" => CALL_TRUNCATED,
            "failed" => CALL_FAILED,
            "trace_foreign" => CALL_TRACE_FOREIGN,
            "keep_path" => CALL_KEEP_PATH,
            "client_streams" => CALL_CLIENT_STREAMS,
            "server_streams" => CALL_SERVER_STREAMS,
            "status_read" => STATUS_READ,
            _ => return None,
        })
    })
}

fn flags(names: &[String], flag: impl Fn(&str) -> Option<u32>) -> Result<u32, Unreadable> {
    names.iter().try_fold(0, |flags, name| {
        Ok(flags | flag(name).ok_or_else(|| Unreadable::Flag(name.clone()))?)
    })
}

impl TryFrom<String> for Id {
    type Error = Unreadable;

    fn try_from(digits: String) -> Result<Self, Unreadable> {
        let mut id = [0; 16];
        let wrong = || Unreadable::Id(digits.clone());
        if digits.len() > 32 || !digits.is_ascii() {
            return Err(wrong());
        }
        for (byte, pair) in id.iter_mut().zip(digits.as_bytes().chunks(2)) {
            let pair = str::from_utf8(pair).map_err(|_not_ascii| wrong())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_no_digit| wrong())?;
        }
        Ok(Self(id))
    }
}
