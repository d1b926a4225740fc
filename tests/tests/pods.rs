//! Pods: programs in control groups as containerd makes them, and their names from a real Kubernetes API server.

#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::{fs, path::PathBuf, process::Command, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{
    cgroup::Cgroup,
    kubernetes::{Cluster, Pod},
    needs_kubernetes, needs_probe,
    network::{Host, Networks},
    probe::{self, Probe},
    scene::{self, Scene, all_is_told, truth_program},
    target::Service,
};

/// Longer than the probe waits for anything it is told by the API.
const TOLD: Duration = Duration::from_secs(30);

const NODE: &str = "node-a";

/// A namespace of its own on the shared cluster, with a program of its own, so that no other test's is meant.
struct Shop {
    cluster: &'static Cluster,
    namespace: &'static str,
    folder: TempDir,
}

/// A pod, and the groups that its containers are in.
struct Running {
    object: Value,
    container: Cgroup,
}

impl Shop {
    fn open(namespace: &'static str) -> Self {
        let cluster = Cluster::shared().unwrap();
        cluster.namespace(namespace).unwrap();
        cluster.node(NODE).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::copy(truth_program().unwrap(), folder.path().join("program")).unwrap();
        Self {
            cluster,
            namespace,
            folder,
        }
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("program")
    }

    /// What follows pods of this namespace's cluster.
    fn probe(&self, kubeconfig: &str, arguments: &[&str]) -> Probe {
        let config = self.folder.path().join("skyprobe.yaml");
        let rules = format!(
            "rules:\n - include: {{namespace: {}}}\n - include: {{exe: {}}}\n",
            self.namespace,
            self.program().display()
        );
        fs::write(&config, rules).unwrap();
        let asked = [
            "--config",
            config.to_str().unwrap(),
            "--kubeconfig",
            kubeconfig,
            "--node",
            NODE,
        ];
        let probe = Probe::start(&[&asked, arguments].concat()).unwrap();
        probe
            .wait_for_words("Pods are known from Kubernetes", TOLD)
            .unwrap();
        probe
    }

    fn administrators_probe(&self, arguments: &[&str]) -> Probe {
        self.probe(self.cluster.kubeconfig().to_str().unwrap(), arguments)
    }

    fn workload(&self, kind: &str, name: &str) -> Value {
        let labels = json!({ "app": name });
        self.cluster
            .apply(&json!({
                "apiVersion": "apps/v1",
                "kind": kind,
                "metadata": { "name": name, "namespace": self.namespace },
                "spec": {
                    "selector": { "matchLabels": labels },
                    "template": {
                        "metadata": { "labels": labels },
                        "spec": { "containers": [{ "name": "app", "image": "shop:1" }] },
                    },
                },
            }))
            .unwrap()
    }

    /// A pod of one container, with its group as systemd's driver or cgroupfs makes it.
    fn pod(
        &self,
        name: &str,
        owner: Option<&Value>,
        annotations: &[(&str, &str)],
        by_systemd: bool,
    ) -> Running {
        let id = container_id(name);
        let object = self
            .cluster
            .pod(&Pod {
                namespace: self.namespace,
                name,
                node: NODE,
                owner,
                labels: &[("tier", "web")],
                annotations,
                containers: &[("app", "shop:1", &format!("containerd://{id}"))],
            })
            .unwrap();
        let uid = object["metadata"]["uid"].as_str().unwrap();
        let container = Cgroup::new(&group(uid, &id, by_systemd)).unwrap();
        Running { object, container }
    }

    /// The program within the container.
    fn serve(&self, container: &Cgroup, arguments: &[&str]) -> Service {
        let mut command = container.command(&self.program());
        serve(&mut command, arguments)
    }
}

fn serve(command: &mut Command, arguments: &[&str]) -> Service {
    let command = command.args(["serve", "-name", "truth"]).args(arguments);
    Service::spawn(command.env_remove("SW_AGENT_NAME")).unwrap()
}

