//! A request under way, of whichever library: its state, its context, its record.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_prandom_u32, generated::bpf_ktime_get_boot_ns},
    macros::map,
    maps::HashMap,
};
use probe_common::{
    context::{sw8, traceparent},
    event::{
        EventHeader, EventKind,
        go::net_http::{
            REQUEST_KEEP_PATH, REQUEST_SW8_CONTINUED, REQUEST_SW8_MALFORMED, REQUEST_W3C_CONTINUED,
            RequestEnd, RequestEvent,
        },
    },
    field::{GoField, Offsets},
    hash,
    key::{GoroutineKey, PointerKey},
    limits::{
        CONTEXT_DEPTH_MAX, CORRELATION_MAX, HEAD_MAX, HOST_MAX, METHOD_MAX, OPEN_REQUESTS_MAX, PATH_MAX,
        PATTERN_MAX, REQUEST_STATE_BYTES, SW8_MAX, SW8_X_MAX, TRACEPARENT_BYTES, TRACEPARENT_LEN,
    },
    loss::LossReason,
    target::{TARGET_KEEP_PATHS, TargetInfo},
};

use crate::{
    atomic,
    emit::{self, Record},
    go::{doubt, header_fields::Incoming},
    head,
    memory::{self, Window},
    propagation::hop,
    sampling,
    scratch::{self, Scratch},
};

/// A request under way.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct RequestState {
    pub(crate) start_ns: u64,
    /// The server's `response` and the request's context: what tells this request from the next one on the same
    /// goroutine.
    pub(crate) response: u64,
    pub(crate) context: u64,
    /// Address of the `http.Request`, or 0.
    pub(crate) request: u64,
    /// Goroutine ids that were free when the request began: those from `goid_first` to before `goid_end`, and
    /// those from `goid_unused` on. A goroutine with such an id is younger than the request.
    pub(crate) goid_first: u64,
    pub(crate) goid_end: u64,
    pub(crate) goid_unused: u64,
    pub(crate) trace_id: [u8; 16],
    pub(crate) segment_id: [u8; 16],
    /// The trace id of `traceparent`, where `traceparent_len` is not 0.
    pub(crate) w3c_trace_id: [u8; 16],
    /// Address of the server's connection, and the stream on it, where it has streams.
    pub(crate) connection: u64,
    /// Hash of the `sw8` that came with the request, or 0 without.
    pub(crate) sw8_hash: u64,
    pub(crate) request_bytes: i64,
    pub(crate) flags: u32,
    /// The id of the next span of this segment.
    pub(crate) next_span: u32,
    pub(crate) stream: u32,
    /// Calls that are reported although the request is not sampled.
    pub(crate) kept_calls: u32,
    /// Where in `sw8` the trace id stands, in base64.
    pub(crate) sw8_trace_at: u16,
    pub(crate) sw8_trace_len: u16,
    pub(crate) method_len: u16,
    pub(crate) path_len: u16,
    pub(crate) host_len: u16,
    /// Not 0 once the operation's name has gone out.
    pub(crate) operation_len: u16,
    pub(crate) sw8_len: u16,
    pub(crate) correlation_len: u16,
    pub(crate) sw8_x_len: u16,
    pub(crate) traceparent_len: u16,
    /// What is sent of it at its end.
    pub(crate) kind: EventKind,
    pub(crate) method: [u8; METHOD_MAX],
    pub(crate) path: [u8; PATH_MAX],
    pub(crate) host: [u8; HOST_MAX],
    pub(crate) operation: [u8; 256],
    pub(crate) sw8: [u8; SW8_MAX],
    pub(crate) correlation: [u8; CORRELATION_MAX],
    pub(crate) sw8_x: [u8; SW8_X_MAX],
    pub(crate) traceparent: [u8; TRACEPARENT_BYTES],
}

const _: () = assert!(size_of::<RequestState>() == REQUEST_STATE_BYTES);

/// GoroutineKey → the request that the goroutine serves. Deleted at the request's end; what a dying process
/// leaves, the loader sweeps.
#[map]
static GO_REQUESTS: HashMap<GoroutineKey, RequestState> = HashMap::with_max_entries(OPEN_REQUESTS_MAX, 0);

