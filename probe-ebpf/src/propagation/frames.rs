//! Method `socket` for HTTP/2: the fields that a hook has prepared for a stream go to the end of the header block of
//! its HEADERS frame.
//!
//! A message holds frames, the last of which may go on in the next message, so the place is kept from one to the next.
//! Nothing is taken for a frame that does not stand where one has to begin.

use aya_ebpf::{
    bindings::{
        sk_action::{SK_DROP, SK_PASS},
        sk_msg_md,
    },
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

use super::{
    room::{Room, room},
    socket::{data, data_end, fill, key},
};
use crate::{
    emit,
    go::call::CallState,
    log::kernel_log,
    maps::{self, FRAME_HEADER_ROOM, FRAMED, Framed, STREAM_PREPARED},
    scratch::Scratch,
};

/// Frames looked at in one run; then the program calls itself, which the kernel allows 33 times.
const FRAMES_AT_ONCE: u32 = 8;
/// Headers that get fields in one run: twice as many are, with what cuts the message, too much for the verifier.
const HEADERS_AT_ONCE: u32 = 4;
/// Bytes before a frame's payload.
const FRAME_HEADER_BYTES: u32 = 9;
/// The longest payload that may be sent to a peer which has not allowed more.
const PAYLOAD_MAX: u32 = 16_384;
/// The longest that Go's packages send where the peer has.
const DATA_MAX: u32 = 1 << 20;
// Types of frames, as far as clients send them.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
// And their flags.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const HAS_PRIORITY: u8 = 0x20;

/// Index 0: `socket_frames`, which the loader puts there.
#[map]
static FRAME_PROGRAMS: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Leaves the fields that `scratch` has prepared for the call's stream, which is about to be written.
#[inline(always)]
pub(crate) fn announce(state: &mut CallState, scratch: &mut Scratch) -> Option<()> {
    let socket = state.socket;
    let stream = SocketStreamKey {
        socket,
        id: state.stream,
        _pad: 0,
    };
    if maps::offer(&STREAM_PREPARED, &stream, state.owner(), &mut scratch.prepared).is_err() {
        return None;
    }
    state.outcome = Outcome::NotSeen as u32;
    if let Some(framed) = FRAMED.get_ptr_mut(&socket) {
        // SAFETY: one goroutine at a time writes headers to a connection.
        unsafe { (*framed).pending += 1 };
    } else {
        let _ages_out = FRAMED.insert(&socket, &Framed::new(), 0);
    }
    Some(())
}

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
    if begun(framed) != 0 && !finish_header(ctx.msg, &key, framed) {
        pass(ctx.msg, 0);
        return SK_PASS;
    }
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
                let (verdict, outcome) = unsafe { insert(ctx.msg, prepared, &frame) };
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
                if verdict == SK_DROP {
                    return SK_DROP;
                }
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
        if at + FRAME_HEADER_BYTES > size {
            begin_header(msg, framed, at, size);
            return Walked::Through;
        }
        // SAFETY: as above.
        let Some(frame) = (unsafe { Frame::at(msg, at) }) else {
            lose_place(framed);
            return Walked::Through;
        };
        if let Some(prepared) = prepared(key, framed, &frame) {
            return Walked::To(prepared, frame);
        }
        store(&mut framed.at, at + FRAME_HEADER_BYTES + frame.len);
        run += 1;
    }
    Walked::On
}

/// What is prepared for the frame, if it is one that gets fields.
#[inline(always)]
fn prepared(key: &SocketKey, framed: &Framed, frame: &Frame) -> Option<&'static mut Prepared> {
    if frame.kind != HEADERS || framed.pending == 0 {
        return None;
    }
    let stream = SocketStreamKey {
        socket: *key,
        id: frame.stream,
        _pad: 0,
    };
    // SAFETY: the entry is of this very stream.
    let prepared = unsafe { &mut *STREAM_PREPARED.get_ptr_mut(&stream)? };
    if prepared.outcome == Outcome::NotSeen as u32 {
        Some(prepared)
    } else {
        None
    }
}

