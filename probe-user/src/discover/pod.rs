//! Pods of this node, as Kubernetes knows them. Who watches its API keeps them here; who looks at processes asks.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use super::container::Place;
use crate::clock;

/// A pod, as far as names and rules want to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    pub uid: String,
    pub name: String,
    pub namespace: String,
    pub node: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// What it belongs to; nothing for a pod that somebody made by hand.
    pub workload: Option<Workload>,
    /// Of all kinds: those that serve, those that prepare it or stand by them (native sidecars), and those that somebody
    /// debugs with.
    pub containers: Vec<Container>,
}

/// What runs pods: a Deployment, a StatefulSet, a DaemonSet, a CronJob, or something of somebody's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    pub kind: String,
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub name: String,
    pub image: String,
    /// Known once it runs.
    pub id: Option<String>,
}

impl Pod {
    /// The container with this id.
    pub fn container(&self, id: &str) -> Option<&Container> {
        self.containers
            .iter()
            .find(|container| container.id.as_deref() == Some(id))
    }

    /// The container with this id, or the only one there is: its id is told after it has started, also anew.
    pub fn container_of(&self, place: &Place) -> Option<&Container> {
        match &self.containers[..] {
            [only] => Some(only),
            _ => self.container(place.container.as_deref()?),
        }
    }
}

/// How much is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Knowledge {
    /// Nobody watches: there is no Kubernetes, or it is not asked.
    #[default]
    Off,
    /// Its API has not answered yet, or does not any more: what is known may be old.
    Behind,
    /// Each pod is known a moment after it was bound to the node, which is before it starts.
    Current,
}

/// How they are watched, for who asks how the probe is.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// Of the API.
    pub address: String,
    pub node: String,
    /// What was wrong last, and when by the boot clock.
    pub error: Option<(String, u64)>,
}

/// The pods of this node, shared by who watches and who asks.
#[derive(Clone, Debug, Default)]
pub struct Pods(Arc<RwLock<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    knowledge: Knowledge,
    watch: Watch,
    by_uid: HashMap<String, Arc<Pod>>,
}

impl Pods {
    /// The pod that a process runs in. A static pod's group has another uid than its image at the API, so the
    /// container's id counts as well.
    pub fn of(&self, place: &Place) -> Option<Arc<Pod>> {
        let inner = self.read();
        let by_uid = place.pod_uid.as_ref().and_then(|uid| inner.by_uid.get(uid));
        let by_container = || {
            let id = place.container.as_ref()?;
            inner.by_uid.values().find(|pod| pod.container(id).is_some())
        };
        by_uid.or_else(by_container).cloned()
    }

    pub fn knowledge(&self) -> Knowledge {
        self.read().knowledge
    }

    pub fn set_knowledge(&self, knowledge: Knowledge) {
        self.write().knowledge = knowledge;
    }

    /// Somebody is about to watch: who asks from here on is told that there is more to come.
    pub fn begin(&self, address: &str, node: &str) {
        let mut inner = self.write();
        inner.knowledge = Knowledge::Behind;
        inner.watch = Watch {
            address: address.to_owned(),
            node: node.to_owned(),
            error: None,
        };
    }

    /// The API does not tell of them.
    pub fn failed(&self, error: &str) {
        let mut inner = self.write();
        inner.knowledge = Knowledge::Behind;
        inner.watch.error = Some((error.to_owned(), clock::now_boot_ns()));
    }

    /// How they are watched, and how many there are.
    pub fn watch(&self) -> (Watch, usize) {
        let inner = self.read();
        (inner.watch.clone(), inner.by_uid.len())
    }

    /// Whether anything that names or rules could be made of has changed.
    pub fn put(&self, pod: Pod) -> bool {
        let mut inner = self.write();
        let known = inner.by_uid.get(&pod.uid);
        if known.is_some_and(|known| **known == pod) {
            return false;
        }
        inner.by_uid.insert(pod.uid.clone(), Arc::new(pod));
        true
    }

    pub fn remove(&self, uid: &str) {
        self.write().by_uid.remove(uid);
    }

    /// Leaves only those that the API lists.
    pub fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.write().by_uid.retain(|uid, _| is_there(uid));
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
