//! `net/http`, HTTP/1.x: requests served, calls sent.

pub(crate) mod call;
pub(crate) mod request;

pub(crate) use call::{CallState, mapped};
pub(crate) use request::{RequestState, open as open_request, read_pattern};
