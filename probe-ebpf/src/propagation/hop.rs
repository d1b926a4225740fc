//! Hops without a header: over TLS no line can be put into a request, but where both ends are targets on this host,
//! the server finds here what its client has laid down.
//!
//! Both name the request by its connection and stream. A connection's name is the pair of sequence numbers that it
//! began with: both ends know it, whatever networks and translated addresses lie between them. For a connection that
//! is older than the probe it is a hash of its addresses, which both ends see alike in one network namespace.
//! Requests of HTTP/1 follow each other on a connection, and each call takes back at its end what was not taken: what
//! lies there is the request's under way.

use aya_ebpf::{
    bindings::bpf_sock_ops, helpers::generated::bpf_get_netns_cookie, macros::map, maps::LruHashMap,
};
use probe_common::{
    hash,
    key::{ConnectionKey, HopKey},
    limits::{CONNECTIONS_MAX, HOPS_MAX, PREPARED_MAX},
    loss::LossReason,
    propagation::{Outcome, Prepared},
    target::TargetInfo,
};

use super::{header, socket::AF_INET};
use crate::{
    emit,
    go::{
        call::CallState,
        connection::{self, mapped},
    },
    maps, memory,
    scratch::Scratch,
};

/// A connection as one of its ends sees it → the sequence numbers it began with, the client's in the upper half.
#[map]
static CONNECTIONS: LruHashMap<ConnectionKey, u64> = LruHashMap::with_max_entries(CONNECTIONS_MAX, 0);

/// A request that is under way on an encrypted connection → what its header would have said, as lines of HTTP/1.
///
/// The client's hook inserts, the server's notes that it has taken it, the call's end deletes.
#[map]
static HOPS: LruHashMap<HopKey, Prepared> = LruHashMap::with_max_entries(HOPS_MAX, 0);

/// Notes the sequence numbers of a connection whose handshake is done, at its client's end or its server's.
#[inline(always)]
pub(super) fn established(ops: *mut bpf_sock_ops, at_client: bool) {
    // SAFETY: the context is valid for the whole run. Fields are read one by one and volatile, whatever the family:
    // the compiler would join them to reads that the verifier refuses.
    unsafe {
        let family = core::ptr::read_volatile(&raw const (*ops).family);
        let remote_ip4 = core::ptr::read_volatile(&raw const (*ops).remote_ip4);
        let local_ip4 = core::ptr::read_volatile(&raw const (*ops).local_ip4);
        let remote_ip6 = [
            core::ptr::read_volatile(&raw const (*ops).remote_ip6[0]),
            core::ptr::read_volatile(&raw const (*ops).remote_ip6[1]),
            core::ptr::read_volatile(&raw const (*ops).remote_ip6[2]),
            core::ptr::read_volatile(&raw const (*ops).remote_ip6[3]),
        ];
        let local_ip6 = [
            core::ptr::read_volatile(&raw const (*ops).local_ip6[0]),
            core::ptr::read_volatile(&raw const (*ops).local_ip6[1]),
            core::ptr::read_volatile(&raw const (*ops).local_ip6[2]),
            core::ptr::read_volatile(&raw const (*ops).local_ip6[3]),
        ];
        let (remote_address, local_address) = if family == AF_INET {
            (mapped(remote_ip4.to_ne_bytes()), mapped(local_ip4.to_ne_bytes()))
        } else {
            (
                core::mem::transmute::<[u32; 4], [u8; 16]>(remote_ip6),
                core::mem::transmute::<[u32; 4], [u8; 16]>(local_ip6),
            )
        };
        // The remote port comes in network order in the upper half, the local one in host order.
        let remote_port = u32::from_be(core::ptr::read_volatile(&raw const (*ops).remote_port)) as u16;
        let local_port = core::ptr::read_volatile(&raw const (*ops).local_port) as u16;
        let sent = core::ptr::read_volatile(&raw const (*ops).snd_nxt);
        let received = core::ptr::read_volatile(&raw const (*ops).rcv_nxt);
        let network = bpf_get_netns_cookie(ops.cast());
        let (key, client, server) = if at_client {
            let key = ConnectionKey {
                network,
                client_address: local_address,
                server_address: remote_address,
                client_port: local_port,
                server_port: remote_port,
                _pad: 0,
            };
            (key, sent, received)
        } else {
            let key = ConnectionKey {
                network,
                client_address: remote_address,
                server_address: local_address,
                client_port: remote_port,
                server_port: local_port,
                _pad: 0,
            };
            (key, received, sent)
        };
        let began = u64::from(client) << 32 | u64::from(server);
        let _ages_out = CONNECTIONS.insert(&key, &began, 0);
    }
}

