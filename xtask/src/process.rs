//! Child processes that do not outlive us, and the signals that end us.

use std::{
    io,
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::step::wait_until;

/// How long a child may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

static STOPPING: AtomicBool = AtomicBool::new(false);

extern "C" fn note_signal(_signal: libc::c_int) {
    STOPPING.store(true, Ordering::Relaxed);
}

/// From now on Ctrl-C, SIGTERM and SIGHUP only raise a flag: whoever waits looks at it, leaves, and what was started
/// or written is cleaned up on the way out.
pub fn stop_on_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let handler: extern "C" fn(libc::c_int) = note_signal;
        // SAFETY: the handler stores to an atomic and does nothing else. The standard library has no signals.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// Whether somebody wants us to stop.
#[must_use]
pub fn stopping() -> bool {
    STOPPING.load(Ordering::Relaxed)
}

/// A child process; dropped, it is asked to end, and killed when it does not.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
}

impl Running {
    /// Starts the command; the kernel ends it when we die, whatever we die of.
    pub fn start(name: &str, command: &mut Command) -> Result<Self> {
        // SAFETY: prctl is a plain system call: allowed between fork and exec. The standard library has no other way.
        let command = unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            })
        };
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
        })
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it ended with; `None` while it runs.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("wait for {}", self.name))
    }

    /// The child's own handle, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Asks it to end, and does not wait.
    pub fn ask_to_end(&self) {
        self.signal(libc::SIGTERM);
    }

    /// Asks it to end, waits, and says what it ended with.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.end()
    }

    fn end(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        self.signal(libc::SIGTERM);
        // Not `wait_until`: it returns at once when we are stopping ourselves, and here we are often.
        let mut waited = Duration::ZERO;
        while waited < GRACE {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            let pause = Duration::from_millis(20);
            std::thread::sleep(pause);
            waited += pause;
        }
        self.signal(libc::SIGKILL);
        self.child
            .wait()
            .with_context(|| format!("wait for {}", self.name))
    }

    fn signal(&self, signal: libc::c_int) {
        if let Ok(pid) = libc::pid_t::try_from(self.child.id()) {
            // SAFETY: a plain system call. The child has not been waited for, so the number is still its own.
            unsafe { libc::kill(pid, signal) };
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}

/// Runs the command to its end; its failure is ours.
pub fn check(command: &mut Command) -> Result<()> {
    let line = command_line(command);
    let mut running = Running::start(&line, command)?;
    // Hours: an installation may take long, and only Ctrl-C knows better.
    let forever = Duration::from_secs(24 * 3600);
    let mut outcome = None;
    wait_until(forever, || {
        outcome = running.ended().transpose();
        outcome.is_some()
    });
    match outcome.transpose()? {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("`{line}` failed: {status}"),
        None => bail!("`{line}` was interrupted"),
    }
}

/// Runs the command and gives its stdout, if it succeeds.
pub fn read(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    if !output.status.success() {
        return None;
    }
    String::from_utf8(output.stdout).ok()
}

fn command_line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_child_is_gone() {
        let running = Running::start("sleep", Command::new("sleep").arg("1000")).expect("start sleep");
        let directory = format!("/proc/{}", running.pid());
        assert!(std::path::Path::new(&directory).exists());
        drop(running);
        assert!(!std::path::Path::new(&directory).exists());
    }

    #[test]
    fn a_failing_command_is_named_with_its_status() {
        let error = check(Command::new("sh").args(["-c", "exit 3"])).expect_err("exit 3 is a failure");
        assert_eq!(error.to_string(), "`sh -c exit 3` failed: exit status: 3");
    }
}
