//! The image in a container as the DaemonSet has it, with the settings of the ConfigMap, run by runc on this host: it
//! traces pods of the node, and answers to a kubelet.
//!
//! One test, since to link the image's binary puts it for a moment where the others look for theirs.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tests::{
    container::{Account, Around, Bundle, Granted},
    deploy::{self, of_kind, overlay},
    fake_oap::FakeOap,
    kubernetes::Cluster,
    needs_kubernetes, needs_probe,
    network::{Host, Networks},
    pods::{NODE, Shop, TOLD},
    probe::Probe,
};
use xtask::{http, image::Image, step::wait_until};

#[test]
fn the_image_traces_the_nodes_pods_with_what_is_deployed_and_answers_the_kubelet() {
    needs_probe!();
    needs_kubernetes!();
    let scratch = tempfile::tempdir().unwrap();
    let mut bundle = Bundle::of(Image::Probe, scratch.path()).unwrap();
    let size = bundle.files.join("usr/bin/skyprobe").metadata().unwrap().len();
    println!("the image's one file has {:.1} MB", size as f64 / 1e6);

    // The pod has a network of its own, where the API server and OAP are. Nobody has told OAP to run yet.
    let networks = Networks::new().unwrap();
    let inside = Inside(&networks);
    let mut oap = inside.run(|| Ok(FakeOap::start()));
    oap.kill();
    let cluster = inside.run(Cluster::start);
    let deployed = deployed(scratch.path(), &oap.address());
    inside.run(|| {
        deployed
            .iter()
            .try_for_each(|object| cluster.apply(object).map(drop))
    });
    let shop = inside.run(|| Shop::open(&cluster, "shop"));
    let pair = inside.run(|| shop.pair(&networks));
    // A connection that is older than the probe.
    inside.run(|| pair.scene.ask("sync", 1));
    // By the ConfigMap's rules nobody looks at this one.
    let system = inside.run(|| Shop::open(&cluster, "kube-system"));
    let proxy = inside.run(|| system.pod("proxy", None, &[], true));
    let _not_meant = inside.run(|| system.serve(&proxy.container, &["-first-id", "3000000"]));

    let folder = |name: &str| {
        let folder = scratch.path().join(name);
        fs::create_dir(&folder).unwrap();
        folder
    };
    let (config, account) = (folder("config"), folder("account"));
    for (file, text) in of_kind(&deployed, "ConfigMap").unwrap()["data"]
        .as_object()
        .unwrap()
    {
        fs::write(config.join(file), text.as_str().unwrap()).unwrap();
    }
    inside.run(|| cluster.write_account("skyprobe", "skyprobe", &account));
    let around = Around {
        volumes: BTreeMap::from([("config", config.as_path())]),
        account: Some(Account {
            folder: &account,
            server: cluster.address(),
        }),
        hosts: Path::new("/etc/hosts"),
        node: NODE,
        network: networks.name(Host::Client),
    };
    let pod = &of_kind(&deployed, "DaemonSet").unwrap()["spec"]["template"]["spec"];
    bundle.configure(pod, &around).unwrap();
    let container = bundle.container();
    let probe = Probe::spawn(&mut container.command()).unwrap();
    probe.ready().unwrap();
    probe
        .wait_for_words("Pods are known from Kubernetes", TOLD)
        .unwrap();
    let pid = container.pid().unwrap();
    assert_eq!(Granted::of(pid).unwrap(), Granted::OF_THE_PROBE);
    print_memory(pid);

    let kubelet = Kubelet::of(&networks, pod);
    // It is well, and not ready: OAP has not been reached. A kubelet would neither restart it nor go on with a rollout.
    kubelet.wait_for("startupProbe", 200);
    assert_eq!(kubelet.ask("livenessProbe").status, 200);
    let answer = kubelet.ask("readinessProbe");
    assert!(answer.status == 503 && answer.body.contains("OAP"), "{answer:?}");
    inside.run(|| {
        oap.restart();
        Ok(())
    });
    kubelet.wait_for("readinessProbe", 200);
    assert_eq!(kubelet.ask("livenessProbe").status, 200);

    inside.run(|| pair.scene.ask("sync", 2));
    let call = inside.run(|| pair.scene.call_of(2));
    oap.wait("both segments of the request", |received| {
        let of = |path: &str| {
            received.segments.iter().find(|segment| {
                let mut tags = segment.spans.iter().flat_map(|span| &span.tags);
                tags.any(|tag| tag.key == "url" && tag.value.ends_with(path))
                    && segment.spans.iter().any(|span| span.span_type == 0)
            })
        };
        let (Some(front), Some(back)) = (of("/sync/2"), of(&call.path)) else {
            return false;
        };
        let mut references = back.spans.iter().flat_map(|span| &span.refs);
        references.any(|it| it.parent_trace_segment_id == front.trace_segment_id)
    });
    let received = oap.received();
    let services = received
        .properties
        .iter()
        .map(|told| (told.service.as_str(), told.service_instance.as_str()));
    assert_eq!(
        services.collect::<BTreeSet<_>>(),
        BTreeSet::from([
            ("gateway|shop|", "gateway-6d5f8-x7k2q"),
            ("orders|shop|", "orders-0")
        ])
    );
    let metrics = kubelet.get("/metrics").body;
    assert!(
        metrics.contains("skyprobe_targets{state=\"traced\"} 2"),
        "{metrics}"
    );

    let ended = probe.stop().unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
    assert_eq!(ended.losses().count(), 0, "{}", ended.stderr);
    assert!(!ended.stderr.contains("not enrolled"), "{}", ended.stderr);
}

