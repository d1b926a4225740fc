//! Prepares the header of one outgoing request: lines of HTTP/1, or fields of HTTP/2 as HPACK has them.

use probe_common::{
    base64,
    context::traceparent::SAMPLED,
    event::{
        EventKind,
        go::net_http::{CALL_TRACE_FOREIGN, ParentFound, REQUEST_OPERATION_SENT, REQUEST_SW8_CONTINUED},
    },
    hex,
    key::GoroutineKey,
    limits::{
        CORRELATION_MAX, METHOD_MAX, NAME_BASE64_MAX, OPERATION_MAX, PATH_MAX, PEER_MAX, TRACE_ID_BASE64_MAX,
        TRACEPARENT_LEN,
    },
    loss::LossReason,
    operation::{self, Source},
    propagation::{Outcome, Prepared},
    target::{TARGET_KEEP_PATHS, TARGET_PROPAGATE_SW8, TARGET_PROPAGATE_W3C, TargetInfo},
};

use crate::{
    go::{
        call::CallState,
        net_http::read_pattern,
        request::{self, RequestState},
    },
    memory::{self, copy_id},
    sampling::SAMPLED_OUT,
    scratch::{self, PLAIN_BYTES, Scratch},
};

/// Why there is no header for a call.
#[derive(Clone, Copy)]
pub(crate) enum Unwritten {
    TooLong,
    /// Its request has ended, and the trace that this came with is not known any more.
    NoTrace,
}

impl Unwritten {
    pub(crate) const fn outcome(self) -> Outcome {
        match self {
            Self::TooLong => Outcome::TooLong,
            Self::NoTrace => Outcome::Refused,
        }
    }

    pub(crate) const fn reason(self) -> LossReason {
        match self {
            Self::TooLong => LossReason::PropagationTooLong,
            Self::NoTrace => LossReason::PropagationRefused,
        }
    }
}

/// Writes the header for `call` into `scratch.prepared`, for HTTP/2 if `H2`.
#[inline(always)]
pub(crate) fn write<const H2: bool>(
    call: &CallState,
    target: &TargetInfo,
    tgid: u32,
    scratch: &mut Scratch,
) -> Result<(), Unwritten> {
    let parent = parent(call, tgid);
    if parent.is_none() && call.flags & CALL_TRACE_FOREIGN != 0 {
        return Err(Unwritten::NoTrace);
    }
    scratch.prepared.clear();
    scratch.prepared.forwarded_hash = 0;
    scratch.trace_base64_len.set(0);
    copy_id(&call.trace_id, &mut scratch.w3c_trace_id);
    // By `sw8`, agents would take the trace for one that is recorded, whatever its first field says.
    let propagate_sw8 = target.flags & TARGET_PROPAGATE_SW8 != 0 && call.flags & SAMPLED_OUT == 0;
    match parent {
        Some(request) => {
            scratch.prepared.forwarded_hash = request.sw8_hash;
            name_parent(request, target, scratch);
            choose_trace(request, scratch);
            if propagate_sw8 {
                sw8::<H2>(call, target, scratch);
                correlation::<H2>(request, scratch);
            }
        }
        None => {
            name_call(call, target, scratch);
            if propagate_sw8 {
                sw8::<H2>(call, target, scratch);
            }
        }
    }
    if target.flags & TARGET_PROPAGATE_W3C != 0 {
        w3c::<H2>(call, scratch);
    }
    if scratch.prepared.outcome == Outcome::TooLong as u32 {
        Err(Unwritten::TooLong)
    } else {
        Ok(())
    }
}

/// The call's parent, as long as it is open.
#[inline(always)]
fn parent(call: &CallState, tgid: u32) -> Option<&'static mut RequestState> {
    match call.parent {
        ParentFound::None => None,
        ParentFound::Context | ParentFound::Goroutine | ParentFound::Ancestry => {
            let key = GoroutineKey {
                goid: call.parent_goid,
                tgid,
                _pad: 0,
            };
            // By now the parent may have ended, and its goroutine serve the next request.
            request::open(&key).filter(|request| request.segment_id == call.segment_id)
        }
    }
}

/// Whether a call that has an `sw8` of its own, of this hash, only forwards the one that its parent came with, as proxies
/// do. It names the parent's parent.
#[inline(always)]
pub(crate) fn forwards(call: &CallState, tgid: u32, own_sw8_hash: u64) -> bool {
    match parent(call, tgid) {
        Some(request) => request.sw8_hash == own_sw8_hash,
        None => false,
    }
}