/// The message ends within a frame's header: what is there of it is kept.
#[inline(always)]
fn begin_header(msg: *mut sk_msg_md, framed: &mut Framed, at: u32, size: u32) {
    store(&mut framed.left, 0);
    store(&mut framed.at, 0);
    if gather(msg, framed, at, size).is_none() {
        lose_place(framed);
    }
}

/// The message begins within a frame's header. The frame itself is left as it is, since its length has gone out in part,
/// but the place is kept. Whether the header is whole now.
#[inline(always)]
fn finish_header(msg: *mut sk_msg_md, key: &SocketKey, framed: &mut Framed) -> bool {
    // SAFETY: the context is valid for the whole run.
    let size = unsafe { core::ptr::read_volatile(&raw const (*msg).size) };
    let Some(taken) = gather(msg, framed, 0, size) else {
        lose_place(framed);
        return false;
    };
    if begun(framed) < FRAME_HEADER_BYTES {
        return false;
    }
    store(&mut framed.begun, 0);
    // SAFETY: the room is longer than a header.
    let Some(frame) = (unsafe { Frame::read(framed.header.as_ptr(), 0) }) else {
        lose_place(framed);
        return false;
    };
    if let Some(prepared) = prepared(key, framed, &frame) {
        prepared.outcome = Outcome::Refused as u32;
        framed.pending -= 1;
        emit::count(LossReason::PropagationRefused);
    }
    store(&mut framed.at, taken + frame.len);
    true
}

/// Takes bytes of the message from `from` on, until the header that they belong to is whole or they end; how many.
#[inline(always)]
fn gather(msg: *mut sk_msg_md, framed: &mut Framed, from: u32, size: u32) -> Option<u32> {
    let have = begun(framed);
    let mut wanted = FRAME_HEADER_BYTES - have;
    if wanted > size - from {
        wanted = size - from;
    }
    // SAFETY: the helper checks what it is given, and the data's end is looked at.
    unsafe {
        if bpf_msg_pull_data(msg, from, from + wanted, 0) != 0 {
            return None;
        }
        let bytes = data(msg);
        let end = data_end(msg);
        let mut index = 0;
        while index < FRAME_HEADER_BYTES {
            if index >= wanted {
                break;
            }
            if bytes + index as usize + 1 > end {
                return None;
            }
            let byte = core::ptr::read_volatile((bytes + index as usize) as *const u8);
            let place = (have + index) as usize & (FRAME_HEADER_ROOM - 1);
            core::ptr::write_volatile(framed.header.as_mut_ptr().add(place), byte);
            index += 1;
        }
    }
    store(&mut framed.begun, have + wanted);
    Some(wanted)
}

