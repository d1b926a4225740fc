//! Whom a pod belongs to. What made it is often made itself: a Deployment makes ReplicaSets, a CronJob Jobs, and users
//! know the first of each pair.

use std::collections::HashMap;

use k8s_openapi::{
    api::{apps::v1::ReplicaSet, batch::v1::Job},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{Api, Client};
use tracing::warn;

use crate::discover::pod::Workload;

/// The label with the end of a ReplicaSet's name, which its Deployment put there.
const HASH_LABEL: &str = "pod-template-hash";

const NODE: &str = "Node";

/// As many answers as are kept. Pods come and go with their owners; when there are more, all are asked for again.
const KEPT: usize = 4_096;

/// Asks for owners of owners, once each.
pub(super) struct Owners {
    client: Client,
    /// By uid.
    known: HashMap<String, Workload>,
    refusal_said: bool,
}

impl Owners {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            known: HashMap::new(),
            refusal_said: false,
        }
    }

    pub(super) async fn workload(&mut self, pod: &ObjectMeta) -> Option<Workload> {
        let owner = controller(pod)?;
        if let Some(known) = self.known.get(&owner.uid) {
            return Some(known.clone());
        }
        let namespace = pod.namespace.as_deref().unwrap_or_default();
        let above = match owner.kind.as_str() {
            "ReplicaSet" => {
                let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), namespace);
                api.get_metadata_opt(&owner.name)
                    .await
                    .map(|found| found.map(|it| it.metadata))
            }
            "Job" => {
                let api: Api<Job> = Api::namespaced(self.client.clone(), namespace);
                api.get_metadata_opt(&owner.name)
                    .await
                    .map(|found| found.map(|it| it.metadata))
            }
            _ => return Some(workload(owner)),
        };
        let found = match above {
            Ok(above) => above
                .as_ref()
                .and_then(controller)
                .map_or_else(|| workload(owner), workload),
            Err(error) => {
                if !self.refusal_said {
                    self.refusal_said = true;
                    let error = crate::chain(&error);
                    warn!(%error, kind = owner.kind, "Kubernetes does not tell what pods belong to: it is guessed from their names");
                }
                return Some(guess(pod, owner));
            }
        };
        if self.known.len() >= KEPT {
            self.known.clear();
        }
        self.known.insert(owner.uid.clone(), found.clone());
        Some(found)
    }
}

/// A static pod's image says that it belongs to its node, which runs many, and is no workload.
fn controller(object: &ObjectMeta) -> Option<&OwnerReference> {
    controllers(object).find(|owner| owner.kind != NODE)
}

pub(super) fn is_of_node(object: &ObjectMeta) -> bool {
    controllers(object).any(|owner| owner.kind == NODE)
}

fn controllers(object: &ObjectMeta) -> impl Iterator<Item = &OwnerReference> {
    let owners = object.owner_references.as_deref().unwrap_or_default();
    owners.iter().filter(|owner| owner.controller == Some(true))
}

fn workload(owner: &OwnerReference) -> Workload {
    Workload {
        kind: owner.kind.clone(),
        name: owner.name.clone(),
    }
}

/// A Deployment names its ReplicaSets after itself, and says what it has put behind its name.
fn guess(pod: &ObjectMeta, owner: &OwnerReference) -> Workload {
    let hash = pod.labels.as_ref().and_then(|labels| labels.get(HASH_LABEL));
    let name = hash.and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'));
    match name {
        Some(name) if owner.kind == "ReplicaSet" => Workload {
            kind: "Deployment".to_owned(),
            name: name.to_owned(),
        },
        _ => workload(owner),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn owner(kind: &str, name: &str, is_controller: bool) -> OwnerReference {
        OwnerReference {
            kind: kind.to_owned(),
            name: name.to_owned(),
            controller: Some(is_controller),
            ..OwnerReference::default()
        }
    }

    #[test]
    fn a_deployment_is_guessed_from_its_replica_sets_name() {
        let pod = |hash: &str| ObjectMeta {
            labels: Some(BTreeMap::from([(HASH_LABEL.to_owned(), hash.to_owned())])),
            ..ObjectMeta::default()
        };
        let guessed = |pod: &ObjectMeta, kind| {
            let Workload { kind, name } = guess(pod, &owner(kind, "gateway-7d4b9c", true));
            format!("{kind}/{name}")
        };
        assert_eq!(guessed(&pod("7d4b9c"), "ReplicaSet"), "Deployment/gateway");
        assert_eq!(guessed(&pod("other"), "ReplicaSet"), "ReplicaSet/gateway-7d4b9c");
        assert_eq!(guessed(&pod("7d4b9c"), "Job"), "Job/gateway-7d4b9c");
        assert_eq!(
            guessed(&ObjectMeta::default(), "ReplicaSet"),
            "ReplicaSet/gateway-7d4b9c"
        );
    }

    #[test]
    fn only_who_controls_a_pod_owns_it() {
        let pod = ObjectMeta {
            owner_references: Some(vec![owner("Node", "n1", false), owner("DaemonSet", "logs", true)]),
            ..ObjectMeta::default()
        };
        assert_eq!(controller(&pod).unwrap().name, "logs");
        assert!(controller(&ObjectMeta::default()).is_none());
    }
}
