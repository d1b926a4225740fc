//! `net/http`: requests served by HTTP/1.x, calls sent by whichever HTTP.

mod call;
mod request;

pub(crate) use call::{begin as begin_call, end as end_call};
pub(crate) use request::read_pattern;
