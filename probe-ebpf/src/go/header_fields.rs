//! Our headers among the fields of a stream, which lie as a slice of `hpack.HeaderField` where they were decoded and
//! where they are about to be encoded.

use aya_ebpf::{helpers::generated::bpf_ktime_get_boot_ns, macros::map, maps::LruHashMap};
use probe_common::{
    key::StreamKey,
    limits::{CORRELATION_MAX, SW8_MAX, SW8_X_MAX, TRACEPARENT_BYTES, TRACEPARENT_LEN},
    loss::LossReason,
};

use crate::{
    emit,
    go::doubt,
    memory::{self, GoString},
    scratch::{self, Scratch},
};

/// Fields that are looked at; a request has ten of its own.
const FIELDS_MAX: u32 = 64;
/// Bytes of an `hpack.HeaderField`: name, value, and a flag.
const FIELD_BYTES: u64 = 40;
/// Fields fetched at once.
const FIELDS_AT_ONCE: u32 = 8;

/// Streams whose headers have come and that no goroutine serves yet.
const INCOMING_MAX: u32 = 2048;

/// StreamKey → our headers that came with the stream. Whoever serves it takes them out; those of streams that are never
/// served age out.
#[map]
static GO_INCOMING: LruHashMap<StreamKey, Incoming> = LruHashMap::with_max_entries(INCOMING_MAX, 0);

/// Our headers of a stream.
#[repr(C, align(8))]
pub(crate) struct Incoming {
    came_ns: u64,
    pub(crate) sw8_len: u16,
    pub(crate) correlation_len: u16,
    pub(crate) sw8_x_len: u16,
    pub(crate) traceparent_len: u16,
    pub(crate) sw8: [u8; SW8_MAX],
    pub(crate) correlation: [u8; CORRELATION_MAX],
    pub(crate) sw8_x: [u8; SW8_X_MAX],
    pub(crate) traceparent: [u8; TRACEPARENT_BYTES],
}

// === impl Incoming ===

impl Incoming {
    pub(crate) fn has_sw8(&self) -> bool {
        self.sw8_len != 0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sw8_len == 0 && self.traceparent_len == 0 && self.correlation_len == 0 && self.sw8_x_len == 0
    }
}

/// Where a `MetaHeadersFrame` has its fields, and its `FrameHeader` the stream's id; not in every binary.
pub(crate) struct FrameOffsets {
    pub(crate) fields: Option<u64>,
    pub(crate) stream_id: Option<u64>,
}

/// Keeps our headers that have come in the `MetaHeadersFrame` at `frame`, on `connection`.
#[inline(always)]
pub(crate) fn keep(connection: u64, frame: u64, tgid: u32, offsets: &FrameOffsets) {
    let Some(id) = stream_id(frame, offsets) else {
        // Then nobody can say for which stream an earlier connection at this address has left something.
        doubt::raise(tgid);
        emit::count(LossReason::HeadIncomplete);
        return;
    };
    let key = StreamKey { connection, tgid, id };
    let kept = scratch::with(|scratch| {
        let kept = keep_of(&key, frame, offsets, scratch);
        if kept.is_none() {
            emit::count(LossReason::HeadIncomplete);
        }
        kept
    });
    if kept.is_none() {
        let _mostly_none = GO_INCOMING.remove(&key);
    }
}

#[inline(always)]
fn stream_id(frame: u64, offsets: &FrameOffsets) -> Option<u32> {
    // A pointer to the embedded `HeadersFrame` comes first.
    let headers_frame: u64 = memory::read(frame)?;
    memory::read(headers_frame + offsets.stream_id?)
}

#[inline(always)]
fn keep_of(key: &StreamKey, frame: u64, offsets: &FrameOffsets, scratch: &mut Scratch) -> Option<()> {
    let fields: GoString = memory::read(frame + offsets.fields?)?;
    if is_trailers(fields)? {
        return Some(());
    }
    note(fields, scratch)?;
    if scratch.incoming.is_empty() {
        // An earlier connection at this address may have left a stream that nobody has served.
        let _mostly_none = GO_INCOMING.remove(key);
        return Some(());
    }
    // SAFETY: reads a clock.
    scratch.incoming.came_ns = unsafe { bpf_ktime_get_boot_ns() };
    let _ages_out = GO_INCOMING.insert(key, &scratch.incoming, 0);
    Some(())
}

/// Whether the fields are a request's trailers, which may come before its headers have been taken: a request's headers
/// begin with those of HTTP/2's own.
#[inline(always)]
fn is_trailers(fields: GoString) -> Option<bool> {
    if fields.len == 0 {
        return Some(true);
    }
    let first: GoString = memory::read(fields.address)?;
    Some(memory::read::<u8>(first.address)? != b':')
}

