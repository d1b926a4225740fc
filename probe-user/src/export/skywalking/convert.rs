//! Segment → SegmentObject. Pure: the times are in the segment.

use proto::v3::{
    KeyStringValuePair, Log, RefType, SegmentObject, SegmentReference, SpanLayer, SpanObject, SpanType,
};

use super::component::{self, Layer};
use crate::trace::segment::Segment;
use crate::trace::span::{Reference, ReferenceKind, Span, SpanKind, SpanLog, Tag};

/// The segment as OAP takes it.
pub(super) fn segment_object(segment: &Segment) -> SegmentObject {
    SegmentObject {
        trace_id: segment.trace_id.clone(),
        trace_segment_id: segment.segment_id.clone(),
        spans: segment.spans.iter().map(span_object).collect(),
        service: segment.identity.service.clone(),
        service_instance: segment.identity.instance.clone(),
        is_size_limited: false,
    }
}

fn span_object(span: &Span) -> SpanObject {
    let start_ms = ms(span.start_ns);
    SpanObject {
        span_id: span.id,
        parent_span_id: span.parent_id,
        start_time: start_ms,
        // OAP takes the difference as it is: it must not be negative, whatever came in.
        end_time: ms(span.end_ns).max(start_ms),
        refs: span.references.iter().map(segment_reference).collect(),
        operation_name: span.operation.to_string(),
        peer: span.peer.clone(),
        span_type: span_type(span.kind).into(),
        span_layer: span_layer(component::layer(span.component)).into(),
        component_id: component::id(span.component),
        is_error: span.is_error,
        tags: span.tags.iter().map(tag).collect(),
        logs: span.logs.iter().map(log).collect(),
        skip_analysis: span.skip_analysis,
    }
}

fn segment_reference(reference: &Reference) -> SegmentReference {
    SegmentReference {
        ref_type: ref_type(reference.kind).into(),
        trace_id: reference.trace_id.clone(),
        parent_trace_segment_id: reference.parent_segment_id.clone(),
        parent_span_id: reference.parent_span_id,
        parent_service: reference.parent_service.clone(),
        parent_service_instance: reference.parent_instance.clone(),
        parent_endpoint: reference.parent_endpoint.clone(),
        network_address_used_at_peer: reference.network_address.clone(),
    }
}

fn tag(tag: &Tag) -> KeyStringValuePair {
    KeyStringValuePair {
        key: tag.key.to_owned(),
        value: tag.value.clone().into_owned(),
    }
}

fn log(log: &SpanLog) -> Log {
    let pair = |(key, value): &(&'static str, String)| KeyStringValuePair {
        key: (*key).to_owned(),
        value: value.clone(),
    };
    Log {
        time: ms(log.time_ns),
        data: log.data.iter().map(pair).collect(),
    }
}

fn span_type(kind: SpanKind) -> SpanType {
    match kind {
        SpanKind::Entry => SpanType::Entry,
        SpanKind::Exit => SpanType::Exit,
        SpanKind::Local => SpanType::Local,
    }
}

fn ref_type(kind: ReferenceKind) -> RefType {
    match kind {
        ReferenceKind::CrossProcess => RefType::CrossProcess,
        ReferenceKind::CrossThread => RefType::CrossThread,
    }
}

fn span_layer(layer: Layer) -> SpanLayer {
    match layer {
        Layer::Http => SpanLayer::Http,
        Layer::RpcFramework => SpanLayer::RpcFramework,
    }
}