/// The name of the request on `stream` of the target's encrypted connection `conn`; nothing if the target's network is
/// not known, or no TCP connection of package `net` lies below.
#[inline(always)]
pub(crate) fn name(
    conn: u64,
    stream: u32,
    target: &TargetInfo,
    at_client: bool,
    scratch: &mut Scratch,
) -> Option<HopKey> {
    if target.network == 0 {
        return None;
    }
    connection::below_tls(conn, target, at_client, scratch)?;
    // SAFETY: a plain number in a live entry.
    let connection = match unsafe { CONNECTIONS.get(&scratch.connection) } {
        Some(began) => *began,
        None => hash_of(&scratch.connection),
    };
    Some(HopKey {
        connection,
        stream,
        _pad: 0,
    })
}

#[inline(always)]
fn hash_of(key: &ConnectionKey) -> u64 {
    // SAFETY: plain bytes without padding, 8-aligned.
    let words = unsafe { &*(&raw const *key).cast::<[u64; size_of::<ConnectionKey>() / 8]>() };
    hash::of_words(words)
}

/// Lays down under `hop` what the header of the call would say, whose request is about to be written.
#[inline(always)]
pub(crate) fn offer(
    state: &mut CallState,
    hop: HopKey,
    target: &TargetInfo,
    tgid: u32,
    scratch: &mut Scratch,
) -> Option<()> {
    if let Err(unwritten) = header::write::<false>(state, target, tgid, scratch) {
        state.outcome = unwritten.outcome() as u32;
        return emit::lose(unwritten.reason());
    }
    state.hop = hop;
    state.outcome = Outcome::NotSeen as u32;
    let _ages_out = maps::offer(&HOPS, &hop, state.owner(), &mut scratch.prepared);
    Some(())
}

/// What lies there for the request that has just come in on `stream` of the encrypted connection `conn`, with an `sw8`
/// of its own of this hash, or 0 without: the lines are the scratch's text afterwards, of the length that is returned.
#[inline(always)]
pub(crate) fn take(
    conn: u64,
    stream: u32,
    own_sw8_hash: u64,
    target: &TargetInfo,
    scratch: &mut Scratch,
) -> Option<u32> {
    let hop = name(conn, stream, target, false, scratch)?;
    let offered = HOPS.get_ptr_mut(&hop)?;
    // SAFETY: a live entry; its client waits for the answer to this very request.
    let offered = unsafe { &mut *offered };
    if offered.outcome != Outcome::NotSeen as u32 {
        return None;
    }
    // A header of the program's own is left alone, unless it only forwards the one it came with.
    if own_sw8_hash != 0 && own_sw8_hash != offered.forwarded_hash {
        offered.outcome = Outcome::Present as u32;
        emit::count(LossReason::PropagationPresent);
        return None;
    }
    offered.outcome = Outcome::Joined as u32;
    let len = offered.len & (PREPARED_MAX as u32 - 1);
    Some(memory::copy::<PREPARED_MAX>(
        offered.lines.as_ptr(),
        len,
        scratch.text.as_mut_ptr(),
    ))
}

/// The call is over: what became of what it has laid down.
#[inline(always)]
pub(crate) fn settle(state: &CallState) -> u32 {
    let outcome = maps::take_back(&HOPS, &state.hop, state.owner());
    if outcome != Outcome::NotSeen as u32 {
        return outcome;
    }
    emit::count(LossReason::PropagationEncrypted);
    Outcome::Encrypted as u32
}
