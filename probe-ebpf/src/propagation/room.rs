//! Whether the kernel will take a message whole.
//!
//! Of a message that its socket takes in part, the kernel tells the program how much was written by what is left of it,
//! and what is left has our bytes in it: the program would send again what has gone already. So nothing is put into a
//! message that may not go at once.

use aya_ebpf::{bindings::sk_msg_md, helpers::generated::bpf_probe_read_kernel, macros::map, maps::Array};
use probe_common::propagation::{SOCKET_FIELDS_MAX, SOCKET_LIMIT, SOCKET_QUEUED};

/// Where the kernel's `struct sock` has what is asked for, as the loader has read it; 0 where that is not known.
#[map]
static SOCKET_FIELDS: Array<u32> = Array::with_max_entries(SOCKET_FIELDS_MAX, 0);

/// What the kernel adds for each buffer, and a few of them.
const SLACK: i64 = 8192;

/// What is known of a socket's room.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    Enough,
    TooLittle,
    Unknown,
}

/// Whether the message goes whole with `more` bytes in it.
#[inline(always)]
pub(super) fn room(msg: *mut sk_msg_md, more: u32) -> Room {
    // SAFETY: the context is valid for the whole run. The verifier lets nobody count from a socket's address, so that it
    // is read as a number; what is read at it is checked by the helper.
    unsafe {
        let socket = core::ptr::read_volatile(&raw const (*msg).__bindgen_anon_3.sk);
        let mut address = 0u64;
        read(&raw const socket as u64, &mut address);
        let (Some(queued), Some(limit)) = (field(address, SOCKET_QUEUED), field(address, SOCKET_LIMIT))
        else {
            return Room::Unknown;
        };
        let size = i64::from(core::ptr::read_volatile(&raw const (*msg).size)) + i64::from(more);
        if i64::from(queued) + size + size / 4 + SLACK <= i64::from(limit) {
            Room::Enough
        } else {
            Room::TooLittle
        }
    }
}

/// A number of the socket's, if it is known where it is.
#[inline(always)]
unsafe fn field(socket: u64, field: u32) -> Option<i32> {
    let at = *SOCKET_FIELDS.get(field)?;
    if at == 0 {
        return None;
    }
    let mut value = 0i32;
    // SAFETY: the helper checks the address.
    unsafe { read(socket + u64::from(at), &mut value) }.then_some(value)
}

/// Whether it could be read.
#[inline(always)]
unsafe fn read<T>(address: u64, to: &mut T) -> bool {
    // SAFETY: as many bytes as there is room for.
    unsafe {
        bpf_probe_read_kernel(
            core::ptr::from_mut(to).cast(),
            size_of::<T>() as u32,
            address as *const _,
        ) == 0
    }
}
