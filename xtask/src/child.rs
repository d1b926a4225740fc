//! Long-running programs that must not outlive us, even when we are killed.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context as _, Result};

/// A program that ends when this value is dropped, or when this process is gone.
///
/// A shell stands between us and the program: its standard input is a pipe that we alone hold, and
/// the end of that pipe is its order to kill the program. `PR_SET_PDEATHSIG` would not do: it fires
/// when the starting *thread* ends, and a test harness runs each test on a thread of its own.
pub struct Tied {
    shell: Child,
    lifeline: Option<ChildStdin>,
    pid: u32,
    log: PathBuf,
}

/// `$0` is the file for the pid, `$@` the program. The watcher reads from descriptor 3 because a
/// shell gives background commands an empty standard input.
const SHELL: &str = r#"
exec 3<&0 </dev/null
"$@" 3<&- &
pid=$!
echo "$pid" >"$0.part" && mv "$0.part" "$0"
{ read -r _ <&3; kill -9 "$pid"; } 2>/dev/null &
watcher=$!
exec 3<&-
wait "$pid"
code=$?
kill "$watcher" 2>/dev/null
exit "$code"
"#;

impl Tied {
    /// Starts `program` with its output in the file `log`.
    pub fn start<A: AsRef<OsStr>>(
        program: &OsStr,
        args: &[A],
        environment: &[(&str, String)],
        log: &Path,
    ) -> Result<Self> {
        let output = File::create(log).with_context(|| format!("make the log {}", log.display()))?;
        let mut pid_file = OsString::from(log);
        pid_file.push(".pid");
        let pid_file = PathBuf::from(pid_file);
        let _ = fs::remove_file(&pid_file);
        let mut shell = Command::new("sh")
            .arg("-c")
            .arg(SHELL)
            .arg(&pid_file)
            .arg(program)
            .args(args)
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::piped())
            .stdout(output.try_clone().context("share the log")?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("start {}", program.to_string_lossy()))?;
        let lifeline = shell.stdin.take();
        let mut tied = Self {
            shell,
            lifeline,
            pid: 0,
            log: log.to_owned(),
        };
        while tied.pid == 0 {
            match fs::read_to_string(&pid_file) {
                Ok(pid) => {
                    tied.pid = pid.trim().parse().context("the pid that the shell wrote")?;
                    let _ = fs::remove_file(&pid_file);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound && tied.running() => {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("start {}", program.to_string_lossy()));
                }
            }
        }
        Ok(tied)
    }

    /// The program's own pid, not the shell's.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What the program has written so far.
    pub fn output(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Whether the program has not ended yet.
    pub fn running(&mut self) -> bool {
        matches!(self.shell.try_wait(), Ok(None))
    }

    /// Waits until the program ends by itself.
    pub fn wait(&mut self) -> Result<()> {
        // `Child::wait` would close the lifeline first, had we not taken it out.
        self.shell.wait().map(drop).context("wait for a program")
    }
}

impl Drop for Tied {
    fn drop(&mut self) {
        self.lifeline = None;
        let _ = self.shell.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alive(pid: u32) -> bool {
        // A zombie still has a folder there, so look at what it runs.
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
    }

    #[test]
    fn a_dropped_program_is_gone_and_one_that_ends_is_noticed() {
        let log = std::env::temp_dir().join(format!("skyprobe-child-{}", std::process::id()));
        let mut sleeper = Tied::start("sleep".as_ref(), &["600"], &[], &log).expect("start");
        let pid = sleeper.pid();
        assert!(sleeper.running() && alive(pid));
        drop(sleeper);
        assert!(!alive(pid));

        let mut echo = Tied::start(
            "sh".as_ref(),
            &["-c", "echo $WORD"],
            &[("WORD", "hello".into())],
            &log,
        )
        .expect("start");
        echo.wait().expect("wait");
        assert!(!echo.running());
        assert_eq!(echo.output(), "hello\n");
        fs::remove_file(log).expect("clean");
    }
}
