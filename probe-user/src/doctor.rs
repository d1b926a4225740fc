//! What works on this machine and why: facts are gathered, judged one by one, and told as text or JSON.

mod judge;

use std::{
    error::Error,
    io::{self, Write},
};

use serde::Serialize;

use crate::kernel::{
    feature::{
        Capabilities, Capability, Cgroup, Kernel, Lockdown, OLDEST, has_btf, is_in_initial_pid_namespace,
        needed,
        trial::{self, Bench, Fionread, Purpose},
    },
    object::Uprobes,
};

/// Why there is no point in starting.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    #[error("kernel {release} is too old: tracing needs Linux {OLDEST} or later")]
    Kernel { release: String },
    #[error(
        "under the kernel's lockdown `confidentiality` nothing can be traced, since it forbids the helper that the \
        kernel programs copy within their own memory with (bpf_probe_read_kernel): boot with lockdown=integrity or \
        without"
    )]
    Lockdown,
    #[error(
        "tracing needs root, or at least {needed} (missing: {missing}): run it with sudo, or give its file the rights \
        for everything with `setcap cap_sys_admin,cap_sys_ptrace,cap_dac_read_search,cap_lease+ep FILE`"
    )]
    Rights { needed: String, missing: String },
}

/// Whether tracing has a chance here: told before anything is begun, so that nobody reads of a failed system call.
pub fn preflight() -> Result<(), Unfit> {
    fitness(&Kernel::running(), &Lockdown::current(), &Capabilities::ours())
}

fn fitness(kernel: &Kernel, lockdown: &Lockdown, capabilities: &Capabilities) -> Result<(), Unfit> {
    // A release that cannot be read is not held against the kernel.
    if kernel.version().is_some_and(|version| version < OLDEST) {
        return Err(Unfit::Kernel {
            release: kernel.release.clone(),
        });
    }
    if *lockdown == Lockdown::Confidentiality {
        return Err(Unfit::Lockdown);
    }
    let needed = needed(kernel);
    match capabilities.missing(&needed).as_slice() {
        [] => Ok(()),
        missing => Err(Unfit::Rights {
            needed: names(&needed),
            missing: names(missing),
        }),
    }
}

fn names(capabilities: &[Capability]) -> String {
    let names: Vec<_> = capabilities.iter().map(|capability| capability.name()).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

/// How something turned out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    /// Something is not available, and tracing works without it.
    Limited,
    /// Tracing does not work.
    Failed,
    /// It could not be found out.
    Unknown,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub what: &'static str,
    pub state: State,
    pub found: String,
    /// What follows from it.
    pub consequence: String,
}

/// All of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether spans are made here.
    pub tracing: bool,
    /// Whether plaintext HTTP/1.1 requests get headers here.
    pub propagation: bool,
    pub checks: Vec<Check>,
}

/// How a trial went.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trial {
    Works,
    Fails(String),
    /// Something it rests on does not work.
    NotTried(String),
}

impl Trial {
    fn of(result: Result<(), impl Error>) -> Self {
        match result {
            Ok(()) => Self::Works,
            Err(error) => Self::Fails(crate::chain(&error)),
        }
    }
}

/// Everything that is known when all is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    kernel: Kernel,
    has_btf: bool,
    lockdown: Lockdown,
    capabilities: Capabilities,
    is_in_initial_pid_namespace: bool,
    cgroup: Option<Cgroup>,
    ring_buffer: Trial,
    tracing_programs: Trial,
    uprobe: Result<Uprobes, Trial>,
    attached_to_scheduler: Trial,
    propagation_programs: Trial,
    attached_to_cgroup: Trial,
    attached_to_sockets: Trial,
    fionread: Result<Fionread, Trial>,
}

/// Looks at everything, and loads and attaches the kernel programs for a moment.
pub fn examine() -> Report {
    judge::report(&gather())
}

