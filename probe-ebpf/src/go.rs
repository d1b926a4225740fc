//! Hooks in Go programs: one module per library, and what libraries share; the current goroutine.

pub(crate) mod call;
pub(crate) mod connection;
pub(crate) mod doubt;
mod grpc;
pub(crate) mod header_fields;
mod http2;
pub(crate) mod map;
pub(crate) mod net_http;
mod registers;
pub(crate) mod request;

use aya_ebpf::programs::ProbeContext;
use probe_common::{
    field::{GoField, Offsets},
    key::GoroutineKey,
    target::TargetInfo,
};

use self::registers::Registers;
use crate::{
    memory::{self, Window},
    stack, target,
};

/// A hook has been hit in a target.
#[derive(Clone, Copy)]
pub(crate) struct Hit {
    pub(crate) registers: Registers,
    pub(crate) tgid: u32,
    pub(crate) target: &'static TargetInfo,
}

/// The hit at a function's beginning: nothing if it will begin anew, or the process is no target.
#[inline(always)]
pub(crate) fn entered(ctx: &ProbeContext) -> Option<Hit> {
    if registers(ctx).will_restart() {
        return None;
    }
    hit(ctx)
}

/// The hit anywhere else: nothing if the process is no target.
#[inline(always)]
pub(crate) fn hit(ctx: &ProbeContext) -> Option<Hit> {
    let tgid = target::tgid();
    let Some(target) = target::find(tgid) else {
        // Here it costs targets nothing.
        stack::is_the_tasks(ctx);
        return None;
    };
    Some(Hit {
        registers: registers(ctx),
        tgid,
        target,
    })
}

/// The registers at a hook.
#[inline(always)]
pub(crate) fn registers(ctx: &ProbeContext) -> Registers {
    Registers::at(ctx)
}

/// The key of the goroutine whose `runtime.g` is at `g`, which `window` has afterwards. Without it, what is kept of the
/// process's goroutines is in doubt.
#[inline(always)]
pub(crate) fn goroutine_in(
    tgid: u32,
    g: u64,
    offsets: &Offsets,
    window: &mut Window,
) -> Option<GoroutineKey> {
    let at = offsets.get(GoField::GGoid)?;
    let goid = window.fetch(g, at).and_then(|window| window.word(at));
    key_or_doubt(tgid, goid)
}

/// The key of the goroutine whose `runtime.g` is at `g`. Without it, what is kept of the process's goroutines is in doubt.
#[inline(always)]
pub(crate) fn goroutine(tgid: u32, g: u64, offsets: &Offsets) -> Option<GoroutineKey> {
    key_or_doubt(tgid, memory::read(g + offsets.get(GoField::GGoid)?))
}

#[inline(always)]
fn key_or_doubt(tgid: u32, goid: Option<u64>) -> Option<GoroutineKey> {
    if goid.is_none() {
        doubt::raise(tgid);
    }
    goid.map(|goid| GoroutineKey { goid, tgid, _pad: 0 })
}
