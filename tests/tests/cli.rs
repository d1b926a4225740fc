//! The command line as a user meets it: every wrong call gets one sentence that says what is wrong and what to do,
//! and a code that scripts can tell apart.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests panic, so that the line is shown"
)]

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use tests::{
    needs_probe,
    probe::{self, Probe},
    scene::truth_program,
    target::Service,
};

/// The call was wrong.
const USAGE: i32 = 2;
/// The call was right and could not be carried out.
const FAILURE: i32 = 1;
const NOBODY: u32 = 65_534;

/// The program without anything of our own environment that could change its mind.
fn skyprobe(arguments: &[&str]) -> Command {
    let mut command = Command::new(probe::binary().unwrap());
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap()
}

/// What a failed call says, which must be one line on stderr and nothing on stdout.
fn complaint(command: &mut Command, code: i32) -> String {
    let output = output(command);
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{words}");
    assert!(
        output.stdout.is_empty(),
        "{:?}",
        String::from_utf8_lossy(&output.stdout)
    );
    let last = words.lines().last().unwrap_or_default();
    let sentence = last
        .strip_prefix("skyprobe: ")
        .unwrap_or_else(|| panic!("{words:?}"));
    if code == USAGE {
        assert_eq!(words.lines().count(), 1, "{words}");
    }
    sentence.to_owned()
}

fn wrong_call(arguments: &[&str]) -> String {
    complaint(&mut skyprobe(arguments), USAGE)
}

fn failed_call(arguments: &[&str]) -> String {
    complaint(&mut skyprobe(arguments), FAILURE)
}

/// Runs the call with a configuration file that holds `text`.
fn with_file(text: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("skyprobe.yaml");
    fs::write(&path, text).unwrap();
    let sentence = wrong_call(&["run", "--all-go", "--config", path.to_str().unwrap()]);
    sentence.replace(path.to_str().unwrap(), "FILE")
}

struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        Self(Command::new("sleep").arg("1000").spawn().unwrap())
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn options_and_commands_that_do_not_exist() {
    assert_eq!(
        wrong_call(&["run", "--prot", "8080"]),
        "unknown option --prot, did you mean --port?; see `skyprobe --help`"
    );
    assert_eq!(
        wrong_call(&["trace"]),
        "unknown command \"trace\"; see `skyprobe --help`"
    );
    assert_eq!(
        wrong_call(&[]),
        "say what to do: run, status, check, inspect or doctor; see `skyprobe --help`"
    );
    assert_eq!(
        wrong_call(&["inspect"]),
        "missing argument <PATH|PID>; see `skyprobe --help`"
    );
}

#[test]
fn nothing_selected() {
    assert_eq!(
        wrong_call(&["run", "--oap", "127.0.0.1:11800"]),
        "nothing is selected: say what to trace with --pid, --exe, --port, --all-go or a rule that includes"
    );
}

#[test]
fn values_that_are_not_allowed() {
    assert_eq!(
        wrong_call(&["run", "--port", "0"]),
        "\"0\" in --port is not a TCP port: a whole number from 1 to 65535"
    );
    assert_eq!(
        wrong_call(&["run", "--pid", "-3"]),
        "unknown option -3; see `skyprobe --help`",
    );
    let mut command = skyprobe(&["run", "--all-go"]);
    command.env("SW_AGENT_COLLECTOR_BACKEND_SERVICES", "oap");
    assert_eq!(
        complaint(&mut command, USAGE),
        "\"oap\" in SW_AGENT_COLLECTOR_BACKEND_SERVICES in the environment is not a list of addresses of the form \
        host:port, with commas between them"
    );
    assert_eq!(
        with_file("export: xml"),
        "\"xml\" in export in FILE:1 is not one of: text | json | skywalking"
    );
}

