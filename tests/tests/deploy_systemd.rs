//! The systemd unit: what systemd says of it, and the probe under systemd, in the unit's sandbox.

#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::{fs, os::unix::fs::MetadataExt as _, process::Command, time::Duration};

use serde_json::json;
use tests::{
    deploy::{path, run},
    fake_oap::{FakeOap, FakeSettings},
    machine::Machine,
    needs_probe,
    probe::binary,
    scene::Scene,
    systemd::{Host, PATIENCE, SETTINGS, UNIT},
};
use xtask::{debian, step::wait_until};

/// Where a package puts it.
const INSTALLED: &str = "/lib/systemd/system/skyprobe.service";

/// `CAP_SYS_ADMIN`, `CAP_SYS_PTRACE`, `CAP_DAC_READ_SEARCH` and `CAP_LEASE`.
const RIGHTS: u64 = 1 << 21 | 1 << 19 | 1 << 2 | 1 << 28;

/// What `systemd-analyze security` may find, in tenths: what is left are those rights, the host's processes and its
/// network. docs/deploy.md names it.
const EXPOSURE: u32 = 26;

/// The program and its unit, where a package puts them.
fn install(machine: &Machine) {
    fs::copy(binary().unwrap(), machine.path("/usr/bin/skyprobe")).unwrap();
    fs::copy(path("systemd").join(UNIT), machine.path(INSTALLED)).unwrap();
}

/// A host where it is installed, told to trace the scene.
fn host(scene: &Scene, drop_in: &str) -> Host {
    let host = Host::new(drop_in).unwrap();
    install(&host.machine);
    fs::create_dir(host.machine.path("/etc/skyprobe")).unwrap();
    host.choose(scene).unwrap();
    host
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
    let host = host(&scene, "");
    host.control("start").unwrap();
    // `systemctl start` has waited until it is ready, not only until it runs: as long as it says that took.
    let words = host.words();
    let (_, took) = words.split_once("; after ").unwrap();
    let took: u64 = took.split(' ').next().unwrap().parse().unwrap();
    let stamp = |name: &str| host.property(name).unwrap().parse::<u64>().unwrap();
    let active = stamp("ActiveEnterTimestampMonotonic") - stamp("ExecMainStartTimestampMonotonic");
    assert!(active >= took * 1_000, "active after {active} µs: {words}");
    assert_eq!(host.property("ActiveState").unwrap(), "active");
    assert!(words.contains("2 processes traced, 0 refused"), "{words}");
    let status = host.property("StatusText").unwrap();
    assert!(
        status.starts_with("Traced 2 processes when it was ready"),
        "{status}"
    );

    let pid: u32 = host.property("MainPID").unwrap().parse().unwrap();
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
        host.property("MemoryCurrent").unwrap()
    );

    let asked = host.machine.run("skyprobe", &["status", "--json"]).unwrap();
    let asked: serde_json::Value = serde_json::from_str(&asked).unwrap();
    assert_eq!(asked["pid"], pid);
    let socket = fs::metadata(host.machine.path("/run/skyprobe/status.sock")).unwrap();
    assert_eq!((socket.uid(), socket.mode() & 0o777), (user, 0o600));

    host.traces(&scene, 2).unwrap();

    host.control("reload").unwrap();
    host.wait_for_words("Configuration taken over", 1).unwrap();
    host.traces(&scene, 3).unwrap();
    assert_eq!(host.property("MainPID").unwrap(), pid.to_string());

    host.control("stop").unwrap();
    assert_eq!(host.property("Result").unwrap(), "success");
    assert!(!host.machine.path("/run/skyprobe").exists());
    let words = host.words();
    assert!(
        !words.contains("lost") && !words.contains("not enrolled"),
        "{words}"
    );
    // Somebody else's probe is no business of this one.
    let is_complaint = |line: &&str| line.contains("WARN") || line.contains("ERROR");
    let complaint = words
        .lines()
        .find(|line| is_complaint(line) && !line.contains("Another skyprobe"));
    assert_eq!(complaint, None);
}

