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

/// Puts what `owner` has prepared under `key`.
#[inline(always)]
pub(crate) fn offer<K>(
    map: &LruHashMap<K, Prepared>,
    key: &K,
    owner: u64,
    prepared: &mut Prepared,
) -> Result<(), i32> {
    prepared.owner = owner;
    // SAFETY: a plain number in a live entry.
    prepared.previous = match unsafe { map.get(key) } {
        Some(found) => found.outcome,
        None => Outcome::NotSeen as u32,
    };
    map.insert(key, prepared, 0)
}

/// Takes out what `owner` has put under `key`; what became of it.
#[inline(always)]
pub(crate) fn take_back<K>(map: &LruHashMap<K, Prepared>, key: &K, owner: u64) -> u32 {
    // SAFETY: plain numbers in a live entry.
    let Some(found) = (unsafe { map.get(key) }) else {
        return Outcome::NotSeen as u32;
    };
    if found.owner != owner {
        // The connection's next request, which is its own owner's.
        return found.previous;
    }
    let outcome = found.outcome;
    let _ours_alone = map.remove(key);
    outcome
}

/// The same for what was to go by a socket; what no socket has seen is counted.
#[inline(always)]
pub(crate) fn settle<K>(map: &LruHashMap<K, Prepared>, key: &K, owner: u64) -> u32 {
    let outcome = take_back(map, key, owner);
    if outcome == Outcome::NotSeen as u32 {
        emit::count(LossReason::PropagationNotEnrolled);
    }
    outcome
}
