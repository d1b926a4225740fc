//! How often the probe's programs ran, as the kernel counts it.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};
use serde::Serialize;

/// Whether the kernel counts. Counting costs something with every run of a program: it has a turn of its own.
const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// `BPF_PROG_TYPE_KPROBE`, which programs at uprobes are.
const AT_UPROBES: &str = "2";

/// What the programs at the hooks of the traced programs did.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Hits {
    pub(super) per_request: f64,
    /// Within the programs, without the way into the kernel and back.
    pub(super) ns_per_request: f64,
}

/// The kernel counts while this is there.
pub(super) struct Counting {
    before: String,
}

impl Counting {
    pub(super) fn begin() -> Result<Self> {
        let before = fs::read_to_string(SWITCH).with_context(|| format!("read {SWITCH}"))?;
        fs::write(SWITCH, "1").with_context(|| format!("write {SWITCH}"))?;
        Ok(Self { before })
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        let _ = fs::write(SWITCH, &self.before);
    }
}

/// Runs of the programs at uprobes that the process holds, and nanoseconds in them.
pub(super) fn runs(pid: u32) -> Result<(u64, u64)> {
    let folder = format!("/proc/{pid}/fdinfo");
    // One program may be held twice.
    let mut programs = BTreeMap::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("read {folder}"))? {
        // A descriptor may be closed meanwhile.
        if let Ok(text) = fs::read_to_string(entry?.path())
            && let Some((id, counts)) = program(&text)
        {
            programs.insert(id, counts);
        }
    }
    Ok(programs
        .values()
        .fold((0, 0), |(runs, ns), (more, longer)| (runs + more, ns + longer)))
}

/// Id, runs and nanoseconds of a descriptor, if it is one of a program at uprobes.
fn program(text: &str) -> Option<(u64, (u64, u64))> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.strip_prefix(':')?.trim())
    };
    let number = |name: &str| field(name)?.parse().ok();
    (field("prog_type")? == AT_UPROBES).then_some(())?;
    Some((number("prog_id")?, (number("run_cnt")?, number("run_time_ns")?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_at_uprobes_count() {
        let text = "pos:\t0\nflags:\t02000002\nmnt_id:\t17\nino:\t1\nprog_type:\t2\nprog_jited:\t1\nprog_tag:\tab\n\
                    memlock:\t4096\nprog_id:\t77\nrun_time_ns:\t900\nrun_cnt:\t3\nrecursion_misses:\t0\n";
        assert_eq!(program(text), Some((77, (3, 900))));
        assert_eq!(program(&text.replace("prog_type:\t2", "prog_type:\t16")), None);
        assert_eq!(program("pos:\t0\nflags:\t02\n"), None);
    }
}
