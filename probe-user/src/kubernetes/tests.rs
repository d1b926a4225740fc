//! An API that fails and goes on: kube's client over answers of the tests' own, and a clock that jumps.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::pending,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{Request, body::Frame};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use tower::service_fn;

use super::*;
use crate::discover::{container::Place, pod::Workload};

/// Longer than the greatest pause between two tries, and shorter than what lives is silent.
const LONG: Duration = Duration::from_secs(200);

type Told = Response<UnsyncBoxBody<Bytes, Infallible>>;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Asked {
    List,
    Watch,
}

fn told(status: u16, body: &Value) -> Told {
    let body = Full::new(Bytes::from(body.to_string())).boxed_unsync();
    Response::builder().status(status).body(body).unwrap()
}

/// These lines, and nothing more for as long as anybody listens.
fn open(lines: &[Value]) -> Told {
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let first = tokio_stream::once(Ok(Frame::data(Bytes::from(lines))));
    let body = StreamBody::new(first.chain(tokio_stream::pending()));
    Response::new(body.boxed_unsync())
}

fn failure(code: u16) -> Value {
    json!({ "apiVersion": "v1", "kind": "Status", "status": "Failure", "message": "it fails", "reason": "", "code": code })
}

/// A pod of a Deployment.
fn pod_of(deployment: &str, version: &str) -> Value {
    let name = format!("{deployment}-6d5f8");
    let owner = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": deployment, "controller": true,
    });
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": format!("{name}-x7k2q"),
            "namespace": "shop",
            "uid": format!("pod-of-{deployment}"),
            "resourceVersion": version,
            "labels": { "pod-template-hash": "6d5f8" },
            "ownerReferences": [owner],
        },
        "spec": { "nodeName": "n1", "containers": [] },
    })
}

fn list() -> Told {
    let pods = [pod_of("gateway", "5"), pod_of("orders", "6")];
    let metadata = json!({ "resourceVersion": "7" });
    told(
        200,
        &json!({ "apiVersion": "v1", "kind": "PodList", "metadata": metadata, "items": pods }),
    )
}

/// Watches an API that answers as `tell` says, by how often it was asked the same before, and never when it is asked for
/// owners. The clock jumps to what is waited for next. When there was news, and what is known in the end.
async fn followed(tell: impl Fn(Asked, usize) -> Told + Clone + Send + 'static) -> (Vec<Duration>, Pods) {
    let asked = Arc::new(Mutex::new(HashMap::<Asked, usize>::new()));
    let serve = move |request: Request<Body>| {
        let uri = request.uri();
        let what = match uri.path() {
            "/api/v1/pods" if uri.query().is_some_and(|query| query.contains("watch=")) => Some(Asked::Watch),
            "/api/v1/pods" => Some(Asked::List),
            _owner => None,
        };
        let told = what.map(|what| {
            let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
            let before = asked.entry(what).or_default();
            *before += 1;
            tell(what, *before - 1)
        });
        async {
            match told {
                Some(told) => Ok::<_, Infallible>(told),
                None => pending().await,
            }
        }
    };
    let pods = Pods::default();
    let (answered, answers) = watch::channel(());
    let client = ClientBuilder::new(service_fn(serve), "default").with_layer(&telling(answered));
    let (address, node) = ("https://api".to_owned(), "n1".to_owned());
    pods.begin(&address, &node);
    let kubernetes = Kubernetes {
        client: client.build(),
        answers,
        address,
        node,
        pods: pods.clone(),
    };
    let begun = Instant::now();
    let mut news = Vec::new();
    let watching = kubernetes.watch(|| news.push(begun.elapsed()));
    timeout(LONG, watching).await.unwrap_err();
    (news, pods)
}

fn has_failed(pods: &Pods) -> bool {
    pods.watch().0.error.is_some()
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_goes_on_where_it_failed_is_current_though_no_pod_changes() {
    let (_, pods) = followed(|asked, before| match (asked, before) {
        (Asked::List, _) => list(),
        (Asked::Watch, 0) => told(500, &failure(500)),
        (Asked::Watch, _) => open(&[]),
    })
    .await;
    assert!(has_failed(&pods));
    assert_eq!(pods.knowledge(), Knowledge::Current);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_changes_says_that_the_watch_goes_on() {
    let (news, pods) = followed(|asked, _| match asked {
        Asked::List => list(),
        Asked::Watch => open(&[
            json!({ "type": "ERROR", "object": failure(500) }),
            json!({ "type": "ADDED", "object": pod_of("bank", "8") }),
        ]),
    })
    .await;
    assert!(has_failed(&pods));
    assert_eq!(pods.knowledge(), Knowledge::Current);
    assert_eq!(news.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn half_a_list_is_not_current() {
    let (_, pods) = followed(|asked, before| match (asked, before) {
        (Asked::List, 0) => list(),
        // It has answered, and does not come to an end.
        (Asked::List, _) => open(&[]),
        // What happened since the list is not known any more, so it is asked for anew.
        (Asked::Watch, _) => open(&[json!({ "type": "ERROR", "object": failure(410) })]),
    })
    .await;
    assert!(has_failed(&pods));
    assert_eq!(pods.knowledge(), Knowledge::Behind);
}

/// Else no news are read while the first is waited for, and for each pod of a list somebody waits anew.
#[tokio::test(start_paused = true)]
async fn owners_that_nobody_tells_are_guessed_after_one_wait() {
    let (news, pods) = followed(|asked, _| match asked {
        Asked::List => list(),
        Asked::Watch => open(&[]),
    })
    .await;
    let [first] = news[..] else { panic!("{news:?}") };
    assert_eq!(first.as_secs(), 5);
    for name in ["gateway", "orders"] {
        let place = Place {
            pod_uid: Some(format!("pod-of-{name}")),
            ..Place::default()
        };
        let workload = pods.of(&place).unwrap().workload.clone();
        let deployment = Workload {
            kind: "Deployment".to_owned(),
            name: name.to_owned(),
        };
        assert_eq!(workload, Some(deployment));
    }
}
