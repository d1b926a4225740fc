//! One boot: qemu, its console, and a time limit.

use std::{
    fmt,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    kernels::Kernel,
    said::{Checked, Machine, Said},
};
use crate::{
    process::{Running, stopping},
    processor::Processor,
};

/// What of a machine hangs on its processor.
pub(super) struct Hardware {
    /// The program that emulates it, and Debian's package with that.
    pub(super) qemu: &'static str,
    pub(super) package: &'static str,
    arguments: &'static [&'static str],
    console: &'static str,
}

impl Hardware {
    pub(super) fn of(processor: Processor) -> Self {
        match processor {
            Processor::X86_64 => Self {
                qemu: "qemu-system-x86_64",
                package: "qemu-system-x86",
                arguments: &["-cpu", "max"],
                console: "ttyS0",
            },
            Processor::Aarch64 => Self {
                qemu: "qemu-system-aarch64",
                package: "qemu-system-arm",
                // The kernel signs each return address, and the real algorithm takes long to emulate: qemu has a cheap one.
                arguments: &["-machine", "virt", "-cpu", "max,pauth-impdef=on"],
                console: "ttyAMA0",
            },
        }
    }
}

/// A kernel says nothing for so long only when it hangs; the longest check is well below.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// And a boot with all its checks takes some minutes, on a machine that is busy with something else.
const BOOT_MAX: Duration = Duration::from_secs(20 * 60);

/// The console's last lines, as far as they are shown.
const LAST_LINES: usize = 25;

/// How a kernel is booted.
#[derive(Clone, Debug)]
pub(super) struct Boot {
    pub(super) release: String,
    pub(super) lockdown: String,
    pub(super) cgroups: String,
    /// Empty: all.
    pub(super) checks: String,
}

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, lockdown {}, cgroups {}",
            self.release, self.lockdown, self.cgroups
        )
    }
}

/// What a boot has brought to light.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub(super) machine: Machine,
    pub(super) checks: Vec<Checked>,
    /// Why it did not come to its end, if so.
    pub(super) trouble: Option<String>,
}

/// Boots and listens until the guest is done, the machine stops, or the time is over.
#[expect(clippy::disallowed_methods, reason = "a time limit")]
pub(super) fn boot(kernel: &Kernel, initramfs: &Path, boot: &Boot) -> Result<Told> {
    let hardware = Hardware::of(kernel.processor);
    let mut arguments = format!(
        "console={} quiet panic=-1 oops=panic skyprobe.cgroups={}",
        hardware.console, boot.cgroups
    );
    // Debian locks a kernel down only where the firmware says so, and qemu's does not.
    if boot.lockdown != "none" {
        arguments.push_str(&format!(" lockdown={}", boot.lockdown));
    }
    if !boot.checks.is_empty() {
        arguments.push_str(&format!(" skyprobe.checks={}", boot.checks));
    }
    let mut command = Command::new(hardware.qemu);
    command
        .args(hardware.arguments)
        .args(["-accel", "tcg,thread=multi", "-smp", "2", "-m", "1024"])
        .args(["-nodefaults", "-no-reboot", "-nographic", "-serial", "stdio"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", &arguments])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut running = Running::start(hardware.qemu, &mut command)?;
    let console = running.child().stdout.take().context("the pipe of qemu")?;
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });

    let begin = Instant::now();
    let mut heard_at = begin;
    let mut listener = Listener::default();
    let trouble = loop {
        match lines.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => {
                heard_at = Instant::now();
                if listener.hear(&line) {
                    break None;
                }
            }
            Err(RecvTimeoutError::Disconnected) => break Some("the machine stopped".to_owned()),
            Err(RecvTimeoutError::Timeout) if stopping() => break Some("interrupted".to_owned()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if heard_at.elapsed() > SILENCE_MAX {
            break Some(format!("nothing was heard for {} s", SILENCE_MAX.as_secs()));
        }
        if begin.elapsed() > BOOT_MAX {
            break Some(format!("not done after {} s", BOOT_MAX.as_secs()));
        }
    };
    Ok(listener.told(trouble))
}

/// Takes the guest's words out of what comes from the console.
#[derive(Default)]
struct Listener {
    told: Told,
    under_way: Option<String>,
    last: Vec<String>,
}

impl Listener {
    /// Whether this was the last word.
    fn hear(&mut self, line: &str) -> bool {
        match Said::read(line) {
            Some(Said::Machine(machine)) => self.told.machine = machine,
            Some(Said::Begins(check)) => self.under_way = Some(check),
            Some(Said::Checked(checked)) => {
                self.under_way = None;
                self.told.checks.push(checked);
            }
            Some(Said::Over) => return true,
            None => {
                if self.last.len() >= LAST_LINES {
                    self.last.remove(0);
                }
                self.last.push(line.trim_end().to_owned());
            }
        }
        false
    }

    fn told(mut self, trouble: Option<String>) -> Told {
        self.told.trouble = trouble.map(|trouble| {
            let during = match &self.under_way {
                Some(check) => format!(" during the check {check}"),
                None if self.told.checks.is_empty() => " before the first check".to_owned(),
                None => String::new(),
            };
            format!(
                "{trouble}{during}; the console's last lines:\n{}",
                self.last.join("\n")
            )
        });
        self.told
    }
}

#[cfg(test)]
mod tests {
    use super::{super::said::Outcome, *};

    fn heard(lines: &[&str]) -> (Told, bool) {
        let mut listener = Listener::default();
        let over = lines.iter().any(|line| listener.hear(line));
        let trouble = (!over).then(|| "the machine stopped".to_owned());
        (listener.told(trouble), over)
    }

    fn checked() -> String {
        Said::Checked(Checked {
            check: "http1".to_owned(),
            outcome: Outcome::Works,
            says: String::new(),
            detail: String::new(),
            seconds: 1,
        })
        .line()
    }

    #[test]
    fn a_boot_that_comes_to_its_end_has_no_trouble() {
        let (told, over) = heard(&["SeaBIOS", &checked(), &Said::Over.line()]);
        assert!(over && told.trouble.is_none());
        assert_eq!(told.checks.len(), 1);
    }

    #[test]
    fn a_panic_is_told_with_the_check_and_the_last_lines() {
        let begins = Said::Begins("grpc".to_owned()).line();
        let (told, over) = heard(&[&checked(), &begins, "[ 9.1] Kernel panic - not syncing: Oops"]);
        assert!(!over);
        let trouble = told.trouble.expect("it stopped");
        assert!(
            trouble.contains("grpc") && trouble.contains("Kernel panic"),
            "{trouble}"
        );
    }
}