/// Gives the headers that have come with the stream to the request that begins.
#[inline(always)]
pub(crate) fn take(key: &StreamKey, scratch: &mut Scratch) {
    // SAFETY: an entry is written once, before its stream is served.
    let Some(incoming) = (unsafe { GO_INCOMING.get(key) }) else {
        return;
    };
    if !doubt::is_certain(key.tgid, incoming.came_ns) {
        emit::count(LossReason::HeadIncomplete);
        let _perhaps_anothers = GO_INCOMING.remove(key);
        return;
    }
    let state = &mut scratch.request;
    state.sw8_len = incoming.sw8_len;
    memory::copy::<SW8_MAX>(
        incoming.sw8.as_ptr(),
        u32::from(incoming.sw8_len),
        state.sw8.as_mut_ptr(),
    );
    state.correlation_len = incoming.correlation_len;
    memory::copy::<CORRELATION_MAX>(
        incoming.correlation.as_ptr(),
        u32::from(incoming.correlation_len),
        state.correlation.as_mut_ptr(),
    );
    state.sw8_x_len = incoming.sw8_x_len;
    memory::copy::<SW8_X_MAX>(
        incoming.sw8_x.as_ptr(),
        u32::from(incoming.sw8_x_len),
        state.sw8_x.as_mut_ptr(),
    );
    state.traceparent_len = incoming.traceparent_len;
    memory::copy::<TRACEPARENT_BYTES>(
        incoming.traceparent.as_ptr(),
        u32::from(incoming.traceparent_len),
        state.traceparent.as_mut_ptr(),
    );
    let _served_once = GO_INCOMING.remove(key);
}

/// Puts those of `fields` that are ours into `scratch.incoming`; of several with the same name the last.
#[inline(always)]
pub(crate) fn note(fields: GoString, scratch: &mut Scratch) -> Option<()> {
    scratch.incoming.sw8_len = 0;
    scratch.incoming.correlation_len = 0;
    scratch.incoming.sw8_x_len = 0;
    scratch.incoming.traceparent_len = 0;
    let mut count = fields.len;
    if count > u64::from(FIELDS_MAX) {
        count = u64::from(FIELDS_MAX);
    }
    let mut first = 0;
    while first < FIELDS_MAX {
        if u64::from(first) >= count {
            break;
        }
        let mut left = count - u64::from(first);
        if left > u64::from(FIELDS_AT_ONCE) {
            left = u64::from(FIELDS_AT_ONCE);
        }
        let address = fields.address + u64::from(first) * FIELD_BYTES;
        scratch.window.fetch(address, left * FIELD_BYTES - 8)?;
        take_fields(scratch.slot);
        first += FIELDS_AT_ONCE;
    }
    Some(())
}

/// Lengths of the names of our headers.
const NAME_LENGTHS: u64 = 1 << 3 | 1 << 5 | 1 << 11 | 1 << 15;

/// Keeps those of the window's fields that are ours. A global function, as the next one is.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn take_fields(slot: u32) -> u32 {
    let Some(scratch) = scratch::taken(slot) else {
        return 0;
    };
    let mut index = 0;
    while index < FIELDS_AT_ONCE {
        let at = u64::from(index) * FIELD_BYTES;
        // Nothing behind the last one that was fetched.
        let Some(name_len) = scratch.window.word(at + 8) else {
            break;
        };
        if name_len < 16 && NAME_LENGTHS >> name_len & 1 != 0 {
            take_field(slot, at as u32);
        }
        index += 1;
    }
    0
}

/// Keeps the header field at `at` of the window if it is one of ours.
///
/// A global function, as `head::scan_word` is.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn take_field(slot: u32, at: u32) -> u32 {
    let Some(scratch) = scratch::taken(slot) else {
        return 0;
    };
    let at = u64::from(at);
    let (Some(name), Some(value)) = (scratch.window.string(at), scratch.window.string(at + 16)) else {
        return 0;
    };
    let to = &mut scratch.incoming;
    let mut text = [0u8; 16];
    // A name ends within the program's memory, what lies behind it may not.
    match name.len {
        3 if read_name::<3>(name.address, &mut text) && text[..3] == *b"sw8" => {
            to.sw8_len = value_of::<SW8_MAX>(value, to.sw8.as_mut_ptr());
        }
        5 if read_name::<5>(name.address, &mut text) && text[..5] == *b"sw8-x" => {
            to.sw8_x_len = value_of::<SW8_X_MAX>(value, to.sw8_x.as_mut_ptr());
        }
        11 if read_name::<11>(name.address, &mut text) && text[..11] == *b"traceparent" => {
            if value.len >= TRACEPARENT_LEN as u64 {
                to.traceparent_len = value_of::<TRACEPARENT_BYTES>(value, to.traceparent.as_mut_ptr());
            }
        }
        15 if read_name::<15>(name.address, &mut text) && text[..15] == *b"sw8-correlation" => {
            to.correlation_len = value_of::<CORRELATION_MAX>(value, to.correlation.as_mut_ptr());
        }
        _ => {}
    }
    0
}

#[inline(always)]
fn read_name<const LEN: usize>(address: u64, to: &mut [u8; 16]) -> bool {
    match memory::read::<[u8; LEN]>(address) {
        Some(name) => {
            let mut index = 0;
            while index < LEN {
                to[index] = name[index];
                index += 1;
            }
            true
        }
        None => false,
    }
}

/// A value that does not fit is counted and treated as absent.
#[inline(always)]
fn value_of<const MAX: usize>(value: GoString, to: *mut u8) -> u16 {
    if value.len >= MAX as u64 {
        emit::count(LossReason::HeaderTooLong);
        return 0;
    }
    memory::read_string::<MAX>(value, to).unwrap_or(0)
}
