//! Processes that come, go, fork and hide in namespaces of their own while others are traced.

#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use tests::{
    bpf, client, needs_probe,
    network::{Host, Networks},
    probe::Probe,
    scene::{self, Scene, all_is_told, truth_program},
    skip::full,
    target::{Go, GoBuild, Load, Service, Target, unshared},
    truth,
};

/// Of so many processes one is a traced Go program; the others are what a host's scripts start.
const ONE_IN: usize = 10;

/// How many live at a time.
const AT_ONCE: usize = 20;

/// More than the hooks of one binary.
const HOOKS_MAX: usize = 30;

/// What is under way in the maps at a moment: the load's requests, and the sockets of their connections.
const ENTRIES_MAX: usize = 50;

const GROWTH_MAX_BYTES: u64 = 4 << 20;

/// Processor time of a process in milliseconds.
fn cpu_ms(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    let ticks = rest.split(' ').skip(11).take(2);
    ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum::<u64>() * 10
}

#[test]
fn many_short_lives_beside_a_long_one() {
    needs_probe!();
    let count = if full() { 10_000 } else { 1_000 };
    let scene = Scene::start().unwrap();
    let server = Service::start(&truth_program().unwrap(), "server", 0, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    // Copies, so that nothing else matches.
    let copy = |name: &str, program: &Path| {
        let copy = folder.path().join(name);
        fs::copy(program, &copy).unwrap();
        copy
    };
    let client = copy(
        "short-client",
        &GoBuild::new("wire").build(&Go::system().unwrap()).unwrap(),
    );
    let service = copy("short-service", &truth_program().unwrap());
    let pids = [scene.front.target.pid(), scene.back.target.pid()].map(|pid| pid.to_string());
    let probe = Probe::start(&[
        "--pid",
        &pids[0],
        "--pid",
        &pids[1],
        "--exe",
        client.to_str().unwrap(),
        "--exe",
        service.to_str().unwrap(),
    ])
    .unwrap();

    let arguments = ["-what", "one", "-target", &server.addresses.main, "-wait", "50ms"];
    let lives = |count: usize| {
        for round in 0..count / AT_ONCE {
            let some: Vec<Target> = (0..AT_ONCE)
                .map(|at| match at % ONE_IN {
                    0 => Target::start(&client, &arguments).unwrap(),
                    _ => Target::start(Path::new("/bin/true"), &[]).unwrap(),
                })
                .collect();
            if round % ONE_IN == 0 {
                // One that serves a request and ends.
                let service = Service::start(&service, "short", 0, None).unwrap();
                assert_eq!(service.get("/leaf/1").unwrap().status, 200);
                // It may be asked before it listens for signals, and then ends by this one; any other is a crash.
                let ended = service.target.terminate().unwrap();
                assert!(
                    ended.success() || ended.signal() == Some(libc::SIGTERM),
                    "{ended:?}"
                );
            }
            for (at, mut one) in some.into_iter().enumerate() {
                if at % ONE_IN == 0 {
                    assert_eq!(one.line().unwrap(), "done 1");
                }
                assert!(one.wait().unwrap().success());
            }
        }
        // The last ones are let go at the next look around at the latest.
        thread::sleep(Duration::from_secs(3));
        let (objects, memory) = (
            bpf::objects(probe.pid()).unwrap(),
            bpf::resident_bytes(probe.pid()).unwrap(),
        );
        let mut entries = bpf::map_entries(probe.pid()).unwrap();
        // Connections are remembered when they are gone, up to their map's size.
        entries.remove("CONNECTIONS");
        println!(
            "{objects:?}, {} KiB, {} ms of processor time, {entries:?}",
            memory >> 10,
            cpu_ms(probe.pid())
        );
        (objects, memory, entries.values().sum::<usize>())
    };
    let load = Load::start(&truth_program().unwrap(), &scene.front, 20, 3600.0, "sync").unwrap();
    let (objects, memory, entries) = lives(200);
    let (objects_after, memory_after, entries_after) = lives(count);
    let summary = load.enough().unwrap();
    assert_eq!(summary.failed, 0, "{}", summary.first_error);

    assert_eq!(
        (objects_after.programs, objects_after.maps),
        (objects.programs, objects.maps)
    );
    assert!(
        objects_after.links <= objects.links + HOOKS_MAX,
        "{objects_after:?}"
    );
    assert!(
        objects_after.descriptors <= objects.descriptors + HOOKS_MAX + 4,
        "{objects_after:?}"
    );
    assert!(
        memory_after < memory + GROWTH_MAX_BYTES,
        "{} KiB more",
        (memory_after - memory) >> 10
    );
    assert!(
        entries_after <= entries + ENTRIES_MAX,
        "{entries} became {entries_after}"
    );
    let records = scene.records().unwrap();
    let ended = probe.stop().unwrap();
    let said = |words: &str| ended.stderr.lines().filter(|line| line.contains(words)).count();
    println!(
        "{} traced and {} let go",
        said("Process traced"),
        said("Process let go")
    );
    assert!(said("Process traced") > count / ONE_IN / 2, "{}", ended.stderr);
    assert_eq!(said("Process traced"), said("Process let go"));
    assert!(!ended.stderr.contains("ring_full"), "{}", ended.stderr);
    all_is_told(&records, &ended.of_services(&["front", "back"]));
}

#[test]
fn a_copy_that_runs_into_hooks_goes_on_unseen() {
    needs_probe!();
    let program = GoBuild::new("fork").build(&Go::system().unwrap()).unwrap();
    let target = Target::start(&program, &[]).unwrap();
    let host = target.address().unwrap();
    let probe = Probe::of_pids(&[target.pid()], &[]).unwrap();
    let forks = 20;
    for _ in 0..forks {
        assert_eq!(client::get(&host, "/fork").unwrap().text(), "42");
    }
    let segments = probe
        .wait_for("the requests", |segments| segments.len() >= forks)
        .unwrap();
    // The copies' calls belong to nobody, least of all to the request that was open when they were made.
    for segment in &segments {
        assert_eq!(segment.spans.len(), 1, "{segment:#?}");
        assert_eq!(segment.entry().unwrap().path(), Some("/fork"));
    }
    let ended = probe.stop().unwrap();
    assert_eq!(ended.losses().count(), 0, "{}", ended.stderr);
    assert_eq!(ended.segments.len(), forks);
}

/// A service in mount and process namespaces of its own, whose program nobody else can see: it lies in memory that is
/// mounted there.
fn contained(name: &str, first_id: u64, arguments: &[&str]) -> Service {
    let mut command = Command::new("unshare");
    unshared(&mut command, &truth_program().unwrap(), "contained");
    Service::spawn(
        command
            .args(["serve", "-name", name, "-first-id", &first_id.to_string()])
            .args(arguments)
            .env("SW_AGENT_NAME", name)
            .stderr(Stdio::inherit()),
    )
    .unwrap()
}

/// The process that `unshare` has made.
fn child_of(pid: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.trim().parse().unwrap()
}

#[test]
fn containers_are_traced_from_outside() {
    needs_probe!();
    let networks = Networks::new().unwrap();
    let probe = Probe::start(&["--exe", "/mnt/contained"]).unwrap();
    let back = networks
        .within(Host::Server, || {
            Ok(contained("back", 2_000_000, &["-listen", Networks::SERVER]))
        })
        .unwrap();
    let front = networks
        .within(Host::Client, || {
            Ok(contained("front", 1_000_000, &["-next", &back.printed]))
        })
        .unwrap();
    for service in [&front, &back] {
        let pid = child_of(service.target.pid());
        assert!(
            !Path::new("/mnt/contained").exists(),
            "only they see their program"
        );
        probe
            .wait_for_words(&format!("Process traced pid={pid} "), Duration::from_secs(20))
            .unwrap();
    }
    let scene = Scene { front, back };
    let records = networks
        .within(Host::Client, || {
            for id in 1..=20 {
                assert_eq!(scene.ask("sync", id)?.status, 200);
            }
            scene.records()
        })
        .unwrap();
    let ended = scene::stop_with(probe, records.len()).unwrap();
    all_is_told(&records, &ended);
    assert_eq!(ended.losses().count(), 0, "{}", ended.stderr);
    let account = truth::join(&records, &ended.segments, true);
    assert!(
        account.total().references.right >= 20,
        "headers went over the wire"
    );
    let calls = ended
        .segments
        .iter()
        .filter(|segment| segment.service == "front")
        .flat_map(|segment| segment.exits());
    for call in calls {
        assert!(call.peer.starts_with("10.231.77.2:"), "{call:#?}");
    }
}
