//! Segment → the bytes of a SegmentObject. Pure: the times are in the segment.
//!
//! Written in place and not by way of the generated types, which own each of their strings: making and dropping those
//! took half of what a segment costs here. The tests read what is written with the generated types.

use proto::v3::{RefType, SpanLayer, SpanType};

use super::{
    component::{self, Layer},
    wire::Message,
};
use crate::trace::segment::Segment;
use crate::trace::span::{Reference, ReferenceKind, Span, SpanKind, SpanLog, Tag};

/// Writes the segment as OAP takes it. Numbers are those of `tracing.proto`.
pub(super) fn write(segment: &Segment, object: &mut Message) {
    object.text(1, &segment.trace_id);
    object.text(2, &segment.segment_id);
    for span in &segment.spans {
        object.message(3, |object| write_span(span, object));
    }
    object.text(4, &segment.identity.service);
    object.text(5, &segment.identity.instance);
}

fn write_span(span: &Span, object: &mut Message) {
    let start_ms = ms(span.start_ns);
    object.number(1, span.id.into());
    object.number(2, span.parent_id.into());
    object.number(3, start_ms);
    // OAP takes the difference as it is: it must not be negative, whatever came in.
    object.number(4, ms(span.end_ns).max(start_ms));
    for reference in &span.references {
        object.message(5, |object| write_reference(reference, object));
    }
    object.text(6, &span.operation);
    object.text(7, &span.peer);
    object.number(8, i32::from(span_type(span.kind)).into());
    object.number(9, i32::from(span_layer(component::layer(span.component))).into());
    object.number(10, component::id(span.component).into());
    object.number(11, span.is_error.into());
    for Tag { key, value } in &span.tags {
        object.message(12, |object| write_pair(key, value, object));
    }
    for log in &span.logs {
        object.message(13, |object| write_log(log, object));
    }
    object.number(14, span.skip_analysis.into());
}

fn write_reference(reference: &Reference, object: &mut Message) {
    object.number(1, i32::from(ref_type(reference.kind)).into());
    object.text(2, &reference.trace_id);
    object.text(3, &reference.parent_segment_id);
    object.number(4, reference.parent_span_id.into());
    object.text(5, &reference.parent_service);
    object.text(6, &reference.parent_instance);
    object.text(7, &reference.parent_endpoint);
    object.text(8, &reference.network_address);
}

fn write_log(log: &SpanLog, object: &mut Message) {
    object.number(1, ms(log.time_ns));
    for (key, value) in &log.data {
        object.message(2, |object| write_pair(key, value, object));
    }
}

fn write_pair(key: &str, value: &str, object: &mut Message) {
    object.text(1, key);
    object.text(2, value);
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

    use proto::v3::{KeyStringValuePair, SegmentObject, SegmentReference, SpanObject};

    use super::*;
    use crate::trace::segment::Identity;
    use crate::trace::span::Component;

    fn segment_object(segment: &Segment) -> SegmentObject {
        let mut message = Message::default();
        write(segment, &mut message);
        prost::Message::decode(message.bytes()).expect("a SegmentObject")
    }

    fn span_object(span: &Span) -> SpanObject {
        let mut message = Message::default();
        write_span(span, &mut message);
        prost::Message::decode(message.bytes()).expect("a SpanObject")
    }

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
