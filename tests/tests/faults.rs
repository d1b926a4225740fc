//! Bad input and things that break: the message is read, and the traced programs never notice.

#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use tempfile::TempDir;
use tests::{
    bpf,
    client::Connection,
    needs_probe,
    probe::{self, Probe},
    scene::{Scene, truth_program},
    target::{Go, GoBuild, Load, Service, Target},
};

// === Messages ===

/// How a command of the probe ended, and what it said.
struct Said {
    code: Option<i32>,
    stderr: String,
    stdout: String,
}

impl Said {
    #[track_caller]
    fn of(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Nothing here has a reason to take long.
        for _ in 0..2000 {
            if child.try_wait().unwrap().is_some() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let hangs = child.try_wait().unwrap().is_none();
        if hangs {
            child.kill().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let said = Self {
            code: output.status.code(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
        };
        assert!(!hangs, "does not end:\n{}", said.stderr);
        said
    }

    /// It refused, in words of which one holds all of these.
    #[track_caller]
    fn refuses(&self, words: &[&str]) {
        assert!(
            !matches!(self.code, None | Some(0 | 101)),
            "code {:?}:\n{}",
            self.code,
            self.stderr
        );
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        assert_eq!(self.stdout, "");
        let line = self.stderr.lines().find(|line| {
            let line = line.to_lowercase();
            words.iter().all(|word| line.contains(&word.to_lowercase()))
        });
        assert!(line.is_some(), "no line has all of {words:?}:\n{}", self.stderr);
        assert!(
            !self.stderr.lines().any(|line| line.starts_with("ready")),
            "{}",
            self.stderr
        );
    }
}

fn run(arguments: &[&str]) -> Command {
    let mut command = Command::new(probe::binary().unwrap());
    command.args(["run", "--export", "json"]).args(arguments);
    command
}

#[track_caller]
fn run_refuses(arguments: &[&str], words: &[&str]) {
    Said::of(&mut run(arguments)).refuses(words);
}

/// A process that is no Go program.
fn not_go() -> Target {
    Target::start(Path::new("/bin/sleep"), &["1000"]).unwrap()
}

#[test]
fn options_that_make_no_sense() {
    run_refuses(&["--pid", "1", "--no-such-option"], &["--no-such-option"]);
    run_refuses(&["--pid", "seven"], &["seven", "--pid"]);
    run_refuses(&["--pid", "0"], &["--pid"]);
    run_refuses(&["--port", "70000"], &["70000", "--port"]);
    run_refuses(&["--exe", "a[b", "--propagate", "sw8"], &["a[b"]);
    run_refuses(&["--pid", "1", "--propagate", "b3"], &["b3"]);
    run_refuses(&["--pid", "1", "--routes", "maybe"], &["maybe"]);
    let export = ["run", "--pid", "1", "--export", "xml"];
    Said::of(Command::new(probe::binary().unwrap()).args(export)).refuses(&["xml"]);
    run_refuses(&["--pid", "1", "--export", "json"], &["--export", "once"]);
    run_refuses(&[], &["--pid", "--exe"]);
}

#[test]
fn configuration_files_that_make_no_sense() {
    let folder = tempfile::tempdir().unwrap();
    let file = |text: &str| {
        let path = folder.path().join("skyprobe.yaml");
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    run_refuses(
        &["--pid", "1", "--config", "/no/such/file.yaml"],
        &["/no/such/file.yaml"],
    );
    run_refuses(
        &["--pid", "1", "--config", folder.path().to_str().unwrap()],
        &[folder.path().to_str().unwrap()],
    );
    run_refuses(
        &["--pid", "1", "--config", &file("servce: shop\n")],
        &["servce", "skyprobe.yaml"],
    );
    run_refuses(
        &["--pid", "1", "--config", &file("service: [\n")],
        &["skyprobe.yaml"],
    );
    run_refuses(
        &["--pid", "1", "--config", &file("\u{0}\u{1}")],
        &["skyprobe.yaml"],
    );
    run_refuses(
        &["--pid", "1", "--config", &file("propagate: sometimes\n")],
        &["sometimes", "skyprobe.yaml"],
    );
}

#[test]
fn processes_that_cannot_be_traced() {
    needs_probe!();
    // One that is no more.
    let mut gone = Target::start(Path::new("/bin/true"), &[]).unwrap();
    let pid = gone.pid().to_string();
    gone.wait().unwrap();
    run_refuses(&["--pid", &pid], &[&pid, "process"]);

    let sleep = not_go();
    run_refuses(
        &["--pid", &sleep.pid().to_string()],
        &[&sleep.pid().to_string(), "not a go program"],
    );

    // A kernel thread has no program at all.
    run_refuses(&["--pid", "2"], &["2"]);
}

/// A copy of a Go program with some bytes changed, and the folder it lies in.
fn changed_program(change: impl FnOnce(&mut Vec<u8>)) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed");
    let mut bytes = fs::read(truth_program().unwrap()).unwrap();
    change(&mut bytes);
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    (folder, path)
}

/// Where the build info keeps the version, which it does once.
fn version_place(bytes: &[u8]) -> usize {
    let magic = b"\xff Go buildinf:";
    let found = bytes.windows(magic.len()).position(|window| window == magic);
    // A header of 32 bytes, the length, the text.
    found.unwrap() + 33
}

#[test]
fn a_go_that_is_too_old() {
    needs_probe!();
    let version = Go::system().unwrap().version;
    let (_folder, program) = changed_program(|bytes| {
        let at = version_place(bytes);
        assert_eq!(&bytes[at..at + version.len()], version.as_bytes());
        bytes[at..at + 6].copy_from_slice(b"go1.12");
    });
    let service = Service::start(&program, "old", 0, None).unwrap();
    run_refuses(&["--pid", &service.target.pid().to_string()], &["go1.12"]);
}

#[test]
fn a_go_that_is_too_new_is_verified_or_refused() {
    needs_probe!();
    let version = Go::system().unwrap().version;
    let newer = |bytes: &mut Vec<u8>| {
        let at = version_place(bytes);
        assert_eq!(&bytes[at..at + version.len()], version.as_bytes());
        bytes[at..at + 6].copy_from_slice(b"go1.99");
    };
    // With DWARF the offsets can be known.
    let (_folder, program) = changed_program(newer);
    let service = Service::start(&program, "new", 0, None).unwrap();
    let probe = Probe::of_pids(&[service.target.pid()], &[]).unwrap();
    service.get("/sync/1").unwrap();
    let segment = probe.segment_of("Entry", "/sync/1").unwrap();
    assert_eq!(segment.spans.len(), 2);
    probe.stop().unwrap();

    // Without, they are tried on the first requests or refused; either way the spans are right or absent.
    let folder = tempfile::tempdir().unwrap();
    let stripped = GoBuild::new("net_http")
        .flag("-ldflags=-s -w")
        .build(&Go::system().unwrap())
        .unwrap();
    let program = folder.path().join("stripped");
    let mut bytes = fs::read(stripped).unwrap();
    newer(&mut bytes);
    fs::write(&program, bytes).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let service = Service::start(&program, "newer", 0, None).unwrap();
    let mut probe = Probe::spawn(&mut run(&["--pid", &service.target.pid().to_string()])).unwrap();
    if probe.ready().is_ok() {
        for id in 1..=50 {
            service.get(&format!("/sync/{id}")).unwrap();
        }
        let segment = probe.segment_of("Entry", "/sync/50").unwrap();
        assert_eq!(segment.entry().unwrap().tag("http.status_code"), Some("200"));
        probe.stop().unwrap();
    } else {
        assert!(!probe.runs(), "neither ready nor ended");
        assert!(probe.stderr().contains("1.99"), "{}", probe.stderr());
    }
}

#[test]
fn corrupted_binaries_are_inspected_without_harm() {
    let whole = fs::read(truth_program().unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("corrupted");
    let inspect = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let said = Said::of(Command::new(probe::binary().unwrap()).arg("inspect").arg(&path));
        assert!(
            !matches!(said.code, None | Some(101)) && !said.stderr.contains("panicked"),
            "{}",
            said.stderr
        );
        said
    };
    assert_eq!(inspect(&whole).code, Some(0));

    // Cut off: what is left is no program or is told apart.
    for part in [
        0,
        1,
        4,
        63,
        64,
        100,
        4096,
        whole.len() / 3,
        whole.len() / 2,
        whole.len() - 1,
    ] {
        let said = inspect(&whole[..part]);
        if part < 4096 {
            assert_ne!(said.code, Some(0), "{part} bytes: {}{}", said.stdout, said.stderr);
            assert!(
                said.stderr.contains("corrupted"),
                "names the file: {}",
                said.stderr
            );
        }
    }
    // One byte after the other of the headers, and every so often one of the rest.
    for at in (0..512)
        .step_by(3)
        .chain((512..whole.len()).step_by(whole.len() / 60))
    {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        inspect(&bytes);
    }
    let said = inspect(b"#!/bin/sh\necho hello\n");
    assert_ne!(said.code, Some(0));
}

#[test]
fn a_running_program_with_a_corrupted_header() {
    needs_probe!();
    // The kernel does not look at sections: the program runs, only its description is broken.
    for garbage in [u64::MAX - 7, 0, 64] {
        let (_folder, program) =
            changed_program(|bytes| bytes[40..48].copy_from_slice(&garbage.to_le_bytes()));
        let service = Service::start(&program, "corrupted", 0, None).unwrap();
        let mut probe = Probe::spawn(&mut run(&["--pid", &service.target.pid().to_string()])).unwrap();
        if probe.ready().is_ok() {
            service.get("/sync/1").unwrap();
            probe.segment_of("Entry", "/sync/1").unwrap();
            probe.stop().unwrap();
        } else {
            assert!(!probe.runs(), "neither ready nor ended");
            let words = probe.stderr();
            assert!(
                words.contains(program.to_str().unwrap()) || words.contains("corrupted"),
                "{words}"
            );
            assert!(!words.contains("panicked"), "{words}");
        }
        assert_eq!(service.get("/leaf/2").unwrap().status, 200);
    }
}

#[test]
fn one_bad_target_does_not_stop_the_others() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let sleep = not_go();
    let (good, bad) = (scene.front.target.pid(), sleep.pid());
    let probe = Probe::of_pids(&[bad, good], &[]).unwrap();
    assert!(probe.stderr().contains(&bad.to_string()), "{}", probe.stderr());
    scene.ask("sync", 1).unwrap();
    probe.segment_of("Entry", "/sync/1").unwrap();
}

#[test]
fn without_root() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let (_folder, program) = probe::for_everybody().unwrap();
    let pid = scene.front.target.pid().to_string();
    let said = Said::of(
        Command::new(program)
            .args(["run", "--export", "json", "--pid", &pid])
            .uid(65534)
            .gid(65534),
    );
    said.refuses(&["root"]);
}

#[test]
fn without_a_capability() {
    needs_probe!();
    const CAP_SYS_ADMIN: libc::c_ulong = 21;
    let scene = Scene::start().unwrap();
    let mut command = run(&["--pid", &scene.front.target.pid().to_string()]);
    // SAFETY: between fork and exec the closure makes a system call only.
    unsafe {
        command.pre_exec(
            move || match libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_ADMIN, 0, 0, 0) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            },
        );
    }
    Said::of(&mut command).refuses(&["CAP_SYS_ADMIN"]);
}

