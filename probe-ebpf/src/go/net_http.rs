//! `net/http`, HTTP/1.x: requests served, calls sent.

mod call;
mod request;

pub(crate) use request::read_pattern;
