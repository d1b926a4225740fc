//! The image in a container as the DaemonSet has it, run by runc on this host: it traces programs of the host.
//!
//! One test, since to link the image's binary puts it for a moment where the others look for theirs.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::{collections::BTreeMap, fs, process::Command};

use serde_json::{Value, json};
use tests::{
    container::{Around, Bundle},
    deploy::{objects, of_kind, path, run},
    fake_oap::FakeOap,
    needs_probe,
    network::{Host, Networks},
    probe::{Probe, binary},
    scene::{Scene, truth_program},
};

/// The container's name.
const NAME: &str = "skyprobe-test";

/// `CAP_SYS_ADMIN`, `CAP_SYS_PTRACE`, `CAP_DAC_READ_SEARCH` and `CAP_LEASE`.
const RIGHTS: u64 = 1 << 21 | 1 << 19 | 1 << 2 | 1 << 28;

/// The pod of the DaemonSet as it is in the tree: what kustomize adds is names.
fn pod() -> Value {
    let file = fs::read_to_string(path("kubernetes/base/daemonset.yaml")).unwrap();
    let objects = objects(&file).unwrap();
    let mut pod = of_kind(&objects, "DaemonSet").unwrap()["spec"]["template"]["spec"].clone();
    // A build that does not know Kubernetes knows no node.
    let help = run(Command::new(binary().unwrap()).args(["run", "--help"])).unwrap();
    if !help.contains("--node") {
        let arguments = pod["containers"][0]["args"].as_array_mut().unwrap();
        arguments.retain(|argument| !argument.as_str().unwrap().starts_with("--node="));
    }
    pod
}

#[test]
fn the_image_traces_the_host_with_what_the_daemon_set_gives_it() {
    needs_probe!();
    let scratch = tempfile::tempdir().unwrap();
    let mut bundle = Bundle::of_our_image(scratch.path()).unwrap();
    let size = bundle
        .folder
        .join("rootfs/usr/bin/skyprobe")
        .metadata()
        .unwrap()
        .len();
    println!("the image's one file has {:.1} MB", size as f64 / 1e6);
    let scene = Scene::start().unwrap();
    // A connection that is older than the probe.
    scene.ask("sync", 1).unwrap();

    // The pod has a network of its own, where OAP is.
    let networks = Networks::new().unwrap();
    let oap = networks.within(Host::Client, || Ok(FakeOap::start())).unwrap();
    let config = scratch.path().join("config");
    fs::create_dir(&config).unwrap();
    let settings = json!({ "oap": oap.address(), "exe": [truth_program().unwrap()] });
    fs::write(config.join("skyprobe.yaml"), settings.to_string()).unwrap();
    let around = Around {
        volumes: BTreeMap::from([("config", config.as_path())]),
        node: "node-a",
        network: networks.name(Host::Client),
    };
    bundle.configure(&pod(), &around).unwrap();
    let probe = Probe::spawn(&mut bundle.command(NAME)).unwrap();
    let ready = probe.ready().unwrap();
    assert!(ready.contains("2 processes traced, 0 refused"), "{ready}");
    assert_only_what_is_written_down_is_granted();

    scene.ask("sync", 2).unwrap();
    let both = |id: u64| {
        let call = scene.call_of(id).unwrap();
        oap.wait("both segments of the request", |received| {
            let of = |path: &str| {
                received.segments.iter().find(|segment| {
                    let mut tags = segment.spans.iter().flat_map(|span| &span.tags);
                    tags.any(|tag| tag.key == "url" && tag.value.ends_with(path))
                        && segment.spans.iter().any(|span| span.span_type == 0)
                })
            };
            let (Some(front), Some(back)) = (of(&format!("/sync/{id}")), of(&call.path)) else {
                return false;
            };
            let mut references = back.spans.iter().flat_map(|span| &span.refs);
            references.any(|it| it.parent_trace_segment_id == front.trace_segment_id)
        });
    };
    both(2);

    let ended = probe.stop().unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
    assert_eq!(ended.losses().count(), 0, "{}", ended.stderr);
    assert!(!ended.stderr.contains("not enrolled"), "{}", ended.stderr);
}

/// What the kernel says of the process, against what the manifest says.
fn assert_only_what_is_written_down_is_granted() {
    let state = run(Command::new("runc").args(["state", NAME])).unwrap();
    let state: Value = serde_json::from_str(&state).unwrap();
    let pid = &state["pid"];
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim_start_matches(':').trim().to_owned()
    };
    assert_eq!(u64::from_str_radix(&field("CapBnd"), 16).unwrap(), RIGHTS);
    assert_eq!(
        (field("NoNewPrivs"), field("Seccomp")),
        ("1".to_owned(), "2".to_owned())
    );
    let mounts = fs::read_to_string(format!("/proc/{pid}/mounts")).unwrap();
    let root = mounts
        .lines()
        .find(|line| line.split(' ').nth(1) == Some("/"))
        .unwrap();
    assert!(
        root.split(' ')
            .nth(3)
            .unwrap()
            .split(',')
            .any(|option| option == "ro"),
        "{root}"
    );
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let memory = cgroups.lines().find_map(|line| line.split_once(":memory:"));
    if let Some((_, group)) = memory {
        let group = format!("/sys/fs/cgroup/memory{group}");
        let peak = fs::read_to_string(format!("{group}/memory.max_usage_in_bytes")).unwrap();
        println!(
            "the container took {:.1} MB at most",
            peak.trim().parse::<f64>().unwrap() / 1e6
        );
    }
}