/// Address of a request's `context.Context` → the goroutine that serves it. Lives and dies with the request.
#[map]
static GO_CONTEXTS: HashMap<PointerKey, u64> = HashMap::with_max_entries(OPEN_REQUESTS_MAX, 0);

/// The open request that `goroutine` serves.
#[inline(always)]
pub(crate) fn open(goroutine: &GoroutineKey) -> Option<&'static mut RequestState> {
    // SAFETY: only the goroutine itself deletes its entry; calls of its children only count `next_span` up and
    // write the operation, which all write alike.
    GO_REQUESTS
        .get_ptr_mut(goroutine)
        .map(|state| unsafe { &mut *state })
}

/// The open request that `goroutine` serves, if it is certain that it still does.
#[inline(always)]
pub(crate) fn certain(goroutine: &GoroutineKey) -> Option<&'static mut RequestState> {
    open(goroutine).filter(|state| doubt::is_certain(goroutine.tgid, state.start_ns))
}

/// Whose a context is.
pub(crate) enum Owner {
    /// The open request's that this goroutine serves.
    Goroutine(u64),
    Nobody,
    /// Some of it could not be read.
    Untold,
}

/// Where Go's heap begins, in units of four gigabytes.
const GO_HEAP: u64 = 0xc0;

/// The open request whose context is among `context` and those it derives from.
#[inline(always)]
pub(crate) fn by_context(tgid: u32, context: u64, offsets: &Offsets) -> Owner {
    let mut key = PointerKey {
        pointer: context,
        tgid,
        _pad: 0,
    };
    let mut depth = 0;
    while depth < CONTEXT_DEPTH_MAX {
        if key.pointer == 0 {
            return Owner::Nobody;
        }
        // SAFETY: a plain number.
        if let Some(goid) = unsafe { GO_CONTEXTS.get(&key) } {
            return Owner::Goroutine(*goid);
        }
        // Go's own contexts begin with the interface they derive from; its data is the second word.
        let Some([first, second]) = memory::read::<[u64; 2]>(key.pointer) else {
            return unread(key.pointer, context);
        };
        key.pointer = second;
        // But in Go 1.20 one with a deadline begins with a pointer to such a context, which is on the heap, where no
        // interface's table is.
        if first >> 32 == GO_HEAP && offsets.get(GoField::GParentGoid).is_none() {
            let Some(derived_from) = memory::read(first + 8) else {
                return unread(first, context);
            };
            key.pointer = derived_from;
        }
        depth += 1;
    }
    Owner::Nobody
}

/// What a context says whose chain ends at an address that cannot be read. Most that end so have come to a value that is
/// no context; but one that lies where the context lies, on the heap, is memory that is not there just now.
#[inline(always)]
fn unread(address: u64, context: u64) -> Owner {
    if address >> 32 == context >> 32 && context >> 32 != 0 {
        Owner::Untold
    } else {
        Owner::Nobody
    }
}

/// Gives out a span id of this segment.
#[inline(always)]
pub(crate) fn next_span(state: &mut RequestState) -> u32 {
    // SAFETY: a live, aligned counter in map memory.
    unsafe { atomic::add_u32(&raw mut state.next_span, 1) }
}

/// Sixteen random bytes. The kernel's generator is seeded from its entropy pool on each CPU.
#[inline(always)]
pub(crate) fn random_id() -> [u8; 16] {
    let mut id = [0u32; 4];
    // SAFETY: the helper only returns a number.
    unsafe {
        id[0] = bpf_get_prandom_u32();
        id[1] = bpf_get_prandom_u32();
        id[2] = bpf_get_prandom_u32();
        // Never all zero: that would mean "none".
        id[3] = bpf_get_prandom_u32() | 1;
        core::mem::transmute(id)
    }
}

/// Notes which goroutine ids are still free.
///
/// `runtime.newproc1` hands out ids from its P's private batch, and fetches the next batch from
/// `sched.goidgen`. What is left of this P's batch, and all above `goidgen`, cannot belong to a goroutine that
/// exists. Where either cannot be read its range stays empty: fewer parents, no wrong one.
#[inline(always)]
fn free_goroutine_ids(state: &mut RequestState, g: &Window, target: &TargetInfo) {
    state.goid_first = 0;
    state.goid_end = 0;
    state.goid_unused = u64::MAX;
    let _unknown = free_in_batch(state, g, &target.offsets);
    if target.goidgen_address != 0
        && let Some(goidgen) = memory::read::<u64>(target.goidgen_address)
    {
        // A fetched batch begins at `goidgen + 1`.
        state.goid_unused = goidgen + 1;
    }
}

