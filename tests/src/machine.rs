//! A machine to install something on, without a machine: a root of its own over this one's, in a mount namespace that
//! goes with it, and systemd on it if wished.
//!
//! What is written to it lies in memory. Processes, network and kernel are this machine's, so a probe on it sees what it
//! is to trace.
//!
//! Its systemd is none that has booted: it runs as root's own manager, at the place where that of the machine would be,
//! so that `systemctl` finds it. For the kernel that makes no difference: users, rights, namespaces, filters of system
//! calls and the service's cgroup are set up by the same code. Of this machine's units it knows none, lest it starts
//! them, but those that a test names.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Result, ensure};
use tempfile::TempDir;
use xtask::{child::Tied, debian, step::wait_until};

use crate::deploy::run;

/// How long it may take to be there.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// Where the units are that its systemd knows, as the machine sees it.
const UNITS: &str = "/run/units";

/// What was written to it, as overlayfs notes it down.
const WRITTEN: &str = "/run/written";

/// Where control groups may be: version 2 alone, or beside those of version 1.
const TREES: [&str; 4] = [
    "/sys/fs/cgroup",
    "/sys/fs/cgroup/unified",
    "/sys/fs/cgroup/systemd",
    "/sys/fs/cgroup/memory",
];

/// What becomes the machine, with an empty folder and what runs on it.
const BOOT: &str = include_str!("machine/boot.sh");

/// What says that there is a systemd.
const MANAGER: &str = r#"mkdir /run/systemd/system
exec /lib/systemd/systemd --user --unit=basic.target --log-target=console"#;

/// What every process on it has besides.
const ENVIRONMENT: [(&str, &str); 6] = [
    // Folders of services are where the machine's own manager has them: /run and /var/log.
    ("XDG_RUNTIME_DIR", "/run"),
    ("XDG_CONFIG_HOME", "/var"),
    ("XDG_STATE_HOME", "/var"),
    ("SYSTEMD_UNIT_PATH", "/run/units:/usr/lib/systemd/user"),
    // Since PID 1 has another root, all would think that nobody runs services here.
    ("SYSTEMD_IGNORE_CHROOT", "1"),
    ("SYSTEMD_PAGER", "cat"),
];

/// A machine. It ends with this value, and all that was started on it, and nothing of it stays.
pub struct Machine {
    first: Tied,
    has_systemd: bool,
    _place: TempDir,
}

impl Machine {
    /// One where nobody runs services.
    pub fn without_systemd() -> Result<Self> {
        Self::boot("exec sleep infinity", false)
    }

    /// One with systemd, which is to know the units of these names, wherever they are installed later.
    pub fn with_systemd(units: &[&str]) -> Result<Self> {
        debian::ensure_program("systemctl", "systemd", "systemd, to run a service")?;
        let links: String = units
            .iter()
            .map(|unit| format!("ln -s /lib/systemd/system/{unit} {UNITS}/\n"))
            .collect();
        Self::boot(&format!("{links}{MANAGER}"), true)
    }

    fn boot(script: &str, has_systemd: bool) -> Result<Self> {
        let place = tempfile::tempdir()?;
        let folder = place.path().join("machine");
        fs::create_dir(&folder)?;
        let arguments = [
            "--mount".as_ref(),
            "sh".as_ref(),
            "-c".as_ref(),
            BOOT.as_ref(),
            folder.as_os_str(),
            "sh".as_ref(),
            "-c".as_ref(),
            script.as_ref(),
        ];
        let environment = ENVIRONMENT.map(|(name, value)| (name, value.to_owned()));
        // Beside the folder, which something else is laid over.
        let log = place.path().join("log");
        let first = Tied::start("unshare".as_ref(), &arguments, &environment, &log)?;
        let machine = Self {
            first,
            has_systemd,
            _place: place,
        };
        // Not there before it has its own root: what is written until then would be written to this machine.
        let is_up = || {
            machine.path("/run/booted").exists()
                && (!has_systemd || machine.path("/run/systemd/private").exists())
        };
        ensure!(
            wait_until(START_PATIENCE, is_up),
            "the machine does not come up: {}",
            machine.first.output()
        );
        Ok(machine)
    }

    /// A path on it, as this machine reaches it.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.first.pid()))
    }

    /// Where a unit's drop-ins go before it is started.
    pub fn drop_ins(&self, unit: &str) -> PathBuf {
        self.path(&format!("{UNITS}/{unit}.d"))
    }

    /// A program to be run on it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &self.first.pid().to_string()]);
        command.arg(program).envs(ENVIRONMENT).stdin(Stdio::null());
        command
    }

    /// What a program says that is run on it, if it succeeds.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        run(self.command(program).args(arguments))
    }

    /// All that differs from this machine's files, by path: what was written and what was removed.
    pub fn changed(&self) -> Result<BTreeSet<String>> {
        let mut find = Command::new("find");
        find.arg(self.path(WRITTEN))
            .args(["-mindepth", "1", "-printf", "%y /%P\n"]);
        let found = run(&mut find)?;
        let entries = found.lines().filter_map(|line| line.split_once(' '));
        // A folder is there as well if something in it has changed.
        let is_change = |kind: &str, path: &str| kind != "d" || !Path::new(path).exists();
        Ok(entries
            .filter(|(kind, path)| is_change(kind, path))
            .map(|(_, path)| path.to_owned())
            .collect())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // What it has started ends with it, in order if it can be.
        if self.has_systemd && self.run("systemctl", &["exit"]).is_ok() {
            wait_until(START_PATIENCE, || !self.first.running());
        }
        let group = format!("skyprobe-machine-{}", self.first.pid());
        for group in TREES.map(|tree| Path::new(tree).join(&group)) {
            if group.is_dir() {
                let _old_kernels_cannot = fs::write(group.join("cgroup.kill"), "1");
                // A process that has just ended may be in it for a moment.
                wait_until(START_PATIENCE, || remove_groups(&group).is_ok());
            }
        }
    }
}

/// A control group and all below it.
fn remove_groups(group: &Path) -> io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_groups(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}
