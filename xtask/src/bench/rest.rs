//! What the probe costs without load: attaching, detaching, and doing nothing.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use super::{
    START_TIMEOUT,
    probe::{Probe, of_pids},
    report::Spread,
    scene::Chain,
};
use crate::{
    debian, http,
    process::Running,
    step::{step, wait_until},
};

/// How often a start and an end are timed.
const TIMES: usize = 5;
/// That are on the host while nothing is traced.
const PROCESSES: usize = 1_000;
/// How long the probe is watched then.
const IDLE: Duration = Duration::from_secs(6);

/// Without load.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Rest {
    pub(super) large_program: String,
    pub(super) large_program_bytes: u64,
    pub(super) large: Attach,
    /// To a program that is small: the difference is the binary's.
    pub(super) small: Attach,
    /// Processor time of a probe that waits for a program that does not come, a second.
    pub(super) idle_cpu_ms_per_s: f64,
    pub(super) idle_processes: usize,
}

/// Attaching and detaching without load.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Attach {
    /// From the start of the probe to its `ready`.
    pub(super) attach_ms: f64,
    pub(super) detach_ms: f64,
    pub(super) rss_bytes: u64,
    pub(super) peak_rss_bytes: u64,
}

/// Attaches to Debian's Prometheus, a large and stripped program that nobody here built, and to the small one.
pub(super) fn measure(skyprobe: &Path, sink: SocketAddr, small: &Path) -> Result<Rest> {
    step("attaching to a large binary and to a small one");
    let large_program = debian::unpacked("prometheus")?.join("usr/bin/prometheus");
    let large_program_bytes = fs::metadata(&large_program)
        .with_context(|| format!("look at {}", large_program.display()))?
        .len();
    let large = {
        let scratch = tempfile::tempdir().context("make a temporary directory")?;
        let prometheus = start_prometheus(&large_program, scratch.path())?;
        attach_often(skyprobe, sink, prometheus.pid())?
    };
    let chain = Chain::start(small, 1, sink, 0)?;
    let pid = chain.pids().next().context("a chain has a program")?;
    let small = attach_often(skyprobe, sink, pid)?;
    drop(chain);
    Ok(Rest {
        large_program: "Debian's prometheus".to_owned(),
        large_program_bytes,
        large,
        small,
        idle_cpu_ms_per_s: idle(skyprobe, sink)?,
        idle_processes: PROCESSES,
    })
}

fn start_prometheus(program: &Path, scratch: &Path) -> Result<Running> {
    let config = scratch.join("prometheus.yml");
    fs::write(&config, "scrape_configs: []\n")?;
    let address = http::free_address()?;
    let mut command = Command::new(program);
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", scratch.join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let prometheus = Running::start("prometheus", &mut command)?;
    ensure!(
        wait_until(START_TIMEOUT, || TcpStream::connect(address).is_ok()),
        "prometheus does not listen"
    );
    Ok(prometheus)
}

/// Medians; of the peak the highest.
fn attach_often(skyprobe: &Path, sink: SocketAddr, pid: u32) -> Result<Attach> {
    let mut turns = Vec::new();
    for _ in 0..TIMES {
        let probe = Probe::attach(skyprobe, sink, &of_pids(&[pid]))?;
        let ready_in = probe.ready_in;
        // What the start took is given back right after it has said that it is ready.
        std::thread::sleep(Duration::from_millis(100));
        let (rss, peak) = probe.rss_bytes()?;
        let (_, detached_in) = probe.stop()?;
        turns.push((ready_in, detached_in, rss, peak));
    }
    let milliseconds = |of: fn(&(Duration, Duration, u64, u64)) -> Duration| {
        Spread::of(turns.iter().map(|turn| of(turn).as_secs_f64() * 1e3)).median
    };
    Ok(Attach {
        attach_ms: milliseconds(|turn| turn.0),
        detach_ms: milliseconds(|turn| turn.1),
        rss_bytes: turns.iter().map(|turn| turn.2).max().unwrap_or(0),
        peak_rss_bytes: turns.iter().map(|turn| turn.3).max().unwrap_or(0),
    })
}

/// Milliseconds of processor time a second, with many processes on the host of which none is meant.
fn idle(skyprobe: &Path, sink: SocketAddr) -> Result<f64> {
    step(format!("waiting among {PROCESSES} processes"));
    let before = processes()?;
    // In a pid namespace, which takes all of them with it.
    let start = format!("i=0; while [ $i -lt {PROCESSES} ]; do sleep 600 & i=$((i+1)); done; wait");
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "sh", "-c", &start]);
    let sleepers = Running::start("unshare", &mut command)?;
    ensure!(
        wait_until(START_TIMEOUT, || processes()
            .is_ok_and(|now| now >= before + PROCESSES)),
        "the host does not take {PROCESSES} more processes"
    );
    // As one waits for a program that is not there yet.
    let nobody = ["--exe".to_owned(), "/nowhere/*".to_owned()];
    let probe = Probe::attach(skyprobe, sink, &nobody)?;
    let before = probe.cpu()?;
    std::thread::sleep(IDLE);
    let used = probe.cpu()?.saturating_sub(before);
    probe.stop()?;
    drop(sleepers);
    Ok(used.as_secs_f64() * 1e3 / IDLE.as_secs_f64())
}

fn processes() -> Result<usize> {
    let entries = fs::read_dir("/proc").context("read /proc")?;
    let is_process = |name: &std::ffi::OsStr| name.as_encoded_bytes().first().is_some_and(u8::is_ascii_digit);
    Ok(entries
        .filter_map(Result::ok)
        .filter(|entry| is_process(&entry.file_name()))
        .count())
}
