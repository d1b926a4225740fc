//! Method `socket`: client sockets of targets are enrolled in a socket map, and `sk_msg` puts the prepared lines
//! behind the request line of the message that the program writes. The program's `write` returns what it would
//! have returned.

use core::arch::asm;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_TCP_CONNECT_CB,
        bpf_sock_ops, sk_action::SK_DROP, sk_action::SK_PASS, sk_msg_md,
    },
    helpers::generated::{bpf_get_socket_cookie, bpf_msg_pop_data, bpf_msg_pull_data, bpf_msg_push_data},
    macros::{map, sk_msg, sock_ops, stream_verdict},
    maps::{LruHashMap, SockHash},
    programs::{SkBuffContext, SkMsgContext, SockOpsContext},
};
use probe_common::{
    array,
    key::SocketKey,
    limits::{HEAD_MAX, PREPARED_MAX, SOCKETS_MAX, SW8_MAX},
    loss::LossReason,
    propagation::{Outcome, Prepared},
    target::TARGET_NEEDS_VERDICT,
};

use super::{
    frames, hop,
    room::{Room, room},
};
use crate::{
    emit,
    go::{
        connection::mapped,
        request::{Sw8Of, hash_of_sw8},
    },
    head,
    log::kernel_log,
    maps::{FRAMED, PREPARED},
    memory,
    scratch::{self, Scratch},
    target,
};

pub(super) const AF_INET: u32 = 2;

/// Bytes of a message that are put in one piece: the head, our lines, and what else fits.
const LINEAR_MAX: u32 = (HEAD_MAX + PREPARED_MAX) as u32;

/// Socket cookie → a client socket of a target. `socket_connect` inserts new ones and the loader those that were
/// open before; the kernel deletes a socket that closes.
#[map]
static CLIENT_SOCKETS: SockHash<u64> = SockHash::with_max_entries(SOCKETS_MAX, 0);

/// The same for targets with `TARGET_NEEDS_VERDICT`: what they receive passes through `socket_receive`.
#[map]
static CLIENT_SOCKETS_WITH_VERDICT: SockHash<u64> = SockHash::with_max_entries(SOCKETS_MAX, 0);

/// Socket cookie → the flags of the target that is connecting it. The handshake's end may run in any task's context.
#[map]
static CONNECTING: LruHashMap<u64, u32> = LruHashMap::with_max_entries(8192, 0);

/// A TCP socket of the cgroup changes state. Only what a target connects is enrolled; of what is accepted, the numbers
/// that name the connection are noted.
#[sock_ops]
pub(crate) fn socket_connect(ctx: SockOpsContext) -> u32 {
    changes_state(&ctx, |_| Some(target::tgid()))
}

/// What [`socket_connect`] does, where `process` says which process connects the socket with this cookie.
#[inline(always)]
pub(super) fn changes_state(ctx: &SockOpsContext, process: impl FnOnce(u64) -> Option<u32>) -> u32 {
    let op = ctx.op();
    if op == BPF_SOCK_OPS_TCP_CONNECT_CB {
        let cookie = cookie(ctx);
        if let Some(tgid) = process(cookie)
            && let Some(target) = target::find(tgid)
            && target.propagates()
        {
            let _full_ages_out = CONNECTING.insert(cookie, target.flags, 0);
            // What an earlier connection on the same port has left is not this one's.
            let key = connecting(ctx, tgid);
            let _none_before = FRAMED.remove(&key);
            let _none_before = PREPARED.remove(&key);
        }
    } else if op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB {
        let cookie = cookie(ctx);
        // SAFETY: a plain number.
        if let Some(flags) = unsafe { CONNECTING.get(cookie) } {
            let flags = *flags;
            let _aged_out = CONNECTING.remove(cookie);
            if enrol(ctx, cookie, flags).is_err() {
                emit::count(LossReason::EnrolRefused);
            }
            hop::established(ctx.ops.cast(), true);
        }
    } else if op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB {
        // Whoever accepts it: its process is not known before it does.
        hop::established(ctx.ops.cast(), false);
    }
    1
}

