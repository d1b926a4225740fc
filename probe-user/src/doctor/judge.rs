//! From facts to checks: what each means for tracing, in words. Pure.

use super::{Check, Facts, Report, State, Trial, names};
use crate::kernel::{
    feature::{Capability, KernelVersion, Lockdown, OLDEST, needed, trial::Fionread},
    object::Uprobes,
};

/// From here on a map's memory counts for its cgroup; before, it had to be locked, which is bounded.
const FIRST_TO_ACCOUNT_MEMORY: KernelVersion = KernelVersion {
    major: 5,
    minor: 11,
    patch: 0,
};

pub(super) fn report(facts: &Facts) -> Report {
    let checks = vec![
        kernel(facts),
        processor(facts),
        capabilities(facts),
        lockdown(facts),
        btf(facts),
        pid_namespace(facts),
        ring_buffer(facts),
        tracing_programs(facts),
        uprobe(facts),
        process_life(facts),
        cgroup(facts),
        propagation_programs(facts),
        new_sockets(facts),
        messages(facts),
        fionread(facts),
    ];
    let tracing = checks.iter().all(|check| check.state != State::Failed);
    let propagation = tracing
        && facts.attached_to_sockets == Trial::Works
        && facts.fionread.as_ref().is_ok_and(is_harmless);
    Report {
        tracing,
        propagation,
        checks,
    }
}

fn check(
    what: &'static str,
    state: State,
    found: impl Into<String>,
    consequence: impl Into<String>,
) -> Check {
    Check {
        what,
        state,
        found: found.into(),
        consequence: consequence.into(),
    }
}

fn kernel(facts: &Facts) -> Check {
    let release = facts.kernel.release.as_str();
    match facts.kernel.version() {
        Some(version) if version < OLDEST => check(
            "kernel",
            State::Failed,
            release,
            format!("too old: tracing needs {OLDEST} or later, for atomic instructions with results"),
        ),
        Some(_) => check("kernel", State::Ok, release, ""),
        None => check(
            "kernel",
            State::Unknown,
            release,
            "whether it is new enough is seen below",
        ),
    }
}

fn processor(facts: &Facts) -> Check {
    let machine = facts.kernel.machine.as_str();
    match machine {
        "x86_64" | "aarch64" => check("processor", State::Ok, machine, ""),
        _ => check(
            "processor",
            State::Failed,
            machine,
            "arguments of Go functions are known for x86_64 and aarch64",
        ),
    }
}

/// The capabilities that make a difference on this kernel.
fn useful(facts: &Facts) -> Vec<Capability> {
    let mut useful = needed(&facts.kernel);
    useful.extend([
        Capability::SysPtrace,
        Capability::DacReadSearch,
        Capability::Lease,
    ]);
    if facts
        .kernel
        .version()
        .is_some_and(|version| version < FIRST_TO_ACCOUNT_MEMORY)
    {
        useful.push(Capability::SysResource);
    }
    useful
}

fn capabilities(facts: &Facts) -> Check {
    let missing = facts.capabilities.missing(&useful(facts));
    if missing.is_empty() {
        return check("capabilities", State::Ok, "all that tracing can use", "");
    }
    let purposes: Vec<_> = missing
        .iter()
        .map(|capability| format!("{} ({})", capability.name(), capability.purpose()))
        .collect();
    let found = format!("missing: {}", purposes.join(", "));
    let without = facts.capabilities.missing(&needed(&facts.kernel));
    if !without.is_empty() {
        let consequence = format!("nothing can be traced without {}: run as root", names(&without));
        return check("capabilities", State::Failed, found, consequence);
    }
    let mut consequences = Vec::new();
    if missing.contains(&Capability::SysPtrace) {
        consequences
            .push("only your own processes can be traced, and connections they have open get no headers");
    } else if missing.contains(&Capability::DacReadSearch) {
        consequences.push(
            "connections that other users' processes have open get no headers, and `--port` finds only your own \
            processes",
        );
    }
    if missing.contains(&Capability::Lease) {
        consequences.push(
            "processes of other users' programs that start while the probe runs are traced two seconds later only",
        );
    }
    if missing.contains(&Capability::SysResource) {
        consequences.push("maps may be refused for want of memory that may be locked");
    }
    check("capabilities", State::Limited, found, consequences.join("; "))
}