fn gather() -> Facts {
    let not_tried = |reason: &str| Trial::NotTried(reason.to_owned());
    let untried = not_tried("the kernel programs are not loaded");
    let kernel = Kernel::running();
    let capabilities = Capabilities::ours();
    let lockdown = Lockdown::current();
    let fit = fitness(&kernel, &lockdown, &capabilities);
    let mut facts = Facts {
        kernel,
        has_btf: has_btf(),
        lockdown,
        capabilities,
        is_in_initial_pid_namespace: is_in_initial_pid_namespace(),
        cgroup: Cgroup::find(),
        ring_buffer: untried.clone(),
        tracing_programs: untried.clone(),
        uprobe: Err(untried.clone()),
        attached_to_scheduler: untried.clone(),
        propagation_programs: untried.clone(),
        attached_to_cgroup: untried.clone(),
        attached_to_sockets: untried.clone(),
        fionread: Err(untried),
    };
    if let Err(unfit) = fit {
        let reason = match unfit {
            Unfit::Kernel { .. } => "the kernel is too old".to_owned(),
            Unfit::Lockdown => "lockdown forbids it".to_owned(),
            Unfit::Rights { missing, .. } => format!("missing {missing}"),
        };
        facts.ring_buffer = not_tried(&reason);
        facts.tracing_programs = not_tried(&reason);
        return facts;
    }
    facts.ring_buffer = Trial::of(trial::ring_buffer());
    if facts.ring_buffer != Trial::Works {
        return facts;
    }
    match Bench::new() {
        Ok(bench) => with_bench(bench, &mut facts),
        Err(error) => facts.tracing_programs = Trial::Fails(crate::chain(&error)),
    }
    facts
}

fn with_bench(mut bench: Bench, facts: &mut Facts) {
    (facts.tracing_programs, facts.propagation_programs) = (Trial::Works, Trial::Works);
    for (name, purpose, fate) in bench.load_programs() {
        let Err(error) = fate else { continue };
        let fate = match purpose {
            Purpose::Tracing => &mut facts.tracing_programs,
            Purpose::Propagation => &mut facts.propagation_programs,
        };
        if *fate == Trial::Works {
            *fate = Trial::Fails(format!("{name}: {}", crate::chain(&error)));
        }
    }
    if facts.tracing_programs == Trial::Works {
        facts.uprobe = bench
            .attach_to_ourselves()
            .map_err(|error| Trial::Fails(crate::chain(&error)));
        facts.attached_to_scheduler = Trial::of(bench.attach_to_scheduler());
    }
    if facts.propagation_programs != Trial::Works {
        return;
    }
    facts.attached_to_cgroup = match &facts.cgroup {
        Some(cgroup) => Trial::of(bench.attach_to_cgroup(&cgroup.path)),
        None => Trial::NotTried("cgroup v2 is not mounted".to_owned()),
    };
    facts.attached_to_sockets = Trial::of(bench.attach_to_sockets());
    if facts.attached_to_sockets == Trial::Works {
        facts.fionread = bench
            .fionread()
            .map_err(|error| Trial::Fails(crate::chain(&error)));
    }
}

/// Tells the report to people.
pub fn write_text(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    for check in &report.checks {
        let mark = match check.state {
            State::Ok => "ok",
            State::Limited => "limited",
            State::Failed => "FAILED",
            State::Unknown => "unknown",
        };
        writeln!(out, "{mark:<8} {:<22} {}", check.what, check.found)?;
        if !check.consequence.is_empty() {
            writeln!(out, "{:<8} {:<22} -> {}", "", "", check.consequence)?;
        }
    }
    writeln!(out)?;
    writeln!(out, "{}", verdict(report))
}

/// Tells the report to programs.
pub fn write_json(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    writeln!(out)
}

fn verdict(report: &Report) -> &'static str {
    match (report.tracing, report.propagation) {
        (true, true) => "Tracing works here, and requests carry their trace on to other services.",
        (true, false) => {
            "Tracing works here, but requests do not carry their trace on to other services: traces end at each."
        }
        (false, _) => "Tracing does not work here: see the lines marked FAILED.",
    }
}
