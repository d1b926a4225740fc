//! What systemd is told, asked of a probe that is started as systemd starts it.

#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::{fs, os::unix::net::UnixDatagram, process::Command, time::Duration};

use tempfile::TempDir;
use tests::{
    held::HeldThread,
    needs_probe,
    probe::{self, Probe},
};

/// What stands in for systemd.
struct Supervisor {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Supervisor {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { socket, folder }
    }

    fn start(&self, watchdog: Option<Duration>) -> Probe {
        let config = self.folder.path().join("skyprobe.yaml");
        fs::write(&config, "exe: /nowhere/*\nstatus_socket: off\n").unwrap();
        let mut command = Command::new(probe::binary().unwrap());
        command.args(["run", "--config"]).arg(config);
        command.env("NOTIFY_SOCKET", self.folder.path().join("notify"));
        match watchdog {
            Some(longest) => command.env("WATCHDOG_USEC", longest.as_micros().to_string()),
            None => command.env_remove("WATCHDOG_USEC"),
        };
        command.env_remove("WATCHDOG_PID");
        Probe::spawn(&mut command).unwrap()
    }

    /// The next message's lines.
    fn hear(&self) -> Vec<String> {
        let mut bytes = [0; 1_024];
        let count = self.socket.recv(&mut bytes).unwrap();
        let text = str::from_utf8(bytes.get(..count).unwrap()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn hear_until(&self, line: &str) -> Vec<String> {
        loop {
            let message = self.hear();
            if message.iter().any(|other| other.starts_with(line)) {
                return message;
            }
        }
    }
}

#[test]
fn it_says_when_it_is_ready_and_when_it_stops() {
    needs_probe!();
    let supervisor = Supervisor::new();
    let probe = supervisor.start(None);
    probe.ready().unwrap();
    let first = supervisor.hear();
    assert_eq!(first[0], "READY=1");
    assert!(
        first[1].starts_with("STATUS=Traced 0 processes when it was ready"),
        "{first:?}"
    );
    let words = probe.stderr();
    let line = words.lines().next().unwrap();
    assert!(
        line.contains("skyprobe starts") && line.contains("version=") && line.contains("build="),
        "{words}"
    );
    probe.signal(libc::SIGHUP);
    let reloading = supervisor.hear();
    assert_eq!(reloading[0], "RELOADING=1");
    assert!(reloading[1].starts_with("MONOTONIC_USEC="), "{reloading:?}");
    assert_eq!(supervisor.hear(), ["READY=1"]);
    let ended = probe.stop().unwrap();
    assert!(ended.status.success());
    // Nobody has set a watchdog, so nothing else came.
    assert_eq!(supervisor.hear()[0], "STOPPING=1");
}

#[test]
fn the_watchdog_hears_of_it_only_while_it_is_well() {
    needs_probe!();
    let supervisor = Supervisor::new();
    let probe = supervisor.start(Some(Duration::from_secs(1)));
    probe.ready().unwrap();
    supervisor.hear_until("READY=1");
    for _ in 0..3 {
        supervisor.hear_until("WATCHDOG=1");
    }
    let reader = HeldThread::of(probe.pid(), "reader").unwrap();
    let status = supervisor.hear_until("STATUS=");
    assert!(
        status[0].starts_with("STATUS=the reader thread has not come round"),
        "{status:?}"
    );
    supervisor
        .socket
        .set_read_timeout(Some(Duration::from_secs(3)))
        .unwrap();
    let mut bytes = [0; 1_024];
    let silence = supervisor.socket.recv(&mut bytes);
    assert!(
        silence.is_err(),
        "{silence:?}: {}",
        String::from_utf8_lossy(&bytes)
    );
    drop(reader);
    supervisor.hear_until("WATCHDOG=1");
    assert!(probe.stop().unwrap().status.success());
}