/// Names the parent's operation, once: the Entry span is reported under the name that went out, even if the
/// program changes the request's pattern afterwards. Two calls at once write the same name.
#[inline(always)]
fn name_parent(request: &mut RequestState, target: &TargetInfo, scratch: &mut Scratch) {
    if request.operation_len == 0 && request.kind == EventKind::GoGrpcRequest {
        memory::copy::<PATH_MAX>(request.path.as_ptr(), PATH_MAX as u32, scratch.path.as_mut_ptr());
        let len = name_rpc(scratch.slot, u32::from(request.path_len));
        freeze_name(request, len, scratch);
    } else if request.operation_len == 0 {
        let pattern_len = read_pattern(request.request, &target.offsets, scratch.pattern.as_mut_ptr());
        memory::copy::<METHOD_MAX>(
            request.method.as_ptr(),
            METHOD_MAX as u32,
            scratch.method.as_mut_ptr(),
        );
        memory::copy::<PATH_MAX>(request.path.as_ptr(), PATH_MAX as u32, scratch.path.as_mut_ptr());
        let len = name_operation(
            scratch.slot,
            u32::from(request.method_len) << 16 | u32::from(pattern_len),
            u32::from(request.path_len),
            target.flags & TARGET_KEEP_PATHS,
        );
        freeze_name(request, len, scratch);
    }
    let len = u32::from(request.operation_len);
    memory::copy::<OPERATION_MAX>(request.operation.as_ptr(), len, scratch.endpoint.as_mut_ptr());
    scratch.endpoint_len.set(len);
}

#[inline(always)]
fn freeze_name(request: &mut RequestState, len: u32, scratch: &Scratch) {
    memory::copy::<OPERATION_MAX>(
        scratch.operation.bytes.as_ptr(),
        len,
        request.operation.as_mut_ptr(),
    );
    request.flags |= REQUEST_OPERATION_SENT;
    request.operation_len = len as u16;
}

/// The endpoint of a call without a parent: its own operation, for the call is its segment's root.
#[inline(always)]
fn name_call(call: &CallState, target: &TargetInfo, scratch: &mut Scratch) {
    let len = if call.kind == EventKind::GoGrpcCall {
        memory::copy::<PATH_MAX>(call.path.as_ptr(), PATH_MAX as u32, scratch.path.as_mut_ptr());
        name_rpc(scratch.slot, u32::from(call.path_len))
    } else {
        name_http_call(call, target, scratch)
    };
    memory::copy::<OPERATION_MAX>(
        scratch.operation.bytes.as_ptr(),
        len,
        scratch.endpoint.as_mut_ptr(),
    );
    scratch.endpoint_len.set(len);
}

#[inline(always)]
fn name_http_call(call: &CallState, target: &TargetInfo, scratch: &mut Scratch) -> u32 {
    memory::copy::<METHOD_MAX>(
        call.method.as_ptr(),
        METHOD_MAX as u32,
        scratch.method.as_mut_ptr(),
    );
    memory::copy::<PATH_MAX>(call.path.as_ptr(), PATH_MAX as u32, scratch.path.as_mut_ptr());
    name_operation(
        scratch.slot,
        u32::from(call.method_len) << 16,
        u32::from(call.path_len),
        target.flags & TARGET_KEEP_PATHS,
    )
}

/// Names the gRPC method that is the scratch's path; the name's length. A global function, as the next one is.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn name_rpc(slot: u32, path_len: u32) -> u32 {
    let Some(scratch) = scratch::taken(slot) else {
        return 0;
    };
    operation::write_rpc(&scratch.path, path_len, &mut scratch.operation) as u32
}

/// Names the operation of the scratch's method, pattern and path; the name's length.
///
/// A global function, as `head::scan_word` is. `method_and_pattern` holds the method's length in its upper half.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn name_operation(
    slot: u32,
    method_and_pattern: u32,
    path_len: u32,
    keep_path: u32,
) -> u32 {
    let Some(scratch) = scratch::taken(slot) else {
        return 0;
    };
    // By way of a pointer, since `append_part` takes the scratch anew.
    let out = &raw mut scratch.operation;
    // SAFETY: the scratch's own.
    unsafe {
        operation::write_by(
            &scratch.method,
            method_and_pattern >> 16,
            &scratch.pattern,
            method_and_pattern & 0xffff,
            path_len,
            keep_path,
            out,
            |source, from, count| {
                append_part(slot, source as u32, from, count);
            },
        )
    }
}

