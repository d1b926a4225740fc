//! The demo for those who have containers: `deploy/compose.yaml` and `deploy/kubernetes/demo`, without an engine and
//! without a cluster.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::{Value, json};
use tests::{
    container::{Around, Bundle},
    deploy::{compose, kustomize, objects, of_kind, path},
    kubernetes::Cluster,
    needs, needs_kubernetes, needs_probe, needs_rpc,
    network::{Host, Networks},
    probe::Probe,
};
use xtask::{checkers, image::Image, step::wait_until};

/// The demo's programs, callees first.
const SERVICES: [&str; 3] = ["order-service", "user-service", "gateway"];
const VISITOR: &str = "visitor";

/// The services of `deploy/compose.yaml`.
fn demo() -> Value {
    compose(&path("compose.yaml")).unwrap()["services"].clone()
}

/// The container of a workload of the demo for Kubernetes.
fn container(file: &str, workload: &str) -> Value {
    let text = fs::read_to_string(path("kubernetes/demo").join(file)).unwrap();
    pod(&objects(&text).unwrap(), workload)["containers"][0].clone()
}

fn pod(objects: &[Value], workload: &str) -> Value {
    let mut deployments = objects.iter().filter(|object| object["kind"] == "Deployment");
    let found = deployments.find(|object| object["metadata"]["name"] == workload);
    found.unwrap()["spec"]["template"]["spec"].clone()
}