fn lockdown(facts: &Facts) -> Check {
    match &facts.lockdown {
        Lockdown::None => check("lockdown", State::Ok, "none", ""),
        Lockdown::Integrity => check(
            "lockdown",
            State::Ok,
            "integrity",
            "nothing is lost: we never write into a process's memory",
        ),
        Lockdown::Confidentiality => check(
            "lockdown",
            State::Failed,
            "confidentiality",
            "it forbids bpf_probe_read_kernel, which the kernel programs copy within their own memory with: boot with \
            lockdown=integrity or without",
        ),
        Lockdown::Silent => check(
            "lockdown",
            State::Unknown,
            "securityfs is not mounted, or this kernel has no lockdown",
            "nothing is lost: the trials below show what is refused",
        ),
        Lockdown::Unknown(text) => check(
            "lockdown",
            State::Unknown,
            text.as_str(),
            "the trials below show what is refused",
        ),
    }
}

fn btf(facts: &Facts) -> Check {
    if facts.has_btf {
        check("BTF", State::Ok, "/sys/kernel/btf/vmlinux", "")
    } else {
        check(
            "BTF",
            State::Ok,
            "none",
            "nothing is lost: no kernel program here needs it",
        )
    }
}

fn pid_namespace(facts: &Facts) -> Check {
    if facts.is_in_initial_pid_namespace {
        check("process ids", State::Ok, "the machine's", "")
    } else {
        check(
            "process ids",
            State::Failed,
            "a container's",
            "the kernel knows processes by the machine's ids: start the container with `--pid=host` (Kubernetes: \
            `hostPID: true`)",
        )
    }
}

/// A trial that tracing stands or falls with.
fn vital(what: &'static str, trial: &Trial, works: &str, consequence: &str) -> Check {
    match trial {
        Trial::Works => check(what, State::Ok, works, ""),
        Trial::Fails(error) => check(what, State::Failed, error.as_str(), consequence),
        Trial::NotTried(reason) => check(what, State::Unknown, format!("not tried: {reason}"), ""),
    }
}

/// A trial without which there is still tracing.
fn optional(what: &'static str, trial: &Trial, works: &str, consequence: &str) -> Check {
    match trial {
        Trial::Works => check(what, State::Ok, works, ""),
        Trial::Fails(error) => check(what, State::Limited, error.as_str(), consequence),
        Trial::NotTried(reason) => check(what, State::Unknown, format!("not tried: {reason}"), ""),
    }
}

fn ring_buffer(facts: &Facts) -> Check {
    vital(
        "ring buffer",
        &facts.ring_buffer,
        "created",
        "spans have no way out of the kernel",
    )
}

fn tracing_programs(facts: &Facts) -> Check {
    vital(
        "programs for tracing",
        &facts.tracing_programs,
        "all pass the verifier",
        "nothing can be traced: please report this line and your kernel",
    )
}

fn uprobe(facts: &Facts) -> Check {
    const WHAT: &str = "uprobes";
    match &facts.uprobe {
        Ok(Uprobes::ByTheMany) => check(
            WHAT,
            State::Ok,
            "attached to ourselves, many by one link (uprobe_multi)",
            "",
        ),
        Ok(Uprobes::OneByOne) => check(
            WHAT,
            State::Ok,
            "attached to ourselves, one by one: this kernel has no uprobe_multi, or an early one",
            "letting a program go takes some 0.1 s for each of its hooks",
        ),
        Err(trial) => vital(
            WHAT,
            trial,
            "",
            "nothing can be traced: many kernels want CAP_SYS_ADMIN for uprobes, so try as root",
        ),
    }
}

fn process_life(facts: &Facts) -> Check {
    optional(
        "starts and ends",
        &facts.attached_to_scheduler,
        "attached to the scheduler",
        "programs that start while tracing are noticed some seconds late",
    )
}

const NO_HEADERS: &str = "requests get no headers, so a trace ends at each service; spans still come";
const NO_NEW_SOCKETS: &str = "connections that are opened while tracing get no headers; spans still come";

fn cgroup(facts: &Facts) -> Check {
    let Some(cgroup) = &facts.cgroup else {
        return check("cgroup v2", State::Limited, "not mounted", NO_NEW_SOCKETS);
    };
    let kind = if cgroup.is_hybrid { "hybrid" } else { "pure" };
    let found = format!("{} ({kind})", cgroup.path.display());
    if cgroup.is_root {
        check("cgroup v2", State::Ok, found, "")
    } else {
        check(
            "cgroup v2",
            State::Limited,
            format!("{found}, a part of the machine's"),
            "only processes in this part get headers for the connections they open",
        )
    }
}

fn propagation_programs(facts: &Facts) -> Check {
    optional(
        "programs for headers",
        &facts.propagation_programs,
        "all pass the verifier",
        NO_HEADERS,
    )
}