#[inline(always)]
fn free_in_batch(state: &mut RequestState, g: &Window, offsets: &Offsets) -> Option<()> {
    let m = g.word(offsets.get(GoField::GM)?)?;
    let p: u64 = memory::read(m + offsets.get(GoField::MP)?)?;
    let first_at = offsets.get(GoField::PGoidcache)?;
    if offsets.get(GoField::PGoidcacheend)? != first_at + 8 {
        return None;
    }
    let [first, end]: [u64; 2] = memory::read(p + first_at)?;
    state.goid_first = first;
    state.goid_end = end;
    Some(())
}

/// Takes over what the client, if it is a target on this host, has laid down for the request that its TLS connection
/// let no header into.
#[inline(always)]
pub(crate) fn join(conn: u64, stream: u32, target: &TargetInfo, scratch: &mut Scratch) -> Option<()> {
    let state = &scratch.request;
    let own_hash = if state.sw8_len == 0 {
        0
    } else {
        hash_of_sw8(scratch, Sw8Of::Request, u32::from(state.sw8_len))
    };
    let len = hop::take(conn, stream, own_hash, target, scratch)?;
    head::scan(scratch, len, false);
    take_headers(scratch);
    // What the program sees, and may forward, is the header that came.
    scratch.request.sw8_hash = own_hash;
    Some(())
}

/// Takes from the scratch's text what [`head::scan`] has found in it.
#[inline(always)]
pub(crate) fn take_headers(scratch: &mut Scratch) {
    let state = &mut scratch.request;
    let text = scratch.text.as_ptr();
    state.sw8_len = take::<SW8_MAX>(text, scratch.head.sw8, state.sw8.as_mut_ptr());
    state.correlation_len =
        take::<CORRELATION_MAX>(text, scratch.head.correlation, state.correlation.as_mut_ptr());
    state.sw8_x_len = take::<SW8_X_MAX>(text, scratch.head.sw8_x, state.sw8_x.as_mut_ptr());
    if scratch.head.traceparent.len >= TRACEPARENT_LEN as u32 {
        state.traceparent_len =
            take::<TRACEPARENT_BYTES>(text, scratch.head.traceparent, state.traceparent.as_mut_ptr());
    }
}

/// Copies a header's value; one that does not fit is counted and treated as absent.
#[inline(always)]
fn take<const MAX: usize>(text: *const u8, place: head::Place, to: *mut u8) -> u16 {
    if place.len == 0 {
        return 0;
    }
    if place.len >= MAX as u32 {
        emit::count(LossReason::HeaderTooLong);
        return 0;
    }
    let at = place.at & (HEAD_MAX as u32 - 1);
    // SAFETY: masked to the text; the copy fails rather than reads beyond it.
    memory::copy::<MAX>(unsafe { text.add(at as usize) }, place.len, to) as u16
}

/// Goes on with the trace that the request's headers name, and decides whether it is sampled.
#[inline(always)]
pub(crate) fn continue_trace(scratch: &mut Scratch, tgid: u32, target: &TargetInfo) {
    read_trace(scratch);
    let state = &mut scratch.request;
    // Who records a trace wants the rest of it.
    let is_followed = state.flags & REQUEST_SW8_CONTINUED != 0
        || (state.flags & REQUEST_W3C_CONTINUED != 0
            && scratch.traceparent.flags & traceparent::SAMPLED != 0);
    sampling::request(state, is_followed, tgid, target, &mut scratch.sampling_path);
}

/// Runs the automaton over the `sw8` of the scratch's request; its last state. A global function, as `head::scan_text`
/// is.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn walk_sw8(slot: u32, len: u32) -> u32 {
    let mut state = sw8::BEGIN;
    let mut at = 0;
    while at < SW8_MAX as u32 {
        if at >= len {
            break;
        }
        state = walk_sw8_part(slot, at, len, state);
        at += sw8::PART;
    }
    state
}

