//! Kubernetes' API: watches the pods of this node, and asks whom they belong to.

mod object;
mod owner;

use std::{collections::HashSet, path::PathBuf, pin::pin, time::Duration};

use hyper::Response;
use kube::{
    Api, Client,
    api::ApiResource,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event},
    },
};
use tokio::sync::watch;
use tokio_stream::StreamExt as _;
use tower::util::MapResponseLayer;
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

/// How long a connection on which an answer is due may be silent. The API ends a watch after 290 s, as kube asks it to:
/// who is silent for longer is not there any more, and nothing would say so for a quarter of an hour.
const SILENCE: Duration = Duration::from_secs(295);

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
    /// That it has answered, and not refused.
    answers: watch::Receiver<()>,
    /// Where it is, for who is told that it does not answer.
    address: String,
    node: String,
    pods: Pods,
}

impl Kubernetes {
    /// Nothing if Kubernetes is not to be asked. `host` is this machine's name.
    pub async fn new(config: &Config, host: &str, pods: &Pods) -> Result<Option<Self>, KubernetesError> {
        let asked = &config.pods;
        let mut client_config = match (&asked.kubeconfig, asked.kubernetes) {
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
        client_config.read_timeout = Some(SILENCE);
        client_config.reset_reader_on_write = true;
        let (answered, answers) = watch::channel(());
        let client = ClientBuilder::try_from(client_config)
            .map_err(KubernetesError::Client)?
            .with_layer(&telling(answered))
            .build();
        let node = asked.node.clone().unwrap_or_else(|| host.to_owned());
        pods.begin(&address, &node);
        Ok(Some(Self {
            client,
            answers,
            address,
            node,
            pods: pods.clone(),
        }))
    }

    /// Keeps the pods as the API has them, and calls `changed` whenever processes may be named or selected otherwise.
    /// Never ends; an API that does not answer is asked again, at longer and longer intervals.
    pub async fn watch(self, mut changed: impl FnMut()) {
        let Self {
            client,
            mut answers,
            address,
            node,
            pods,
        } = self;
        let resource = ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&());
        let api: Api<PodObject> = Api::all_with(client.clone(), &resource);
        let of_node = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
        let mut events = pin!(watcher::watcher(api, of_node).default_backoff());
        let mut follower = Follower {
            owners: Owners::new(client),
            address,
            node,
            pods,
            listed: HashSet::new(),
            is_complete: false,
            repeats: Repeats::default(),
        };
        loop {
            let is_news = tokio::select! {
                biased;
                event = events.next() => {
                    let Some(event) = event else { return };
                    if event.is_err() {
                        // What was answered before it failed does not mend it.
                        answers.mark_unchanged();
                    }
                    follower.take(event).await
                }
                Ok(()) = answers.changed() => {
                    follower.resumed();
                    false
                }
            };
            if is_news {
                changed();
            }
        }
    }
}

/// Has `answered` know of each answer that is no refusal. A watch that is taken up again where it failed says so by
/// nothing else until a pod changes.
fn telling<Body>(
    answered: watch::Sender<()>,
) -> MapResponseLayer<impl Fn(Response<Body>) -> Response<Body> + Clone> {
    MapResponseLayer::new(move |response: Response<Body>| {
        if response.status().is_success() {
            answered.send_replace(());
        }
        response
    })
}

/// Makes of what the watch tells what is known.
struct Follower {
    owners: Owners,
    address: String,
    node: String,
    pods: Pods,
    /// By the list that comes.
    listed: HashSet<String>,
    /// The list has come to its end, and what comes now are changes of it.
    is_complete: bool,
    repeats: Repeats<()>,
}

impl Follower {
    /// Whether processes may be named or selected otherwise now.
    async fn take(&mut self, event: Result<Event<PodObject>, watcher::Error>) -> bool {
        match event {
            Ok(Event::Init) => {
                self.listed.clear();
                self.is_complete = false;
                false
            }
            Ok(Event::InitApply(object)) => {
                let pod = pod(object, &mut self.owners).await;
                self.listed.insert(pod.uid.clone());
                self.pods.put(pod);
                false
            }
            Ok(Event::InitDone) => {
                self.is_complete = true;
                let Self {
                    pods, listed, node, ..
                } = self;
                pods.retain(|uid| listed.contains(uid));
                pods.set_knowledge(Knowledge::Current);
                info!(node, pods = listed.len(), "Pods are known from Kubernetes");
                if listed.is_empty() {
                    warn!(
                        node,
                        "Kubernetes knows no pod on this node: if there are some, give the node's name with --node"
                    );
                }
                true
            }
            Ok(Event::Apply(object)) => {
                self.resumed();
                self.pods.put(pod(object, &mut self.owners).await)
            }
            Ok(Event::Delete(object)) => {
                self.resumed();
                self.pods.remove(&uid(&object));
                false
            }
            Err(error) => {
                let error = crate::chain(&error);
                self.pods.failed(&error);
                if let Some(count) = self.repeats.admit((), tokio::time::Instant::now()) {
                    let address = &self.address;
                    warn!(%error, address, count, "Kubernetes' API does not tell of pods: new ones are named by their processes");
                }
                false
            }
        }
    }

    /// The watch goes on. While there is no whole list there is nothing to go on from.
    fn resumed(&mut self) {
        if self.is_complete && self.pods.knowledge() == Knowledge::Behind {
            self.pods.set_knowledge(Knowledge::Current);
            info!(node = self.node, "Kubernetes' API tells of pods again");
        }
    }
}

#[cfg(test)]
mod tests;