#[test]
fn compose_itself_reads_the_file_and_refuses_one_with_a_slip() {
    needs!(checkers::compose());
    let services = demo();
    let names: BTreeSet<&str> = services.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = BTreeSet::from(["oap", "ui", "skyprobe", VISITOR]);
    expected.extend(SERVICES);
    assert_eq!(names, expected);

    let text = fs::read_to_string(path("compose.yaml")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let slip = folder.path().join("compose.yaml");
    fs::write(&slip, text.replace("    cap_add:", "    cap_adds:")).unwrap();
    let error = compose(&slip).unwrap_err().to_string();
    assert!(error.contains("cap_adds"), "{error}");
}

#[test]
fn both_demos_run_the_same() {
    needs!(checkers::compose());
    let services = demo();
    for name in SERVICES.into_iter().chain([VISITOR]) {
        let in_pod = container("shop.yaml", name);
        for key in ["image", "command"] {
            assert_eq!(services[name][key], in_pod[key], "{key} of {name}");
        }
    }
    for name in ["oap", "ui"] {
        let in_pod = container("skywalking.yaml", name);
        assert_eq!(services[name]["image"], in_pod["image"]);
        let release = in_pod["image"].as_str().unwrap().split(':').next_back();
        assert_eq!(release, Some(xtask::oap::REFERENCE));
        for variable in in_pod["env"].as_array().unwrap() {
            let key = variable["name"].as_str().unwrap();
            assert_eq!(services[name]["environment"][key], variable["value"], "{key}");
        }
    }
    assert_eq!(services["skyprobe"]["image"], Image::Probe.name());
    assert_eq!(services[VISITOR]["image"], Image::Demo.name());
}

/// What each of a Compose service's settings is in a pod, so far as the probe's say anything that grants or takes.
fn as_pod(service: &Value) -> Value {
    let keys = service.as_object().unwrap().keys().map(String::as_str);
    let known = [
        "build",
        "cap_add",
        "cap_drop",
        "command",
        "depends_on",
        "healthcheck",
        "image",
        "mem_limit",
        "mem_reservation",
        "networks",
        "pid",
        "privileged",
        "read_only",
        "security_opt",
        "stop_grace_period",
        "tmpfs",
        "user",
        "volumes",
    ];
    let unknown: Vec<_> = keys.filter(|key| !known.contains(key)).collect();
    assert!(unknown.is_empty(), "what are these in a pod? {unknown:?}");
    let text = |key: &str| service[key].as_str().unwrap();
    let options: Vec<&str> = service["security_opt"]
        .as_array()
        .unwrap()
        .iter()
        .map(|option| option.as_str().unwrap())
        .collect();
    let option = |name: &str| {
        options
            .iter()
            .find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    };
    assert_eq!(options.len(), 3, "{options:?}");
    let (user, group) = text("user").split_once(':').unwrap();
    let number = |text: &str| text.parse::<u32>().unwrap();
    let mebibytes = |key: &str| format!("{}Mi", text(key).strip_suffix('m').unwrap());
    let [run] = &service["tmpfs"].as_array().unwrap()[..] else {
        panic!("{}", service["tmpfs"])
    };
    let (place, size) = run.as_str().unwrap().split_once(":size=").unwrap();
    let volumes = service["volumes"].as_array().unwrap().iter();
    let of_host: Vec<Value> = volumes
        .map(|volume| json!([volume["source"], volume["target"], volume["read_only"]]))
        .collect();
    json!({
        "hostPID": text("pid") == "host",
        "hostNetwork": false,
        "hostIPC": false,
        "grace": number(text("stop_grace_period").strip_suffix('s').unwrap()),
        "securityContext": {
            "runAsUser": number(user),
            "runAsGroup": number(group),
            "privileged": service["privileged"],
            "allowPrivilegeEscalation": option("no-new-privileges") != Some("true"),
            "readOnlyRootFilesystem": service["read_only"],
            "capabilities": { "drop": service["cap_drop"], "add": service["cap_add"] },
            "seccompProfile": { "type": option("seccomp").unwrap_or("RuntimeDefault") },
            "appArmorProfile": { "type": if option("apparmor") == Some("unconfined") { "Unconfined" } else { "RuntimeDefault" } },
            "seLinuxOptions": { "type": option("label").and_then(|label| label.strip_prefix("type:")) },
        },
        "memory": [mebibytes("mem_reservation"), mebibytes("mem_limit")],
        "of host": of_host,
        "in memory": [[place, size.replace('m', "Mi")]],
    })
}

/// The same of a pod.
fn rights_of(pod: &Value) -> Value {
    let is = |key: &str| pod[key] == true;
    let container = &pod["containers"][0];
    let mounts = container["volumeMounts"].as_array().unwrap();
    let place = |volume: &Value| {
        let mount = mounts.iter().find(|mount| mount["name"] == volume["name"]);
        mount.unwrap().clone()
    };
    let (mut of_host, mut in_memory) = (Vec::new(), Vec::new());
    for volume in pod["volumes"].as_array().unwrap() {
        let mount = place(volume);
        if let Some(path) = volume.pointer("/hostPath/path") {
            of_host.push(json!([path, mount["mountPath"], mount["readOnly"]]));
        } else if let Some(size) = volume.pointer("/emptyDir/sizeLimit") {
            in_memory.push(json!([mount["mountPath"], size]));
        } else {
            // Its settings, which the other has as flags.
            assert!(volume.get("configMap").is_some(), "{volume}");
        }
    }
    let memory = |of: &str| container["resources"][of]["memory"].clone();
    json!({
        "hostPID": is("hostPID"),
        "hostNetwork": is("hostNetwork"),
        "hostIPC": is("hostIPC"),
        "grace": pod["terminationGracePeriodSeconds"],
        "securityContext": container["securityContext"],
        "memory": [memory("requests"), memory("limits")],
        "of host": of_host,
        "in memory": in_memory,
    })
}

#[test]
fn the_probe_has_the_same_rights_in_compose_as_in_its_daemon_set() {
    needs!(checkers::compose());
    let file = fs::read_to_string(path("kubernetes/base/daemonset.yaml")).unwrap();
    let daemon_set = objects(&file).unwrap();
    let pod = &of_kind(&daemon_set, "DaemonSet").unwrap()["spec"]["template"]["spec"];
    assert_eq!(as_pod(&demo()["skyprobe"]), rights_of(pod));
}

/// The namespaces of the demo grant its pods nothing, and the server takes them.
#[test]
fn the_server_takes_the_demos_pods_under_the_levels_that_their_namespaces_enforce() {
    needs_kubernetes!();
    let cluster = Cluster::start().unwrap();
    let demo = kustomize("demo").unwrap();
    for object in &demo {
        cluster.apply(object).unwrap();
    }
    let mut taken = Vec::new();
    for deployment in demo.iter().filter(|object| object["kind"] == "Deployment") {
        let namespace = deployment["metadata"]["namespace"].as_str().unwrap();
        let name = deployment["metadata"]["name"].as_str().unwrap();
        cluster.default_account(namespace).unwrap();
        let template = &deployment["spec"]["template"];
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "spec": template["spec"],
            "metadata": { "name": name, "namespace": namespace, "labels": template["metadata"]["labels"] },
        });
        cluster.apply(&pod).unwrap();
        taken.push(format!("{namespace}/{name}"));
        // It is the level that is looked at.
        pod["metadata"]["name"] = json!(format!("{name}-privileged"));
        pod["spec"]["containers"][0]["securityContext"] = json!({ "privileged": true });
        let refused = format!("{:#}", cluster.apply(&pod).unwrap_err());
        assert!(refused.contains("violates PodSecurity"), "{refused}");
    }
    taken.sort_unstable();
    assert_eq!(
        taken,
        [
            "shop/gateway",
            "shop/order-service",
            "shop/user-service",
            "shop/visitor",
            "skywalking/oap",
            "skywalking/ui"
        ]
    );
    // Where the probe's settings say that OAP is, there is a service.
    let settings = of_kind(&demo, "ConfigMap").unwrap()["data"]["skyprobe.yaml"].to_string();
    let found = demo.iter().any(|object| {
        let named = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
        object["kind"] == "Service"
            && settings.contains(&format!(
                "oap: {}.{}.svc:11800",
                named("name"),
                named("namespace")
            ))
    });
    assert!(found, "{settings}");
}