#[test]
fn configuration_files_that_cannot_be_used() {
    assert_eq!(
        with_file("exprot: json"),
        "unknown key \"exprot\" in FILE:1: did you mean \"export\"?"
    );
    assert_eq!(
        with_file("nothing of the kind"),
        "FILE:1 is not a configuration file: it must hold lines of the form `key: value`"
    );
    assert!(with_file("port: ]").starts_with("FILE:1 is not YAML that is read here: "));
    let sentence = wrong_call(&["run", "--all-go", "--config", "/nonexistent/skyprobe.yaml"]);
    assert!(
        sentence.starts_with("cannot read the configuration file /nonexistent/skyprobe.yaml: No such file"),
        "{sentence}"
    );
    let sentence = wrong_call(&["run", "--all-go", "--config", "/proc"]);
    assert!(
        sentence.starts_with("cannot read the configuration file /proc: Is a directory"),
        "{sentence}"
    );
}

#[test]
fn help_and_version_are_no_failures() {
    let version = output(&mut skyprobe(&["--version"]));
    assert!(version.status.success());
    let version = String::from_utf8(version.stdout).unwrap();
    let build = version.trim_end().strip_prefix("skyprobe ").and_then(|both| {
        let (version, build) = both.strip_suffix(')')?.split_once(" (")?;
        (!version.is_empty()).then_some(build)
    });
    assert!(
        build.is_some_and(|build| build.chars().all(|c| c.is_ascii_graphic())),
        "{version}"
    );
    for arguments in [
        &["--help"][..],
        &["run", "--help"],
        &["doctor", "--help"],
        &["inspect", "--help"],
    ] {
        let help = output(&mut skyprobe(arguments));
        assert!(help.status.success() && help.stderr.is_empty(), "{arguments:?}");
        assert!(
            String::from_utf8(help.stdout)
                .unwrap()
                .contains("Usage: skyprobe"),
            "{arguments:?}"
        );
    }
}

/// A copy that everybody may run, wherever the target folder lies.
fn public_copy() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = directory.path().join("skyprobe");
    fs::copy(probe::binary().unwrap(), &copy).unwrap();
    (directory, copy)
}

#[test]
fn no_root() {
    needs_probe!();
    let (_directory, copy) = public_copy();
    let mut command = Command::new(copy);
    command
        .args(["run", "--all-go"])
        .env_clear()
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY);
    let sentence = complaint(&mut command, FAILURE);
    assert!(
        sentence.starts_with("tracing needs root, or at least "),
        "{sentence}"
    );
    assert!(sentence.contains("run it with sudo"), "{sentence}");
}

#[test]
fn a_missing_capability_is_named() {
    needs_probe!();
    // Newer kernels want the first alone, and it stands in for the others on older ones.
    let mut command = Command::new("setpriv");
    command
        .args(["--bounding-set", "-sys_admin,-bpf"])
        .arg(probe::binary().unwrap());
    let sentence = complaint(command.args(["run", "--all-go"]), FAILURE);
    let named = sentence.contains("(missing: CAP_SYS_ADMIN)") || sentence.contains("(missing: CAP_BPF)");
    assert!(
        sentence.starts_with("tracing needs root, or at least ") && named,
        "{sentence}"
    );
}

#[test]
fn a_kernel_that_is_too_old() {
    let mut command = skyprobe(&["run", "--all-go"]);
    // SAFETY: one system call, allowed between fork and exec.
    unsafe {
        command.pre_exec(|| {
            // UNAME26: the kernel says that it is a 2.6.
            (libc::personality(0x002_0000) >= 0)
                .then_some(())
                .ok_or_else(std::io::Error::last_os_error)
        });
    }
    let sentence = complaint(&mut command, FAILURE);
    assert!(sentence.starts_with("kernel 2.6."), "{sentence}");
    assert!(
        sentence.ends_with(" is too old: tracing needs Linux 5.12 or later"),
        "{sentence}"
    );
}