/// What kustomize makes of an overlay as `docs/deploy.md` has it, in which OAP's address alone is another.
fn deployed(scratch: &Path, oap: &str) -> Vec<Value> {
    let shipped = deploy::kustomize("base").unwrap();
    let text = of_kind(&shipped, "ConfigMap").unwrap()["data"]["skyprobe.yaml"].as_str();
    let own = text.unwrap().replace("oap.skywalking.svc:11800", oap);
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "skyprobe" }, "data": { "skyprobe.yaml": own },
    });
    let folder = scratch.join("overlay");
    fs::create_dir(&folder).unwrap();
    let deployed = overlay(&folder, &[], &[map]).unwrap();
    let text = of_kind(&deployed, "ConfigMap").unwrap()["data"]["skyprobe.yaml"].to_string();
    assert!(text.contains(oap) && text.contains("kube-system"), "{text}");
    deployed
}

/// The pod's network.
struct Inside<'a>(&'a Networks);

impl Inside<'_> {
    #[track_caller]
    fn run<T>(&self, run: impl FnOnce() -> Result<T>) -> T {
        self.0.within(Host::Client, run).unwrap()
    }
}

/// Who asks the container, over the cable from the node, what its probes say is to be asked.
struct Kubelet<'a> {
    networks: &'a Networks,
    container: &'a Value,
}

impl<'a> Kubelet<'a> {
    fn of(networks: &'a Networks, pod: &'a Value) -> Self {
        Self {
            networks,
            container: &pod["containers"][0],
        }
    }

    fn address(&self, named: &Value) -> SocketAddr {
        let ports = self.container["ports"].as_array().unwrap();
        let port = ports.iter().find(|port| port["name"] == *named).unwrap();
        let port = port["containerPort"].as_u64().unwrap();
        SocketAddr::new(Networks::CLIENT, port.try_into().unwrap())
    }

    fn get_from(&self, address: SocketAddr, path: &str) -> Result<http::Answer> {
        self.networks.within(Host::Server, || http::get(address, path))
    }

    fn get(&self, path: &str) -> http::Answer {
        self.get_from(self.address(&json!("http")), path).unwrap()
    }

    fn try_ask(&self, probe: &str) -> Result<http::Answer> {
        let asked = self.container[probe].get("httpGet").context("no such probe")?;
        self.get_from(self.address(&asked["port"]), asked["path"].as_str().unwrap())
    }

    fn ask(&self, probe: &str) -> http::Answer {
        self.try_ask(probe).unwrap()
    }

    /// As often as the manifest says.
    fn wait_for(&self, probe: &str, status: u16) {
        let settings = &self.container[probe];
        let period = Duration::from_secs(settings["periodSeconds"].as_u64().unwrap());
        let tries = settings["failureThreshold"].as_u64().unwrap_or(3);
        let mut last = None;
        for _ in 0..tries {
            last = Some(self.try_ask(probe));
            if matches!(&last, Some(Ok(answer)) if answer.status == status) {
                return;
            }
            wait_until(period, || false);
        }
        panic!("{probe} did not say {status}: {last:?}");
    }
}

/// What it took so far, where the kernel counts that by the first version of control groups.
fn print_memory(pid: u64) {
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
