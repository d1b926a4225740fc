//! skyprobe, as it runs on a host: attached, and reporting to a sink.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{START_TIMEOUT, load};
use crate::process::Running;

/// The running probe.
pub(super) struct Probe {
    running: Running,
    stderr: PathBuf,
    _scratch: tempfile::TempDir,
    pub(super) ready_in: Duration,
}

/// Waits for the end of something that is one of the figures: finer than `wait_until`.
fn pause() {
    std::thread::sleep(Duration::from_millis(1));
}

impl Probe {
    /// Starts it with `arguments` that say what to trace, and waits until it does.
    #[expect(clippy::disallowed_methods, reason = "a tool that measures reads a clock")]
    pub(super) fn attach(skyprobe: &Path, sink: SocketAddr, arguments: &[String]) -> Result<Self> {
        let scratch = tempfile::tempdir().context("make a temporary directory")?;
        let stderr = scratch.path().join("stderr");
        let mut command = Command::new(skyprobe);
        command
            .args(["run", "--export", "skywalking", "--oap", &sink.to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&stderr)?);
        let begin = Instant::now();
        let mut running = Running::start("skyprobe", &mut command)?;
        let mut ended;
        let is_ready = || {
            fs::read_to_string(&stderr).is_ok_and(|text| text.lines().any(|line| line.starts_with("ready")))
        };
        let ready = loop {
            ended = running.ended()?;
            if ended.is_some() || is_ready() {
                break ended.is_none();
            }
            if begin.elapsed() > START_TIMEOUT {
                break false;
            }
            pause();
        };
        let ready_in = begin.elapsed();
        if let Some(status) = ended {
            bail!(
                "skyprobe ended before it was ready: {status}: {}",
                fs::read_to_string(&stderr)?
            );
        }
        ensure!(
            ready,
            "skyprobe was not ready within {} s",
            START_TIMEOUT.as_secs()
        );
        Ok(Self {
            running,
            stderr,
            _scratch: scratch,
            ready_in,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Processor time of all its threads.
    pub(super) fn cpu(&self) -> Result<Duration> {
        load::cpu(self.pid())
    }

    /// Now, and at most.
    pub(super) fn rss_bytes(&self) -> Result<(u64, u64)> {
        load::rss_bytes(self.pid())
    }

    /// Asks it to end; what it said, and how long it took to let everything go.
    #[expect(clippy::disallowed_methods, reason = "a tool that measures reads a clock")]
    pub(super) fn stop(mut self) -> Result<(String, Duration)> {
        let begin = Instant::now();
        self.running.ask_to_end();
        while self.running.ended()?.is_none() {
            ensure!(begin.elapsed() < START_TIMEOUT, "skyprobe does not end");
            pause();
        }
        let took = begin.elapsed();
        Ok((fs::read_to_string(&self.stderr)?, took))
    }
}

/// The arguments that have it trace these processes.
pub(super) fn of_pids(pids: &[u32]) -> Vec<String> {
    pids.iter()
        .flat_map(|pid| ["--pid".to_owned(), pid.to_string()])
        .collect()
}