// === Ends ===

#[test]
fn what_is_open_at_the_end_is_counted() {
    needs_probe!();
    let lost = |ended: &probe::Ended, words: &str| assert!(ended.stderr.contains(words), "{}", ended.stderr);
    let slow = |scene: &Scene, id: u64| {
        let mut client = Connection::open(scene.front.host()).unwrap();
        client
            .send(format!("GET /slow/{id}?ms=60000 HTTP/1.1\r\nHost: front\r\n\r\n").as_bytes())
            .unwrap();
        client
    };

    // The probe stops; one of the open ones has called a process that does not answer.
    let scene = Scene::start().unwrap();
    let probe = scene.trace(&[]).unwrap();
    scene.ask("leaf", 1).unwrap();
    probe.segment_of("Entry", "/leaf/1").unwrap();
    let _waits = slow(&scene, 2);
    scene.back.target.signal(libc::SIGSTOP);
    let mut calls = Connection::open(scene.front.host()).unwrap();
    calls
        .send(b"GET /sync/3 HTTP/1.1\r\nHost: front\r\n\r\n")
        .unwrap();
    thread::sleep(Duration::from_millis(300));
    let ended = probe.stop().unwrap();
    scene.back.target.signal(libc::SIGCONT);
    lost(&ended, "lost in user space: open_at_end 3 spans");
    let account = ended.stderr.find(" exported").unwrap();
    assert!(
        ended.stderr.find("detaching").unwrap() > account,
        "{}",
        ended.stderr
    );

    // The process dies.
    let scene = Scene::start().unwrap();
    let probe = scene.trace(&[]).unwrap();
    scene.ask("leaf", 1).unwrap();
    probe.segment_of("Entry", "/leaf/1").unwrap();
    let _waits = slow(&scene, 2);
    thread::sleep(Duration::from_millis(300));
    scene.front.target.signal(libc::SIGKILL);
    probe
        .wait_for_words("Process let go", Duration::from_secs(10))
        .unwrap();
    lost(&probe.stop().unwrap(), "lost in user space: open_at_end 1 span\n");
}

