//! grpc-go: calls served, calls made.

mod call;
mod messages;
mod request;

use probe_common::key::PointerKey;

/// The key of a Go value at an address of a process.
#[inline(always)]
fn key(pointer: u64, tgid: u32) -> PointerKey {
    PointerKey {
        pointer,
        tgid,
        _pad: 0,
    }
}
