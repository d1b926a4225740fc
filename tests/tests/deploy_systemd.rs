//! The systemd unit: what systemd says of it, and the probe under systemd, in the unit's sandbox.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::json;
use tests::{
    deploy::{path, run},
    machine::Machine,
    needs_probe,
    probe::binary,
    scene::Scene,
    segment::Segment,
};
use xtask::{debian, step::wait_until};

const UNIT: &str = "skyprobe.service";

/// Where a package puts it.
const INSTALLED: &str = "/lib/systemd/system/skyprobe.service";

/// `CAP_SYS_ADMIN`, `CAP_SYS_PTRACE`, `CAP_DAC_READ_SEARCH` and `CAP_LEASE`.
const RIGHTS: u64 = 1 << 21 | 1 << 19 | 1 << 2 | 1 << 28;

/// What `systemd-analyze security` may find, in tenths: what is left are those rights, the host's processes and its
/// network. docs/deploy.md names it.
const EXPOSURE: u32 = 26;

const PATIENCE: Duration = Duration::from_secs(30);

/// Probes know of one another, and say so.
static TURN: Mutex<()> = Mutex::new(());

/// A machine with the program and its unit, as an installation leaves them.
struct Host {
    machine: Machine,
    _turn: MutexGuard<'static, ()>,
}

/// The program and its unit, where a package puts them.
fn install(machine: &Machine) {
    fs::copy(binary().unwrap(), machine.path("/usr/bin/skyprobe")).unwrap();
    fs::copy(path("systemd").join(UNIT), machine.path(INSTALLED)).unwrap();
}

impl Host {
    /// Told to trace the scene.
    fn new(scene: &Scene, drop_in: &str) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let machine = Machine::with_systemd(&[UNIT]).unwrap();
        install(&machine);
        fs::create_dir(machine.path("/etc/skyprobe")).unwrap();
        let pids = [&scene.front, &scene.back].map(|service| service.target.pid());
        let settings = json!({ "export": "json", "pid": pids });
        fs::write(machine.path("/etc/skyprobe/skyprobe.yaml"), settings.to_string()).unwrap();
        // There is no journal.
        let places = "StandardOutput=append:/run/segments\nStandardError=append:/run/words\n";
        let beside = machine.drop_ins(UNIT);
        fs::create_dir(&beside).unwrap();
        fs::write(beside.join("test.conf"), format!("[Service]\n{places}{drop_in}")).unwrap();
        Self { machine, _turn: turn }
    }

    fn control(&self, verb: &str) {
        if let Err(error) = self.machine.run("systemctl", &[verb, UNIT]) {
            panic!("{error}\n{}", self.words());
        }
    }

    fn property(&self, name: &str) -> String {
        self.machine.property(UNIT, name).unwrap()
    }

    /// All it has said so far.
    fn words(&self) -> String {
        fs::read_to_string(self.machine.path("/run/words")).unwrap_or_default()
    }

    fn wait_for_words(&self, words: &str, times: usize) {
        let heard = || self.words().matches(words).count() >= times;
        assert!(wait_until(PATIENCE, heard), "no {words:?}: {}", self.words());
    }

    fn segments(&self) -> Vec<Segment> {
        let told = fs::read_to_string(self.machine.path("/run/segments")).unwrap_or_default();
        told.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Waits for both segments of a request, the second with the first as its parent.
    fn wait_for_both(&self, front: &str, back: &str) {
        let joined = || {
            let told = self.segments();
            let of = |path: &str| {
                let is_it =
                    |segment: &&Segment| segment.entry().is_some_and(|span| span.path() == Some(path));
                told.iter().find(is_it)
            };
            let (Some(front), Some(back)) = (of(front), of(back)) else {
                return false;
            };
            let mut references = back.spans.iter().flat_map(|span| &span.refs);
            references.any(|it| it.parent_trace_segment_id == front.trace_segment_id)
        };
        assert!(
            wait_until(PATIENCE, joined),
            "{:#?}\n{}",
            self.segments(),
            self.words()
        );
    }
}

