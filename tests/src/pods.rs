//! Pods whose containers run: objects at a real Kubernetes API server, and programs in control groups that are named as
//! containerd names them, in namespaces of their own if wished.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    cgroup::Cgroup,
    kubernetes::{Cluster, Pod},
    network::{Host, Networks},
    probe::Probe,
    scene::{Scene, truth_program},
    target::{Service, unshared},
};

/// Longer than the probe waits for anything it is told by the API.
pub const TOLD: Duration = Duration::from_secs(30);

/// The node that all of them are on.
pub const NODE: &str = "node-a";

/// A namespace of a cluster, with a program of its own, so that no other test's is meant.
pub struct Shop<'a> {
    pub cluster: &'a Cluster,
    namespace: &'static str,
    folder: TempDir,
}

/// A pod, and the group that its container is in.
pub struct Running {
    pub object: Value,
    pub container: Cgroup,
}

/// `gateway`, a Deployment's pod, calls `orders`, a StatefulSet's, each with a container's isolation.
pub struct Pair {
    pub scene: Scene,
    _pods: [Running; 2],
}

impl<'a> Shop<'a> {
    pub fn open(cluster: &'a Cluster, namespace: &'static str) -> Result<Self> {
        cluster.namespace(namespace)?;
        cluster.node(NODE)?;
        let folder = tempfile::tempdir()?;
        fs::copy(truth_program()?, folder.path().join("program"))?;
        Ok(Self {
            cluster,
            namespace,
            folder,
        })
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("program")
    }

    /// What has the probe follow this namespace's pods, and the program wherever it runs.
    pub fn follow(&self, kubeconfig: &Path) -> Result<Vec<String>> {
        let config = self.folder.path().join("skyprobe.yaml");
        let rules = format!(
            "rules:\n - include: {{namespace: {}}}\n - include: {{exe: {}}}\n",
            self.namespace,
            self.program().display()
        );
        fs::write(&config, rules)?;
        let path = |path: &Path| path.to_str().map(str::to_owned).context("a path that is text");
        let flags = [
            "--config",
            &path(&config)?,
            "--kubeconfig",
            &path(kubeconfig)?,
            "--node",
            NODE,
        ];
        Ok(flags.map(str::to_owned).to_vec())
    }

    /// A probe that knows the pods, by this kubeconfig.
    pub fn probe(&self, kubeconfig: &Path, arguments: &[&str]) -> Result<Probe> {
        let follow = self.follow(kubeconfig)?;
        let follow: Vec<&str> = follow.iter().map(String::as_str).collect();
        let probe = Probe::start(&[&follow, arguments].concat())?;
        probe.wait_for_words("Pods are known from Kubernetes", TOLD)?;
        Ok(probe)
    }

    /// What runs pods.
    pub fn workload(&self, kind: &str, name: &str) -> Result<Value> {
        let labels = json!({ "app": name });
        self.cluster.apply(&json!({
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
    }

    /// A pod of one container, with its group as systemd's driver or cgroupfs makes it.
    pub fn pod(
        &self,
        name: &str,
        owner: Option<&Value>,
        annotations: &[(&str, &str)],
        by_systemd: bool,
    ) -> Result<Running> {
        let id = container_id(name);
        let object = self.cluster.pod(&Pod {
            namespace: self.namespace,
            name,
            node: NODE,
            owner,
            labels: &[("tier", "web")],
            annotations,
            containers: &[("app", "shop:1", &format!("containerd://{id}"))],
        })?;
        let uid = object.pointer("/metadata/uid").and_then(Value::as_str);
        let container = Cgroup::new(&group(uid.context("a pod has a uid")?, &id, by_systemd))?;
        Ok(Running { object, container })
    }

    /// The program within the container's group.
    pub fn serve(&self, container: &Cgroup, arguments: &[&str]) -> Result<Service> {
        serve(&mut container.command(&self.program()), arguments)
    }

    /// The same in mount, process and host name namespaces of its own, with its program in a file system that only it
    /// sees.
    fn serve_contained(&self, container: &Cgroup, arguments: &[&str]) -> Result<Service> {
        let mut command = container.command(Path::new("unshare"));
        unshared(&mut command, &self.program(), "app");
        serve(&mut command, arguments)
    }

    /// Two pods with all of a container's isolation, one calling the other: the first is on the client's network.
    pub fn pair(&self, networks: &Networks) -> Result<Pair> {
        let deployment = self.workload("Deployment", "gateway")?;
        let replica_set = self.cluster.replica_set(&deployment, "gateway-6d5f8")?;
        let stateful_set = self.workload("StatefulSet", "orders")?;
        let front = self.pod("gateway-6d5f8-x7k2q", Some(&replica_set), &[], true)?;
        let back = self.pod("orders-0", Some(&stateful_set), &[], false)?;
        let listen = ["-first-id", "2000000", "-listen", Networks::SERVER];
        let back_service =
            networks.within(Host::Server, || self.serve_contained(&back.container, &listen))?;
        let call = ["-first-id", "1000000", "-next", &back_service.printed];
        let front_service =
            networks.within(Host::Client, || self.serve_contained(&front.container, &call))?;
        let scene = Scene {
            front: front_service,
            back: back_service,
        };
        Ok(Pair {
            scene,
            _pods: [front, back],
        })
    }
}

fn serve(command: &mut Command, arguments: &[&str]) -> Result<Service> {
    let command = command.args(["serve", "-name", "truth"]).args(arguments);
    Service::spawn(command.env_remove("SW_AGENT_NAME"))
}

/// 64 digits, others for each name.
pub fn container_id(name: &str) -> String {
    let digits: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{digits:0>64}").chars().rev().take(64).collect()
}

/// The control group of a pod's container.
pub fn group(uid: &str, id: &str, by_systemd: bool) -> String {
    if by_systemd {
        let uid = uid.replace('-', "_");
        format!(
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice/cri-containerd-{id}.scope"
        )
    } else {
        format!("kubepods/burstable/pod{uid}/{id}")
    }
}