/// How many bytes of a header the last message has left.
#[inline(always)]
fn begun(framed: &Framed) -> u32 {
    // SAFETY: a live number.
    let begun = unsafe { core::ptr::read_volatile(&raw const framed.begun) };
    if begun > FRAME_HEADER_BYTES { 0 } else { begun }
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
    store(&mut framed.begun, 0);
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
    unsafe fn at(msg: *mut sk_msg_md, at: u32) -> Option<Self> {
        // SAFETY: the helper checks what it is given, and the data's end is looked at.
        unsafe {
            if bpf_msg_pull_data(msg, at, at + FRAME_HEADER_BYTES, 0) != 0 {
                return None;
            }
            let bytes = data(msg);
            if bytes + FRAME_HEADER_BYTES as usize > data_end(msg) {
                return None;
            }
            Self::read(bytes as *const u8, at)
        }
    }

    /// Reads the header that these bytes are, if they are one.
    #[inline(always)]
    unsafe fn read(bytes: *const u8, at: u32) -> Option<Self> {
        // SAFETY: the caller has as many.
        let byte = |index| unsafe { u32::from(core::ptr::read_volatile(bytes.add(index))) };
        let frame = Self {
            at,
            len: byte(0) << 16 | byte(1) << 8 | byte(2),
            kind: byte(3) as u8,
            flags: byte(4) as u8,
            stream: byte(5) << 24 | byte(6) << 16 | byte(7) << 8 | byte(8),
        };
        if frame.is_plausible() { Some(frame) } else { None }
    }

    /// Whether a client may send such a frame. What is taken for one in the middle of a payload hardly passes, and
    /// payloads of zeros do not.
    #[inline(always)]
    fn is_plausible(&self) -> bool {
        // The stream's highest bit is reserved.
        let of_stream = self.stream != 0 && self.stream >> 31 == 0;
        let of_connection = self.stream == 0;
        let only = |flags: u8| self.flags & !flags == 0;
        match self.kind {
            DATA => of_stream && self.len <= DATA_MAX && only(END_STREAM | PADDED),
            HEADERS => {
                let flags = END_STREAM | END_HEADERS | PADDED | HAS_PRIORITY;
                of_stream && self.len != 0 && self.len <= PAYLOAD_MAX && only(flags)
            }
            PRIORITY => of_stream && self.len == 5,
            RST_STREAM => of_stream && self.len == 4,
            SETTINGS => of_connection && self.len % 6 == 0 && self.len <= PAYLOAD_MAX,
            PING => of_connection && self.len == 8,
            GOAWAY => of_connection && self.len >= 8 && self.len <= PAYLOAD_MAX,
            WINDOW_UPDATE => self.stream >> 31 == 0 && self.len == 4,
            CONTINUATION => of_stream && self.len <= PAYLOAD_MAX && only(END_HEADERS),
            _ => false,
        }
    }
}

/// Puts the fields behind the last one of the block, and mends the frame's length.
///
/// The kernel makes no room at a message's very end, so it is made before the block's last byte, which is then written
/// anew in front of the fields.
#[inline(always)]
unsafe fn insert(msg: *mut sk_msg_md, prepared: &Prepared, frame: &Frame) -> (u32, Outcome) {
    const REFUSED: (u32, Outcome) = (SK_PASS, Outcome::Refused);
    // SAFETY: the caller's context.
    let size = unsafe { core::ptr::read_volatile(&raw const (*msg).size) };
    let at = frame.at;
    let end = at + FRAME_HEADER_BYTES + frame.len;
    let len = prepared.len & (PREPARED_MAX as u32 - 1);
    if frame.flags & END_HEADERS == 0 || frame.flags & PADDED != 0 || frame.len == 0 || end > size {
        return REFUSED;
    }
    let payload = frame.len + len;
    if payload > PAYLOAD_MAX {
        return (SK_PASS, Outcome::TooLong);
    }
    // Where it is not known, too: what goes before these headers may be long.
    if room(msg, len) != Room::Enough {
        return REFUSED;
    }
    let last = end - 1;
    // SAFETY: the helpers check what they are given; data pointers are read anew after each change.
    unsafe {
        if bpf_msg_pull_data(msg, last, end, 0) != 0 {
            return REFUSED;
        }
        let place = data(msg);
        if place + 1 > data_end(msg) {
            return REFUSED;
        }
        let last_byte = core::ptr::read_volatile(place as *const u8);
        if bpf_msg_push_data(msg, last, len, 0) != 0 {
            return REFUSED;
        }
        if bpf_msg_pull_data(msg, last, end + len, 0) == 0
            && put(msg, 0, last_byte)
            && fill(msg, prepared, 1, len)
            && bpf_msg_pull_data(msg, at, at + FRAME_HEADER_BYTES, 0) == 0
            && put(msg, 0, (payload >> 16) as u8)
            && put(msg, 1, (payload >> 8) as u8)
            && put(msg, 2, payload as u8)
        {
            return (SK_PASS, Outcome::Inserted);
        }
        // The frame as it was: the byte that was overwritten is the room's first, so what goes is what follows it.
        let restored = bpf_msg_pull_data(msg, last, end, 0) == 0 && put(msg, 0, last_byte);
        if restored && bpf_msg_pop_data(msg, end, len, 0) == 0 {
            return REFUSED;
        }
        // A gap without its bytes must not go out.
        (SK_DROP, Outcome::Refused)
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