#[test]
fn a_target_that_exits_while_the_probe_attaches() {
    needs_probe!();
    let program = truth_program().unwrap();
    for delay_ms in (0..40).step_by(4) {
        let service = Service::start(&program, "brief", 0, None).unwrap();
        let pid = service.target.pid().to_string();
        let probe = Probe::spawn(&mut run(&["--pid", &pid])).unwrap();
        thread::sleep(Duration::from_millis(delay_ms));
        drop(service);
        // It may have been ready or not, and then go on or end: all is well but to hang or to break.
        probe.signal(libc::SIGTERM);
        let ended = probe.finish().unwrap();
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
        assert_ne!(ended.status.code(), Some(101));
    }
}

#[test]
fn killed_under_load_no_request_fails() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let program = truth_program().unwrap();
    let load = Load::start(&program, &scene.front, 500, 60.0, "").unwrap();
    for _ in 0..3 {
        let mut probe = scene.trace(&[]).unwrap();
        probe
            .wait_for("the first segments", |segments| segments.len() > 200)
            .unwrap();
        probe.signal(libc::SIGKILL);
        while probe.runs() {
            thread::sleep(Duration::from_millis(1));
        }
    }
    let summary = load.enough().unwrap();
    assert_eq!(summary.failed, 0, "{}", summary.first_error);

    // The next start works and sees all.
    let probe = scene.trace(&[]).unwrap();
    scene.ask("sync", 900_001).unwrap();
    let segment = probe.segment_of("Entry", "/sync/900001").unwrap();
    assert_eq!(segment.spans.len(), 2);
    let call = scene.call_of(900_001).unwrap();
    let back = probe.segment_of("Entry", &call.path).unwrap();
    assert_eq!(back.trace_id, segment.trace_id, "propagation works again");
}

