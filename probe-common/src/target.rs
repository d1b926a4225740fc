//! What the loader tells the kernel programs about a traced process.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{field::Offsets, limits::NAME_BASE64_MAX};

/// Operation names keep the path as it is instead of folding parts that look like ids.
pub const TARGET_KEEP_PATHS: u32 = 1 << 0;
/// Outgoing requests get `sw8`.
pub const TARGET_PROPAGATE_SW8: u32 = 1 << 1;
/// Outgoing requests get `traceparent`.
pub const TARGET_PROPAGATE_W3C: u32 = 1 << 2;
/// The program may ask `FIONREAD` of its sockets, and on this kernel only a socket with a verdict answers it rightly.
pub const TARGET_NEEDS_VERDICT: u32 = 1 << 3;
/// All hooks are in place that count the messages of streams which grpc-go's server serves.
pub const TARGET_COUNTS_SERVED: u32 = 1 << 4;
/// All hooks are in place that count the messages of streams which grpc-go's client has opened.
pub const TARGET_COUNTS_CALLED: u32 = 1 << 5;
/// Not every request is reported: see [`crate::sampling`].
pub const TARGET_SAMPLES: u32 = 1 << 6;

/// A traced process: the value of the map `TARGETS`, whose key is its tgid in the initial pid namespace.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TargetInfo {
    pub offsets: Offsets,
    /// Where `runtime.sched.goidgen` is in this process, or 0 where it is not known: the goroutine ids below its
    /// value are taken. It proves that a goroutine is younger than a request.
    pub goidgen_address: u64,
    /// Where grpc-go's `(*clientStream).RecvMsg` keeps the stream while it waits for a message, above the stack pointer.
    pub grpc_received_at: u64,
    /// Cookie of the process's network namespace, or 0 where it is not known: then no hop over TLS is joined.
    pub network: u64,
    /// `TARGET_*`.
    pub flags: u32,
    pub service_base64_len: u16,
    pub instance_base64_len: u16,
    /// The service name in base64, as `sw8` wants it.
    pub service_base64: [u8; NAME_BASE64_MAX],
    pub instance_base64: [u8; NAME_BASE64_MAX],
}

const _: () = assert!(size_of::<TargetInfo>() == 480);

impl TargetInfo {
    /// Whether outgoing requests get any header.
    #[inline(always)]
    pub const fn propagates(&self) -> bool {
        self.flags & (TARGET_PROPAGATE_SW8 | TARGET_PROPAGATE_W3C) != 0
    }
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: zerocopy's derives prove that it is plain bytes without padding.
    unsafe impl aya::Pod for super::TargetInfo {}
}