/// One part of it.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn walk_sw8_part(slot: u32, at: u32, len: u32, state: u32) -> u32 {
    let Some(scratch) = scratch::taken(slot) else {
        return state;
    };
    sw8::walk(&scratch.request.sw8, at, len, state, &mut scratch.sw8_places)
}

/// Which of the scratch's `sw8` is meant.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Sw8Of {
    Request = 0,
    Incoming = 1,
}

/// The hash of an `sw8`, by which one that is only forwarded is known.
#[inline(always)]
pub(crate) fn hash_of_sw8(scratch: &Scratch, of: Sw8Of, len: u32) -> u64 {
    hash_sw8(scratch.slot, of as u32, len)
}

/// A global function as well.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn hash_sw8(slot: u32, of: u32, len: u32) -> u64 {
    const {
        assert!(core::mem::offset_of!(Scratch, request) % 8 == 0);
        assert!(core::mem::offset_of!(RequestState, sw8) % 8 == 0);
        assert!(core::mem::offset_of!(Scratch, incoming) % 8 == 0);
        assert!(core::mem::offset_of!(Incoming, sw8) % 8 == 0);
    }
    let Some(scratch) = scratch::taken(slot) else {
        return 0;
    };
    let text = if of == Sw8Of::Request as u32 {
        scratch.request.sw8.as_ptr()
    } else {
        scratch.incoming.sw8.as_ptr()
    };
    // SAFETY: aligned as asserted.
    unsafe { hash::of_text::<{ SW8_MAX / 8 }>(text.cast(), len) }
}

#[inline(always)]
fn read_trace(scratch: &mut Scratch) {
    let state = &mut scratch.request;
    if state.sw8_len != 0 {
        let len = u32::from(state.sw8_len);
        let end = walk_sw8(scratch.slot, len);
        if sw8::is_whole(&state.sw8, len, end, &scratch.sw8_places) {
            let (trace_at, trace_len) = scratch.sw8_places.trace_id();
            state.sw8_trace_at = trace_at as u16;
            state.sw8_trace_len = trace_len as u16;
            state.trace_id = [0; 16];
            state.flags |= REQUEST_SW8_CONTINUED;
            if state.sw8_hash == 0 {
                state.sw8_hash = hash_sw8(scratch.slot, Sw8Of::Request as u32, len);
            }
        } else {
            state.flags |= REQUEST_SW8_MALFORMED;
            emit::count(LossReason::Sw8Malformed);
        }
    }
    if state.traceparent_len != 0 {
        if traceparent::parse(
            &state.traceparent,
            u32::from(state.traceparent_len),
            &mut scratch.traceparent,
        ) {
            state.w3c_trace_id = scratch.traceparent.trace_id;
            if state.flags & REQUEST_SW8_CONTINUED == 0 {
                state.trace_id = state.w3c_trace_id;
                state.flags |= REQUEST_W3C_CONTINUED;
            }
        } else {
            state.traceparent_len = 0;
        }
    }
}

#[inline(always)]
pub(crate) fn store(state: &RequestState, goroutine: &GoroutineKey) -> Option<()> {
    match GO_REQUESTS.insert(goroutine, state, u64::from(BPF_NOEXIST)) {
        Ok(()) => {}
        Err(error) if error == -17 => {
            // EEXIST: the goroutine went on to its next request without an end that a hook saw.
            emit::count(LossReason::EndMissed);
            if let Some(missed) = open(goroutine) {
                forget_context(missed.context, goroutine.tgid);
            }
            if GO_REQUESTS.insert(goroutine, state, 0).is_err() {
                let _stale = GO_REQUESTS.remove(goroutine);
                return emit::lose(LossReason::RequestsFull);
            }
        }
        Err(_) => return emit::lose(LossReason::RequestsFull),
    }
    let context = PointerKey {
        pointer: state.context,
        tgid: goroutine.tgid,
        _pad: 0,
    };
    // Without this entry the request's calls are still found by their goroutine.
    let _as_many_as_requests = GO_CONTEXTS.insert(&context, &goroutine.goid, 0);
    Some(())
}

#[inline(always)]
fn forget_context(context: u64, tgid: u32) {
    let _gone_already = GO_CONTEXTS.remove(&PointerKey {
        pointer: context,
        tgid,
        _pad: 0,
    });
}

