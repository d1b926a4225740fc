//! A real OAP shows what it was sent.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use proto::v3::{
    KeyStringValuePair, RefType, SegmentObject, SegmentReference, SpanLayer, SpanObject, SpanType,
    trace_segment_report_service_client::TraceSegmentReportServiceClient,
};
use tests::graphql::{GraphQl, Span};
use tonic::transport::Endpoint;
use xtask::oap::{Oap, Ports, REFERENCE};

/// OAP stores every 3 s here, and maps addresses to services every 10 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// One OAP for all tests of this file: a boot is the dearest part of them.
fn oap() -> MutexGuard<'static, Oap> {
    static SHARED: OnceLock<Mutex<Oap>> = OnceLock::new();
    let oap =
        SHARED.get_or_init(|| Mutex::new(Oap::start(REFERENCE, Ports::default()).expect("an OAP starts")));
    oap.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks until `check` is content; the last complaint is the test's failure.
fn eventually(what: &str, mut check: impl FnMut() -> Result<()>) {
    let tries = PATIENCE.as_secs();
    for last in 1..=tries {
        match check() {
            Ok(()) => return,
            Err(error) if last == tries => panic!("{what} after {tries} s: {error:#}"),
            Err(_) => thread::sleep(Duration::from_secs(1)),
        }
    }
}

fn both_sides() -> BTreeSet<String> {
    BTreeSet::from(["CLIENT".to_owned(), "SERVER".to_owned()])
}

/// Segments as we mean to send them, made by hand: a trace id of 32 hex digits without dots, an exit span whose
/// peer is the address in the next entry span's reference.
#[test]
fn hand_made_segments_are_joined_and_drawn() {
    let oap = oap();
    let graphql = GraphQl::new(oap.http);
    let trace_id = format!("{:032x}", now_ms() as u128 * 1_000_003);
    let front = HandMade::new(&trace_id, "hand-front", 1);
    let back = HandMade::new(&trace_id, "hand-back", 2);
    let peer = "127.0.0.1:7071";
    let segments = vec![
        front.segment(vec![
            front.entry("GET:/cart", vec![]),
            front.exit("GET:/stock", peer),
        ]),
        back.segment(vec![
            back.entry("GET:/stock", vec![front.reference("GET:/cart", peer)]),
        ]),
    ];
    send(&oap, segments);

    eventually("the hand-made trace", || {
        let spans = graphql.trace(&trace_id)?;
        ensure!(spans.len() == 3, "{spans:?}");
        let exit = spans
            .iter()
            .find(|span| span.r#type == "Exit")
            .context("no exit span")?;
        let entry = spans
            .iter()
            .find(|span| span.service_code == "hand-back")
            .context("no second service")?;
        ensure!(
            exit.component == "GoHttpClient" && entry.component == "GoHttpServer",
            "{spans:?}"
        );
        ensure!(points_to(entry, exit), "{entry:?} does not point to {exit:?}");
        let lines = graphql.topology()?;
        ensure!(
            lines.sides("hand-front", "hand-back") == both_sides(),
            "{lines:?}"
        );
        ensure!(
            lines.lines().contains(&("User".into(), "hand-front".into())),
            "{lines:?}"
        );
        ensure!(
            !lines.lines().contains(&("User".into(), "hand-back".into())),
            "{lines:?}"
        );
        // The address has become the service behind it.
        ensure!(!lines.nodes.iter().any(|node| node.name == peer), "{lines:?}");
        Ok(())
    });
    assert_eq!(oap.figure("trace_analysis_error_count", "").expect("figure"), 0.0);
    assert!(oap.figure("trace_in_latency_count", "grpc").expect("figure") >= 2.0);
}

/// Whether the first reference of `child` is to `parent`.
fn points_to(child: &Span, parent: &Span) -> bool {
    child.refs.first().is_some_and(|reference| {
        reference.r#type == "CROSS_PROCESS"
            && reference.trace_id == parent.trace_id
            && reference.parent_segment_id == parent.segment_id
            && reference.parent_span_id == parent.span_id
    })
}

struct HandMade {
    trace_id: String,
    segment_id: String,
    service: String,
    start_ms: i64,
}

impl HandMade {
    fn new(trace_id: &str, service: &str, number: u32) -> Self {
        let segment_id = format!("{number:08x}{}", trace_id.get(8..).expect("32 digits"));
        Self {
            trace_id: trace_id.into(),
            segment_id,
            service: service.into(),
            start_ms: now_ms(),
        }
    }

    fn instance(&self) -> String {
        format!("{}-1@here", self.service)
    }

    fn segment(&self, spans: Vec<SpanObject>) -> SegmentObject {
        SegmentObject {
            trace_id: self.trace_id.clone(),
            trace_segment_id: self.segment_id.clone(),
            spans,
            service: self.service.clone(),
            service_instance: self.instance(),
            is_size_limited: false,
        }
    }

    fn entry(&self, operation: &str, refs: Vec<SegmentReference>) -> SpanObject {
        SpanObject {
            span_id: 0,
            parent_span_id: -1,
            start_time: self.start_ms,
            end_time: self.start_ms + 9,
            refs,
            operation_name: operation.into(),
            span_type: SpanType::Entry.into(),
            span_layer: SpanLayer::Http.into(),
            component_id: 5004,
            tags: tags(&[
                ("http.method", "GET"),
                ("url", "127.0.0.1/"),
                ("http.status_code", "200"),
            ]),
            ..SpanObject::default()
        }
    }

    fn exit(&self, operation: &str, peer: &str) -> SpanObject {
        SpanObject {
            span_id: 1,
            parent_span_id: 0,
            start_time: self.start_ms + 1,
            end_time: self.start_ms + 8,
            operation_name: operation.into(),
            peer: peer.into(),
            span_type: SpanType::Exit.into(),
            span_layer: SpanLayer::Http.into(),
            component_id: 5005,
            tags: tags(&[("http.method", "GET"), ("http.status_code", "200")]),
            ..SpanObject::default()
        }
    }

    /// What the callee of this segment's exit span says of it.
    fn reference(&self, endpoint: &str, peer: &str) -> SegmentReference {
        SegmentReference {
            ref_type: RefType::CrossProcess.into(),
            trace_id: self.trace_id.clone(),
            parent_trace_segment_id: self.segment_id.clone(),
            parent_span_id: 1,
            parent_service: self.service.clone(),
            parent_service_instance: self.instance(),
            parent_endpoint: endpoint.into(),
            network_address_used_at_peer: peer.into(),
        }
    }
}

fn tags(pairs: &[(&str, &str)]) -> Vec<KeyStringValuePair> {
    pairs
        .iter()
        .map(|(key, value)| KeyStringValuePair {
            key: (*key).into(),
            value: (*value).into(),
        })
        .collect()
}

fn send(oap: &Oap, segments: Vec<SegmentObject>) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let endpoint = Endpoint::from_shared(format!("http://{}", oap.grpc)).expect("an address");
        let channel = endpoint.connect().await.expect("OAP listens");
        TraceSegmentReportServiceClient::new(channel)
            .collect(tokio_stream::iter(segments))
            .await
            .expect("OAP takes the segments");
    });
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test stands for an agent and stamps its own spans"
)]
fn now_ms() -> i64 {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970");
    i64::try_from(now.as_millis()).expect("not too far after")
}
