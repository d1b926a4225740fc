//! grpc-go: calls served, calls made.

mod call;
mod request;