#[test]
fn the_unit_is_well_formed_and_its_exposure_is_known() {
    debian::ensure_program("systemd-analyze", "systemd", "to check the unit").unwrap();
    let machine = Machine::without_systemd().unwrap();
    install(&machine);
    let analyze = |arguments: &[&str]| {
        let mut command = machine.command("systemd-analyze");
        // The units beside it are those of a machine that boots.
        command
            .env_remove("SYSTEMD_UNIT_PATH")
            .args(arguments)
            .arg(INSTALLED);
        command
    };
    let output = analyze(&["verify", "--man=no"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // Of other units on the machine it speaks as well.
    let about_us: Vec<&str> = said.lines().filter(|line| line.contains("skyprobe")).collect();
    assert!(output.status.success() && about_us.is_empty(), "{said}");

    let threshold = format!("--threshold={EXPOSURE}");
    let security = run(&mut analyze(&[
        "security",
        "--offline=true",
        "--no-pager",
        &threshold,
    ]))
    .unwrap();
    let overall = security.lines().find(|line| line.contains("Overall")).unwrap();
    println!("{overall}");
}

#[test]
fn the_service_traces_from_within_its_sandbox() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    // A connection that is older than the probe.
    scene.ask("sync", 1).unwrap();
    let host = Host::new(&scene, "");
    host.control("start");
    // `systemctl start` has waited until it is ready, not only until it runs: as long as it says that took.
    let words = host.words();
    let (_, took) = words.split_once("; after ").unwrap();
    let took: u64 = took.split(' ').next().unwrap().parse().unwrap();
    let stamp = |name: &str| host.property(name).parse::<u64>().unwrap();
    let active = stamp("ActiveEnterTimestampMonotonic") - stamp("ExecMainStartTimestampMonotonic");
    assert!(active >= took * 1_000, "active after {active} µs: {words}");
    assert_eq!(host.property("ActiveState"), "active");
    assert!(words.contains("2 processes traced, 0 refused"), "{words}");
    let status = host.property("StatusText");
    assert!(
        status.starts_with("Traced 2 processes when it was ready"),
        "{status}"
    );

    let pid: u32 = host.property("MainPID").parse().unwrap();
    let fields = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        fields
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap()
            .trim()
    };
    assert_eq!(u64::from_str_radix(field("CapBnd:"), 16).unwrap(), RIGHTS);
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1", "2"));
    let user = fs::metadata(format!("/proc/{pid}")).unwrap().uid();
    let of_services = 61_184..=65_519;
    assert!(of_services.contains(&user), "it runs as user {user}");
    println!(
        "its cgroup takes {} bytes of memory",
        host.property("MemoryCurrent")
    );

    let asked = host.machine.run("skyprobe", &["status", "--json"]).unwrap();
    let asked: serde_json::Value = serde_json::from_str(&asked).unwrap();
    assert_eq!(asked["pid"], pid);
    let socket = fs::metadata(host.machine.path("/run/skyprobe/status.sock")).unwrap();
    assert_eq!((socket.uid(), socket.mode() & 0o777), (user, 0o600));

    scene.ask("sync", 2).unwrap();
    host.wait_for_both("/sync/2", &scene.call_of(2).unwrap().path);

    host.control("reload");
    host.wait_for_words("Configuration taken over", 1);
    scene.ask("sync", 3).unwrap();
    host.wait_for_both("/sync/3", &scene.call_of(3).unwrap().path);
    assert_eq!(host.property("MainPID"), pid.to_string());

    host.control("stop");
    assert_eq!(host.property("Result"), "success");
    assert!(!host.machine.path("/run/skyprobe").exists());
    let words = host.words();
    assert!(
        !words.contains("lost") && !words.contains("not enrolled"),
        "{words}"
    );
    assert!(!words.contains("WARN") && !words.contains("ERROR"), "{words}");
}

#[test]
fn a_probe_that_hangs_is_started_anew() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let host = Host::new(&scene, "WatchdogSec=2\nRestartSec=100ms\n");
    host.control("start");
    let pid = host.property("MainPID");
    // For twice the watchdog's time it lives on its own signs.
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(host.property("MainPID"), pid);
    run(Command::new("kill").args(["-STOP", &pid])).unwrap();
    host.wait_for_words("ready", 2);
    assert_eq!(host.property("NRestarts"), "1");
    assert!(wait_until(PATIENCE, || host.property("ActiveState") == "active"));
    scene.ask("sync", 1).unwrap();
    host.wait_for_both("/sync/1", &scene.call_of(1).unwrap().path);
    host.control("stop");
}

#[test]
fn a_service_whose_settings_are_wrong_says_so_and_is_left_alone() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let host = Host::new(&scene, "RestartSec=100ms\n");
    fs::write(host.machine.path("/etc/skyprobe/skyprobe.yaml"), "export: json\n").unwrap();
    let started = host.machine.run("systemctl", &["start", UNIT]);
    assert!(started.is_err());
    assert!(host.words().contains("nothing is selected"), "{}", host.words());
    std::thread::sleep(Duration::from_secs(1));
    let state = ["ActiveState", "NRestarts", "ExecMainStatus"].map(|name| host.property(name));
    assert_eq!(state, ["failed", "0", "2"]);
    assert_eq!(host.words().lines().count(), 1, "{}", host.words());
}
