//! `net/http`, HTTP/1.x: requests served, calls sent.

mod call;
mod request;

pub(crate) use call::{CallState, mapped};
pub(crate) use request::{RequestState, open as open_request, read_pattern};
