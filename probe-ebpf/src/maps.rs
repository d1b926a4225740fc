//! Maps used by more than one file. A private map stays with its hook.

use aya_ebpf::{macros::map, maps::LruHashMap};
use probe_common::{
    key::{SocketKey, SocketStreamKey},
    loss::LossReason,
    propagation::{Outcome, Prepared},
};

use crate::emit;

/// SocketKey → the header lines of the request that is about to be written on that connection.
///
/// The Go hook inserts, `socket_message` notes the outcome, the call's end deletes. Calls that never end leave
/// entries behind, which age out.
#[map]
pub(crate) static PREPARED: LruHashMap<SocketKey, Prepared> = LruHashMap::with_max_entries(4096, 0);

/// The same for a stream of an HTTP/2 connection: fields in HPACK. `socket_frames` notes the outcome.
#[map]
pub(crate) static STREAM_PREPARED: LruHashMap<SocketStreamKey, Prepared> =
    LruHashMap::with_max_entries(4096, 0);

/// SocketKey → where the frames of an HTTP/2 connection stand. Begun by the Go hook with the first stream that gets a
/// header; entries of closed connections age out.
#[map]
pub(crate) static FRAMED: LruHashMap<SocketKey, Framed> = LruHashMap::with_max_entries(8192, 0);

/// What is known of a connection's frames, as the program writes them.
#[repr(C)]
pub(crate) struct Framed {
    /// Bytes of the last frame that the next message still begins with.
    pub(crate) left: u32,
    /// Where in the message at hand the next frame begins; 0 outside of one.
    pub(crate) at: u32,
    /// Streams whose header is prepared and has not been seen.
    pub(crate) pending: u32,
    /// Bytes of a frame's header with which the last message ended, and how many they are.
    pub(crate) begun: u32,
    pub(crate) header: [u8; FRAME_HEADER_ROOM],
}

/// Bytes of a frame's header, rounded up to a power of two.
pub(crate) const FRAME_HEADER_ROOM: usize = 16;

impl Framed {
    /// A connection that is about to write a frame, at the beginning of a message.
    pub(crate) fn new() -> Self {
        Self {
            left: 0,
            at: 0,
            pending: 1,
            begun: 0,
            header: [0; FRAME_HEADER_ROOM],
        }
    }
}

/// Takes out what was prepared under `key`; what became of it.
#[inline(always)]
pub(crate) fn settle<K>(prepared: &LruHashMap<K, Prepared>, key: &K) -> u32 {
    // SAFETY: a plain number in a live entry.
    let Some(found) = (unsafe { prepared.get(key) }) else {
        return Outcome::NotSeen as u32;
    };
    let outcome = found.outcome;
    let _ours_alone = prepared.remove(key);
    if outcome == Outcome::NotSeen as u32 {
        emit::count(LossReason::PropagationNotEnrolled);
    }
    outcome
}
