//! A real Kubernetes API server takes what `deploy/kubernetes` and the chart say, and lets the probe do what it needs
//! and nothing else.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::{
    deploy::{helm, kustomize, of_kind, overlay},
    kubernetes::{Client, Cluster, Pod},
    needs_kubernetes,
};

#[test]
fn a_pod_of_a_deployment_is_served_with_its_owners() {
    needs_kubernetes!();
    let cluster = Cluster::shared().unwrap();
    cluster.namespace("shop").unwrap();
    cluster.node("node-a").unwrap();
    let labels = json!({ "app": "orders" });
    let deployment = cluster
        .apply(&json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": { "name": "orders", "namespace": "shop" },
            "spec": {
                "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels },
                    "spec": { "containers": [{ "name": "app", "image": "orders:1" }] },
                },
            },
        }))
        .unwrap();
    let replica_set = cluster.replica_set(&deployment, "orders-5d8f").unwrap();
    let id = format!("containerd://{}", "0123456789abcdef".repeat(4));
    let mut pod = Pod {
        namespace: "shop",
        name: "orders-5d8f-x7k2q",
        node: "node-a",
        owner: Some(&replica_set),
        labels: &[("app", "orders")],
        annotations: &[("skyprobe.io/trace", "true")],
        containers: &[("app", "orders:1", &id)],
    };
    cluster.pod(&pod).unwrap();

    // As the probe asks.
    let administrator = cluster.administrator();
    let of_node = "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-a";
    let listed = administrator.get(of_node).unwrap();
    let found = &listed["items"][0];
    assert_eq!(found["metadata"]["name"], pod.name);
    assert_eq!(found["status"]["phase"], "Running");
    assert_eq!(
        found["status"]["containerStatuses"][0]["containerID"],
        id.as_str()
    );
    let owner = &found["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["name"]),
        (&json!("ReplicaSet"), &json!("orders-5d8f"))
    );
    let owners = administrator
        .get("/apis/apps/v1/namespaces/shop/replicasets/orders-5d8f")
        .unwrap();
    assert_eq!(
        owners["metadata"]["ownerReferences"][0]["uid"],
        deployment["metadata"]["uid"]
    );

    // A container that was started anew has another id.
    pod.containers = &[("app", "orders:1", "containerd://anew")];
    let pod = cluster.run(&pod).unwrap();
    assert_eq!(
        pod["status"]["containerStatuses"][0]["containerID"],
        "containerd://anew"
    );
    cluster.delete(&pod).unwrap();
    let listed = administrator.get(of_node).unwrap();
    assert_eq!(listed["items"], json!([]));
}

#[test]
fn an_account_may_do_nothing_until_it_is_said_and_fields_that_do_not_exist_are_refused() {
    needs_kubernetes!();
    let cluster = Cluster::shared().unwrap();
    cluster.namespace("nobody").unwrap();
    let nobody = cluster.account("nobody", "default").unwrap();
    assert_eq!(nobody.ask("GET", "/api/v1/pods", None).unwrap().status, 403);
    let misspelt = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": { "name": "other", "namespace": "nobody" },
        "automountServiceAccountTokens": false,
    });
    let error = format!("{:#}", cluster.apply(&misspelt).unwrap_err());
    assert!(error.contains("automountServiceAccountTokens"), "{error}");
}

/// All variants that are in the tree: what kustomize makes of each folder, and what Helm makes of each way to set it.
fn variants() -> Vec<(String, Vec<Value>)> {
    let mut variants = Vec::new();
    for folder in ["base", "overlays/privileged", "overlays/tls", "demo"] {
        variants.push((folder.to_owned(), kustomize(folder).unwrap()));
    }
    let mine = tempfile::tempdir().unwrap();
    let components = overlay(mine.path(), &["tls", "privileged", "openshift"], &[]).unwrap();
    variants.push(("all components".to_owned(), components));
    let ways: [&[&str]; 5] = [
        &[],
        &["privileged=true"],
        &["openshift=true"],
        &["oapSecret.name=skyprobe-oap", "oapSecret.token="],
        &[
            "config.http=",
            "serviceAccount.name=probe",
            "priorityClass.create=false",
            "priorityClass.name=system-node-critical",
        ],
    ];
    for values in ways {
        let mut all = values.to_vec();
        all.push("namespace.create=true");
        variants.push((format!("helm {values:?}"), helm(&all).unwrap()));
    }
    variants
}

#[test]
fn the_server_takes_each_variant_and_a_second_time_changes_nothing() {
    needs_kubernetes!();
    // Each variant has the same names.
    let cluster = Cluster::start().unwrap();
    let strict = json!({ "pod-security.kubernetes.io/enforce": "baseline" });
    let strict = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "strict", "labels": strict },
    });
    cluster.apply(&strict).unwrap();
    for (variant, objects) in variants() {
        let mut versions = Vec::new();
        for object in &objects {
            let applied = cluster
                .apply(object)
                .map_err(|error| format!("{variant}: {error:#}"));
            versions.push(applied.unwrap()["metadata"]["resourceVersion"].clone());
        }
        for (object, version) in objects.iter().zip(versions) {
            let again = cluster.apply(object).unwrap();
            assert_eq!(
                again["metadata"]["resourceVersion"], version,
                "{variant}: {}",
                again["kind"]
            );
        }
        let daemon_set = of_kind(&objects, "DaemonSet").unwrap();
        let pod = pod_of(daemon_set, "skyprobe");
        let pod = cluster
            .apply(&pod)
            .map_err(|error| format!("{variant}: {error:#}"))
            .unwrap();
        assert!(pod["spec"]["priority"].as_i64().unwrap() > 0, "{variant}");
        cluster.delete(&pod).unwrap();

        // Only a namespace that says so takes it.
        let account = &daemon_set["spec"]["template"]["spec"]["serviceAccountName"];
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": account, "namespace": "strict" },
        });
        cluster.apply(&account).unwrap();
        let refused = cluster.apply(&pod_of(daemon_set, "strict")).unwrap_err();
        let refused = format!("{refused:#}");
        assert!(
            refused.contains("violates PodSecurity \"baseline"),
            "{variant}: {refused}"
        );
    }
}

