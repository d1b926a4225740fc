//! Method `socket` for HTTP/2: the fields that a hook has prepared for a stream go to the end of the header block of
//! its HEADERS frame.
//!
//! A message holds frames, the last of which may go on in the next message, so the place is kept from one to the next.
//! Nothing is taken for a frame that does not stand where one has to begin.

use aya_ebpf::{
    bindings::{sk_action::SK_PASS, sk_msg_md},
    helpers::generated::{bpf_msg_apply_bytes, bpf_msg_pop_data, bpf_msg_pull_data, bpf_msg_push_data},
    macros::{map, sk_msg},
    maps::ProgramArray,
    programs::SkMsgContext,
};
use probe_common::{
    key::{SocketKey, SocketStreamKey},
    limits::PREPARED_MAX,
    loss::LossReason,
    propagation::{Outcome, Prepared},
};

use super::socket::{data, data_end, fill, key};
use crate::{
    emit,
    log::kernel_log,
    maps::{FRAMED, Framed, STREAM_PREPARED},
};

/// Frames looked at in one run; then the program calls itself, which the kernel allows 33 times.
const FRAMES_AT_ONCE: u32 = 8;
/// Headers that get fields in one run: twice as many are, with what cuts the message, too much for the verifier.
const HEADERS_AT_ONCE: u32 = 4;
/// Bytes before a frame's payload.
const FRAME_HEADER_BYTES: u32 = 9;
/// The longest payload that may be sent to a peer which has not allowed more.
const PAYLOAD_MAX: u32 = 16_384;
/// The highest type of frame in use (`ALTSVC`, `ORIGIN` and such are above, and no client sends them).
const TYPE_MAX: u8 = 9;
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// Index 0: `socket_frames`, which the loader puts there.
#[map]
static FRAME_PROGRAMS: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Hands the message over to `socket_frames`. Comes back only if that is not possible.
#[inline(always)]
pub(super) fn go_on(ctx: &SkMsgContext) {
    // SAFETY: the map holds programs for the same context.
    let _not_possible = unsafe { FRAME_PROGRAMS.tail_call(ctx, 0) };
}

/// A target writes frames to an enrolled socket.
#[sk_msg]
pub(crate) fn socket_frames(ctx: SkMsgContext) -> u32 {
    let key = key(ctx.msg);
    let Some(framed) = FRAMED.get_ptr_mut(&key) else {
        return SK_PASS;
    };
    // SAFETY: one goroutine writes a connection's frames.
    let framed = unsafe { &mut *framed };
    let mut headers = 0;
    while headers < HEADERS_AT_ONCE {
        match walk(ctx.msg, &key, framed) {
            Walked::Through => {
                pass(ctx.msg, 0);
                return SK_PASS;
            }
            Walked::On => break,
            Walked::To(prepared, frame) => {
                // SAFETY: the context is valid for the whole run.
                let outcome = unsafe { insert(ctx.msg, prepared, &frame) };
                kernel_log!("fields on stream {}: outcome {}", frame.stream, outcome as u32);
                prepared.outcome = outcome as u32;
                framed.pending -= 1;
                let mut payload = frame.len;
                match outcome {
                    Outcome::Inserted => payload += prepared.len,
                    Outcome::TooLong => emit::count(LossReason::PropagationTooLong),
                    _ => emit::count(LossReason::PropagationRefused),
                }
                store(&mut framed.at, frame.at + FRAME_HEADER_BYTES + payload);
            }
        }
        headers += 1;
    }
    go_on(&ctx);
    // Out of runs.
    cut(ctx.msg, framed);
    SK_PASS
}

/// Lets pass what has been walked over, which ends where a frame does. The kernel shows the rest as a message of its own.
#[inline(always)]
fn cut(msg: *mut sk_msg_md, framed: &mut Framed) {
    // SAFETY: the context is valid for the whole run; the place is a live number.
    let (size, at) = unsafe {
        (
            core::ptr::read_volatile(&raw const (*msg).size),
            core::ptr::read_volatile(&raw const framed.at),
        )
    };
    if at >= size {
        pass(msg, 0);
        store(&mut framed.left, at - size);
    } else {
        pass(msg, at);
        store(&mut framed.left, 0);
    }
    store(&mut framed.at, 0);
}

/// How much of the message the verdict is for; 0: all. The kernel keeps the number for the rest of a message that was
/// cut, and would let as much of the next one pass unseen, so it is set each time.
#[inline(always)]
fn pass(msg: *mut sk_msg_md, bytes: u32) {
    // SAFETY: the context is valid for the whole run.
    let _cannot_fail = unsafe { bpf_msg_apply_bytes(msg, bytes) };
}