/// The key of a socket that has its port and is about to connect.
#[inline(always)]
fn connecting(ctx: &SockOpsContext, tgid: u32) -> SocketKey {
    let ops = ctx.ops;
    // SAFETY: the context is valid for the whole run. Each word is read alone, as in `key`.
    unsafe {
        let family = core::ptr::read_volatile(&raw const (*ops).family);
        let ip4 = core::ptr::read_volatile(&raw const (*ops).remote_ip4);
        let ip6 = [
            core::ptr::read_volatile(&raw const (*ops).remote_ip6[0]),
            core::ptr::read_volatile(&raw const (*ops).remote_ip6[1]),
            core::ptr::read_volatile(&raw const (*ops).remote_ip6[2]),
            core::ptr::read_volatile(&raw const (*ops).remote_ip6[3]),
        ];
        SocketKey {
            remote_address: remote_address(family, ip4, ip6),
            tgid,
            local_port: core::ptr::read_volatile(&raw const (*ops).local_port) as u16,
            remote_port: u32::from_be(core::ptr::read_volatile(&raw const (*ops).remote_port)) as u16,
        }
    }
}

#[inline(always)]
fn remote_address(family: u32, ip4: u32, ip6: [u32; 4]) -> [u8; 16] {
    if family == AF_INET {
        mapped(ip4.to_ne_bytes())
    } else {
        // SAFETY: sixteen bytes either way.
        unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(ip6) }
    }
}

