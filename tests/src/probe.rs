//! The probe as a user starts it: the built program, its segments from standard output, its words from standard
//! error.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use crate::segment::{Segment, Span};

/// How long attaching may take; generous, for a machine that is busy with something else, or emulated.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// How long segments may take to come.
pub const SEGMENT_TIMEOUT: Duration = Duration::from_secs(15);

/// How often what came in is looked at, at most.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// One probe at a time: tests run side by side, and each wants the machine's counters for itself.
static TURN: Mutex<()> = Mutex::new(());

/// The program under test.
#[expect(clippy::disallowed_methods, reason = "the harness has no config module")]
pub fn binary() -> Result<PathBuf> {
    if let Some(chosen) = std::env::var_os("SKYPROBE_BIN") {
        return Ok(chosen.into());
    }
    // The test's own program is target/PROFILE/deps/NAME. `cargo test` does not build the probe, so take the one
    // that was built last.
    let own = std::env::current_exe()?;
    let folder = own
        .ancestors()
        .nth(3)
        .context("the test is not in a target folder")?;
    ["debug", "release"]
        .into_iter()
        .map(|profile| folder.join(profile).join("skyprobe"))
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .max()
        .map(|(_, path)| path)
        .context("skyprobe is not built: run `cargo xtask build`, or name it in SKYPROBE_BIN")
}

/// A copy of it that everybody may execute, as long as the folder lives.
pub fn for_everybody() -> Result<(TempDir, PathBuf)> {
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755));
    let folder = tempfile::tempdir_in("/tmp")?;
    let path = folder.path().join("skyprobe");
    fs::copy(binary()?, &path)?;
    open(folder.path())?;
    open(&path)?;
    Ok((folder, path))
}

/// What `skyprobe status` says of the probe at this socket.
pub fn status(socket: &Path) -> Result<serde_json::Value> {
    let mut command = Command::new(binary()?);
    command.args(["status", "--json", "--socket"]).arg(socket);
    let output = command.stdin(Stdio::null()).output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{complaint}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[derive(Default)]
struct Heard {
    segments: Vec<Segment>,
    /// Lines of standard output that are no segments.
    garbage: Vec<String>,
    stderr: Vec<String>,
    stderr_ended: bool,
}

#[derive(Default)]
struct Ear {
    heard: Mutex<Heard>,
    changed: Condvar,
}

impl Ear {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, change: impl FnOnce(&mut Heard)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until `done` says so or the time is over; returns whether it did.
    fn wait(&self, timeout: Duration, mut done: impl FnMut(&Heard) -> bool) -> bool {
        let deadline = now() + timeout;
        loop {
            let heard = self.lock();
            if done(&heard) {
                return true;
            }
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() {
                return false;
            }
            drop(self.changed.wait_timeout(heard, left));
            // Under load a line comes every few microseconds, and `done` may look at all of them.
            thread::sleep(LOOK_EVERY);
        }
    }
}

/// A running probe.
pub struct Probe {
    child: Child,
    ear: Arc<Ear>,
    readers: Vec<JoinHandle<()>>,
    _turn: Option<MutexGuard<'static, ()>>,
}

/// What is left of a probe that has ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub segments: Vec<Segment>,
    /// All it said, the account of spans and losses at the end.
    pub stderr: String,
}