/// The image's containers as the demo's pods have them, run by runc, under a probe with Compose's flags.
#[test]
fn the_demos_image_runs_as_its_pods_and_is_traced_by_the_flags_of_compose() {
    needs!(checkers::compose());
    needs_probe!();
    needs_rpc!();
    let scratch = tempfile::tempdir().unwrap();
    let first = Bundle::of(Image::Demo, scratch.path()).unwrap();
    // One network for all of them, in which their names are known.
    let networks = Networks::new().unwrap();
    let hosts = scratch.path().join("hosts");
    fs::write(&hosts, format!("127.0.0.1 localhost {}\n", SERVICES.join(" "))).unwrap();
    let around = Around {
        volumes: BTreeMap::new(),
        account: None,
        hosts: &hosts,
        node: "node-a",
        network: networks.name(Host::Client),
    };
    let shop = objects(&fs::read_to_string(path("kubernetes/demo/shop.yaml")).unwrap()).unwrap();
    let bundle = |name: &str| {
        let mut bundle = first.beside(name).unwrap();
        bundle.configure(&pod(&shop, name), &around).unwrap();
        bundle
    };
    let [orders, users, gateway] = SERVICES.map(bundle);
    let containers = [orders.container(), users.container(), gateway.container()];
    let _running = containers.each_ref().map(|container| container.spawn().unwrap());
    for name in SERVICES {
        networks
            .within(Host::Client, || {
                let listens = || TcpStream::connect(address(&pod(&shop, name))).is_ok();
                anyhow::ensure!(
                    wait_until(Duration::from_secs(20), listens),
                    "{name} does not listen"
                );
                Ok(())
            })
            .unwrap();
    }

    let command = demo()["skyprobe"]["command"].clone();
    let command: Vec<String> = serde_json::from_value(command).unwrap();
    let flags: Vec<&str> = command.iter().map(String::as_str).collect();
    // It prints what it has, for us to read.
    let Some((&"run", flags)) = flags.split_first() else {
        panic!("{flags:?}")
    };
    let flags: Vec<&str> = flags
        .iter()
        .copied()
        .filter(|flag| !flag.starts_with("--oap="))
        .collect();
    assert_eq!(flags.len(), SERVICES.len(), "{flags:?}");
    let probe = Probe::start(&flags).unwrap();
    assert!(probe.ready().unwrap().contains("3 processes traced"));

    let visitor = bundle(VISITOR);
    let visitor = visitor.container();
    let _visiting = visitor.spawn().unwrap();
    // The fifth visit is the one that fails.
    probe
        .wait_for("an error of the gateway's", |segments| {
            let mut spans = segments.iter().flat_map(|segment| &segment.spans);
            spans.any(|span| span.operation_name == "GET:/recommendations" && span.is_error)
        })
        .unwrap();
    drop(visitor);
    let ended = probe.stop().unwrap();
    let services: BTreeSet<&str> = ended
        .segments
        .iter()
        .map(|segment| segment.service.as_str())
        .collect();
    assert_eq!(services, BTreeSet::from(SERVICES), "{}", ended.stderr);
    // One visit is one trace through all three.
    let visit = ended
        .segments
        .iter()
        .find(|segment| {
            segment
                .spans
                .iter()
                .any(|span| span.operation_name == "GET:/profile")
        })
        .unwrap();
    let joined: BTreeSet<&str> = ended
        .segments
        .iter()
        .filter(|segment| segment.trace_id == visit.trace_id)
        .map(|segment| segment.service.as_str())
        .collect();
    assert_eq!(joined, services);
    assert_eq!(ended.losses().count(), 0, "{}", ended.stderr);
}

/// Where a pod's readiness is asked for.
fn address(pod: &Value) -> SocketAddr {
    let container = &pod["containers"][0];
    let named = &container["readinessProbe"]["tcpSocket"]["port"];
    let mut ports = container["ports"].as_array().unwrap().iter();
    let port = ports.find(|port| port["name"] == *named).unwrap()["containerPort"].as_u64();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port.unwrap().try_into().unwrap())
}
