//! Keys of the maps that both sides touch.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A goroutine: ids are never reused within a process, addresses of `runtime.g` are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GoroutineKey {
    pub goid: u64,
    pub tgid: u32,
    pub _pad: u32,
}

const _: () = assert!(size_of::<GoroutineKey>() == 16);

/// A Go value at an address of a process, such as a `context.Context`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PointerKey {
    pub pointer: u64,
    pub tgid: u32,
    pub _pad: u32,
}

const _: () = assert!(size_of::<PointerKey>() == 16);

/// A stream of an HTTP/2 connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StreamKey {
    /// Address of the Go value that stands for the connection.
    pub connection: u64,
    pub tgid: u32,
    pub id: u32,
}

const _: () = assert!(size_of::<StreamKey>() == 16);

/// A client socket as both the Go program and `sk_msg` can name it.
///
/// The local address is left out: a process with two sockets of equal ports and peer would need two local
/// addresses, and the ephemeral port differs in practice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SocketKey {
    /// IPv6, or IPv4 mapped into it.
    pub remote_address: [u8; 16],
    pub tgid: u32,
    pub local_port: u16,
    pub remote_port: u16,
}

const _: () = assert!(size_of::<SocketKey>() == 24);

/// A stream of the HTTP/2 connection on a client socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SocketStreamKey {
    pub socket: SocketKey,
    pub id: u32,
    pub _pad: u32,
}

const _: () = assert!(size_of::<SocketStreamKey>() == 32);

#[cfg(feature = "user")]
mod pod {
    // SAFETY: zerocopy's derives above prove that each is plain bytes without padding.
    unsafe impl aya::Pod for super::GoroutineKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::PointerKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::StreamKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::SocketKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::SocketStreamKey {}
}
