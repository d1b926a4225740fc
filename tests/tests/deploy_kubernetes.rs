//! A real Kubernetes API server: that it is one, and serves what tests write to it.

use serde_json::json;
use tests::{
    kubernetes::{Cluster, Pod},
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
