//! grpc-go: calls served, calls made.

mod call;
mod header_fields;
mod request;

pub(crate) use header_fields::Incoming;
