//! The header lines prepared for one outgoing request, and what became of them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::limits::PREPARED_MAX;

/// What became of the header of one outgoing request. Stored as a number in [`Prepared::outcome`] and in the
/// record of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Outcome {
    /// Propagation is off for this target.
    Off = 0,
    /// Prepared, but the request's first bytes have not been seen on an enrolled socket.
    NotSeen = 1,
    /// The header went out.
    Inserted = 2,
    /// The header went out in place of one that the program had forwarded from its own caller.
    Replaced = 3,
    /// The request carried a header of the program's own, which was left alone.
    Present = 4,
    /// The connection is encrypted.
    Encrypted = 5,
    /// The connection is not a plain TCP one we know.
    UnknownConnection = 6,
    /// The message did not start with a request line of HTTP/1.
    NoRequestLine = 7,
    /// The kernel refused to make room.
    Refused = 8,
    /// The lines were too long.
    TooLong = 9,
    /// The call ended before it had a connection.
    NoConnection = 10,
}

impl Outcome {
    /// The outcome with this number.
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Off,
            1 => Self::NotSeen,
            2 => Self::Inserted,
            3 => Self::Replaced,
            4 => Self::Present,
            5 => Self::Encrypted,
            6 => Self::UnknownConnection,
            7 => Self::NoRequestLine,
            8 => Self::Refused,
            9 => Self::TooLong,
            10 => Self::NoConnection,
            _ => return None,
        })
    }
}

/// The header lines of one outgoing request: the value of the map `PREPARED`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Prepared {
    /// An [`Outcome`].
    pub outcome: u32,
    /// Bytes of `lines` in use.
    pub len: u32,
    /// Hash of the `sw8` value that the parent request came with, or 0: a request that carries that very value
    /// forwards it, and the header is replaced.
    pub forwarded_hash: u64,
    /// Whole lines, each ended by CR LF.
    pub lines: [u8; PREPARED_MAX],
}

const _: () = assert!(size_of::<Prepared>() == 16 + PREPARED_MAX);

#[cfg(feature = "user")]
mod pod {
    // SAFETY: zerocopy's derives prove that it is plain bytes without padding.
    unsafe impl aya::Pod for super::Prepared {}
}
