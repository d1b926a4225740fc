//! Maps used by more than one file. A private map stays with its hook.

use aya_ebpf::{macros::map, maps::LruHashMap};
use probe_common::{key::SocketKey, propagation::Prepared};

/// SocketKey → the header lines of the request that is about to be written on that connection.
///
/// The Go hook inserts, `socket_message` notes the outcome, the call's end deletes. Calls that never end leave
/// entries behind, which age out.
#[map]
pub(crate) static PREPARED: LruHashMap<SocketKey, Prepared> = LruHashMap::with_max_entries(4096, 0);