#[test]
fn a_probe_that_hangs_is_started_anew() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let host = host(&scene, "WatchdogSec=2\nRestartSec=100ms\n");
    host.control("start").unwrap();
    let pid = host.property("MainPID").unwrap();
    // For twice the watchdog's time it lives on its own signs.
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(host.property("MainPID").unwrap(), pid);
    run(Command::new("kill").args(["-STOP", &pid])).unwrap();
    host.wait_for_words("ready", 2).unwrap();
    assert_eq!(host.property("NRestarts").unwrap(), "1");
    assert!(wait_until(PATIENCE, || host.property("ActiveState").unwrap() == "active"));
    host.traces(&scene, 1).unwrap();
    host.control("stop").unwrap();
}

#[test]
fn a_service_whose_settings_are_wrong_says_so_and_is_left_alone() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let host = host(&scene, "RestartSec=100ms\n");
    fs::write(host.machine.path(SETTINGS), "export: json\n").unwrap();
    let started = host.machine.run("systemctl", &["start", UNIT]);
    assert!(started.is_err());
    assert!(host.words().contains("nothing is selected"), "{}", host.words());
    std::thread::sleep(Duration::from_secs(1));
    let state = ["ActiveState", "NRestarts", "ExecMainStatus"].map(|name| host.property(name).unwrap());
    assert_eq!(state, ["failed", "0", "2"]);
    assert_eq!(host.words().lines().count(), 1, "{}", host.words());
}

/// Anybody's group that every Debian has.
const GROUP: &str = "games";

#[test]
fn a_token_is_followed_as_long_as_the_service_may_read_it() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let oap = FakeOap::start_with(FakeSettings {
        token: Some("first".into()),
        ..FakeSettings::default()
    });
    let host = host(&scene, &format!("SupplementaryGroups={GROUP}\n"));
    let file = "/etc/skyprobe/token";
    let write = |token: &str| fs::write(host.machine.path(file), token).unwrap();
    write("first");
    let open_to = |group: &str, mode: &str| {
        host.machine
            .run("chown", &[&format!("root:{group}"), file])
            .unwrap();
        host.machine.run("chmod", &[mode, file]).unwrap();
    };
    open_to(GROUP, "0640");
    host.choose_with(
        &scene,
        json!({ "oap": oap.address(), "authentication_file": file, "heartbeat_s": 1 }),
    )
    .unwrap();
    host.control("start").unwrap();
    oap.wait("the services under the first token", |received| {
        !received.properties.is_empty()
    });

    write("second");
    oap.change(|settings| settings.token = Some("second".into()));
    host.wait_for_words("The authentication token has changed", 1)
        .unwrap();
    oap.wait("a call with the second", |received| {
        received.tokens.iter().flatten().any(|it| it == "second")
    });

    // What was read holds on where the file is closed, even to who could read it at the start.
    open_to("root", "0600");
    host.wait_for_words("Only the start may read the authentication token", 1)
        .unwrap();
    assert_eq!(host.property("ActiveState").unwrap(), "active");
    host.control("stop").unwrap();
}

#[test]
fn what_it_is_to_write_needs_a_place() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let host = host(&scene, "LogsDirectory=skyprobe\n");
    let choose = |output: &str| {
        let settings = json!({ "export": "json", "output": output });
        host.choose_with(&scene, settings).unwrap();
    };
    choose("/var/segments");
    assert!(host.control("start").is_err());
    assert!(host.words().contains("Read-only file system"), "{}", host.words());
    let output = "/var/log/skyprobe/segments";
    choose(output);
    host.control("restart").unwrap();
    scene.ask("sync", 1).unwrap();
    let told = || fs::read_to_string(host.machine.path(output)).unwrap_or_default();
    assert!(
        wait_until(PATIENCE, || told().contains("/sync/1")),
        "{}",
        host.words()
    );
    host.control("stop").unwrap();
}