#[test]
fn processes_that_are_none() {
    needs_probe!();
    let mut ended = Command::new("true").spawn().unwrap();
    let pid = ended.id().to_string();
    ended.wait().unwrap();
    assert_eq!(
        failed_call(&["run", "--pid", &pid]),
        format!("there is no process {pid}: `pgrep -l NAME` finds a program's id")
    );
    let own_thread = fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .find(|tid| *tid != std::process::id().to_string());
    // The test harness runs each test on a thread of its own.
    let tid = own_thread.unwrap();
    assert_eq!(
        failed_call(&["run", "--pid", &tid]),
        format!(
            "{tid} is a thread of process {}; give the process's id",
            std::process::id()
        )
    );
    if fs::read_to_string("/proc/2/comm").is_ok_and(|name| name.trim() == "kthreadd") {
        assert_eq!(
            failed_call(&["run", "--pid", "2"]),
            "process 2 runs no program: it is a thread of the kernel"
        );
    }
}

#[test]
fn a_program_that_is_not_go() {
    needs_probe!();
    let sleeper = Sleeper::start();
    let sentence = failed_call(&["run", "--pid", &sleeper.pid()]);
    assert!(
        sentence.contains(&sleeper.pid()) && sentence.contains("is not a Go program"),
        "{sentence}"
    );
}

#[test]
fn a_refusal_names_the_program_and_is_said_once() {
    needs_probe!();
    let (one, two) = (Sleeper::start(), Sleeper::start());
    let run = output(&mut skyprobe(&["run", "--pid", &one.pid()]));
    let words = String::from_utf8(run.stderr).unwrap();
    assert_eq!(words.matches("is not a Go program").count(), 1, "{words}");
    // The second is refused for what was found out about the first.
    let run = output(&mut skyprobe(&["run", "--pid", &one.pid(), "--pid", &two.pid()]));
    let words = String::from_utf8(run.stderr).unwrap();
    assert_eq!(words.matches("is not a Go program").count(), 2, "{words}");
    assert!(!words.contains("/proc/"), "{words}");
}

#[test]
fn inspect_fails_in_words_for_people_and_programs() {
    let sentence = failed_call(&["inspect", "/bin/sh"]);
    assert!(sentence.starts_with("/bin/sh is not a Go program"), "{sentence}");
    let json = output(&mut skyprobe(&["inspect", "--json", "/bin/sh"]));
    assert_eq!(json.status.code(), Some(FAILURE));
    let failure: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(failure["error"], sentence);

    let (directory, copy) = public_copy();
    let secret = directory.path().join("secret");
    fs::write(&secret, "").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = Command::new(copy);
    command.arg("inspect").arg(&secret).uid(NOBODY).gid(NOBODY);
    assert_eq!(
        complaint(&mut command, FAILURE),
        format!(
            "not allowed to read {}: run as root, or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH",
            secret.display()
        )
    );
}

/// It touches nothing and asks nobody, so a rule can be tried beside a probe that runs.
#[test]
fn check_says_what_a_configuration_would_trace_and_what_it_leaves_out() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("skyprobe.yaml");
    let [shop, debugger] = ["shop", "debugger"].map(|name| {
        let copy = folder.path().join(name);
        fs::copy(truth_program().unwrap(), &copy).unwrap();
        Service::start(&copy, name, 1_000, None).unwrap()
    });
    let check = |text: &str| {
        fs::write(&config, text.replace("FOLDER", folder.path().to_str().unwrap())).unwrap();
        skyprobe(&["check", config.to_str().unwrap()])
    };
    let output = output(&mut check(
        "rules:\n - exclude: {exe: FOLDER/debugger}\n - include: {exe: FOLDER/*}\noap: oap.example:11800\n",
    ));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let file = config.display();
    assert!(
        text.starts_with(&format!(
            "{file} can be used: 2 rules; traces go to OAP at oap.example:11800\n"
        )),
        "{text}"
    );
    let row = |service: &Service| {
        let begin = format!("{} ", service.target.pid());
        let row = text.lines().find(|line| line.starts_with(&begin));
        row.unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    let traced = row(&shop);
    assert!(
        traced.contains(" shop ") && traced.ends_with(&format!("the rule in {file}:3 includes it")),
        "{text}"
    );
    assert!(
        row(&debugger).ends_with(&format!("the rule in {file}:2 excludes it")),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1 + 3 + 3, "{text}");

    let sentence = complaint(&mut check("exec: app\n"), USAGE);
    assert_eq!(
        sentence,
        format!("unknown key \"exec\" in {file}:1: did you mean \"exe\"?")
    );
    // Well written, and not there.
    let sentence = complaint(&mut check("exe: app\noap: o:1\ntls_ca: FOLDER/ca.pem\n"), FAILURE);
    assert!(sentence.starts_with("cannot read the trusted CA"), "{sentence}");
    let sentence = complaint(&mut check("exe: app\noutput: FOLDER/none/segments\n"), FAILURE);
    assert!(sentence.starts_with("there is no folder"), "{sentence}");
}