impl Probe {
    /// `skyprobe run --export json ARGUMENTS`, attached to all that was there at its start.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut probe = Self::spawn(
            Command::new(binary()?)
                .args(["run", "--export", "json"])
                .args(arguments),
        )?;
        probe._turn = Some(turn);
        probe.ready()?;
        Ok(probe)
    }

    /// The same for these processes.
    pub fn of_pids(pids: &[u32], arguments: &[&str]) -> Result<Self> {
        let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
        let mut all: Vec<&str> = pids.iter().flat_map(|pid| ["--pid", pid.as_str()]).collect();
        all.extend_from_slice(arguments);
        Self::start(&all)
    }

    /// Starts any command line; does not wait for anything, nor for its turn.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", Path::new(command.get_program()).display()))?;
        let ear = Arc::new(Ear::default());
        let stdout = child.stdout.take().context("standard output is piped")?;
        let stderr = child.stderr.take().context("standard error is piped")?;
        let (out, err) = (Arc::clone(&ear), Arc::clone(&ear));
        let readers = vec![
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    out.note(|heard| match serde_json::from_str(&line) {
                        Ok(segment) => heard.segments.push(segment),
                        Err(_) => heard.garbage.push(line),
                    });
                }
            }),
            thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    err.note(|heard| heard.stderr.push(line));
                }
                err.note(|heard| heard.stderr_ended = true);
            }),
        ];
        Ok(Self {
            child,
            ear,
            readers,
            _turn: None,
        })
    }

    /// Waits for the line that begins with `ready` and returns it.
    pub fn ready(&self) -> Result<String> {
        let line = |heard: &Heard| {
            heard
                .stderr
                .iter()
                .find(|line| line.starts_with("ready"))
                .cloned()
        };
        self.ear
            .wait(READY_TIMEOUT, |heard| line(heard).is_some() || heard.stderr_ended);
        let heard = self.ear.lock();
        line(&heard).with_context(|| format!("the probe is not ready; it says:\n{}", heard.stderr.join("\n")))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said on standard error so far.
    pub fn stderr(&self) -> String {
        self.ear.lock().stderr.join("\n")
    }

    /// Waits for a line of standard error that contains `text`.
    pub fn wait_for_words(&self, text: &str, timeout: Duration) -> Result<()> {
        if self.ear.wait(timeout, |heard| {
            heard.stderr.iter().any(|line| line.contains(text))
        }) {
            return Ok(());
        }
        bail!("the probe did not say {text:?} but:\n{}", self.stderr());
    }

    /// The segments so far.
    pub fn segments(&self) -> Vec<Segment> {
        self.ear.lock().segments.clone()
    }

    /// Waits until the segments satisfy `done`.
    pub fn wait_for(&self, what: &str, mut done: impl FnMut(&[Segment]) -> bool) -> Result<Vec<Segment>> {
        let came = self.ear.wait(SEGMENT_TIMEOUT, |heard| done(&heard.segments));
        let heard = self.ear.lock();
        let last = heard.segments.len().saturating_sub(10);
        ensure!(
            came,
            "{what} did not come; the probe says:\n{}\nof {} segments the last are {:#?}",
            heard.stderr.join("\n"),
            heard.segments.len(),
            heard.segments.get(last..)
        );
        Ok(heard.segments.clone())
    }

    /// Waits for the segment that has an entry or exit span with this path, and returns it.
    pub fn segment_of(&self, span_type: &str, path: &str) -> Result<Segment> {
        let of = |segments: &[Segment]| {
            segments
                .iter()
                .find(|segment| has_span(segment, span_type, path))
                .cloned()
        };
        let segments = self.wait_for(&format!("a span {span_type} {path}"), |segments| {
            of(segments).is_some()
        })?;
        of(&segments).context("it was there a moment ago")
    }

    pub fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.child.id()).unwrap_or(libc::pid_t::MAX);
        // SAFETY: the child has not been waited for, so its pid is still its own.
        unsafe { libc::kill(pid, signal) };
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it as Ctrl-C does and returns everything.
    pub fn stop(self) -> Result<Ended> {
        self.signal(libc::SIGTERM);
        self.finish()
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Result<Ended> {
        let deadline = now() + READY_TIMEOUT;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(
                now() < deadline,
                "the probe does not end; it says:\n{}",
                self.stderr()
            );
            thread::sleep(Duration::from_millis(5));
        };
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        let mut heard = self.ear.lock();
        ensure!(
            heard.garbage.is_empty(),
            "standard output holds what is no segment: {:?}",
            heard.garbage
        );
        Ok(Ended {
            status,
            segments: std::mem::take(&mut heard.segments),
            stderr: heard.stderr.join("\n"),
        })
    }
}

impl Ended {
    /// The lines of the account that say what was lost.
    pub fn losses(&self) -> impl Iterator<Item = &str> {
        self.stderr.lines().filter(|line| line.contains("lost in "))
    }

    /// What the processes of these services told, and nobody else.
    pub fn of_services(mut self, names: &[&str]) -> Self {
        self.segments
            .retain(|segment| names.contains(&segment.service.as_str()));
        self
    }

    /// How many spans were reported.
    pub fn spans(&self) -> u64 {
        self.segments
            .iter()
            .map(|segment| segment.spans.len() as u64)
            .sum()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a deadline of the harness, not a time in a trace"
)]
fn now() -> Instant {
    Instant::now()
}

/// Whether the segment has a span of this type whose URL has this path.
pub fn has_span(segment: &Segment, span_type: &str, path: &str) -> bool {
    find_span(segment, span_type, path).is_some()
}

/// The segment's span of this type whose URL has this path.
pub fn find_span<'s>(segment: &'s Segment, span_type: &str, path: &str) -> Option<&'s Span> {
    segment
        .spans
        .iter()
        .find(|span| span.span_type == span_type && span.path() == Some(path))
}
