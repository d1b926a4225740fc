//! Rights are given up as soon as they are not needed any more, thread by thread: whoever takes over the part that talks
//! to the network has won nothing of the host.

use rustix::{
    io::Result,
    thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs},
};

use super::feature::{Capability, Kernel, KernelVersion};

/// From here on maps are read by whoever has them open, whatever `kernel.unprivileged_bpf_disabled` says.
const MAPS_ARE_FREE: KernelVersion = KernelVersion {
    major: 5,
    minor: 19,
    patch: 0,
};

/// Leaves this thread, and those that it starts, only such rights as tracing can use. Programs that they start get no
/// others.
pub fn keep_tracing() -> Result<()> {
    set_no_new_privs(true)?;
    keep(&Capability::ALL)
}

/// Leaves this thread no rights; what it has open stays open. Programs that it starts get none either.
pub fn keep_none() -> Result<()> {
    set_no_new_privs(true)?;
    let is_old = Kernel::running()
        .version()
        .is_none_or(|version| version < MAPS_ARE_FREE);
    keep(if is_old { &[Capability::Bpf] } else { &[] })
}

fn keep(wanted: &[Capability]) -> Result<()> {
    let wanted = wanted
        .iter()
        .fold(CapabilitySet::empty(), |set, capability| set | capability.set());
    let ours = capabilities(None)?;
    // The ambient ones follow by themselves: they are inheritable and permitted.
    set_capabilities(
        None,
        CapabilitySets {
            effective: ours.effective & wanted,
            permitted: ours.permitted & wanted,
            inheritable: CapabilitySet::empty(),
        },
    )
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn what_is_given_up_is_gone_and_other_threads_keep_theirs() {
        let before = capabilities(None).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                keep_tracing().unwrap();
                let left = capabilities(None).unwrap();
                assert!(!left.permitted.contains(CapabilitySet::CHOWN));
                assert_eq!(
                    left.effective.contains(CapabilitySet::SYS_PTRACE),
                    before.effective.contains(CapabilitySet::SYS_PTRACE)
                );
                keep(&[]).unwrap();
                let left = capabilities(None).unwrap();
                assert!((left.effective | left.permitted).is_empty());
                assert!(set_capabilities(None, before).is_err() || before.permitted.is_empty());
            });
        });
        assert_eq!(capabilities(None).unwrap(), before);
    }
}
