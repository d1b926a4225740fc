//! Pods as Kubernetes' API writes them, and what is taken of them.

use kube::api::Object;
use serde::Deserialize;

use super::owner::{self, Owners};
use crate::discover::pod::{Container, Pod};

/// The uid by which the kubelet calls a pod that it read from a file, which is the one that its groups have.
const STATIC_UID: &str = "kubernetes.io/config.hash";
/// What the kubelet puts on the images of such pods at the API, and nobody into a file.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Annotations that only Kubernetes' own programs read, and that may be as large as the pod itself.
const OMITTED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What is read of a pod. The rest is thrown away as it comes.
pub(super) type PodObject = Object<PodSpec, PodStatus>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodSpec {
    node_name: Option<String>,
    containers: Vec<ContainerSpec>,
    /// What runs before the others, and with `restartPolicy: Always` beside them: native sidecars.
    init_containers: Vec<ContainerSpec>,
    ephemeral_containers: Vec<ContainerSpec>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct ContainerSpec {
    name: String,
    #[serde(default)]
    image: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodStatus {
    container_statuses: Vec<ContainerStatus>,
    init_container_statuses: Vec<ContainerStatus>,
    ephemeral_container_statuses: Vec<ContainerStatus>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ContainerStatus {
    name: String,
    /// `containerd://ID`
    #[serde(rename = "containerID")]
    container_id: Option<String>,
}

/// The uid that its groups have. Anybody can write the annotation, or have copied it with the rest of a manifest: only
/// what a node owns is a static pod's image.
pub(super) fn uid(object: &PodObject) -> String {
    let metadata = &object.metadata;
    let annotations = metadata.annotations.as_ref();
    let is_image = owner::is_of_node(metadata)
        && annotations.is_some_and(|annotations| annotations.contains_key(MIRROR));
    let of_file = annotations
        .filter(|_| is_image)
        .and_then(|annotations| annotations.get(STATIC_UID));
    of_file.or(metadata.uid.as_ref()).cloned().unwrap_or_default()
}

pub(super) async fn pod(object: PodObject, owners: &mut Owners) -> Pod {
    let uid = uid(&object);
    let PodSpec {
        node_name,
        containers,
        init_containers,
        ephemeral_containers,
    } = object.spec;
    let status = object.status.unwrap_or_default();
    let of_all_kinds = [
        (containers, status.container_statuses),
        (init_containers, status.init_container_statuses),
        (ephemeral_containers, status.ephemeral_container_statuses),
    ];
    let containers = of_all_kinds
        .into_iter()
        .flat_map(|(specs, statuses)| known(specs, &statuses));
    let containers = containers.collect();
    let metadata = object.metadata;
    let mut annotations = metadata.annotations.clone().unwrap_or_default();
    annotations.remove(OMITTED);
    Pod {
        uid,
        workload: owners.workload(&metadata).await,
        name: metadata.name.unwrap_or_default(),
        namespace: metadata.namespace.unwrap_or_default(),
        node: node_name.unwrap_or_default(),
        labels: metadata.labels.unwrap_or_default(),
        annotations,
        containers,
    }
}

fn known(specs: Vec<ContainerSpec>, statuses: &[ContainerStatus]) -> Vec<Container> {
    let id_of = |name: &str| {
        let status = statuses.iter().find(|status| status.name == name)?;
        let (_runtime, id) = status.container_id.as_deref()?.split_once("://")?;
        Some(id.to_owned())
    };
    let known = specs.into_iter().map(|spec| Container {
        id: id_of(&spec.name),
        name: spec.name,
        image: spec.image,
    });
    known.collect()
}

#[cfg(test)]
mod tests {
    use kube::{Client, client::Body};
    use serde_json::{Value, json};
    use tower::service_fn;

    use super::*;
    use crate::discover::container::Place;

    fn object(json: Value) -> PodObject {
        serde_json::from_value(json).unwrap()
    }

    /// Without an API: what asks for an owner is told that there is none.
    async fn read(json: Value) -> Pod {
        let nobody = |_request| async { Err::<hyper::Response<Body>, _>("nobody is asked here") };
        let mut owners = Owners::new(Client::new(service_fn(nobody), "default"));
        pod(object(json), &mut owners).await
    }

    #[tokio::test]
    async fn each_kind_of_container_has_its_name_and_image() {
        let pod = read(json!({
            "metadata": { "name": "shop-0", "uid": "u" },
            "spec": {
                "containers": [{ "name": "app", "image": "shop:1" }],
                "initContainers": [
                    { "name": "migrate", "image": "migrate:1" },
                    { "name": "sql-proxy", "image": "sql-proxy:2", "restartPolicy": "Always" },
                ],
                "ephemeralContainers": [{ "name": "debugger", "image": "delve:3" }],
            },
            "status": {
                "containerStatuses": [{ "name": "app", "containerID": "containerd://a" }],
                "initContainerStatuses": [
                    { "name": "migrate", "containerID": "containerd://m" },
                    { "name": "sql-proxy", "containerID": "containerd://s" },
                ],
                "ephemeralContainerStatuses": [{ "name": "debugger", "containerID": "containerd://d" }],
            },
        }))
        .await;
        for (id, name, image) in [
            ("a", "app", "shop:1"),
            ("m", "migrate", "migrate:1"),
            ("s", "sql-proxy", "sql-proxy:2"),
            ("d", "debugger", "delve:3"),
        ] {
            let place = Place {
                container: Some(id.to_owned()),
                ..Place::default()
            };
            let found = pod.container_of(&place).unwrap();
            assert_eq!((&*found.name, &*found.image), (name, image));
        }
    }

    /// Whoever reads the status of a pod right after its start.
    #[tokio::test]
    async fn the_only_container_is_known_before_its_id() {
        let place = Place {
            container: Some("a".to_owned()),
            ..Place::default()
        };
        let one = json!({ "name": "app", "image": "shop:1" });
        // Also where its id is that of its last run.
        for status in [
            json!({}),
            json!({ "containerStatuses": [{ "name": "app", "containerID": "containerd://b" }] }),
        ] {
            let alone = json!({ "metadata": {}, "spec": { "containers": [one] }, "status": status });
            assert_eq!(read(alone).await.container_of(&place).unwrap().name, "app");
        }
        let sidecar = json!({ "name": "sql-proxy", "restartPolicy": "Always" });
        let beside = json!({ "metadata": {}, "spec": { "containers": [one], "initContainers": [sidecar] } });
        assert!(read(beside).await.container_of(&place).is_none());
    }

    fn of_node() -> Value {
        json!([{ "apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "n", "controller": true }])
    }

    #[tokio::test]
    async fn a_static_pod_is_called_after_itself() {
        let pod = read(json!({
            "metadata": {
                "name": "edge-n1",
                "uid": "at-the-api",
                "annotations": { STATIC_UID: "of-the-file", MIRROR: "of-the-file" },
                "ownerReferences": of_node(),
            },
            "spec": { "containers": [] },
        }))
        .await;
        assert_eq!(pod.uid, "of-the-file");
        assert_eq!(pod.workload, None);
    }

    #[test]
    fn a_copied_manifest_does_not_take_a_static_pods_place() {
        let uid_of = |annotations: Value, owners: Value| {
            uid(&object(json!({
                "metadata": { "uid": "its-own", "annotations": annotations, "ownerReferences": owners },
                "spec": {},
            })))
        };
        let copied = json!({ STATIC_UID: "another's", MIRROR: "another's" });
        assert_eq!(uid_of(copied, json!([])), "its-own");
        assert_eq!(uid_of(json!({ STATIC_UID: "another's" }), of_node()), "its-own");
        assert_eq!(uid_of(json!({ MIRROR: "another's" }), of_node()), "its-own");
        assert_eq!(uid_of(json!(null), json!(null)), "its-own");
    }
}