/// Appends a part of the scratch's pattern or path to its operation. Global, since it is walked once that way, and not
/// for each part.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn append_part(slot: u32, source: u32, from: u32, count: u32) -> u32 {
    let Some(scratch) = scratch::taken(slot) else {
        return 0;
    };
    let out = &mut scratch.operation;
    if source == Source::FoldedPath as u32 {
        operation::fold_part(out, &scratch.path, from, count);
    } else if source == Source::Path as u32 {
        operation::append_part(out, &scratch.path, from, count);
    } else {
        operation::append_part(out, &scratch.pattern, from, count);
    }
    0
}

/// What of the trace came in: the trace id in base64 by `sw8`, 16 bytes of it by `traceparent`. A trace that came
/// by `sw8` alone has no such 16 bytes, so it gets its first segment's for `traceparent`.
#[inline(always)]
fn choose_trace(request: &RequestState, scratch: &mut Scratch) {
    if request.flags & REQUEST_SW8_CONTINUED != 0 {
        // SAFETY: masked to the value, behind which other fields of the entry lie.
        let from = unsafe { request.sw8.as_ptr().add(usize::from(request.sw8_trace_at) & 255) };
        let len = u32::from(request.sw8_trace_len);
        memory::copy::<TRACE_ID_BASE64_MAX>(from, len, scratch.trace_base64.as_mut_ptr());
        scratch.trace_base64_len.set(len);
        copy_id(&request.segment_id, &mut scratch.w3c_trace_id);
    }
    if request.traceparent_len != 0 {
        copy_id(&request.w3c_trace_id, &mut scratch.w3c_trace_id);
    }
}

/// `1-<trace id>-<segment id>-<span id>-<service>-<instance>-<endpoint>-<peer>`.
#[inline(always)]
fn sw8<const H2: bool>(call: &CallState, target: &TargetInfo, scratch: &mut Scratch) {
    let trace_len = scratch.trace_base64_len.get();
    let value_len = if H2 {
        sw8_len(call, target, scratch, trace_len)
    } else {
        0
    };
    begin_field::<H2, 8>(&mut scratch.prepared, b"sw8.....", 3, value_len);
    scratch.prepared.push_all(b"1-");
    if trace_len == 0 {
        push_id(&call.trace_id, scratch);
    } else {
        push::<TRACE_ID_BASE64_MAX>(&mut scratch.prepared, scratch.trace_base64.as_ptr(), trace_len);
    }
    scratch.prepared.push_byte(b'-');
    push_id(&call.segment_id, scratch);
    let lines = &mut scratch.prepared;
    lines.push_byte(b'-');
    lines.push_number(call.span_id);
    lines.push_byte(b'-');
    push::<NAME_BASE64_MAX>(
        lines,
        target.service_base64.as_ptr(),
        u32::from(target.service_base64_len),
    );
    lines.push_byte(b'-');
    push::<NAME_BASE64_MAX>(
        lines,
        target.instance_base64.as_ptr(),
        u32::from(target.instance_base64_len),
    );
    lines.push_byte(b'-');
    push_plain::<OPERATION_MAX>(scratch.endpoint.as_ptr(), scratch.endpoint_len.get(), scratch);
    scratch.prepared.push_byte(b'-');
    push_plain::<PEER_MAX>(call.peer.as_ptr(), u32::from(call.peer_len), scratch);
    end_field::<H2>(&mut scratch.prepared);
}

/// Appends one of our ids: its 32 digits in base64.
#[inline(always)]
fn push_id(id: &[u8; 16], scratch: &mut Scratch) {
    hex::encode(id, &mut scratch.plain, 0);
    append_base64(scratch.slot, 32);
}

/// Appends the first `len` bytes, at most `MAX`, in base64.
#[inline(always)]
fn push_plain<const MAX: usize>(from: *const u8, len: u32, scratch: &mut Scratch) {
    const { assert!(MAX <= PLAIN_BYTES) };
    let len = memory::copy::<MAX>(from, len, scratch.plain.as_mut_ptr());
    append_base64(scratch.slot, len);
}

/// Appends the first `len` bytes of the scratch's plain text in base64. A global function, as the two above are.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn append_base64(slot: u32, len: u32) -> u32 {
    if let Some(scratch) = scratch::taken(slot) {
        scratch
            .prepared
            .push_base64::<PLAIN_BYTES, _>(&scratch.plain, len);
    }
    0
}

