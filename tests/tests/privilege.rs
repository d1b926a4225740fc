//! The probe with no more rights than it says it needs, and what it keeps of them.

#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::{collections::BTreeMap, fs, process::Command};

use tests::{
    needs_probe,
    probe::{self, Probe},
    scene::{Scene, truth_program},
    target::Service,
};

/// What README asks for beside root, on kernels whose uprobes want the first.
const CAPABILITIES: [(&str, u32); 4] = [
    ("sys_admin", 21),
    ("sys_ptrace", 19),
    ("dac_read_search", 2),
    ("lease", 28),
];

/// A process without any rights of root's.
const NOBODY: &str = "65534";

/// The fields of a thread's status.
fn status(path: &str) -> BTreeMap<String, String> {
    let text = fs::read_to_string(path).unwrap();
    let fields = text.lines().filter_map(|line| line.split_once(":\t"));
    fields
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The rights of each thread of the process: by its name what is permitted, and what is in effect.
fn threads(pid: u32) -> BTreeMap<String, [u64; 2]> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let thread = |id: &str| {
        let fields = status(&format!("/proc/{pid}/task/{id}/status"));
        let field = |name: &str| fields.get(name).unwrap().as_str();
        assert_eq!(field("NoNewPrivs"), "1");
        let set = |name: &str| u64::from_str_radix(field(name), 16).unwrap();
        (field("Name").to_owned(), [set("CapPrm"), set("CapEff")])
    };
    tasks
        .map(|task| thread(task.unwrap().file_name().to_str().unwrap()))
        .collect()
}

#[test]
fn only_the_thread_that_attaches_keeps_rights() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let probe = scene.trace(&[]).unwrap();
    let mut threads = threads(probe.pid());
    let [permitted, effective] = threads.remove("targets").unwrap();
    assert_eq!(permitted, effective);
    for (name, bit) in CAPABILITIES {
        assert_eq!(permitted >> bit & 1, 1, "{name} is gone");
    }
    // Root has 41.
    assert!(permitted.count_ones() <= 8, "{permitted:#x}");
    assert!(
        threads.contains_key("reader") && threads.len() > 1,
        "{threads:#?}"
    );
    for (name, rights) in threads {
        assert_eq!(rights, [0, 0], "{name}");
    }
    scene.ask("sync", 1).unwrap();
    probe.segment_of("Entry", "/sync/1").unwrap();
    let ended = probe.stop().unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
}

#[test]
fn the_named_rights_are_enough() {
    needs_probe!();
    let (folder, binary) = probe::for_everybody().unwrap();
    let program = folder.path().join("service");
    fs::copy(truth_program().unwrap(), &program).unwrap();
    let scene = Scene::of(&program).unwrap();
    // The connection between the two is older than the probe.
    scene.ask("sync", 1).unwrap();

    let all = |sign: &str| {
        let names = CAPABILITIES.map(|(name, _)| format!("{sign}{name}"));
        names.join(",")
    };
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid",
        NOBODY,
        "--regid",
        NOBODY,
        "--clear-groups",
        "--no-new-privs",
    ]);
    for set in ["--inh-caps", "--ambient-caps", "--bounding-set"] {
        command.arg(set).arg(format!("-all,{}", all("+")));
    }
    command
        .arg(&binary)
        .args(["run", "--export", "json", "--exe"])
        .arg(&program);
    let probe = Probe::spawn(&mut command).unwrap();
    let ready = probe.ready().unwrap();
    assert!(ready.contains("2 processes traced, 0 refused"), "{ready}");

    scene.ask("sync", 2).unwrap();
    let front = probe.segment_of("Entry", "/sync/2").unwrap();
    let call = scene.call_of(2).unwrap();
    let back = probe.segment_of("Entry", &call.path).unwrap();
    let reference = &back.entry().unwrap().refs[0];
    assert_eq!(reference.parent_trace_segment_id, front.trace_segment_id);

    // One that comes later is seen, read and attached to as well.
    let late = Service::start(&program, "late", 1000, None).unwrap();
    probe
        .wait_for("spans of a process that came later", |segments| {
            late.get("/leaf/1").is_ok() && segments.iter().any(|segment| segment.service == "late")
        })
        .unwrap();
    let ended = probe.stop().unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
    assert_eq!(ended.losses().count(), 0, "{}", ended.stderr);
    assert!(!ended.stderr.contains("not enrolled"), "{}", ended.stderr);
}