/// 64 digits, others for each name.
fn container_id(name: &str) -> String {
    let digits: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{digits:0>64}").chars().rev().take(64).collect()
}

fn group(uid: &str, id: &str, by_systemd: bool) -> String {
    if by_systemd {
        let uid = uid.replace('-', "_");
        format!(
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice/cri-containerd-{id}.scope"
        )
    } else {
        format!("kubepods/burstable/pod{uid}/{id}")
    }
}

/// Two pods on networks of their own, one calling the other, under one probe outside: the traces are joined, and all is
/// called as it is in the cluster.
#[test]
fn pods_are_called_what_they_are_called_in_the_cluster() {
    needs_probe!();
    needs_kubernetes!();
    let shop = Shop::open("shop");
    let deployment = shop.workload("Deployment", "gateway");
    let replica_set = shop.cluster.replica_set(&deployment, "gateway-6d5f8").unwrap();
    let stateful_set = shop.workload("StatefulSet", "orders");
    let front = shop.pod("gateway-6d5f8-x7k2q", Some(&replica_set), &[], true);
    let back = shop.pod("orders-0", Some(&stateful_set), &[], false);
    let networks = Networks::new().unwrap();
    let back_service = networks
        .within(Host::Server, || {
            let arguments = ["-first-id", "2000000", "-listen", Networks::SERVER];
            Ok(shop.serve(&back.container, &arguments))
        })
        .unwrap();
    let front_service = networks
        .within(Host::Client, || {
            let arguments = ["-first-id", "1000000", "-next", &back_service.printed];
            Ok(shop.serve(&front.container, &arguments))
        })
        .unwrap();
    let socket = shop.folder.path().join("probe.sock");
    let probe = shop.administrators_probe(&[
        "--property-labels",
        "tier",
        "--status-socket",
        socket.to_str().unwrap(),
    ]);
    let scene = Scene {
        front: front_service,
        back: back_service,
    };
    let records = networks
        .within(Host::Client, || {
            for id in 1..=10 {
                assert_eq!(scene.ask("sync", id)?.status, 200);
            }
            scene.records()
        })
        .unwrap();
    let told = probe::status(&socket).unwrap();
    let targets = told
        .pointer("/tracing/targets")
        .and_then(Value::as_array)
        .unwrap();
    let mut places: Vec<_> = targets
        .iter()
        .map(|target| ["namespace", "pod", "workload"].map(|key| target.get(key).and_then(Value::as_str)))
        .collect();
    places.sort_unstable();
    assert_eq!(
        places,
        [
            [
                Some("shop"),
                Some("gateway-6d5f8-x7k2q"),
                Some("Deployment/gateway")
            ],
            [Some("shop"), Some("orders-0"), Some("StatefulSet/orders")],
        ],
        "{told:#}"
    );
    let ended = scene::stop_with(probe, records.len()).unwrap();
    // Journals are by what the programs call themselves, which is the same word for both: by ports they are told apart.
    let mut named: Vec<_> = ended
        .segments
        .iter()
        .map(|segment| (segment.service.as_str(), segment.service_instance.as_str()))
        .collect();
    named.sort_unstable();
    named.dedup();
    assert_eq!(
        named,
        [
            ("gateway|shop|", "gateway-6d5f8-x7k2q"),
            ("orders|shop|", "orders-0")
        ]
    );
    let mut told = ended;
    for segment in &mut told.segments {
        segment.service = "truth".to_owned();
    }
    all_is_told(&records, &told);
    assert_eq!(told.losses().count(), 0, "{}", told.stderr);
    drop((front.object, back.object));
}

