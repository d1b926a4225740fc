//! Hooks in Go programs: one module per library, and what libraries share; the current goroutine.

pub(crate) mod call;
pub(crate) mod connection;
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

/// The key of the goroutine whose `runtime.g` is at `g`, which `window` has afterwards.
#[inline(always)]
pub(crate) fn goroutine_in(
    tgid: u32,
    g: u64,
    offsets: &Offsets,
    window: &mut Window,
) -> Option<GoroutineKey> {
    let at = offsets.get(GoField::GGoid)?;
    let goid = window.fetch(g, at)?.word(at)?;
    Some(GoroutineKey { goid, tgid, _pad: 0 })
}

/// The key of the goroutine whose `runtime.g` is at `g`.
#[inline(always)]
pub(crate) fn goroutine(tgid: u32, g: u64, offsets: &Offsets) -> Option<GoroutineKey> {
    let goid = memory::read(g + offsets.get(GoField::GGoid)?)?;
    Some(GoroutineKey { goid, tgid, _pad: 0 })
}
