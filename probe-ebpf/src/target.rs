//! Is this task traced?

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::map, maps::HashMap};
use probe_common::{limits::TARGETS_MAX, target::TargetInfo};

/// tgid → what the loader knows of the process. The loader inserts and deletes.
#[map]
static TARGETS: HashMap<u32, TargetInfo> = HashMap::with_max_entries(TARGETS_MAX, 0);

/// The current process.
#[inline(always)]
pub(crate) fn tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// The target with this tgid.
#[inline(always)]
pub(crate) fn find(tgid: u32) -> Option<&'static TargetInfo> {
    // SAFETY: entries are replaced as a whole by the loader; a torn read concerns one request at most.
    unsafe { TARGETS.get(tgid) }
}
