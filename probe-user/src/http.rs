//! What the probe tells of itself over HTTP, where the configuration says so: `/metrics` for Prometheus, `/healthz` and
//! `/readyz` for whoever restarts it or waits for it, such as a kubelet.

mod metrics;
mod text;

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinSet,
};
use tracing::debug;

use self::text::Form;
use crate::{
    requests::Requests,
    status::{Own, Status},
    telemetry::{Stage, Telemetry},
};

/// Who asks at once; a further one waits.
const CONNECTIONS_MAX: usize = 16;

/// How long one may last, which is for one answer: who stops reading does not hold a place for good that the kubelet's
/// probes want.
const CONNECTION_MAX: Duration = Duration::from_secs(30);

/// Who has not been let in yet.
const WAITING_MAX: u32 = 128;

const PLAIN_TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Takes the address, so that a wrong one is said before anything is traced.
///
/// `[::]` means both families, whatever the machine's default is, and what there is of them where IPv6 is not to be had.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    if address.ip() != Ipv6Addr::UNSPECIFIED {
        return TcpListener::bind(address).await;
    }
    match listen_to_both(address) {
        // Left out of the kernel, or switched off by sysctl.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
            ) =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        listening => listening,
    }
}

fn listen_to_both(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v6()?;
    socket.set_reuseaddr(true)?;
    rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    socket.bind(address)?;
    socket.listen(WAITING_MAX)
}

/// Answers whoever asks, with what `requests` have been counted and what `status` says then. Never ends; to be dropped
/// when the probe stops.
pub async fn serve<Ask, Answer>(
    listener: TcpListener,
    telemetry: Arc<Telemetry>,
    requests: Arc<Requests>,
    status: Ask,
) where
    Ask: Fn() -> Answer + Clone + Send + Sync + 'static,
    Answer: Future<Output = Status> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // Such as no descriptor left: the next one may have more luck.
            Err(error) => {
                debug!(%error, "Nobody could be let in who asks");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let telemetry = Arc::clone(&telemetry);
        let requests = Arc::clone(&requests);
        let status = status.clone();
        connections.spawn(async move {
            let service = service_fn(|request| {
                let (telemetry, requests, status) = (&telemetry, &requests, &status);
                async move { Ok::<_, Infallible>(respond(&request, telemetry, requests, status).await) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            match tokio::time::timeout(CONNECTION_MAX, served).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%error, "Connection of who asks failed"),
                Err(_) => debug!("Connection of who asks was closed: the answer was not taken"),
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn respond<Answer: Future<Output = Status>>(
    request: &Request<Incoming>,
    telemetry: &Telemetry,
    requests: &Requests,
    status: impl Fn() -> Answer,
) -> Response<Full<Bytes>> {
    let (status, content_type, text) = match request.uri().path() {
        _ if request.method() != Method::GET && request.method() != Method::HEAD => (
            StatusCode::METHOD_NOT_ALLOWED,
            PLAIN_TEXT,
            "only GET is answered\n".to_owned(),
        ),
        "/metrics" => {
            let form = Form::asked_for(request.headers());
            // First: it has the kernel's losses counted anew.
            let status = status().await;
            let text = metrics::text(
                form,
                &telemetry.account(),
                Own::read(),
                &status,
                &requests.table(),
            );
            (StatusCode::OK, form.content_type(), text)
        }
        "/healthz" => verdict(health(telemetry)),
        "/readyz" => verdict(telemetry.readiness().map(|()| "ready".to_owned())),
        _ => (
            StatusCode::NOT_FOUND,
            PLAIN_TEXT,
            "here are /metrics, /healthz and /readyz\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        let allowed = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}

/// Whether the threads live, and when each came round last. This one does: it answers.
fn health(telemetry: &Telemetry) -> Result<String, String> {
    let vitals = telemetry.vitals();
    vitals.health().map_err(|unwell| unwell.to_string())?;
    let beats = Stage::ALL.map(|stage| {
        let since_ms = vitals.since_beat(stage).as_millis();
        format!("{} came round {since_ms} ms ago", stage.name())
    });
    Ok(format!("ok: {}", beats.join(", ")))
}

/// One sentence either way; what is no success restarts the probe, or has others wait for it.
fn verdict(outcome: Result<String, String>) -> (StatusCode, HeaderValue, String) {
    let (status, sentence) = match outcome {
        Ok(sentence) => (StatusCode::OK, sentence),
        Err(sentence) => (StatusCode::SERVICE_UNAVAILABLE, sentence),
    };
    (status, PLAIN_TEXT, format!("{sentence}\n"))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    /// The kubelet comes by the family that the cluster has.
    #[tokio::test]
    async fn no_address_in_particular_means_both_families() {
        let listener = listen("[::]:0".parse().unwrap()).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        if listener.local_addr().unwrap().is_ipv6() {
            TcpStream::connect(("::1", port)).await.unwrap();
        }
    }
}