#[test]
fn attached_and_detached_under_load_no_request_fails() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let load = Load::start(&truth_program().unwrap(), &scene.front, 500, 60.0, "").unwrap();
    for _ in 0..3 {
        let probe = scene.trace(&["--propagate", "sw8,w3c"]).unwrap();
        probe
            .wait_for("the first segments", |segments| segments.len() > 200)
            .unwrap();
        let ended = probe.stop().unwrap();
        assert!(ended.status.success(), "{}", ended.stderr);
    }
    let summary = load.enough().unwrap();
    assert_eq!(summary.failed, 0, "{}", summary.first_error);
}

/// How full its maps are. Connections are remembered when they are gone, up to their map's size.
fn entries_of(probe: &Probe) -> BTreeMap<String, usize> {
    let mut entries = bpf::map_entries(probe.pid()).unwrap();
    entries.remove("CONNECTIONS");
    entries
}

#[test]
fn what_load_leaves_in_the_maps_is_bounded() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let probe = scene.trace(&[]).unwrap();
    let program = truth_program().unwrap();
    let round = || {
        let summary = Load::start(&program, &scene.front, 600, 3.0, "")
            .unwrap()
            .finish()
            .unwrap();
        assert_eq!(summary.failed, 0, "{}", summary.first_error);
        scene.records().unwrap();
        thread::sleep(Duration::from_millis(500));
        entries_of(&probe)
    };
    let first = round();
    let second = round();
    println!("{first:?}\n{second:?}");
    for (name, entries) in &second {
        let before = first.get(name).copied().unwrap_or(0);
        assert!(*entries <= before + 100, "{name} grew from {before} to {entries}");
    }
}

#[test]
fn a_program_with_an_agent_of_its_own_is_left_to_it() {
    needs_probe!();
    let program = GoBuild::new("agent").build(&Go::system().unwrap()).unwrap();
    let agent = Target::start(&program, &[]).unwrap();
    let host = agent.address().unwrap();
    run_refuses(
        &["--pid", &agent.pid().to_string()],
        &[&agent.pid().to_string(), "go2sky"],
    );

    // Beside others it does not hinder them.
    let scene = Scene::start().unwrap();
    let probe = Probe::of_pids(&[agent.pid(), scene.front.target.pid()], &[]).unwrap();
    assert!(probe.stderr().contains("go2sky"), "{}", probe.stderr());
    assert_eq!(tests::client::get(&host, "/").unwrap().text(), "span 1\n");
    scene.ask("sync", 1).unwrap();
    probe.segment_of("Entry", "/sync/1").unwrap();
    let ended = probe.stop().unwrap();
    assert!(
        ended.segments.iter().all(|segment| segment.service == "front"),
        "{:#?}",
        ended.segments
    );
}