fn new_sockets(facts: &Facts) -> Check {
    optional(
        "new connections",
        &facts.attached_to_cgroup,
        "sockops attached to the cgroup",
        NO_NEW_SOCKETS,
    )
}

fn messages(facts: &Facts) -> Check {
    optional(
        "header insertion",
        &facts.attached_to_sockets,
        "sk_msg attached to the socket map",
        NO_HEADERS,
    )
}

fn is_harmless(fionread: &Fionread) -> bool {
    match fionread {
        Fionread::Right | Fionread::Cured => true,
        Fionread::Wrong { .. } => false,
    }
}

fn fionread(facts: &Facts) -> Check {
    const WHAT: &str = "FIONREAD";
    match &facts.fionread {
        Ok(Fionread::Right) => check(WHAT, State::Ok, "right on sockets in the map", ""),
        Ok(Fionread::Cured) => check(
            WHAT,
            State::Ok,
            "this kernel answers wrongly on sockets in a map; right with our remedy",
            "a program that lets all pass is attached too, which costs some microseconds per message received",
        ),
        Ok(Fionread::Wrong { bytes }) => check(
            WHAT,
            State::Limited,
            format!("{bytes} where 100 bytes wait, even with our remedy"),
            "programs that ask it would misread their sockets, so requests get no headers; spans still come",
        ),
        Err(trial) => optional(WHAT, trial, "", NO_HEADERS),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::kernel::feature::{Capabilities, Cgroup, Kernel};

    type Change = fn(&mut Facts, Trial);

    fn good() -> Facts {
        Facts {
            kernel: Kernel {
                release: "6.1.0-13-amd64".to_owned(),
                machine: "x86_64".to_owned(),
            },
            has_btf: true,
            lockdown: Lockdown::None,
            capabilities: Capabilities::of(&Capability::ALL),
            is_in_initial_pid_namespace: true,
            cgroup: Some(Cgroup {
                path: PathBuf::from("/sys/fs/cgroup"),
                is_hybrid: false,
                is_root: true,
            }),
            ring_buffer: Trial::Works,
            tracing_programs: Trial::Works,
            uprobe: Ok(Uprobes::ByTheMany),
            attached_to_scheduler: Trial::Works,
            propagation_programs: Trial::Works,
            attached_to_cgroup: Trial::Works,
            attached_to_sockets: Trial::Works,
            fionread: Ok(Fionread::Right),
        }
    }

    fn judged(change: impl FnOnce(&mut Facts)) -> Report {
        let mut facts = good();
        change(&mut facts);
        report(&facts)
    }

    fn line(report: &Report, what: &str) -> Check {
        report
            .checks
            .iter()
            .find(|check| check.what == what)
            .cloned()
            .unwrap()
    }

    #[test]
    fn all_is_well() {
        let report = judged(|_| ());
        assert!(report.tracing && report.propagation);
        assert!(
            report
                .checks
                .iter()
                .all(|check| check.state == State::Ok && check.consequence.is_empty())
        );
    }

    #[test]
    fn what_tracing_stands_or_falls_with() {
        let fails = || Trial::Fails("no".to_owned());
        let cases: [(&str, Change); 5] = [
            ("ring buffer", |facts, trial| facts.ring_buffer = trial),
            ("programs for tracing", |facts, trial| {
                facts.tracing_programs = trial
            }),
            ("uprobes", |facts, trial| facts.uprobe = Err(trial)),
            ("process ids", |facts, _| {
                facts.is_in_initial_pid_namespace = false
            }),
            ("kernel", |facts, _| {
                facts.kernel.release = "5.4.0-150-generic".to_owned()
            }),
        ];
        for (what, change) in cases {
            let report = judged(|facts| change(facts, fails()));
            assert!(!report.tracing && !report.propagation, "{what}");
            assert_eq!(line(&report, what).state, State::Failed);
            assert!(!line(&report, what).consequence.is_empty());
        }
    }

    #[test]
    fn what_only_headers_need() {
        let fails = || Trial::Fails("no".to_owned());
        let cases: [(&str, bool, Change); 5] = [
            ("programs for headers", false, |facts, trial| {
                facts.propagation_programs = trial;
                facts.attached_to_sockets = Trial::NotTried("unloaded".to_owned());
            }),
            ("header insertion", false, |facts, trial| {
                facts.attached_to_sockets = trial
            }),
            ("FIONREAD", false, |facts, _| {
                facts.fionread = Ok(Fionread::Wrong { bytes: 0 })
            }),
            // Connections that are open already still get them.
            ("new connections", true, |facts, trial| {
                facts.attached_to_cgroup = trial
            }),
            ("cgroup v2", true, |facts, _| facts.cgroup = None),
        ];
        for (what, propagation, change) in cases {
            let report = judged(|facts| change(facts, fails()));
            assert!(report.tracing, "{what}");
            assert_eq!(report.propagation, propagation, "{what}");
            assert_eq!(line(&report, what).state, State::Limited, "{what}");
        }
    }

    #[test]
    fn the_remedy_is_said() {
        let report = judged(|facts| facts.fionread = Ok(Fionread::Cured));
        assert!(report.propagation);
        assert!(line(&report, "FIONREAD").found.contains("remedy"));
    }

    #[test]
    fn missing_rights_are_named_with_what_they_are_for() {
        let without = |missing: Capability| {
            let rest: Vec<_> = Capability::ALL
                .into_iter()
                .filter(|capability| *capability != missing && *capability != Capability::SysAdmin)
                .collect();
            judged(|facts| facts.capabilities = Capabilities::of(&rest))
        };
        let report = without(Capability::Perfmon);
        assert!(!report.tracing);
        let check = line(&report, "capabilities");
        assert!(
            check
                .found
                .contains("CAP_PERFMON (reading memory from kernel programs)"),
            "{check:?}"
        );
        assert!(
            check.consequence.contains("CAP_PERFMON: run as root"),
            "{check:?}"
        );
        assert!(!without(Capability::NetAdmin).tracing);
        assert!(
            line(&without(Capability::SysPtrace), "capabilities")
                .consequence
                .contains("only your own")
        );
        let check = line(&without(Capability::DacReadSearch), "capabilities");
        assert_eq!(check.state, State::Limited);
        assert!(
            check
                .consequence
                .starts_with("connections that other users' processes have open get no headers"),
            "{check:?}"
        );
        assert_eq!(
            line(&without(Capability::SysResource), "capabilities").state,
            State::Ok
        );
        let check = line(&without(Capability::Lease), "capabilities");
        assert_eq!(check.state, State::Limited);
        assert!(check.consequence.contains("two seconds later"), "{check:?}");
        let report = judged(|facts| {
            facts.kernel.release = "5.10.0-28-amd64".to_owned();
            facts.capabilities = Capabilities::of(&[
                Capability::SysAdmin,
                Capability::SysPtrace,
                Capability::DacReadSearch,
                Capability::Lease,
            ]);
        });
        assert!(
            line(&report, "capabilities")
                .found
                .starts_with("missing: CAP_SYS_RESOURCE (locking memory")
        );
    }

    #[test]
    fn unfit_machines_are_told_why_in_one_sentence() {
        use super::super::fitness;

        let rights = |capabilities: &[Capability]| {
            let error =
                fitness(&good().kernel, &Lockdown::None, &Capabilities::of(capabilities)).unwrap_err();
            error.to_string()
        };
        assert_eq!(
            rights(&[Capability::Bpf]),
            "tracing needs root, or at least CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN (missing: CAP_PERFMON and \
            CAP_NET_ADMIN): run it with sudo, or give its file the rights for everything with `setcap \
            cap_sys_admin,cap_sys_ptrace,cap_dac_read_search,cap_lease+ep FILE`"
        );
        let new = Kernel {
            release: "6.18.44".to_owned(),
            machine: "x86_64".to_owned(),
        };
        let rest = Capabilities::of(&[Capability::Bpf, Capability::Perfmon, Capability::NetAdmin]);
        let error = fitness(&new, &Lockdown::Integrity, &rest).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("tracing needs root, or at least CAP_SYS_ADMIN (missing: CAP_SYS_ADMIN):")
        );
        assert!(fitness(&good().kernel, &Lockdown::Silent, &rest).is_ok());
        let old = Kernel {
            release: "4.19.0-21-amd64".to_owned(),
            machine: "x86_64".to_owned(),
        };
        let error = fitness(&old, &Lockdown::None, &Capabilities::of(&Capability::ALL)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "kernel 4.19.0-21-amd64 is too old: tracing needs Linux 5.12 or later"
        );
        let all = Capabilities::of(&Capability::ALL);
        let error = fitness(&good().kernel, &Lockdown::Confidentiality, &all).unwrap_err();
        assert!(error.to_string().starts_with(
            "under the kernel's lockdown `confidentiality` nothing can be traced, since it forbids"
        ));
    }
}
