//! A call under way, of whichever library: its state, its parent, its record.

use aya_ebpf::{helpers::generated::bpf_ktime_get_boot_ns, macros::map, maps::HashMap};
use probe_common::{
    event::{
        EventHeader, EventKind,
        go::net_http::{
            CALL_FAILED, CALL_TRACE_FOREIGN, CallEvent, ERROR_TEXT_MAX, ErrorSnapshot, ErrorValue,
            ParentFound, REQUEST_SW8_CONTINUED,
        },
    },
    field::{GoField, Offsets},
    key::{GoroutineKey, HopKey, SocketKey, SocketStreamKey},
    limits::{CALL_STATE_BYTES, METHOD_MAX, OPEN_REQUESTS_MAX, PATH_MAX, PEER_MAX},
    loss::LossReason,
    propagation::Outcome,
    target::{TARGET_PROPAGATE_W3C, TargetInfo},
};

use super::{
    doubt,
    request::{self, Owner, RequestState},
};
use crate::{
    emit::{self, Record},
    maps::{self, PREPARED, STREAM_PREPARED},
    memory::{self, GoInterface, GoString, copy_id},
    propagation::hop,
    sampling::{self, PathKey, SAMPLED_OUT},
    scratch::Scratch,
};

/// Bytes of `https` and room to spare.
pub(crate) const SCHEME_MAX: usize = 8;

/// A call under way.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct CallState {
    pub(crate) start_ns: u64,
    pub(crate) parent_goid: u64,
    pub(crate) trace_id: [u8; 16],
    pub(crate) segment_id: [u8; 16],
    pub(crate) span_id: u32,
    pub(crate) parent: ParentFound,
    pub(crate) flags: u32,
    /// An `Outcome`. While it is `NotSeen`, `hop` says where the header was laid down, or `socket` and `stream`
    /// where it was prepared.
    pub(crate) outcome: u32,
    pub(crate) hop: HopKey,
    pub(crate) socket: SocketKey,
    /// What is sent of it at its end.
    pub(crate) kind: EventKind,
    /// The stream on the socket's connection, where that has streams; else 0.
    pub(crate) stream: u32,
    pub(crate) method_len: u16,
    pub(crate) scheme_len: u16,
    pub(crate) peer_len: u16,
    pub(crate) path_len: u16,
    pub(crate) method: [u8; METHOD_MAX],
    pub(crate) scheme: [u8; SCHEME_MAX],
    /// Room for a default port behind the longest host.
    pub(crate) peer: [u8; PEER_MAX],
    pub(crate) path: [u8; PATH_MAX],
}

const _: () = assert!(size_of::<CallState>() == CALL_STATE_BYTES);

/// GoroutineKey → the call that the goroutine waits for. Deleted at the call's return; what a dying process
/// leaves, the loader sweeps.
#[map]
pub(crate) static GO_CALLS: HashMap<GoroutineKey, CallState> =
    HashMap::with_max_entries(OPEN_REQUESTS_MAX, 0);

/// The call that `goroutine` waits for, if it is certain that it does.
#[inline(always)]
pub(crate) fn certain(goroutine: &GoroutineKey) -> Option<&'static mut CallState> {
    // SAFETY: only the goroutine itself deletes its entry; whoever writes its request writes while it waits.
    let state = unsafe { &mut *GO_CALLS.get_ptr_mut(goroutine)? };
    if doubt::is_certain(goroutine.tgid, state.start_ns) {
        Some(state)
    } else {
        None
    }
}

/// The goroutine has gone on to a call that could not be taken in: what it waited for is over, although no end of it was
/// seen.
#[inline(always)]
pub(crate) fn abandon(goroutine: &GoroutineKey) {
    if GO_CALLS.remove(goroutine).is_ok() {
        emit::count(LossReason::EndMissed);
    }
}

