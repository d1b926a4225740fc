//! The messages of streams: how many went each way, and when the first and the last did.
//!
//! A message counts where the program gets it or is told that it went out: each hit has the function's result, and is
//! one look-up and a few words written. Calls of one message each way are not counted: they cost their client two
//! look-ups that find nothing, and their server as much from grpc-go 1.84 on, which serves them as streams, and nothing
//! before.

use aya_ebpf::{
    helpers::generated::bpf_ktime_get_boot_ns,
    macros::{map, uprobe},
    maps::LruHashMap,
    programs::ProbeContext,
};
use probe_common::{
    event::go::grpc::{BothWays, Messages},
    field::{GoField, Offsets},
    key::PointerKey,
    limits::OPEN_REQUESTS_MAX,
};

use super::key;
use crate::{
    go::{self, Hit},
    memory,
    scratch::Scratch,
};

/// Address of a client's `clientStream`, or of a server's `transport.Stream` → its messages. A client's is there from
/// its first attempt on, a server's from the first message on; both are taken out at the end, and what a dying process
/// leaves ages out.
#[map]
static GRPC_MESSAGES: LruHashMap<PointerKey, BothWays> = LruHashMap::with_max_entries(OPEN_REQUESTS_MAX, 0);

/// A call that may have any number of messages begins.
#[inline(always)]
pub(super) fn begin(stream: &PointerKey) {
    let _ages_out = GRPC_MESSAGES.insert(stream, &BothWays::default(), 0);
}

/// Puts the messages of a stream that ends into `scratch`; whether there are any.
#[inline(always)]
pub(super) fn take(stream: &PointerKey, scratch: &mut Scratch) -> bool {
    // SAFETY: plain numbers. A message that comes at this very moment is the end's competitor in the program, too.
    let Some(messages) = (unsafe { GRPC_MESSAGES.get(stream) }) else {
        return false;
    };
    scratch.messages = *messages;
    forget(stream);
    true
}

/// The stream is over.
#[inline(always)]
pub(super) fn forget(stream: &PointerKey) {
    let _not_counted = GRPC_MESSAGES.remove(stream);
}

/// Which way a message goes.
#[derive(Clone, Copy)]
enum Way {
    Sent,
    Received,
}

#[inline(always)]
fn count(stream: &PointerKey, way: Way) -> bool {
    let Some(messages) = GRPC_MESSAGES.get_ptr_mut(stream) else {
        return false;
    };
    // SAFETY: a live entry. grpc-go lets one goroutine send on a stream at a time, and one receive.
    let one_way: &mut Messages = unsafe {
        match way {
            Way::Sent => &mut (*messages).sent,
            Way::Received => &mut (*messages).received,
        }
    };
    // SAFETY: reads a clock.
    let now_ns = unsafe { bpf_ktime_get_boot_ns() };
    if one_way.count == 0 {
        one_way.first_ns = now_ns;
    }
    one_way.count += 1;
    one_way.last_ns = now_ns;
    true
}

/// A client has sent a message, or failed to.
///
/// The deferred function of `func (cs *clientStream) SendMsg(m any) (err error)`, which has captured where the error is
/// and the call.
#[uprobe]
pub(crate) fn go_grpc_client_sent(ctx: ProbeContext) -> u32 {
    let Some(Hit { registers, tgid, .. }) = go::entered(&ctx) else {
        return 0;
    };
    let Some([error, stream]) = memory::read::<[u64; 2]>(registers.closure() + 8) else {
        return 0;
    };
    if memory::read::<u64>(error) == Some(0) {
        let _not_a_stream = count(&key(stream, tgid), Way::Sent);
    }
    0
}

/// A client has received a message, or the end of them.
///
/// At the branch of `func (cs *clientStream) RecvMsg(m any) error` on the error that `withRetry` has returned.
#[uprobe]
pub(crate) fn go_grpc_client_received(ctx: ProbeContext) -> u32 {
    if !go::registers(&ctx).found_zero(&ctx) {
        return 0;
    }
    let Some(Hit {
        registers,
        tgid,
        target,
    }) = go::hit(&ctx)
    else {
        return 0;
    };
    if let Some(stream) = memory::read(registers.stack_pointer() + target.grpc_received_at) {
        let _not_a_stream = count(&key(stream, tgid), Way::Received);
    }
    0
}

/// A server has sent a message, or failed to.
///
/// The deferred function of `func (ss *serverStream) SendMsg(m any) (err error)`, which has captured the stream and
/// where the error is.
#[uprobe]
pub(crate) fn go_grpc_server_sent(ctx: ProbeContext) -> u32 {
    let _not_counted = served(&ctx, Way::Sent);
    0
}

/// A server has received a message, or the end of them. The same of `RecvMsg`.
#[uprobe]
pub(crate) fn go_grpc_server_received(ctx: ProbeContext) -> u32 {
    let _not_counted = served(&ctx, Way::Received);
    0
}

#[inline(always)]
fn served(ctx: &ProbeContext, way: Way) -> Option<()> {
    let Hit {
        registers,
        tgid,
        target,
    } = go::entered(ctx)?;
    let [stream, error]: [u64; 2] = memory::read(registers.closure() + 8)?;
    if memory::read::<u64>(error)? != 0 {
        return None;
    }
    let transport: u64 = memory::read(stream + target.offsets.get(GoField::GrpcServerStreamS)?)?;
    let transport = key(transport, tgid);
    if !count(&transport, way) && is_stream(stream, &target.offsets).unwrap_or(true) {
        begin(&transport);
        count(&transport, way);
    }
    Some(())
}

/// Whether either side may send any number of messages. `None`: a version that has only such streams here.
#[inline(always)]
fn is_stream(stream: u64, offsets: &Offsets) -> Option<bool> {
    let desc: u64 = memory::read(stream + offsets.get(GoField::GrpcServerStreamDesc)?)?;
    let streams = |field| Some(memory::read::<u8>(desc + offsets.get(field)?)? != 0);
    Some(streams(GoField::GrpcStreamDescClientStreams)? || streams(GoField::GrpcStreamDescServerStreams)?)
}
