//! A real Kubernetes API server for tests: nodes, workloads and pods as a cluster would have them, and accounts with
//! the rights that RBAC gives them.
//!
//! ```no_run
//! # use tests::kubernetes::{Cluster, Pod};
//! # use serde_json::json;
//! # fn test() -> anyhow::Result<()> {
//! let cluster = Cluster::shared()?;           // a test says `needs_kubernetes!()` first
//! cluster.namespace("shop")?;
//! cluster.node("node-a")?;
//! let deployment = cluster.apply(&json!({ /* … */ }))?;
//! let replica_set = cluster.replica_set(&deployment, "orders-5d8f")?;
//! let pod = cluster.pod(&Pod {
//!     namespace: "shop",
//!     name: "orders-5d8f-x7k2q",
//!     node: "node-a",
//!     owner: Some(&replica_set),
//!     labels: &[("app.kubernetes.io/name", "orders")],
//!     containers: &[("app", "orders:1.4", "containerd://0123…")],
//!     ..Pod::default()
//! })?;
//! let uid = pod["metadata"]["uid"].as_str();  // what the pod's cgroup is named after
//! let kubeconfig = cluster.kubeconfig_of("skyprobe", "skyprobe")?; // for `--kubeconfig`
//! # Ok(()) }
//! ```
//!
//! Nothing runs behind the server: no controller makes pods of a workload, takes what an owner leaves behind, or makes
//! a namespace's default account, and a namespace that is deleted stays. The helper makes what is missed.

mod client;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use xtask::{kubernetes::ApiServer, step::wait_until};

pub use client::{Client, Said};

/// How long the server may take until a new cluster's own roles and classes are in it.
const READY_PATIENCE: Duration = Duration::from_secs(60);

/// Ends the test with a printed reason where there can be no API server.
#[macro_export]
macro_rules! needs_kubernetes {
    () => {
        if let Err(reason) = xtask::kubernetes::programs() {
            $crate::skip::skip(&format!("needs a Kubernetes API server: {reason:#}"));
            return;
        }
    };
}

/// A cluster without anything that runs.
pub struct Cluster {
    server: ApiServer,
    administrator: Client,
}

/// A pod that runs on a node, one that nobody started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pod<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub node: &'a str,
    /// The object that made it, as [`Cluster::apply`] and others give it.
    pub owner: Option<&'a Value>,
    pub labels: &'a [(&'a str, &'a str)],
    pub annotations: &'a [(&'a str, &'a str)],
    /// Of each its name, its image and its id as the runtime has it, `containerd://` and 64 hex digits.
    pub containers: &'a [(&'a str, &'a str, &'a str)],
}

impl Cluster {
    /// Starts one of the test's own.
    pub fn start() -> Result<Self> {
        let server = ApiServer::start()?;
        let administrator = Client::new(server.address(), &server.authority(), server.administrator())?;
        let mut said = None;
        let ready = wait_until(READY_PATIENCE, || {
            said = Some(administrator.ask("GET", "/readyz", None));
            matches!(&said, Some(Ok(said)) if said.status == 200)
        });
        ensure!(ready, "the API server is not ready: {said:?}\n{}", server.log());
        Ok(Self {
            server,
            administrator,
        })
    }

