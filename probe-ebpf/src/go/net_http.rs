//! `net/http`: requests served by HTTP/1.x, calls sent by whichever HTTP.

mod call;
mod request;

pub(crate) use call::{end as end_call, take_in as begin_call};
pub(crate) use request::read_pattern;
