//! Pods: programs in control groups as containerd makes them, and their names from a real Kubernetes API server.

#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::time::Duration;

use serde_json::{Value, json};
use tests::{
    cgroup::Cgroup,
    kubernetes::{Cluster, Pod},
    needs_kubernetes, needs_probe,
    network::{Host, Networks},
    pods::{NODE, Running, Shop, TOLD, container_id, group},
    probe,
    scene::{self, all_is_told},
};
use xtask::step::wait_until;

/// On the cluster that the tests of this file share.
fn shop(namespace: &'static str) -> Shop<'static> {
    Shop::open(Cluster::shared().unwrap(), namespace).unwrap()
}

/// Two pods on networks of their own, one calling the other, under one probe outside: the traces are joined, and all is
/// called as it is in the cluster.
#[test]
fn pods_are_called_what_they_are_called_in_the_cluster() {
    needs_probe!();
    needs_kubernetes!();
    let shop = shop("shop");
    let networks = Networks::new().unwrap();
    let pair = shop.pair(&networks).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("probe.sock");
    let status = ["--status-socket", socket.to_str().unwrap()];
    let probe = shop.probe(&shop.cluster.kubeconfig(), &status).unwrap();
    let records = networks
        .within(Host::Client, || {
            for id in 1..=10 {
                assert_eq!(pair.scene.ask("sync", id)?.status, 200);
            }
            pair.scene.records()
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
    // The journals are by what the programs call themselves, and both have one word for it.
    let mut told = ended;
    for segment in &mut told.segments {
        segment.service = "truth".to_owned();
    }
    all_is_told(&records, &told);
    assert_eq!(told.losses().count(), 0, "{}", told.stderr);
}

/// What a pod's owner says of tracing comes before the rules, also later.
#[test]
fn pods_ask_for_tracing_and_out_of_it() {
    needs_probe!();
    needs_kubernetes!();
    let shop = shop("asked");
    let trace = |wanted| [("skyprobe.io/trace", wanted)];
    let out = shop.pod("out", None, &trace("false"), true).unwrap();
    let named = shop
        .pod(
            "named",
            None,
            &[("skywalking.apache.org/service", "what-i-am")],
            true,
        )
        .unwrap();
    let services = [&out, &named].map(|pod| shop.serve(&pod.container, &["-first-id", "1000"]).unwrap());
    let probe = shop.probe(&shop.cluster.kubeconfig(), &[]).unwrap();
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
    let shop = shop("late");
    cluster.namespace("late").unwrap();
    let node = cluster.node(NODE).unwrap();
    let probe = shop.probe(&cluster.kubeconfig(), &[]).unwrap();
    // The server makes uids. What the kubelet calls a pod from a file is what its annotation says.
    let (uid, id) = ("0123456789abcdef0123456789abcdef", container_id("late"));
    let container = Cgroup::new(&group(uid, &id, true)).unwrap();
    let service = shop.serve(&container, &["-first-id", "1000"]).unwrap();
    assert_eq!(service.get("/leaf/1").unwrap().status, 200);
    cluster
        .pod(&Pod {
            namespace: "late",
            name: "late",
            node: NODE,
            owner: Some(&node),
            annotations: &[
                ("kubernetes.io/config.hash", uid),
                ("kubernetes.io/config.mirror", uid),
            ],
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
    let service = shop.serve(&other, &["-first-id", "2000"]).unwrap();
    probe.wait_for_words("service=\"program\"", TOLD).unwrap();
    assert_eq!(service.get("/leaf/3").unwrap().status, 200);
    assert_eq!(probe.segment_of("Entry", "/leaf/3").unwrap().service, "program");
    let ended = probe.stop().unwrap();
    assert_eq!(ended.losses().count(), 0, "{}", ended.stderr);
}

/// The kubelet tells which container is which after they have started: names that ask for it wait, and what does not is
/// added to.
#[test]
fn who_is_quicker_than_the_news_of_its_container_waits_for_them_if_asked() {
    needs_probe!();
    needs_kubernetes!();
    let shop = shop("sidecars");
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("probe.sock");
    let begin = |arguments: &[&str]| {
        let status = ["--status-socket", socket.to_str().unwrap()];
        shop.probe(&shop.cluster.kubeconfig(), &[&status, arguments].concat())
            .unwrap()
    };
    // A program in one of two containers, and what the kubelet has yet to say of them.
    let start = |name: &'static str, told: &dyn Fn()| {
        let ids = [name, "beside"].map(|name| format!("containerd://{}", container_id(name)));
        let pod = Pod {
            namespace: "sidecars",
            name,
            node: NODE,
            containers: &[("app", "shop:1", &ids[0]), ("proxy", "proxy:1", &ids[1])],
            ..Pod::default()
        };
        let object = shop.cluster.bind(&pod).unwrap();
        let uid = object.pointer("/metadata/uid").and_then(Value::as_str).unwrap();
        let container = Cgroup::new(&group(uid, &container_id(name), true)).unwrap();
        let service = shop.serve(&container, &["-first-id", "1000"]).unwrap();
        told();
        shop.cluster.run(&pod).unwrap();
        (container, service)
    };
    let targets = || {
        let told = probe::status(&socket).unwrap();
        told.pointer("/tracing/targets")
            .and_then(Value::as_array)
            .unwrap()
            .clone()
    };

    let asking = begin(&["--service-template", "{pod}-{container}"]);
    let first = start("first", &|| {
        // Long enough to have been traced.
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(targets().len(), 0, "{:?}", targets());
    });
    asking.wait_for_words("service=\"first-app\"", TOLD).unwrap();
    let ended = asking.stop().unwrap();
    assert!(!ended.stderr.contains("gives it other names"), "{}", ended.stderr);
    drop(first);

    let other = begin(&[]);
    let _second = start("second", &|| {
        other.wait_for_words("service=\"second|", TOLD).unwrap();
    });
    let mut found = Vec::new();
    wait_until(TOLD, || {
        found = targets();
        found
            .iter()
            .any(|target| target.get("container") == Some(&json!("app")))
    });
    let [second] = &found[..] else {
        panic!("{found:#?}")
    };
    assert_eq!(second.get("container"), Some(&json!("app")), "{second:#}");
    other.stop().unwrap();
}