    /// The one that all tests of this file share, each in namespaces of its own: it ends with the last of them.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        static STARTING: Mutex<()> = Mutex::new(());
        let _turn = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cluster) = SHARED.get() {
            return Ok(cluster);
        }
        let cluster = Self::start()?;
        Ok(SHARED.get_or_init(|| cluster))
    }

    /// Who may do everything.
    pub fn administrator(&self) -> &Client {
        &self.administrator
    }

    /// The file by which who may do everything reaches it.
    pub fn kubeconfig(&self) -> PathBuf {
        self.server.kubeconfig()
    }

    /// The same for a service account, with what RBAC lets it do.
    pub fn kubeconfig_of(&self, namespace: &str, account: &str) -> Result<PathBuf> {
        let token = self.token_of(namespace, account)?;
        self.server
            .write_kubeconfig(&format!("{namespace}-{account}"), &token)
    }

    /// A service account, as its pods are.
    pub fn account(&self, namespace: &str, account: &str) -> Result<Client> {
        let token = self.token_of(namespace, account)?;
        Client::new(self.server.address(), &self.server.authority(), &token)
    }

    /// The token that a pod of this account would find mounted.
    pub fn token_of(&self, namespace: &str, account: &str) -> Result<String> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": { "expirationSeconds": 3600 },
        });
        let answer = self.administrator.ask("POST", &path, Some(&request))?.object()?;
        let token = answer.pointer("/status/token").and_then(Value::as_str);
        token.map(str::to_owned).context("a token request gave no token")
    }

    /// Writes into a folder what a pod of this account finds mounted.
    pub fn write_account(&self, namespace: &str, account: &str, folder: &Path) -> Result<()> {
        fs::write(folder.join("token"), self.token_of(namespace, account)?)?;
        fs::copy(self.server.authority(), folder.join("ca.crt"))?;
        Ok(fs::write(folder.join("namespace"), namespace)?)
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Server-side apply of one object, fields that do not exist refused; gives it as it is now.
    pub fn apply(&self, object: &Value) -> Result<Value> {
        self.administrator.apply(object)
    }

    /// A namespace with the account that its pods have if they name none.
    pub fn namespace(&self, name: &str) -> Result<()> {
        self.apply(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }))?;
        self.default_account(name)
    }

    /// What the controller of accounts does for each namespace.
    pub fn default_account(&self, namespace: &str) -> Result<()> {
        self.apply(&json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": { "name": "default", "namespace": namespace },
        }))?;
        Ok(())
    }

    /// A node that is up.
    pub fn node(&self, name: &str) -> Result<Value> {
        self.apply(&json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": name, "labels": { "kubernetes.io/os": "linux" } },
        }))
    }

    /// A replica set of a deployment, for the deployment's pods.
    pub fn replica_set(&self, deployment: &Value, name: &str) -> Result<Value> {
        self.apply(&json!({
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": name,
                "namespace": deployment.pointer("/metadata/namespace"),
                "ownerReferences": [owned_by(deployment)],
            },
            "spec": {
                "selector": deployment.pointer("/spec/selector"),
                "template": deployment.pointer("/spec/template"),
            },
        }))
    }

    /// Makes a pod, bound to its node, and has its containers run.
    pub fn pod(&self, pod: &Pod<'_>) -> Result<Value> {
        self.bind(pod)?;
        self.run(pod)
    }

    /// Makes a pod, bound to its node, of whose containers nothing is reported yet.
    pub fn bind(&self, pod: &Pod<'_>) -> Result<Value> {
        let pairs = |pairs: &[(&str, &str)]| -> Value {
            let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), json!(value)));
            Value::Object(pairs.collect())
        };
        let containers: Vec<Value> = pod
            .containers
            .iter()
            .map(|(name, image, _)| json!({ "name": name, "image": image }))
            .collect();
        let owners: Vec<Value> = pod.owner.into_iter().map(owned_by).collect();
        self.apply(&json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": pod.name,
                "namespace": pod.namespace,
                "labels": pairs(pod.labels),
                "annotations": pairs(pod.annotations),
                "ownerReferences": owners,
            },
            "spec": { "nodeName": pod.node, "containers": containers },
        }))
    }

    /// Has a pod's containers run, as the kubelet reports it: also anew, with other ids.
    pub fn run(&self, pod: &Pod<'_>) -> Result<Value> {
        let since = "2026-11-23T00:00:00Z";
        let statuses: Vec<Value> = pod
            .containers
            .iter()
            .map(|(name, image, id)| {
                json!({
                    "name": name, "image": image, "imageID": "", "containerID": id, "ready": true,
                    "restartCount": 0, "started": true, "state": { "running": { "startedAt": since } },
                })
            })
            .collect();
        let path = format!("/api/v1/namespaces/{}/pods/{}/status", pod.namespace, pod.name);
        let status = json!({ "status": {
            "phase": "Running", "startTime": since, "containerStatuses": statuses,
            "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": since }],
        } });
        self.administrator.merge(&path, &status)
    }

    /// Deletes an object at once, as the kubelet does in the end.
    pub fn delete(&self, object: &Value) -> Result<()> {
        let path = self.administrator.path_of(object)?;
        let now = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0 });
        self.administrator.ask("DELETE", &path, Some(&now))?.object()?;
        Ok(())
    }
}

/// How an object names the one that made it.
pub fn owned_by(owner: &Value) -> Value {
    json!({
        "apiVersion": owner.get("apiVersion"),
        "kind": owner.get("kind"),
        "name": owner.pointer("/metadata/name"),
        "uid": owner.pointer("/metadata/uid"),
        "controller": true,
    })
}