/// What a pod's owner says of tracing comes before the rules, also later.
#[test]
fn pods_ask_for_tracing_and_out_of_it() {
    needs_probe!();
    needs_kubernetes!();
    let shop = Shop::open("asked");
    let trace = |wanted| [("skyprobe.io/trace", wanted)];
    let out = shop.pod("out", None, &trace("false"), true);
    let named = shop.pod(
        "named",
        None,
        &[("skywalking.apache.org/service", "what-i-am")],
        true,
    );
    let services = [&out, &named].map(|pod| shop.serve(&pod.container, &["-first-id", "1000"]));
    let probe = shop.administrators_probe(&[]);
    let ask = |id: u32| {
        for service in &services {
            assert_eq!(service.get(&format!("/leaf/{id}")).unwrap().status, 200);
        }
    };
    ask(1);
    probe.segment_of("Entry", "/leaf/1").unwrap();

    let annotate = |pod: &Running, wanted: Option<&str>| {
        let path = shop.cluster.administrator().path_of(&pod.object).unwrap();
        let change = json!({ "metadata": { "annotations": { "skyprobe.io/trace": wanted } } });
        shop.cluster.administrator().merge(&path, &change).unwrap();
    };
    annotate(&out, Some("true"));
    annotate(&named, Some("false"));
    probe.wait_for_words("service=\"out|asked|\"", TOLD).unwrap();
    probe.wait_for_words("Process let go", TOLD).unwrap();
    ask(2);
    probe.segment_of("Entry", "/leaf/2").unwrap();
    let ended = probe.stop().unwrap();
    let mut seen: Vec<_> = ended
        .segments
        .iter()
        .map(|segment| (segment.service.as_str(), segment.entry().unwrap().path().unwrap()))
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, [("out|asked|", "/leaf/2"), ("what-i-am|asked|", "/leaf/1")]);
}

/// A process that is quicker than the news of its pod is named by the pod all the same; and where no news come, by
/// itself.
#[test]
fn who_is_quicker_than_the_news_of_its_pod_waits_for_them() {
    needs_probe!();
    needs_kubernetes!();
    // This one's API ends.
    let cluster = Cluster::start().unwrap();
    let shop = Shop::open("late");
    cluster.namespace("late").unwrap();
    cluster.node(NODE).unwrap();
    let probe = shop.probe(cluster.kubeconfig().to_str().unwrap(), &[]);
    // The server makes uids. What the kubelet calls a pod from a file is what its annotation says.
    let (uid, id) = ("0123456789abcdef0123456789abcdef", container_id("late"));
    let container = Cgroup::new(&group(uid, &id, true)).unwrap();
    let service = shop.serve(&container, &["-first-id", "1000"]);
    assert_eq!(service.get("/leaf/1").unwrap().status, 200);
    cluster
        .pod(&Pod {
            namespace: "late",
            name: "late",
            node: NODE,
            annotations: &[("kubernetes.io/config.hash", uid)],
            containers: &[("app", "shop:1", &format!("containerd://{id}"))],
            ..Pod::default()
        })
        .unwrap();
    probe.wait_for_words("service=\"late|late|\"", TOLD).unwrap();
    assert_eq!(service.get("/leaf/2").unwrap().status, 200);
    let segment = probe.segment_of("Entry", "/leaf/2").unwrap();
    assert_eq!(
        (segment.service.as_str(), segment.service_instance.as_str()),
        ("late|late|", "late")
    );

    drop(cluster);
    probe.wait_for_words("does not tell of pods", TOLD).unwrap();
    let other = Cgroup::new(&group(
        "fedcba9876543210fedcba9876543210",
        &container_id("other"),
        true,
    ))
    .unwrap();
    let service = shop.serve(&other, &["-first-id", "2000"]);
    probe.wait_for_words("service=\"program\"", TOLD).unwrap();
    assert_eq!(service.get("/leaf/3").unwrap().status, 200);
    assert_eq!(probe.segment_of("Entry", "/leaf/3").unwrap().service, "program");
    let ended = probe.stop().unwrap();
    assert_eq!(ended.losses().count(), 0, "{}", ended.stderr);
}