/// Whole milliseconds, as OAP counts time. u64 nanoseconds end in 2554: the number always fits.
fn ms(time_ns: u64) -> i64 {
    i64::try_from(time_ns / 1_000_000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::trace::segment::Identity;
    use crate::trace::span::Component;

    fn span() -> Span {
        Span {
            id: 0,
            parent_id: -1,
            start_ns: 1_700_000_000_001_999_999,
            end_ns: 1_700_000_000_004_000_000,
            kind: SpanKind::Entry,
            component: Component::GoHttpServer,
            operation: "GET:/stock".into(),
            peer: String::new(),
            is_error: false,
            references: Vec::new(),
            tags: Vec::new(),
            logs: Vec::new(),
            skip_analysis: false,
        }
    }

    #[test]
    fn a_segment_keeps_everything() {
        let entry = Span {
            references: vec![Reference {
                kind: ReferenceKind::CrossProcess,
                trace_id: "t".into(),
                parent_segment_id: "p".into(),
                parent_span_id: 1,
                parent_service: "shop".into(),
                parent_instance: "shop@1".into(),
                parent_endpoint: "GET:/order".into(),
                network_address: "localhost:8080".into(),
            }],
            tags: vec![
                Tag {
                    key: "http.method",
                    value: "GET".into(),
                },
                Tag {
                    key: "http.status_code",
                    value: "500".into(),
                },
            ],
            is_error: true,
            skip_analysis: true,
            ..span()
        };
        let exit = Span {
            id: 1,
            parent_id: 0,
            kind: SpanKind::Exit,
            component: Component::GoHttpClient,
            peer: "localhost:9090".into(),
            logs: vec![SpanLog {
                time_ns: 1_700_000_000_003_000_000,
                data: vec![
                    ("event", "error".into()),
                    ("message", "connection refused".into()),
                ],
            }],
            ..span()
        };
        let identity = Arc::new(Identity {
            service: "stock".into(),
            instance: "stock@1".into(),
        });
        let segment = Segment {
            trace_id: "t".into(),
            segment_id: "s".into(),
            identity,
            spans: vec![exit, entry],
        };

        let object = segment_object(&segment);
        assert_eq!(
            (object.trace_id.as_str(), object.trace_segment_id.as_str()),
            ("t", "s")
        );
        assert_eq!(
            (object.service.as_str(), object.service_instance.as_str()),
            ("stock", "stock@1")
        );
        let [exit, entry] = object.spans.try_into().expect("two spans, in their order");

        assert_eq!((entry.span_id, entry.parent_span_id), (0, -1));
        assert_eq!(
            (entry.start_time, entry.end_time),
            (1_700_000_000_001, 1_700_000_000_004)
        );
        assert_eq!(
            (entry.span_type(), entry.span_layer()),
            (SpanType::Entry, SpanLayer::Http)
        );
        assert_eq!(entry.component_id, 5004);
        assert!(entry.is_error && entry.skip_analysis);
        assert_eq!(
            entry.refs,
            [SegmentReference {
                ref_type: RefType::CrossProcess.into(),
                trace_id: "t".into(),
                parent_trace_segment_id: "p".into(),
                parent_span_id: 1,
                parent_service: "shop".into(),
                parent_service_instance: "shop@1".into(),
                parent_endpoint: "GET:/order".into(),
                network_address_used_at_peer: "localhost:8080".into(),
            }]
        );
        let pair = |key: &str, value: &str| KeyStringValuePair {
            key: key.into(),
            value: value.into(),
        };
        assert_eq!(
            entry.tags,
            [pair("http.method", "GET"), pair("http.status_code", "500")]
        );

        assert_eq!((exit.span_id, exit.parent_span_id), (1, 0));
        assert_eq!((exit.span_type(), exit.component_id), (SpanType::Exit, 5005));
        assert_eq!(exit.peer, "localhost:9090");
        assert_eq!(exit.logs.len(), 1);
        assert_eq!(exit.logs[0].time, 1_700_000_000_003);
        assert_eq!(
            exit.logs[0].data,
            [pair("event", "error"), pair("message", "connection refused")]
        );
    }

    #[test]
    fn time_never_runs_backwards() {
        let object = span_object(&Span { end_ns: 5, ..span() });
        assert_eq!(object.end_time, object.start_time);
        let object = span_object(&Span {
            start_ns: u64::MAX,
            end_ns: u64::MAX,
            ..span()
        });
        assert_eq!(object.start_time, 18_446_744_073_709);
    }

    #[test]
    fn a_thread_reference_stays_one() {
        assert_eq!(ref_type(ReferenceKind::CrossThread), RefType::CrossThread);
        assert_eq!(span_type(SpanKind::Local), SpanType::Local);
    }

    #[test]
    fn layer_names_are_those_of_the_wire() {
        for layer in [Layer::Http, Layer::RpcFramework] {
            assert_eq!(span_layer(layer).as_str_name(), layer.name());
        }
    }
}