/// Whether the call is sampled, and whose child it is: of the request whose context its own derives from, else of the request that its
/// goroutine serves, else of the request that its goroutine was made in; and only of an open one.
#[inline(always)]
pub(crate) fn find_parent(
    state: &mut CallState,
    goroutine: &GoroutineKey,
    g: u64,
    context: u64,
    target: &TargetInfo,
    path_key: &mut PathKey,
) {
    let offsets = &target.offsets;
    let mut key = *goroutine;
    let mut found = ParentFound::None;
    let mut parent = None;
    match request::by_context(goroutine.tgid, context, offsets) {
        Owner::Goroutine(goid) => {
            key.goid = goid;
            found = ParentFound::Context;
            parent = request::certain(&key);
        }
        Owner::Nobody => {
            parent = request::certain(&key);
            if parent.is_some() {
                found = ParentFound::Goroutine;
            } else if let Some(creator) = creator(g, offsets) {
                key.goid = creator;
                parent = request::certain(&key);
                // The creator may have gone on to its next request since: only a goroutine that is younger than the
                // request was made in it.
                if let Some(request) = &parent
                    && (goroutine.goid >= request.goid_unused
                        || (goroutine.goid >= request.goid_first && goroutine.goid < request.goid_end))
                {
                    found = ParentFound::Ancestry;
                }
            }
        }
        // It may be another request's than the goroutine's.
        Owner::Untold => emit::count(LossReason::ContextUnread),
    }
    let is_child = match parent {
        Some(request) if !matches!(found, ParentFound::None) => state.adopt(found, key.goid, request),
        Some(_) | None => false,
    };
    if !is_child {
        state.parent = ParentFound::None;
        state.parent_goid = 0;
        state.trace_id = request::random_id();
        state.segment_id = request::random_id();
        state.span_id = 0;
        sampling::call(state, goroutine.tgid, target, path_key);
    }
    if state.flags & SAMPLED_OUT != 0 && !state.propagates(target) {
        state.outcome = Outcome::NotSampled as u32;
    }
}

/// The goroutine that made the running one; Go keeps it since 1.21.
#[inline(always)]
pub(crate) fn creator(g: u64, offsets: &Offsets) -> Option<u64> {
    memory::read(g + offsets.get(GoField::GParentGoid)?)
}

/// What became of the call's header, which the program that writes it, or the server at the other end, has noted beside
/// it.
#[inline(always)]
pub(crate) fn outcome(state: &CallState) -> u32 {
    if state.outcome != Outcome::NotSeen as u32 {
        return state.outcome;
    }
    if state.hop.connection != 0 {
        return hop::settle(state);
    }
    if state.stream == 0 {
        return maps::settle(&PREPARED, &state.socket, state.owner());
    }
    let stream = SocketStreamKey {
        socket: state.socket,
        id: state.stream,
        _pad: 0,
    };
    maps::settle(&STREAM_PREPARED, &stream, state.owner())
}

/// Where the error of a failed call goes in its record.
#[inline(always)]
pub(crate) fn snapshot(scratch: &mut Scratch) -> &mut ErrorSnapshot {
    // SAFETY: it fits behind the event, at an 8-aligned place, and any bytes are one.
    unsafe {
        let place = scratch.record.as_mut_ptr().add(size_of::<CallEvent>());
        &mut *place.cast::<ErrorSnapshot>()
    }
}

/// Sends the record of a call if it is to be reported, with the error that is in its place if the call has failed.
#[inline(always)]
pub(crate) fn emit_call(state: &CallState, mut event: CallEvent, scratch: &mut Scratch) -> Option<()> {
    if !sampling::reports_call(state, &mut event) {
        return Some(());
    }
    let mut record = Record::begin::<CallEvent>(scratch);
    if event.flags & CALL_FAILED != 0 {
        record.skip::<ErrorSnapshot>();
    }
    record.append_messages(event.flags, &scratch.messages);
    record.append::<METHOD_MAX>(state.method.as_ptr(), event.method_len);
    record.append::<SCHEME_MAX>(state.scheme.as_ptr(), event.scheme_len);
    record.append::<PEER_MAX>(state.peer.as_ptr(), event.peer_len);
    record.append::<PATH_MAX>(state.path.as_ptr(), event.path_len);
    record.send(event)
}

// === impl CallState ===

