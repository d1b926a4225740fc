//! grpc-go: calls served, calls made.

mod call;
mod request;

pub(crate) use request::Incoming;