/// What [`sw8`] will write: HPACK has a value's length before it.
#[inline(always)]
fn sw8_len(call: &CallState, target: &TargetInfo, scratch: &Scratch, trace_len: u32) -> u32 {
    const ID: u32 = base64::encoded_len(32) as u32;
    const DASHES: u32 = 7;
    let trace = if trace_len == 0 { ID } else { trace_len };
    let mut digits = 1;
    let mut rest = call.span_id / 10;
    let mut count = 0;
    while count < 9 {
        if rest == 0 {
            break;
        }
        digits += 1;
        rest /= 10;
        count += 1;
    }
    let names = u32::from(target.service_base64_len) + u32::from(target.instance_base64_len);
    let endpoint = base64::encoded_len(scratch.endpoint_len.get() as usize) as u32;
    let peer = base64::encoded_len(usize::from(call.peer_len)) as u32;
    1 + DASHES + trace + ID + digits + names + endpoint + peer
}

/// What came in as `sw8-correlation`.
#[inline(always)]
fn correlation<const H2: bool>(request: &RequestState, scratch: &mut Scratch) {
    if request.correlation_len == 0 {
        return;
    }
    let lines = &mut scratch.prepared;
    let len = u32::from(request.correlation_len);
    begin_field::<H2, 16>(lines, b"sw8-correlation.", 15, len);
    push::<CORRELATION_MAX>(lines, request.correlation.as_ptr(), len);
    end_field::<H2>(lines);
}

/// `00-<trace id>-<span id>-01`, of what is not sampled `-00`.
#[inline(always)]
fn w3c<const H2: bool>(call: &CallState, scratch: &mut Scratch) {
    let lines = &mut scratch.prepared;
    begin_field::<H2, 16>(lines, b"traceparent.....", 11, TRACEPARENT_LEN as u32);
    // The segment's first bytes, told apart by the span's id.
    let [a, b, c, d, e, f, g, h, ..] = call.segment_id;
    let parent_id = [
        a,
        b,
        c,
        d,
        e,
        f,
        g ^ (call.span_id >> 8) as u8,
        h ^ call.span_id as u8,
    ];
    let flags = if call.flags & SAMPLED_OUT == 0 { SAMPLED } else { 0 };
    lines.push_traceparent(&scratch.w3c_trace_id, &parent_id, flags);
    end_field::<H2>(lines);
}

/// A field's name and what comes before its value. For HTTP/2 a literal that no table remembers, so that both ends'
/// tables stay as the program left them.
#[inline(always)]
fn begin_field<const H2: bool, const N: usize>(
    lines: &mut Prepared,
    name: &[u8; N],
    name_len: u32,
    value_len: u32,
) {
    if !H2 {
        lines.push(name, name_len);
        lines.push_all(b": ");
        return;
    }
    lines.push_byte(0);
    lines.push_byte(name_len as u8);
    lines.push(name, name_len);
    // An integer with a prefix of seven bits, whose eighth says that the value is not Huffman-coded.
    const PREFIX: u32 = 127;
    if value_len < PREFIX {
        lines.push_byte(value_len as u8);
        return;
    }
    let rest = value_len - PREFIX;
    lines.push_byte(PREFIX as u8);
    if rest < 128 {
        lines.push_byte(rest as u8);
    } else {
        lines.push_byte(rest as u8 | 0x80);
        lines.push_byte((rest >> 7) as u8);
    }
}

#[inline(always)]
fn end_field<const H2: bool>(lines: &mut Prepared) {
    if !H2 {
        lines.push_all(b"\r\n");
    }
}

/// Appends `len` bytes, at most `MAX`, by one copy. Behind the lines the scratch has slack for the longest piece.
#[inline(always)]
fn push<const MAX: usize>(lines: &mut Prepared, from: *const u8, len: u32) {
    const MASK: usize = probe_common::limits::PREPARED_MAX - 1;
    // SAFETY: a live number; volatile, so that the verifier does not follow it.
    let at = unsafe { core::ptr::read_volatile(&raw const lines.len) };
    // SAFETY: masked to the lines and their slack.
    let to = unsafe { (&raw mut lines.lines).cast::<u8>().add(at as usize & MASK) };
    let end = at + memory::copy::<MAX>(from, len, to);
    if end as usize > MASK {
        lines.outcome = Outcome::TooLong as u32;
        return;
    }
    // SAFETY: as above.
    unsafe { core::ptr::write_volatile(&raw mut lines.len, end) };
}
