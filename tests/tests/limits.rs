//! The probe where the machine gives it little: it does less, says so, and does not fall over.

#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::process::Command;

use tests::{
    cgroup::Cgroup,
    needs_probe,
    probe::{self, Probe},
    scene::{Scene, all_is_told},
};

/// `skyprobe run` for both programs of the scene.
fn run(command: &mut Command, scene: &Scene) -> Probe {
    let pids = [scene.front.target.pid(), scene.back.target.pid()].map(|pid| pid.to_string());
    let arguments = ["run", "--export=json", "--pid", &pids[0], "--pid", &pids[1]];
    let probe = Probe::spawn(command.args(arguments)).unwrap();
    probe.ready().unwrap();
    probe
}

/// Containers begin with 1,024 of them, whatever they may have, and each hook is one.
#[test]
fn few_open_files_at_the_start_are_raised_to_what_is_allowed() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -Sn 48 && exec \"$0\" \"$@\""]);
    let probe = run(command.arg(probe::binary().unwrap()), &scene);
    for id in 1..=20 {
        scene.ask("sync", id).unwrap();
    }
    let (_, ended) = scene.judge(probe, true).unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
    all_is_told(&scene.records().unwrap(), &ended);
}

/// Hooks are taken out by threads; without any it takes longer.
#[test]
fn where_there_can_be_no_further_thread_it_ends_well() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let group = Cgroup::with_task_limit("skyprobe-limits").unwrap();
    let probe = run(&mut group.command(&probe::binary().unwrap()), &scene);
    for id in 1..=20 {
        scene.ask("sync", id).unwrap();
    }
    group.no_more_tasks().unwrap();
    let (_, ended) = scene.judge(probe, true).unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
    all_is_told(&scene.records().unwrap(), &ended);
}
