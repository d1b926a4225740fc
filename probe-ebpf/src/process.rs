//! Processes that come and go: hooks at the scheduler's raw tracepoints.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, generated::bpf_ktime_get_boot_ns},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use probe_common::{
    event::{EventHeader, EventKind, process::ProcessEvent},
    loss::LossReason,
};

use crate::{emit, go::doubt, target};

/// A process has replaced its program: it may be one to trace, or no longer the one that was traced.
///
/// `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`, in the new program's
/// context.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub(crate) fn process_exec(_ctx: RawTracePointContext) -> i32 {
    let tgid = target::tgid();
    // Its goroutines begin anew, with the old ones' numbers and addresses; user space forgets those a moment later.
    if target::find(tgid).is_some() {
        doubt::raise(tgid);
    }
    send(EventKind::ProcessExec, tgid);
    0
}

/// A target's first thread ends. Other threads may outlive it for a moment; user space looks before it lets go.
///
/// `sched_process_exit(struct task_struct *p)`, in the ending task's context.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub(crate) fn process_exit(_ctx: RawTracePointContext) -> i32 {
    let ids = bpf_get_current_pid_tgid();
    let tgid = (ids >> 32) as u32;
    if tgid == ids as u32 && target::find(tgid).is_some() {
        send(EventKind::ProcessExit, tgid);
    }
    0
}

fn send(kind: EventKind, tgid: u32) {
    let event = ProcessEvent {
        header: EventHeader { kind, tgid },
        // SAFETY: reads a clock.
        time_ns: unsafe { bpf_ktime_get_boot_ns() },
    };
    // A lost one is counted there; user space also looks at /proc now and then.
    let _counted = emit::send_or_lose(
        (&raw const event).cast(),
        size_of::<ProcessEvent>() as u64,
        LossReason::ProcessUnnoticed,
    );
}
