//! `skyprobe status`, asked of a probe that traces.

#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;
use tests::{
    fake_oap::FakeOap,
    held::HeldThread,
    needs_probe,
    probe::{self, Probe},
    scene::{self, Scene},
    target::Service,
};
use xtask::step::wait_until;

/// `skyprobe status` of the probe at this socket.
fn asking(socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(probe::binary().unwrap());
    command.arg("status").arg("--socket").arg(socket).args(arguments);
    command.stdin(Stdio::null());
    command
}

fn output(mut command: Command) -> Output {
    command.output().unwrap()
}

fn said(command: Command) -> String {
    let output = output(command);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    String::from_utf8(output.stdout).unwrap()
}

fn status(socket: &Path) -> Value {
    probe::status(socket).unwrap()
}

/// What a failed call says.
fn complaint(command: Command) -> String {
    let output = output(command);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn it_tells_what_is_traced_and_what_is_not() {
    needs_probe!();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("probe.sock");
    let scene = Scene::start().unwrap();
    let mut sleeper = Command::new("sleep").arg("1000").spawn().unwrap();
    let sleeper_pid = sleeper.id().to_string();
    let probe = scene
        .trace(&["--pid", &sleeper_pid, "--status-socket", socket.to_str().unwrap()])
        .unwrap();
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    // By way of `front`, `back` serves it: two segments of three spans in all.
    scene.front.get("/sync/1").unwrap();
    probe
        .wait_for("two segments", |segments| segments.len() == 2)
        .unwrap();

    let told = status(&socket);
    assert_eq!(told["pid"], probe.pid());
    assert_eq!(told["unwell"], Value::Null);
    assert_eq!(told["unready"], Value::Null);
    assert_eq!(told["export"]["to"], "json");
    assert_eq!(told["export"]["oap"], Value::Null);
    assert_eq!(told["spans"]["produced"], 3, "{told:#}");
    assert_eq!(told["spans"]["exported"], 3, "{told:#}");
    assert!(told["memory_bytes"].as_u64().unwrap() > 1_000_000);
    let tracing = &told["tracing"];
    assert_eq!(tracing["propagation"], "sw8");
    // The one that `front` has made.
    assert!(tracing["connections"].as_u64().unwrap() >= 1, "{tracing:#}");
    let targets = tracing["targets"].as_array().unwrap();
    let names: Vec<&str> = targets
        .iter()
        .map(|target| target["service"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["back", "front"]);
    let front = &targets[1];
    assert_eq!(front["pid"], scene.front.target.pid());
    assert_eq!(front["language"], "go");
    let version = front["version"].as_str().unwrap();
    assert!(version.trim_start_matches("go").starts_with("1."), "{version}");
    assert!(front["hooks"].as_u64().unwrap() > 5, "{front:#}");
    let parts = front["parts"].as_array().unwrap();
    assert!(
        parts.contains(&"HTTP server".into()) && parts.contains(&"HTTP client".into()),
        "{front:#}"
    );
    let refused = tracing["refused"].as_array().unwrap();
    assert_eq!(refused.len(), 1, "{tracing:#}");
    assert_eq!(refused[0]["pid"], sleeper.id());
    assert!(
        refused[0]["reason"]
            .as_str()
            .unwrap()
            .contains("is not a Go program"),
        "{tracing:#}"
    );
    let programs = tracing["programs"].as_array().unwrap();
    assert!(
        programs.iter().any(|program| program["name"] == "process_exec"),
        "{tracing:#}"
    );

    let text = said(asking(&socket, &[]));
    for words in ["health    ok", "sw8; ", "front", "back", "is not a Go program"] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
    assert!(!text.contains('\x1b'), "{text}");

    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    drop(scene.back);
    let told = status(&socket);
    assert_eq!(
        told["tracing"]["refused"].as_array().unwrap().len(),
        0,
        "{told:#}"
    );
    assert!(probe.stop().unwrap().status.success());
    assert!(!socket.exists(), "it goes with its probe");
}

/// A program that is none of Go's, under a name of its own. It ends with the test.
struct Sleeper(Child);

impl Sleeper {
    fn start(folder: &Path, seconds: &str) -> Self {
        let copy = folder.join(format!("sleep-{seconds}"));
        fs::copy("/bin/sleep", &copy).unwrap();
        // What was just written may be open for writing in a child that another test has forked meanwhile.
        let mut child = None;
        wait_until(probe::SEGMENT_TIMEOUT, || {
            child = Command::new(&copy).arg(seconds).spawn().ok();
            child.is_some()
        });
        Self(child.unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `skyprobe status --pid` of the probe at this socket.
fn why(socket: &Path, pid: u32) -> String {
    said(asking(socket, &["--pid", &pid.to_string()]))
}

#[test]
fn it_says_of_a_process_why_it_is_traced_or_not() {
    needs_probe!();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("probe.sock");
    let config = folder.path().join("skyprobe.yaml");
    let scene = Scene::start().unwrap();
    let program = scene::truth_program().unwrap();
    let program = program.display();
    let copy = folder.path().join("debugger");
    fs::copy(scene::truth_program().unwrap(), &copy).unwrap();
    let left_out = Service::start(&copy, "debugger", 1_000, None).unwrap();
    let [meant, other] = ["1000", "1001"].map(|seconds| Sleeper::start(folder.path(), seconds));
    fs::write(
        &config,
        format!("rules:\n  - exclude: {{exe: debugger}}\n  - include: {{exe: [{program}, sleep-1000]}}\n"),
    )
    .unwrap();
    let probe = Probe::start(&[
        "--config",
        config.to_str().unwrap(),
        "--status-socket",
        socket.to_str().unwrap(),
    ])
    .unwrap();
    scene.front.get("/sync/1").unwrap();
    probe
        .wait_for("two segments", |segments| segments.len() == 2)
        .unwrap();

    let config = config.display();
    let front = why(&socket, scene.front.target.pid());
    for words in [
        "traced      yes\n".to_owned(),
        format!("because     the rule in {config}:3 includes it\n"),
        "service     front\n".to_owned(),
        format!("{}  ", scene.back.host()),
    ] {
        assert!(front.contains(&words), "{words} is not in\n{front}");
    }
    // The call went to `back`, with a header.
    let connection = front
        .lines()
        .find(|line| line.starts_with(scene.back.host()))
        .unwrap();
    assert!(connection.ends_with("yes"), "{front}");
    for (pid, words) in [
        (
            left_out.target.pid(),
            format!("traced      no, it is left out\nbecause     the rule in {config}:2 excludes it\n"),
        ),
        (
            meant.0.id(),
            format!(
                "traced      it is selected, and cannot be traced\nbecause     the rule in {config}:3 includes it, and "
            ),
        ),
        (
            other.0.id(),
            "traced      no, it is not selected\nbecause     nothing that selects fits it, and it is no Go program\n"
                .to_owned(),
        ),
        (
            probe.pid(),
            "because     it is skyprobe itself\n".to_owned(),
        ),
        (4_194_303, "because     there is no such process".to_owned()),
    ] {
        let text = why(&socket, pid);
        assert!(text.contains(&words), "{words} is not in\n{text}");
    }
    let told = said(asking(
        &socket,
        &["--json", "--pid", &left_out.target.pid().to_string()],
    ));
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["fate"], "excluded");

    assert!(probe.stop().unwrap().status.success());
}

#[test]
fn it_tells_what_became_of_a_changed_configuration() {
    needs_probe!();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("probe.sock");
    let config = folder.path().join("skyprobe.yaml");
    let write = |text: &str| fs::write(&config, text).unwrap();
    write("exe: /nowhere/*\n");
    let probe = Probe::start(&[
        "--config",
        config.to_str().unwrap(),
        "--status-socket",
        socket.to_str().unwrap(),
    ])
    .unwrap();
    let configuration = || status(&socket)["tracing"]["configuration"].clone();
    let now = |what: &str, is_so: &dyn Fn(&Value) -> bool| {
        let came = wait_until(probe::SEGMENT_TIMEOUT, || is_so(&configuration()));
        assert!(came, "{what}: {:#}\n{}", configuration(), probe.stderr());
    };
    assert_eq!(configuration()["error"], Value::Null);
    write("exe: /nowhere/*\nroutes: path\nlog: debug\n");
    now("what waits", &|told| {
        told["waits_for_restart"] == serde_json::json!(["routes", "log"])
    });
    write("exec: /nowhere/*\n");
    now("a mistake", &|told| {
        let error = told["error"].as_str().unwrap_or_default();
        error.contains("skyprobe.yaml:1: did you mean \"exe\"?")
    });
    let text = said(asking(&socket, &[]));
    assert!(
        text.contains("NOT taken over") && text.contains("waits for a restart: routes, log"),
        "{text}"
    );
    fs::remove_file(&config).unwrap();
    now("that it is gone", &|told| told["error"] == "the file is gone");
    write("exe: /nowhere/*\n");
    now("that all is well", &|told| {
        told["error"] == Value::Null && told["waits_for_restart"] == serde_json::json!([])
    });
    // Each is said once.
    let words = probe.stderr();
    assert_eq!(words.matches("wait for its next start").count(), 1, "{words}");
    assert_eq!(words.matches("the file is gone").count(), 1, "{words}");
    assert!(probe.stop().unwrap().status.success());
}

#[test]
fn it_says_why_there_is_nothing_to_say() {
    needs_probe!();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("probe.sock");
    let at = socket.to_str().unwrap();
    let words = complaint(asking(&socket, &[]));
    assert!(
        words.starts_with(&format!("skyprobe: no probe answers at {at}")) && words.contains("--socket"),
        "{words}"
    );

    let run = ["run", "--exe=/nowhere/*", "--status-socket", at];
    let first = Probe::spawn(Command::new(probe::binary().unwrap()).args(run)).unwrap();
    first.ready().unwrap();
    let second = Probe::spawn(Command::new(probe::binary().unwrap()).args(run)).unwrap();
    second.ready().unwrap();
    let words = second.stderr();
    assert!(
        words.contains("another skyprobe answers at") && words.contains("--status-socket"),
        "{words}"
    );
    assert!(second.stop().unwrap().status.success());
    assert_eq!(status(&socket)["pid"], first.pid(), "the first keeps its own");

    // Killed, it leaves its socket behind, and the next one takes its place.
    first.signal(libc::SIGKILL);
    assert!(!first.finish().unwrap().status.success());
    assert!(socket.exists());
    assert!(complaint(asking(&socket, &[])).contains("no probe answers"));
    let third = Probe::spawn(Command::new(probe::binary().unwrap()).args(run)).unwrap();
    third.ready().unwrap();
    assert_eq!(status(&socket)["pid"], third.pid());

    // Whoever is not its user is told so.
    let (_public, copy) = probe::for_everybody().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    nobody
        .arg(copy)
        .args(["status", "--socket", at])
        .stdin(Stdio::null());
    let words = complaint(nobody);
    assert!(words.contains("for its probe's user alone"), "{words}");
    assert!(third.stop().unwrap().status.success());
}

#[test]
fn it_is_told_of_oap_and_of_a_thread_that_is_busy() {
    needs_probe!();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("probe.sock");
    let mut oap = FakeOap::start();
    let mut command = Command::new(probe::binary().unwrap());
    command.args(["run", "--exe=/nowhere/*", "--oap", &oap.address()]);
    command.arg("--status-socket").arg(&socket);
    let probe = Probe::spawn(&mut command).unwrap();
    probe.ready().unwrap();
    probe
        .wait_for_words("OAP connected", probe::SEGMENT_TIMEOUT)
        .unwrap();
    let told = status(&socket);
    assert_eq!(told["export"]["to"], "skywalking");
    assert_eq!(
        told["export"]["oap"]["connected"],
        oap.address(),
        "{:#}",
        told["export"]
    );
    oap.kill();

    let targets = HeldThread::of(probe.pid(), "targets").unwrap();
    let told = status(&socket);
    assert_eq!(told["tracing"], Value::Null);
    let text = said(asking(&socket, &[]));
    assert!(text.contains("the thread that knows them is busy"), "{text}");
    drop(targets);
    assert!(status(&socket)["tracing"].is_object());
    assert!(probe.stop().unwrap().status.success());
}

#[test]
fn it_watches_until_nobody_reads() {
    needs_probe!();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("probe.sock");
    let mut command = Command::new(probe::binary().unwrap());
    command
        .args(["run", "--exe=/nowhere/*", "--status-socket"])
        .arg(&socket);
    let probe = Probe::spawn(&mut command).unwrap();
    probe.ready().unwrap();
    let mut watching = asking(&socket, &["--watch", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut uptime = || {
        let told: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        told["uptime_s"].as_u64().unwrap()
    };
    let first = uptime();
    uptime();
    assert!(uptime() > first);
    drop(lines);
    assert!(watching.wait().unwrap().success());

    // One that ends is said, and the next one is watched.
    let watching = asking(&socket, &["--watch"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut watching = watching.unwrap();
    let mut out = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut heads = || {
        let head = out
            .by_ref()
            .find(|line| line.as_ref().unwrap().starts_with("skyprobe "));
        head.unwrap().unwrap()
    };
    heads();
    let pid = probe.pid();
    assert!(probe.stop().unwrap().status.success());
    let mut missed = String::new();
    let mut said = BufReader::new(watching.stderr.take().unwrap());
    said.read_line(&mut missed).unwrap();
    assert!(
        missed.starts_with(&format!("no probe answers at {}", socket.display())),
        "{missed}"
    );
    let probe = Probe::spawn(&mut command).unwrap();
    let next = format!("process {},", probe.pid());
    let gone = format!("process {pid},");
    loop {
        let head = heads();
        if head.contains(&next) {
            break;
        }
        assert!(head.contains(&gone), "{head}");
    }
    assert!(probe.stop().unwrap().status.success());
    said.read_line(&mut missed).unwrap();
    // Nobody reads it any more while there is nothing to say.
    drop(out);
    assert!(watching.wait().unwrap().success());
}