#[test]
fn a_second_probe_is_told_of_the_first() {
    needs_probe!();
    let first = Probe::spawn(&mut skyprobe(&["run", "--exe", "/nonexistent/first"])).unwrap();
    let ready = first.ready().unwrap();
    assert!(
        ready.starts_with("ready: 0 processes traced, 0 refused; waiting for one that is selected; "),
        "{ready}"
    );
    let second = Probe::spawn(&mut skyprobe(&["run", "--exe", "/nonexistent/second"])).unwrap();
    second.ready().unwrap();
    let warning = second.stderr();
    let warning = warning.lines().find(|line| line.contains("Another skyprobe"));
    assert!(
        warning.is_some_and(|line| line.contains(&first.pid().to_string())),
        "{}",
        second.stderr()
    );
    second.stop().unwrap();
    first.stop().unwrap();
}

#[test]
fn an_output_that_cannot_be_written() {
    needs_probe!();
    let sentence = failed_call(&[
        "run",
        "--all-go",
        "--output",
        "/nonexistent/traces.json",
        "--export",
        "json",
    ]);
    assert!(
        sentence.contains("/nonexistent/traces.json") && sentence.contains("No such file"),
        "{sentence}"
    );
}

#[test]
fn doctor_tells_people_and_programs_the_same() {
    needs_probe!();
    let text = output(&mut skyprobe(&["doctor"]));
    let json = output(&mut skyprobe(&["doctor", "--json"]));
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(text.status.success(), report["tracing"] == true);
    assert_eq!(text.status.code(), json.status.code());
    let text = String::from_utf8(text.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    for what in [
        "kernel",
        "BTF",
        "lockdown",
        "capabilities",
        "cgroup v2",
        "ring buffer",
        "uprobes",
        "FIONREAD",
    ] {
        assert!(checks.iter().any(|check| check["what"] == what), "{what}");
    }
    for check in checks {
        let (what, found) = (check["what"].as_str().unwrap(), check["found"].as_str().unwrap());
        assert!(
            text.lines()
                .any(|line| line.contains(what) && line.contains(found)),
            "{what}: {found}"
        );
        let state = check["state"].as_str().unwrap();
        assert!(["ok", "limited", "failed", "unknown"].contains(&state), "{state}");
    }
    // The other tests of this package trace on this machine, so it must say that one can.
    assert_eq!(report["tracing"], true, "{text}");
}

#[test]
fn doctor_without_rights_says_what_is_missing_and_fails() {
    needs_probe!();
    let mut command = Command::new("setpriv");
    command
        .args(["--bounding-set", "-all"])
        .arg(probe::binary().unwrap());
    let doctor = output(command.args(["doctor", "--json"]));
    assert_eq!(doctor.status.code(), Some(FAILURE));
    let report: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
    assert_eq!(
        (&report["tracing"], &report["propagation"]),
        (&false.into(), &false.into())
    );
    let checks = report["checks"].as_array().unwrap();
    let rights = checks
        .iter()
        .find(|check| check["what"] == "capabilities")
        .unwrap();
    assert_eq!(rights["state"], "failed");
    assert!(
        rights["found"].as_str().unwrap().contains("CAP_SYS_PTRACE"),
        "{rights}"
    );
    assert!(
        rights["consequence"].as_str().unwrap().contains("run as root"),
        "{rights}"
    );
}

#[test]
fn a_reader_that_goes_is_no_failure() {
    let mut child = skyprobe(&["run", "--help"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}
