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

/// A TCP connection as one of its ends sees it.
///
/// Both ends see the same in one network namespace, unless addresses are translated on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ConnectionKey {
    /// Cookie of the end's network namespace: loopback addresses are told apart by nothing else.
    pub network: u64,
    /// IPv6, or IPv4 mapped into it.
    pub client_address: [u8; 16],
    pub server_address: [u8; 16],
    pub client_port: u16,
    pub server_port: u16,
    pub _pad: u32,
}

const _: () = assert!(size_of::<ConnectionKey>() == 48);

/// A request on a connection, as both its ends name it without a word between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HopKey {
    /// The sequence numbers that the connection began with, the client's in the upper half; for one that was open
    /// before the probe, a hash of its [`ConnectionKey`]. 0 is no hop.
    pub connection: u64,
    /// The stream of an HTTP/2 connection; 0 where requests come one after the other.
    pub stream: u32,
    pub _pad: u32,
}

const _: () = assert!(size_of::<HopKey>() == 16);

// === impl HopKey ===

impl HopKey {
    /// No hop.
    pub const NONE: Self = Self {
        connection: 0,
        stream: 0,
        _pad: 0,
    };
}

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
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ConnectionKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::HopKey {}
}