/// What the controller would make of a DaemonSet for one node.
fn pod_of(daemon_set: &Value, namespace: &str) -> Value {
    let template = &daemon_set["spec"]["template"];
    let mut spec = template["spec"].clone();
    spec["nodeName"] = json!("node-a");
    let labels = &template["metadata"]["labels"];
    json!({
        "apiVersion": "v1", "kind": "Pod", "spec": spec,
        "metadata": { "name": "skyprobe-x7k2q", "namespace": namespace, "labels": labels },
    })
}

/// What RBAC gives every account that shows a token: to ask for its own rights.
const OF_EVERYBODY: [&str; 3] = [
    "create authentication.k8s.io/selfsubjectreviews",
    "create authorization.k8s.io/selfsubjectaccessreviews",
    "create authorization.k8s.io/selfsubjectrulesreviews",
];

/// What the probe needs beside.
const OF_THE_PROBE: [&str; 5] = [
    "get /pods",
    "get apps/replicasets",
    "get batch/jobs",
    "list /pods",
    "watch /pods",
];

#[test]
fn the_probes_account_has_the_rights_that_names_need_and_no_others() {
    needs_kubernetes!();
    let cluster = Cluster::shared().unwrap();
    for (variant, objects) in [
        ("base", kustomize("base")),
        ("helm", helm(&["namespace.create=true"])),
    ] {
        for object in objects.unwrap() {
            cluster.apply(&object).unwrap();
        }
        let probe = cluster.account("skyprobe", "skyprobe").unwrap();
        for namespace in ["skyprobe", "kube-system"] {
            let mut expected: BTreeSet<_> = OF_EVERYBODY.map(str::to_owned).into();
            expected.extend(OF_THE_PROBE.map(str::to_owned));
            assert_eq!(rights(&probe, namespace), expected, "{variant} in {namespace}");
        }
    }
    let probe = cluster.account("skyprobe", "skyprobe").unwrap();
    let ask = |method: &str, path: &str| probe.ask(method, path, None).unwrap().status;
    for path in [
        "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-a",
        "/api/v1/pods?watch=true&timeoutSeconds=1&fieldSelector=spec.nodeName%3Dnode-a",
    ] {
        assert_eq!(ask("GET", path), 200, "{path}");
    }
    // It may ask, and there is none.
    for path in [
        "/api/v1/namespaces/shop/pods/a",
        "/apis/apps/v1/namespaces/shop/replicasets/a",
        "/apis/batch/v1/namespaces/shop/jobs/a",
    ] {
        assert_eq!(ask("GET", path), 404, "{path}");
    }
    for (method, path) in [
        ("GET", "/api/v1/secrets"),
        ("GET", "/api/v1/namespaces/skyprobe/secrets/skyprobe-oap"),
        ("GET", "/api/v1/namespaces/skyprobe/configmaps/skyprobe"),
        ("GET", "/api/v1/nodes"),
        ("GET", "/api/v1/nodes/node-a"),
        ("GET", "/api/v1/namespaces"),
        ("GET", "/api/v1/services"),
        ("GET", "/apis/apps/v1/deployments"),
        ("GET", "/apis/apps/v1/replicasets"),
        ("GET", "/apis/apps/v1/namespaces/shop/replicasets"),
        ("GET", "/apis/batch/v1/jobs"),
        ("GET", "/api/v1/namespaces/shop/pods/a/log"),
        ("POST", "/api/v1/namespaces/shop/pods/a/exec?command=id"),
        ("POST", "/api/v1/namespaces/shop/pods/a/eviction"),
        ("POST", "/api/v1/namespaces/shop/pods"),
        ("PATCH", "/api/v1/namespaces/shop/pods/a"),
        ("PUT", "/api/v1/namespaces/shop/pods/a/status"),
        ("DELETE", "/api/v1/namespaces/shop/pods/a"),
        ("DELETE", "/api/v1/namespaces/shop/pods"),
        (
            "POST",
            "/api/v1/namespaces/skyprobe/serviceaccounts/skyprobe/token",
        ),
        ("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"),
        ("GET", "/metrics"),
    ] {
        assert_eq!(ask(method, path), 403, "{method} {path}");
    }
}

/// All that an account may do in a namespace, as the server itself sums it up.
fn rights(account: &Client, namespace: &str) -> BTreeSet<String> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview",
        "spec": { "namespace": namespace },
    });
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let said = account
        .ask("POST", path, Some(&review))
        .unwrap()
        .object()
        .unwrap();
    assert_eq!(said["status"]["incomplete"], false, "{said}");
    let texts =
        |rule: &Value, field: &str| -> Vec<String> { serde_json::from_value(rule[field].clone()).unwrap() };
    let mut rights = BTreeSet::new();
    for rule in said["status"]["resourceRules"].as_array().unwrap() {
        assert!(rule.get("resourceNames").is_none(), "{rule}");
        for verb in texts(rule, "verbs") {
            for group in texts(rule, "apiGroups") {
                rights.extend(
                    texts(rule, "resources")
                        .iter()
                        .map(|it| format!("{verb} {group}/{it}")),
                );
            }
        }
    }
    rights
}