/// The request is no longer open.
#[inline(always)]
pub(crate) fn close(state: &RequestState, goroutine: &GoroutineKey) {
    forget_context(state.context, goroutine.tgid);
    let _ours_alone = GO_REQUESTS.remove(goroutine);
}

/// The goroutine has gone on to a request that could not be taken in: what it served before is over, although no end of it
/// was seen, and is no parent of what follows.
#[inline(always)]
pub(crate) fn abandon(goroutine: &GoroutineKey) {
    if let Some(missed) = open(goroutine) {
        emit::count(LossReason::EndMissed);
        close(missed, goroutine);
    }
}

/// Sends the record of a request, if it is to be reported.
#[inline(always)]
pub(crate) fn emit_request(
    state: &RequestState,
    mut event: RequestEvent,
    scratch: &mut Scratch,
) -> Option<()> {
    if !sampling::reports_request(state, &mut event) {
        return Some(());
    }
    let pattern = scratch.pattern.as_ptr();
    let mut record = Record::begin::<RequestEvent>(scratch);
    record.append_messages(event.flags, &scratch.messages);
    record.append::<METHOD_MAX>(state.method.as_ptr(), event.method_len);
    record.append::<PATH_MAX>(state.path.as_ptr(), event.path_len);
    record.append::<HOST_MAX>(state.host.as_ptr(), event.host_len);
    record.append::<PATTERN_MAX>(pattern, event.pattern_len);
    record.append::<256>(state.operation.as_ptr(), event.operation_len);
    record.append::<SW8_MAX>(state.sw8.as_ptr(), event.sw8_len);
    record.append::<CORRELATION_MAX>(state.correlation.as_ptr(), event.correlation_len);
    record.append::<SW8_X_MAX>(state.sw8_x.as_ptr(), event.sw8_x_len);
    record.append::<TRACEPARENT_BYTES>(state.traceparent.as_ptr(), event.traceparent_len);
    record.send(event)
}

// === impl RequestState ===

impl RequestState {
    /// Begins anew, now. `g` has the goroutine's `runtime.g`.
    #[inline(always)]
    pub(crate) fn begin(
        &mut self,
        kind: EventKind,
        response: u64,
        request: u64,
        g: &Window,
        target: &TargetInfo,
    ) {
        free_goroutine_ids(self, g, target);
        // SAFETY: reads a clock.
        self.start_ns = unsafe { bpf_ktime_get_boot_ns() };
        self.kind = kind;
        self.response = response;
        self.request = request;
        self.trace_id = random_id();
        self.segment_id = random_id();
        self.sw8_hash = 0;
        self.flags = if target.flags & TARGET_KEEP_PATHS != 0 {
            REQUEST_KEEP_PATH
        } else {
            0
        };
        self.next_span = 1;
        self.connection = 0;
        self.stream = 0;
        self.kept_calls = 0;
        self.request_bytes = -1;
        self.method_len = 0;
        self.host_len = 0;
        self.operation_len = 0;
        self.sw8_trace_len = 0;
        self.sw8_len = 0;
        self.correlation_len = 0;
        self.sw8_x_len = 0;
        self.traceparent_len = 0;
    }

    /// Its record, ended now; what is read at the end is still to be filled in.
    #[inline(always)]
    pub(crate) fn event(&self, goroutine: &GoroutineKey, end: RequestEnd) -> RequestEvent {
        RequestEvent {
            header: EventHeader {
                kind: self.kind,
                tgid: goroutine.tgid,
            },
            start_ns: self.start_ns,
            // SAFETY: reads a clock.
            end_ns: unsafe { bpf_ktime_get_boot_ns() },
            goid: goroutine.goid,
            trace_id: self.trace_id,
            segment_id: self.segment_id,
            request_bytes: self.request_bytes,
            response_bytes: 0,
            end,
            flags: self.flags,
            span_count: self.next_span,
            status: 0,
            method_len: self.method_len,
            path_len: self.path_len,
            host_len: self.host_len,
            pattern_len: 0,
            operation_len: self.operation_len,
            sw8_len: self.sw8_len,
            correlation_len: self.correlation_len,
            sw8_x_len: self.sw8_x_len,
            traceparent_len: self.traceparent_len,
        }
    }
}