/// How far a walk over frames came.
enum Walked {
    /// To the message's end.
    Through,
    /// To no end: there is more.
    On,
    /// To a frame that gets fields.
    To(&'static mut Prepared, Frame),
}

/// Looks at some frames of the message.
#[inline(always)]
fn walk(msg: *mut sk_msg_md, key: &SocketKey, framed: &mut Framed) -> Walked {
    // SAFETY: the context is valid for the whole run; nothing is put in meanwhile.
    let size = unsafe { core::ptr::read_volatile(&raw const (*msg).size) };
    let mut run = 0;
    while run < FRAMES_AT_ONCE {
        let at = begin_of_next(framed);
        if at >= size {
            store(&mut framed.left, at - size);
            store(&mut framed.at, 0);
            return Walked::Through;
        }
        // SAFETY: as above.
        let Some(frame) = (unsafe { Frame::at(msg, at, size) }) else {
            lose_place(framed);
            return Walked::Through;
        };
        if frame.kind == HEADERS && framed.pending != 0 {
            let stream = SocketStreamKey {
                socket: *key,
                id: frame.stream,
                _pad: 0,
            };
            if let Some(prepared) = STREAM_PREPARED.get_ptr_mut(&stream) {
                // SAFETY: the entry is of this very stream.
                let prepared = unsafe { &mut *prepared };
                if prepared.outcome == Outcome::NotSeen as u32 {
                    return Walked::To(prepared, frame);
                }
            }
        }
        store(&mut framed.at, at + FRAME_HEADER_BYTES + frame.len);
        run += 1;
    }
    Walked::On
}

/// Where the next frame begins: in a message that is new, behind what is left of the last frame.
#[inline(always)]
fn begin_of_next(framed: &Framed) -> u32 {
    // SAFETY: live numbers; by way of memory, so that the verifier does not add up all turns of the loop.
    unsafe {
        let at = core::ptr::read_volatile(&raw const framed.at);
        if at == 0 {
            core::ptr::read_volatile(&raw const framed.left)
        } else {
            at
        }
    }
}

#[inline(always)]
fn store(to: &mut u32, value: u32) {
    // SAFETY: a live number.
    unsafe { core::ptr::write_volatile(to, value) }
}

/// What stands where a frame has to begin is none, or cannot be read. The next message is taken to begin with one, as
/// all do but those that follow a full buffer.
#[inline(always)]
fn lose_place(framed: &mut Framed) {
    emit::count(LossReason::PropagationFramesLost);
    store(&mut framed.left, 0);
    store(&mut framed.at, 0);
}

/// A frame's header.
struct Frame {
    /// Where in the message.
    at: u32,
    len: u32,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Frame {
    /// Reads the frame header at `at`, if it is one that may be there.
    #[inline(always)]
    unsafe fn at(msg: *mut sk_msg_md, at: u32, size: u32) -> Option<Self> {
        // SAFETY: the helper checks what it is given, and the data's end is looked at.
        unsafe {
            if at + FRAME_HEADER_BYTES > size || bpf_msg_pull_data(msg, at, at + FRAME_HEADER_BYTES, 0) != 0 {
                return None;
            }
            let bytes = data(msg);
            if bytes + FRAME_HEADER_BYTES as usize > data_end(msg) {
                return None;
            }
            let bytes = bytes as *const u8;
            let byte = |index| u32::from(core::ptr::read_volatile(bytes.add(index)));
            let frame = Self {
                at,
                len: byte(0) << 16 | byte(1) << 8 | byte(2),
                kind: byte(3) as u8,
                flags: byte(4) as u8,
                stream: byte(5) << 24 | byte(6) << 16 | byte(7) << 8 | byte(8),
            };
            // The stream's highest bit is reserved.
            let plausible = frame.kind <= TYPE_MAX && frame.len <= PAYLOAD_MAX && frame.stream >> 31 == 0;
            if plausible { Some(frame) } else { None }
        }
    }
}

/// Puts the fields behind the last one of the block, and mends the frame's length.
///
/// The kernel makes no room at a message's very end, so it is made before the block's last byte, which is then written
/// anew in front of the fields.
#[inline(always)]
unsafe fn insert(msg: *mut sk_msg_md, prepared: &Prepared, frame: &Frame) -> Outcome {
    // SAFETY: the caller's context.
    let size = unsafe { core::ptr::read_volatile(&raw const (*msg).size) };
    let at = frame.at;
    let end = at + FRAME_HEADER_BYTES + frame.len;
    let len = prepared.len & (PREPARED_MAX as u32 - 1);
    if frame.flags & END_HEADERS == 0 || frame.flags & PADDED != 0 || frame.len == 0 || end > size {
        return Outcome::Refused;
    }
    let payload = frame.len + len;
    if payload > PAYLOAD_MAX {
        return Outcome::TooLong;
    }
    let last = end - 1;
    // SAFETY: the helpers check what they are given; data pointers are read anew after each change.
    unsafe {
        if bpf_msg_pull_data(msg, last, end, 0) != 0 {
            return Outcome::Refused;
        }
        let place = data(msg);
        if place + 1 > data_end(msg) {
            return Outcome::Refused;
        }
        let last_byte = core::ptr::read_volatile(place as *const u8);
        if bpf_msg_push_data(msg, last, len, 0) != 0 {
            return Outcome::Refused;
        }
        if bpf_msg_pull_data(msg, last, end + len, 0) == 0
            && put(msg, 0, last_byte)
            && fill(msg, prepared, 1, len)
            && bpf_msg_pull_data(msg, at, at + FRAME_HEADER_BYTES, 0) == 0
            && put(msg, 0, (payload >> 16) as u8)
            && put(msg, 1, (payload >> 8) as u8)
            && put(msg, 2, payload as u8)
        {
            return Outcome::Inserted;
        }
        // The frame as it was: the byte that was overwritten is the room's first, so what goes is what follows it.
        let _restored = bpf_msg_pull_data(msg, last, end, 0) == 0 && put(msg, 0, last_byte);
        let _removed = bpf_msg_pop_data(msg, end, len, 0);
        Outcome::Refused
    }
}

/// Writes one byte of the data; whether it is there.
#[inline(always)]
unsafe fn put(msg: *mut sk_msg_md, at: usize, byte: u8) -> bool {
    // SAFETY: checked against the data's end.
    unsafe {
        let place = data(msg) + at;
        if place + 1 > data_end(msg) {
            return false;
        }
        *(place as *mut u8) = byte;
        true
    }
}
