//! What an ordinary first process would do: file systems, the loopback network, the end.

use std::{
    ffi::CString,
    fs, io,
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context as _, Result, ensure};
use xtask::vm::said::Machine;

/// What the host has put on the kernel's command line.
pub(crate) struct Parameters {
    cgroups: String,
    /// Empty: all.
    checks: Vec<String>,
}

impl Parameters {
    pub(crate) fn read_from_kernel() -> Result<Self> {
        mount("proc", "/proc", "proc", "")?;
        let line = fs::read_to_string("/proc/cmdline").context("read the kernel's command line")?;
        let value = |name: &str| {
            let found = line.split_whitespace().find_map(|word| word.strip_prefix(name));
            found.unwrap_or_default().to_owned()
        };
        let checks = value("skyprobe.checks=");
        Ok(Self {
            cgroups: value("skyprobe.cgroups="),
            checks: checks
                .split(',')
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
        })
    }

    pub(crate) fn wants(&self, check: &str) -> bool {
        self.checks.is_empty() || self.checks.iter().any(|wanted| wanted == check)
    }
}

/// Makes the place habitable and says what it is.
pub(crate) fn settle(parameters: &Parameters) -> Result<Machine> {
    mount("sys", "/sys", "sysfs", "")?;
    mount("dev", "/dev", "devtmpfs", "")?;
    mount("tmp", "/tmp", "tmpfs", "")?;
    mount("security", "/sys/kernel/security", "securityfs", "")?;
    mount("debug", "/sys/kernel/debug", "debugfs", "")?;
    match parameters.cgroups.as_str() {
        "v2" => mount("cgroup2", "/sys/fs/cgroup", "cgroup2", "")?,
        "hybrid" => {
            mount("cgroup", "/sys/fs/cgroup", "tmpfs", "")?;
            mount("cgroup", "/sys/fs/cgroup/cpu", "cgroup", "cpu,cpuacct")?;
            mount("cgroup2", "/sys/fs/cgroup/unified", "cgroup2", "")?;
        }
        other => anyhow::bail!("unknown cgroups {other:?}"),
    }
    bring_loopback_up().context("bring the loopback interface up")?;
    // Only what is urgent goes to the console, in between our lines; all else is looked at afterwards.
    fs::write("/proc/sys/kernel/printk", "2").context("quieten the kernel")?;
    let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    let chosen = lockdown
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    // SAFETY: the process has one thread yet.
    unsafe {
        std::env::set_var("SKYPROBE_BIN", "/bin/skyprobe");
        std::env::set_var("SKYPROBE_PROGRAMS", "/programs");
    }
    Ok(Machine {
        release: fs::read_to_string("/proc/sys/kernel/osrelease")?
            .trim()
            .to_owned(),
        lockdown: chosen.map_or("silent", |(chosen, _)| chosen).to_owned(),
        cgroups: parameters.cgroups.clone(),
        kprobes: fs::read_to_string("/sys/kernel/debug/kprobes/enabled").is_ok_and(|text| text.trim() == "1"),
    })
}

fn mount(source: &str, at: &str, kind: &str, data: &str) -> Result<()> {
    // Those of the kernel's own file systems are there already, and cannot be made.
    let _there = fs::create_dir_all(at);
    let text = |text: &str| CString::new(text).context("a text without zeros");
    let (source, target, kind_text, data) = (text(source)?, text(at)?, text(kind)?, text(data)?);
    // SAFETY: all five outlive the call.
    let outcome = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind_text.as_ptr(),
            0,
            data.as_ptr().cast(),
        )
    };
    ensure!(
        outcome == 0,
        "mount {kind} at {at}: {}",
        io::Error::last_os_error()
    );
    Ok(())
}

fn bring_loopback_up() -> Result<()> {
    // SAFETY: a plain system call.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0) };
    ensure!(socket >= 0, "{}", io::Error::last_os_error());
    // SAFETY: all zeros is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING)?;
    // SAFETY: the request outlives the call; the socket is ours.
    let outcome = unsafe { libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request) };
    let error = io::Error::last_os_error();
    // SAFETY: it is ours, and nobody else's.
    unsafe { libc::close(socket) };
    ensure!(outcome == 0, "{error}");
    Ok(())
}

/// What the kernel has said since the last time that it says only when something is wrong with it.
pub(crate) fn complaints_of_the_kernel() -> String {
    static READ: AtomicUsize = AtomicUsize::new(0);
    let mut log = vec![0_u8; 1 << 20];
    const SYSLOG_ACTION_READ_ALL: libc::c_int = 3;
    let room = libc::c_int::try_from(log.len()).unwrap_or(libc::c_int::MAX);
    // SAFETY: the buffer outlives the call and is as long as is said.
    let len = unsafe { libc::klogctl(SYSLOG_ACTION_READ_ALL, log.as_mut_ptr().cast(), room) };
    log.truncate(usize::try_from(len).unwrap_or(0));
    let log = String::from_utf8_lossy(&log).into_owned();
    let lines: Vec<&str> = log.lines().collect();
    let read = READ.swap(lines.len(), Ordering::Relaxed).min(lines.len());
    let new = lines.get(read..).unwrap_or_default();
    let wrong = [
        "WARNING:",
        "BUG:",
        "Oops",
        "general protection",
        "rcu_sched",
        "hung_task",
        "blocked for more",
    ];
    let first = new
        .iter()
        .position(|line| wrong.iter().any(|word| line.contains(word)));
    first.map_or_else(String::new, |first| {
        new.iter()
            .skip(first)
            .take(30)
            .copied()
            .collect::<Vec<_>>()
            .join("\n")
    })
}

/// Switches off: a reset, after which qemu is told not to begin again.
pub(crate) fn stop() -> Result<()> {
    // SAFETY: a plain system call.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_AUTOBOOT);
    }
    Err(io::Error::last_os_error()).context("stop the machine")
}