impl CallState {
    /// Begins anew, now.
    #[inline(always)]
    pub(crate) fn begin(&mut self, kind: EventKind, target: &TargetInfo) {
        // SAFETY: reads a clock.
        self.start_ns = unsafe { bpf_ktime_get_boot_ns() };
        self.kind = kind;
        self.outcome = if target.propagates() {
            Outcome::NoConnection as u32
        } else {
            Outcome::Off as u32
        };
        self.hop = HopKey::NONE;
        self.stream = 0;
        self.method_len = 0;
        self.scheme_len = 0;
    }

    /// Makes it a child of this request, unless that ends at this very moment: its place in the table may be the next
    /// request's then.
    #[inline(always)]
    fn adopt(&mut self, found: ParentFound, goid: u64, request: &mut RequestState) -> bool {
        // SAFETY: a reference is valid for reading; volatile, so that all is read in this order.
        let began_ns = unsafe { core::ptr::read_volatile(&raw const request.start_ns) };
        self.parent = found;
        self.parent_goid = goid;
        copy_id(&request.trace_id, &mut self.trace_id);
        copy_id(&request.segment_id, &mut self.segment_id);
        // SAFETY: as above.
        let flags = unsafe { core::ptr::read_volatile(&raw const request.flags) };
        // SAFETY: as above.
        if unsafe { core::ptr::read_volatile(&raw const request.start_ns) } != began_ns {
            return false;
        }
        self.span_id = request::next_span(request);
        if flags & REQUEST_SW8_CONTINUED != 0 {
            self.flags |= CALL_TRACE_FOREIGN;
        }
        self.flags |= flags & SAMPLED_OUT;
        true
    }

    /// Whether its request gets any header. Where it is not sampled, only `traceparent` can say so to programs that
    /// believe it.
    #[inline(always)]
    pub(crate) fn propagates(&self, target: &TargetInfo) -> bool {
        if self.flags & SAMPLED_OUT == 0 {
            target.propagates()
        } else {
            target.flags & TARGET_PROPAGATE_W3C != 0
        }
    }

    /// Its owner, if its request gets any header.
    #[inline(always)]
    pub(crate) fn prepares(&self, target: &TargetInfo) -> Option<u64> {
        if self.propagates(target) {
            Some(self.owner())
        } else {
            None
        }
    }

    /// What tells it from every other call under way.
    #[inline(always)]
    pub(crate) fn owner(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.segment_id;
        u64::from_ne_bytes([a, b, c, d, e, f, g, h]) ^ u64::from(self.span_id)
    }

    /// Its record, ended now; what is read at the end is still to be filled in.
    #[inline(always)]
    pub(crate) fn event(&self, goroutine: &GoroutineKey, outcome: u32) -> CallEvent {
        CallEvent {
            header: EventHeader {
                kind: self.kind,
                tgid: goroutine.tgid,
            },
            start_ns: self.start_ns,
            // SAFETY: reads a clock.
            end_ns: unsafe { bpf_ktime_get_boot_ns() },
            goid: goroutine.goid,
            parent_goid: self.parent_goid,
            trace_id: self.trace_id,
            segment_id: self.segment_id,
            response_bytes: -1,
            span_id: self.span_id,
            parent: self.parent,
            flags: self.flags,
            propagation: outcome,
            status: 0,
            method_len: self.method_len,
            scheme_len: self.scheme_len,
            peer_len: self.peer_len,
            path_len: self.path_len,
            _pad: [0; 6],
        }
    }
}

#[inline(never)]
pub(crate) fn snapshot_value(interface: GoInterface, to: &mut ErrorValue) {
    // The first word of an `error` is an `itab`, which names the type in its second word.
    to.type_address = if interface.kind == 0 {
        0
    } else {
        memory::read(interface.kind + 8).unwrap_or(0)
    };
    to.word = memory::read(interface.data).unwrap_or(0);
    to._pad = 0;
    to.text_len = 0;
    if let Some(text) = memory::read::<GoString>(interface.data)
        && let Some(len) = memory::read_string::<ERROR_TEXT_MAX>(text, to.text.as_mut_ptr())
    {
        to.text_len = u32::from(len);
    }
}
