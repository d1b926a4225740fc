//! Kubernetes' API: watches the pods of this node, and asks whom they belong to.

mod object;
mod owner;

use std::{collections::HashSet, path::PathBuf, pin::pin};

use kube::{
    Api, Client,
    api::ApiResource,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event},
    },
};
use tokio_stream::StreamExt as _;
use tracing::{info, warn};

use self::{
    object::{PodObject, pod, uid},
    owner::Owners,
};
use crate::{
    config::{self, Config},
    discover::pod::{Knowledge, Pods},
    telemetry::Repeats,
};

/// Where the kubelet puts what a pod needs to talk to the API.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// Why the API cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    #[error(
        "Kubernetes is to be asked, but this is no pod with an account there: name a kubeconfig with --kubeconfig, or \
         leave out --kubernetes"
    )]
    Outside(#[source] kube::config::InClusterError),
    #[error("read the kubeconfig {}", path.display())]
    Kubeconfig {
        path: PathBuf,
        #[source]
        source: kube::config::KubeconfigError,
    },
    #[error("make a client for Kubernetes' API")]
    Client(#[source] kube::Error),
}

/// Whether Kubernetes is asked with this configuration.
pub fn is_asked(pods: &config::Pods) -> bool {
    match pods.kubernetes {
        config::Kubernetes::Off => false,
        config::Kubernetes::On => true,
        config::Kubernetes::Auto => pods.kubeconfig.is_some() || is_in_pod(),
    }
}

/// In one that has an account with the API.
fn is_in_pod() -> bool {
    std::path::Path::new(ACCOUNT).exists()
}

/// The API, ready to be watched.
pub struct Kubernetes {
    client: Client,
    /// Where it is, for who is told that it does not answer.
    address: String,
    node: String,
    pods: Pods,
}

impl Kubernetes {
    /// Nothing if Kubernetes is not to be asked. `host` is this machine's name.
    pub async fn new(config: &Config, host: &str, pods: &Pods) -> Result<Option<Self>, KubernetesError> {
        let asked = &config.pods;
        let client_config = match (&asked.kubeconfig, asked.kubernetes) {
            (_, config::Kubernetes::Off) => return Ok(None),
            (Some(path), config::Kubernetes::Auto | config::Kubernetes::On) => {
                let failed = |source| KubernetesError::Kubeconfig {
                    path: path.clone(),
                    source,
                };
                let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
                kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                    .await
                    .map_err(failed)?
            }
            (None, config::Kubernetes::Auto) if !is_in_pod() => return Ok(None),
            (None, config::Kubernetes::Auto | config::Kubernetes::On) => {
                kube::Config::incluster().map_err(KubernetesError::Outside)?
            }
        };
        let address = client_config.cluster_url.to_string();
        let client = Client::try_from(client_config).map_err(KubernetesError::Client)?;
        let node = asked.node.clone().unwrap_or_else(|| host.to_owned());
        pods.begin(&address, &node);
        Ok(Some(Self {
            client,
            address,
            node,
            pods: pods.clone(),
        }))
    }

    /// Keeps the pods as the API has them, and calls `changed` whenever processes may be named or selected otherwise.
    /// Never ends; an API that does not answer is asked again, at longer and longer intervals.
    pub async fn watch(self, mut changed: impl FnMut()) {
        let resource = ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&());
        let api: Api<PodObject> = Api::all_with(self.client.clone(), &resource);
        let of_node = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node));
        let mut owners = Owners::new(self.client);
        let mut events = pin!(watcher::watcher(api, of_node).default_backoff());
        let mut listed = HashSet::new();
        let mut repeats = Repeats::default();
        while let Some(event) = events.next().await {
            let is_news = match event {
                Ok(Event::Init) => {
                    listed.clear();
                    false
                }
                Ok(Event::InitApply(object)) => {
                    let pod = pod(object, &mut owners).await;
                    listed.insert(pod.uid.clone());
                    self.pods.put(pod);
                    false
                }
                Ok(Event::InitDone) => {
                    self.pods.retain(|uid| listed.contains(uid));
                    self.pods.set_knowledge(Knowledge::Current);
                    info!(
                        node = self.node,
                        pods = listed.len(),
                        "Pods are known from Kubernetes"
                    );
                    if listed.is_empty() {
                        warn!(
                            node = self.node,
                            "Kubernetes knows no pod on this node: if there are some, give the node's name with --node"
                        );
                    }
                    true
                }
                Ok(Event::Apply(object)) => self.pods.put(pod(object, &mut owners).await),
                Ok(Event::Delete(object)) => {
                    self.pods.remove(&uid(&object));
                    false
                }
                Err(error) => {
                    let error = crate::chain(&error);
                    self.pods.failed(&error);
                    if let Some(count) = repeats.admit((), tokio::time::Instant::now()) {
                        let address = &self.address;
                        warn!(%error, address, count, "Kubernetes' API does not tell of pods: new ones are named by their processes");
                    }
                    false
                }
            };
            if is_news {
                changed();
            }
        }
    }
}
