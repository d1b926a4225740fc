//! Whom a pod belongs to. What made it is often made itself: a Deployment makes ReplicaSets, a CronJob Jobs, and users
//! know the first of each pair.

use std::{collections::HashMap, fmt, time::Duration};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{apps::v1::ReplicaSet, batch::v1::Job},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::discover::pod::Workload;

/// The label with the end of a ReplicaSet's name, which its Deployment put there.
const HASH_LABEL: &str = "pod-template-hash";

const NODE: &str = "Node";

/// How long an answer may take. While one is waited for, no news of pods are read.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long nobody asks after that: each pod of a list would have its own to wait for.
const PAUSE: Duration = Duration::from_secs(60);

/// How long after a Job was due its pod may be made: they are tried again, and may have waited. Half a year.
const LATE_MINUTES: u64 = 183 * 24 * 60;

/// As many answers as are kept. Pods come and go with their owners; when there are more, all are asked for again.
const KEPT: usize = 4_096;

/// Asks for owners of owners, once each.
pub(super) struct Owners {
    client: Client,
    /// By uid.
    known: HashMap<String, Workload>,
    refusal_said: bool,
    /// It has not answered, and nobody asks before that.
    silent_until: Option<Instant>,
}

#[derive(Debug, thiserror::Error)]
enum LookUpError {
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Silent,
    #[error(transparent)]
    Client(#[from] kube::Error),
}

impl Owners {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            known: HashMap::new(),
            refusal_said: false,
            silent_until: None,
        }
    }

    pub(super) async fn workload(&mut self, pod: &ObjectMeta) -> Option<Workload> {
        let owner = controller(pod)?;
        if let Some(known) = self.known.get(&owner.uid) {
            return Some(known.clone());
        }
        let namespace = pod.namespace.as_deref().unwrap_or_default();
        let above = match owner.kind.as_str() {
            "ReplicaSet" => self.look_up::<ReplicaSet>(namespace, &owner.name).await,
            "Job" => self.look_up::<Job>(namespace, &owner.name).await,
            _ => return Some(workload(owner)),
        };
        let found = match above {
            Ok(Some(above)) => controller(&above).map_or_else(|| workload(owner), workload),
            // It went before its pods.
            Ok(None) => guess(pod, owner),
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

    /// Nothing if there is none of this name.
    async fn look_up<K>(&mut self, namespace: &str, name: &str) -> Result<Option<ObjectMeta>, LookUpError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + fmt::Debug + DeserializeOwned,
    {
        if self.silent_until.is_some_and(|until| Instant::now() < until) {
            return Err(LookUpError::Silent);
        }
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        if let Ok(answer) = timeout(PATIENCE, api.get_metadata_opt(name)).await {
            Ok(answer?.map(|found| found.metadata))
        } else {
            self.silent_until = Some(Instant::now() + PAUSE);
            Err(LookUpError::Silent)
        }
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

/// Deployments and CronJobs name what they make after themselves, and put behind it what can be told.
fn guess(pod: &ObjectMeta, owner: &OwnerReference) -> Workload {
    let (kind, name) = match owner.kind.as_str() {
        "ReplicaSet" => ("Deployment", deployment(pod, &owner.name)),
        "Job" => ("CronJob", cron_job(pod, &owner.name)),
        _ => return workload(owner),
    };
    let guessed = name.map(|name| Workload {
        kind: kind.to_owned(),
        name: name.to_owned(),
    });
    guessed.unwrap_or_else(|| workload(owner))
}

/// Behind its name stands what a label of the pod says.
fn deployment<'a>(pod: &ObjectMeta, replica_set: &'a str) -> Option<&'a str> {
    let hash = pod.labels.as_ref()?.get(HASH_LABEL)?;
    replica_set.strip_suffix(hash.as_str())?.strip_suffix('-')
}

/// Behind its name stands the minute since 1970 in which the Job was due, which is not long before the pod was made. A
/// Job that somebody made may end with a number of another kind.
fn cron_job<'a>(pod: &ObjectMeta, job: &'a str) -> Option<&'a str> {
    let (name, minute) = job.rsplit_once('-')?;
    let minute: i64 = minute.parse().ok()?;
    let made = pod.creation_timestamp.as_ref()?.0.as_second() / 60;
    (made.abs_diff(minute) < LATE_MINUTES).then_some(name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

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
    fn a_cron_job_is_guessed_from_its_jobs_name() {
        let made: Time = serde_json::from_str("\"2026-11-23T02:00:07Z\"").unwrap();
        let pod = ObjectMeta {
            creation_timestamp: Some(made),
            ..ObjectMeta::default()
        };
        let guessed = |pod: &ObjectMeta, name| {
            let Workload { kind, name } = guess(pod, &owner("Job", name, true));
            format!("{kind}/{name}")
        };
        // The minute of the day's second hour, and the week before's.
        assert_eq!(guessed(&pod, "nightly-29923320"), "CronJob/nightly");
        assert_eq!(guessed(&pod, "tidy-up-29913240"), "CronJob/tidy-up");
        for by_hand in ["nightly", "nightly-2", "nightly-20261123", "nightly-x7k2q"] {
            assert_eq!(guessed(&pod, by_hand), format!("Job/{by_hand}"));
        }
        assert_eq!(
            guessed(&ObjectMeta::default(), "nightly-29923320"),
            "Job/nightly-29923320"
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