#[inline(always)]
fn cookie(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the context is valid for the whole run.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

#[inline(always)]
fn enrol(ctx: &SockOpsContext, mut cookie: u64, flags: u32) -> Result<(), i32> {
    // SAFETY: as above; the kernel keeps the socket alive while it is in the map.
    let socket = unsafe { &mut *ctx.ops.cast::<bpf_sock_ops>() };
    if flags & TARGET_NEEDS_VERDICT == 0 {
        CLIENT_SOCKETS.update(&mut cookie, socket, 0)
    } else {
        CLIENT_SOCKETS_WITH_VERDICT.update(&mut cookie, socket, 0)
    }
}

/// Lets everything pass. Kernels from 6.6.128, 6.12.75, 6.18.14 and 6.19 on answer `FIONREAD` with 0 on a socket
/// in a map without such a program; the loader attaches it only where a self-test shows that. Each message received
/// pays for it, so only programs that may ask do.
#[stream_verdict]
pub(crate) fn socket_receive(_ctx: SkBuffContext) -> u32 {
    SK_PASS
}

/// A target writes to an enrolled socket.
#[sk_msg]
pub(crate) fn socket_message(ctx: SkMsgContext) -> u32 {
    let key = key(ctx.msg);
    let Some(prepared) = PREPARED.get_ptr_mut(&key) else {
        // SAFETY: nothing of it is read.
        if unsafe { FRAMED.get(&key) }.is_some() {
            frames::go_on(&ctx);
        }
        return SK_PASS;
    };
    // SAFETY: one goroutine writes to a connection at a time; the entry is its request's.
    let prepared = unsafe { &mut *prepared };
    if prepared.outcome != Outcome::NotSeen as u32 {
        return SK_PASS;
    }
    let Some((verdict, outcome)) = scratch::with(|scratch| Some(insert(ctx.msg, prepared, scratch))) else {
        return SK_PASS;
    };
    kernel_log!(
        "header on local port {}: outcome {}",
        key.local_port,
        outcome as u32
    );
    prepared.outcome = outcome as u32;
    match outcome {
        Outcome::Present => emit::count(LossReason::PropagationPresent),
        Outcome::NoRequestLine => emit::count(LossReason::PropagationNoRequestLine),
        Outcome::Refused => emit::count(LossReason::PropagationRefused),
        Outcome::Off
        | Outcome::NotSeen
        | Outcome::Inserted
        | Outcome::Replaced
        | Outcome::Encrypted
        | Outcome::UnknownConnection
        | Outcome::TooLong
        | Outcome::NoConnection
        | Outcome::Joined
        | Outcome::NotSampled => {}
    }
    verdict
}

/// The socket as the Go hook named it. Fields are read one by one and volatile: the compiler would merge two
/// neighbours into a read that the verifier refuses.
#[inline(always)]
pub(super) fn key(msg: *mut sk_msg_md) -> SocketKey {
    // SAFETY: the context is valid for the whole run.
    unsafe {
        let family = core::ptr::read_volatile(&raw const (*msg).family);
        // Both are read whatever the family: in two branches, the compiler would join the reads at a computed
        // address, which the verifier refuses.
        let ip4 = core::ptr::read_volatile(&raw const (*msg).remote_ip4);
        let ip6 = [
            core::ptr::read_volatile(&raw const (*msg).remote_ip6[0]),
            core::ptr::read_volatile(&raw const (*msg).remote_ip6[1]),
            core::ptr::read_volatile(&raw const (*msg).remote_ip6[2]),
            core::ptr::read_volatile(&raw const (*msg).remote_ip6[3]),
        ];
        // The remote port comes in network order in the upper half, the local one in host order.
        let remote_port = u32::from_be(core::ptr::read_volatile(&raw const (*msg).remote_port)) as u16;
        let local_port = core::ptr::read_volatile(&raw const (*msg).local_port) as u16;
        SocketKey {
            remote_address: remote_address(family, ip4, ip6),
            tgid: target::tgid(),
            local_port,
            remote_port,
        }
    }
}

/// Puts the lines in. All checks come before the first change to the message.
#[inline(always)]
fn insert(msg: *mut sk_msg_md, prepared: &Prepared, scratch: &mut Scratch) -> (u32, Outcome) {
    // SAFETY: the helpers check what they are given; data pointers are read anew after each change.
    unsafe {
        let size = core::ptr::read_volatile(&raw const (*msg).size);
        let wanted = if size < HEAD_MAX as u32 {
            size
        } else {
            HEAD_MAX as u32
        };
        // A request begins a connection, or waits for the answer to the one before: nothing is queued then.
        if room(msg, PREPARED_MAX as u32) == Room::TooLittle {
            return (SK_PASS, Outcome::Refused);
        }
        if bpf_msg_pull_data(msg, 0, wanted, 0) != 0 {
            return (SK_PASS, Outcome::Refused);
        }
        let data = data(msg);
        let available = (data_end(msg).saturating_sub(data)) as u32;
        let seen = if available < wanted { available } else { wanted };
        let text = scratch.text.as_mut_ptr();
        let len = memory::copy::<HEAD_MAX>(data as *const u8, seen, text);
        head::scan(scratch, len, true);
        let text = scratch.text.as_ptr();
        let head::Head {
            request_line,
            request_line_end,
            sw8,
            sw8_line,
            ..
        } = scratch.head;
        let mut at = request_line_end & (HEAD_MAX as u32 * 2 - 1);
        if at == 0 || request_line != 0 || !starts_with_method(text) {
            return (SK_PASS, Outcome::NoRequestLine);
        }
        let mut outcome = Outcome::Inserted;
        if sw8.len != 0 {
            if !forwarded(text, sw8, prepared, scratch) {
                return (SK_PASS, Outcome::Present);
            }
            // The program passes on the header it came with, as a reverse proxy does: it would name the wrong
            // parent. The line goes, ours comes.
            let line = sw8_line;
            let line_len = sw8.at + sw8.len - line;
            let end = ((line + line_len) & (HEAD_MAX as u32 - 1)) as usize;
            let ends_as_usual = *text.add(end) == b'\r' && *text.add(end + 1) == b'\n';
            if line < at || !ends_as_usual || bpf_msg_pop_data(msg, line, line_len + 2, 0) != 0 {
                return (SK_PASS, Outcome::Refused);
            }
            // In its place: of several such lines the last counts.
            at = line & (HEAD_MAX as u32 * 2 - 1);
            outcome = Outcome::Replaced;
        }
        let lines_len = prepared.len & (PREPARED_MAX as u32 - 1);
        if bpf_msg_push_data(msg, at, lines_len, 0) != 0 {
            return (SK_PASS, Outcome::Refused);
        }
        // The head in one piece, or TCP may send the pieces one by one: a server that reads the first alone moves
        // what it has parsed out of its buffer, where the probe at its end looks for our line.
        let whole = core::ptr::read_volatile(&raw const (*msg).size);
        let wanted = if whole < LINEAR_MAX { whole } else { LINEAR_MAX };
        if bpf_msg_pull_data(msg, 0, wanted, 0) == 0 && fill(msg, prepared, at, lines_len) {
            return (SK_PASS, outcome);
        }
        // A gap without its bytes must not go out.
        if bpf_msg_pop_data(msg, at, lines_len, 0) == 0 {
            return (SK_PASS, Outcome::Refused);
        }
        (SK_DROP, Outcome::Refused)
    }
}

/// Copies what was prepared into the gap at `gap` of the message's data; whether all of it was filled.
///
/// In strides: the verifier keeps each turn of the loop in mind until it has seen the program's end.
#[inline(always)]
pub(super) unsafe fn fill(msg: *mut sk_msg_md, prepared: &Prepared, gap: u32, len: u32) -> bool {
    const STRIDE: usize = 32;
    const { assert!(core::mem::offset_of!(Prepared, lines) % 8 == 0) };
    // SAFETY: each store is checked against the end of the data, each load against the entry's size.
    unsafe {
        let start = data(msg) + (gap & (HEAD_MAX as u32 * 2 - 1)) as usize;
        let end = data_end(msg);
        let lines = prepared.lines.as_ptr();
        // Where the compiler knows that the lines end first, it drops the loop's other end, which the verifier needs.
        let strides_end = array::bound(len) as usize;
        let mut at: usize = 0;
        while at + STRIDE <= PREPARED_MAX {
            if at + STRIDE > strides_end {
                break;
            }
            if start + at + STRIDE > end {
                return false;
            }
            let to = start + at;
            let from = lines.add(at).cast::<u64>();
            store(to, *from);
            store(to + 8, *from.add(1));
            store(to + 16, *from.add(2));
            store(to + 24, *from.add(3));
            at += STRIDE;
        }
        // Not as the loop has left it: so all its ends go on as one.
        // SAFETY: a live number; volatile, or the verifier would know how far the strides came.
        let rest = core::ptr::read_volatile(&raw const prepared.len) as usize & (PREPARED_MAX - 1);
        let at = rest & !(STRIDE - 1) & (PREPARED_MAX - 1);
        fill_rest::<16>(start, end, lines, at, rest)
            && fill_rest::<8>(start, end, lines, at, rest)
            && fill_rest::<4>(start, end, lines, at, rest)
            && fill_rest::<2>(start, end, lines, at, rest)
            && fill_rest::<1>(start, end, lines, at, rest)
    }
}

/// Copies `STEP` bytes, if the strides, which came up to `at`, and larger steps have left as many.
#[inline(always)]
unsafe fn fill_rest<const STEP: usize>(
    start: usize,
    end: usize,
    lines: *const u8,
    at: usize,
    rest: usize,
) -> bool {
    if rest & STEP == 0 {
        return true;
    }
    let at = at | (rest & (32 - 2 * STEP));
    // SAFETY: as in `fill`.
    unsafe {
        let to = start + at;
        if to + STEP > end {
            return false;
        }
        let from = lines.add(at & (PREPARED_MAX - 1) & !(STEP - 1));
        match STEP {
            16 => {
                store(to, *from.cast::<u64>());
                store(to + 8, *from.cast::<u64>().add(1));
            }
            8 => store(to, *from.cast::<u64>()),
            4 => {
                asm!("*(u32 *)({0} + 0) = {1}", in(reg) to, in(reg) u64::from(*from.cast::<u32>()), options(nostack))
            }
            2 => {
                asm!("*(u16 *)({0} + 0) = {1}", in(reg) to, in(reg) u64::from(*from.cast::<u16>()), options(nostack))
            }
            _ => *(to as *mut u8) = *from,
        }
    }
    true
}

/// Stores a word wherever the message has it: the compiler would take it apart into bytes, for the processors that want
/// words in their places.
#[inline(always)]
unsafe fn store(to: usize, word: u64) {
    // SAFETY: the caller's place; one instruction.
    unsafe { asm!("*(u64 *)({0} + 0) = {1}", in(reg) to, in(reg) word, options(nostack)) }
}

#[inline(always)]
pub(super) unsafe fn data(msg: *mut sk_msg_md) -> usize {
    // SAFETY: the caller's context.
    unsafe { core::ptr::read_volatile(&raw const (*msg).__bindgen_anon_1.data) as usize }
}

#[inline(always)]
pub(super) unsafe fn data_end(msg: *mut sk_msg_md) -> usize {
    // SAFETY: the caller's context.
    unsafe { core::ptr::read_volatile(&raw const (*msg).__bindgen_anon_2.data_end) as usize }
}

/// Whether the text begins as a request does: a token of capitals. A body or a tunnel that happens to hold a
/// request line further on is left alone.
#[inline(always)]
unsafe fn starts_with_method(text: *const u8) -> bool {
    // SAFETY: the first bytes of map memory.
    unsafe { (*text).is_ascii_uppercase() && ((*text.add(1)).is_ascii_uppercase() || *text.add(1) == b'-') }
}

/// Whether the request's own `sw8` is the one its parent came with.
#[inline(always)]
unsafe fn forwarded(text: *const u8, own: head::Place, prepared: &Prepared, scratch: &mut Scratch) -> bool {
    if prepared.forwarded_hash == 0 || own.len >= SW8_MAX as u32 {
        return false;
    }
    let at = (own.at & (HEAD_MAX as u32 - 1)) as usize;
    let value = scratch.request.sw8.as_mut_ptr();
    // SAFETY: masked to the text; the copy fails rather than reads beyond it.
    let len = memory::copy::<SW8_MAX>(unsafe { text.add(at) }, own.len, value);
    hash_of_sw8(scratch, Sw8Of::Request, len) == prepared.forwarded_hash
}
