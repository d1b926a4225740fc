//! The probe's own counters for Prometheus: `GET /metrics`, where the configuration says so.

mod text;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc};

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
use tokio::{net::TcpListener, task::JoinSet};
use tracing::debug;

use crate::telemetry::Telemetry;

/// Scrapers at once; a further one waits.
const CONNECTIONS_MAX: usize = 16;

/// The text format that Prometheus has scraped since its version 0.4.
const PROMETHEUS_TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Takes the address, so that a wrong one is said before anything is traced.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Answers whoever asks. Never ends; to be dropped when the probe stops.
pub async fn serve(listener: TcpListener, telemetry: Arc<Telemetry>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // Such as no descriptor left: the next one may have more luck.
            Err(error) => {
                debug!(%error, "Nobody could be let in who asks for metrics");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let telemetry = Arc::clone(&telemetry);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let response = respond(&request, &telemetry);
                async move { Ok::<_, Infallible>(response) }
            });
            // With a timer, a client that sends no head is let go after half a minute.
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = served.await {
                debug!(%error, "Connection of who asks for metrics failed");
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

fn respond(request: &Request<Incoming>, telemetry: &Telemetry) -> Response<Full<Bytes>> {
    let answer = |status, text: String| {
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, PROMETHEUS_TEXT);
        response
    };
    if request.uri().path() != "/metrics" {
        return answer(StatusCode::NOT_FOUND, "nothing is here but /metrics\n".to_owned());
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = answer(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET is answered\n".to_owned(),
        );
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    answer(
        StatusCode::OK,
        text::text(&telemetry.account(), text::Own::read()),
    )
}
