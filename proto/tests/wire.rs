//! Field numbers, wire types and call paths, pinned: encoded messages are taken apart tag by tag.
//!
//! A round trip through the generated code would agree with itself whatever the numbers are. Here every field
//! gets a value of its own and must come out under the number the wire has for it.

#![expect(clippy::panic, reason = "a test shows the line that failed")]

use prost::Message;
use proto::v3::*;

/// One field as it stands on the wire.
#[derive(Clone, Debug, PartialEq)]
enum Wire {
    Varint(u64),
    Double(f64),
    Bytes(Vec<u8>),
}

use Wire::{Double, Varint};

/// Numbers and values of the fields of a message, in the order they were written.
fn fields(message: &impl Message) -> Vec<(u64, Wire)> {
    take_apart(&message.encode_to_vec())
}

fn take_apart(mut bytes: &[u8]) -> Vec<(u64, Wire)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let value = match tag & 7 {
            0 => Varint(varint(&mut bytes)),
            1 => {
                let (value, rest) = bytes.split_first_chunk::<8>().expect("eight bytes");
                bytes = rest;
                Double(f64::from_le_bytes(*value))
            }
            2 => {
                let length = varint(&mut bytes) as usize;
                let (value, rest) = bytes.split_at(length);
                bytes = rest;
                Wire::Bytes(value.to_vec())
            }
            other => panic!("wire type {other}"),
        };
        fields.push((tag >> 3, value));
    }
    fields
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().expect("a varint ends");
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return value;
        }
    }
    panic!("varint longer than ten bytes");
}

fn text(value: &str) -> Wire {
    Wire::Bytes(value.as_bytes().to_vec())
}

fn nested(message: &impl Message) -> Wire {
    Wire::Bytes(message.encode_to_vec())
}

fn pair() -> KeyStringValuePair {
    KeyStringValuePair {
        key: "k".into(),
        value: "v".into(),
    }
}

#[test]
fn pairs_instants_and_commands() {
    assert_eq!(fields(&pair()), [(1, text("k")), (2, text("v"))]);
    assert_eq!(
        fields(&KeyIntValuePair {
            key: "k".into(),
            value: 7
        }),
        [(1, text("k")), (2, Varint(7))]
    );
    assert_eq!(
        fields(&Instant { seconds: 5, nanos: 6 }),
        [(1, Varint(5)), (2, Varint(6))]
    );

    let command = Command {
        command: "c".into(),
        args: vec![pair(), pair()],
    };
    assert_eq!(
        fields(&command),
        [(1, text("c")), (2, nested(&pair())), (2, nested(&pair()))]
    );
    assert_eq!(
        fields(&Commands {
            commands: vec![command.clone()]
        }),
        [(1, nested(&command))]
    );
}

fn reference() -> SegmentReference {
    SegmentReference {
        ref_type: RefType::CrossThread.into(),
        trace_id: "trace".into(),
        parent_trace_segment_id: "segment".into(),
        parent_span_id: 3,
        parent_service: "service".into(),
        parent_service_instance: "instance".into(),
        parent_endpoint: "endpoint".into(),
        network_address_used_at_peer: "address".into(),
    }
}

fn span() -> SpanObject {
    SpanObject {
        span_id: 1,
        parent_span_id: 2,
        start_time: 1_700_000_000_000,
        end_time: 1_700_000_000_001,
        refs: vec![reference()],
        operation_name: "GET:/".into(),
        peer: "peer".into(),
        span_type: SpanType::Exit.into(),
        span_layer: SpanLayer::Http.into(),
        component_id: 5005,
        is_error: true,
        tags: vec![pair()],
        logs: vec![Log {
            time: 9,
            data: vec![pair()],
        }],
        skip_analysis: true,
    }
}

#[test]
fn segments() {
    assert_eq!(
        fields(&reference()),
        [
            (1, Varint(1)),
            (2, text("trace")),
            (3, text("segment")),
            (4, Varint(3)),
            (5, text("service")),
            (6, text("instance")),
            (7, text("endpoint")),
            (8, text("address")),
        ]
    );
    assert_eq!(
        fields(&Log {
            time: 9,
            data: vec![pair()]
        }),
        [(1, Varint(9)), (2, nested(&pair()))]
    );
    assert_eq!(
        fields(&span()),
        [
            (1, Varint(1)),
            (2, Varint(2)),
            (3, Varint(1_700_000_000_000)),
            (4, Varint(1_700_000_000_001)),
            (5, nested(&reference())),
            (6, text("GET:/")),
            (7, text("peer")),
            (8, Varint(1)),
            (9, Varint(3)),
            (10, Varint(5005)),
            (11, Varint(1)),
            (12, nested(&pair())),
            (
                13,
                nested(&Log {
                    time: 9,
                    data: vec![pair()]
                })
            ),
            (14, Varint(1)),
        ]
    );

    let segment = SegmentObject {
        trace_id: "trace".into(),
        trace_segment_id: "segment".into(),
        spans: vec![span()],
        service: "service".into(),
        service_instance: "instance".into(),
        is_size_limited: true,
    };
    assert_eq!(
        fields(&segment),
        [
            (1, text("trace")),
            (2, text("segment")),
            (3, nested(&span())),
            (4, text("service")),
            (5, text("instance")),
            (6, Varint(1)),
        ]
    );
    assert_eq!(
        fields(&SegmentCollection {
            segments: vec![segment.clone()]
        }),
        [(1, nested(&segment))]
    );
}

#[test]
fn the_parent_of_a_root_is_a_ten_byte_varint() {
    // int32, not sint32: -1 is sign-extended to 64 bits.
    let root = SpanObject {
        parent_span_id: -1,
        ..SpanObject::default()
    };
    assert_eq!(fields(&root), [(2, Varint(u64::MAX))]);
}

#[test]
fn attached_events() {
    let parent = span_attached_event::SpanReference {
        r#type: span_attached_event::SpanReferenceType::Zipkin.into(),
        trace_id: "trace".into(),
        trace_segment_id: "segment".into(),
        span_id: "4".into(),
    };
    assert_eq!(
        fields(&parent),
        [
            (1, Varint(1)),
            (2, text("trace")),
            (3, text("segment")),
            (4, text("4"))
        ]
    );
    let instant = Instant { seconds: 5, nanos: 6 };
    let count = KeyIntValuePair {
        key: "k".into(),
        value: 7,
    };
    let event = SpanAttachedEvent {
        start_time: Some(instant),
        event: "event".into(),
        end_time: Some(instant),
        tags: vec![pair()],
        summary: vec![count.clone()],
        trace_context: Some(parent.clone()),
    };
    assert_eq!(
        fields(&event),
        [
            (1, nested(&instant)),
            (2, text("event")),
            (3, nested(&instant)),
            (4, nested(&pair())),
            (5, nested(&count)),
            (6, nested(&parent)),
        ]
    );
}

#[test]
fn management_and_configuration() {
    let properties = InstanceProperties {
        service: "service".into(),
        service_instance: "instance".into(),
        properties: vec![pair()],
        layer: "GENERAL".into(),
    };
    assert_eq!(
        fields(&properties),
        [
            (1, text("service")),
            (2, text("instance")),
            (3, nested(&pair())),
            (4, text("GENERAL"))
        ]
    );
    let ping = InstancePingPkg {
        service: "service".into(),
        service_instance: "instance".into(),
        layer: "GENERAL".into(),
    };
    assert_eq!(
        fields(&ping),
        [(1, text("service")), (2, text("instance")), (3, text("GENERAL"))]
    );
    let request = ConfigurationSyncRequest {
        service: "service".into(),
        uuid: "1".into(),
    };
    assert_eq!(fields(&request), [(1, text("service")), (2, text("1"))]);
}

#[test]
fn meters() {
    let label = Label {
        name: "n".into(),
        value: "v".into(),
    };
    assert_eq!(fields(&label), [(1, text("n")), (2, text("v"))]);
    let bucket = MeterBucketValue {
        bucket: 0.5,
        count: 2,
        is_negative_infinity: true,
    };
    assert_eq!(
        fields(&bucket),
        [(1, Double(0.5)), (2, Varint(2)), (3, Varint(1))]
    );
    let single = MeterSingleValue {
        name: "m".into(),
        labels: vec![label.clone()],
        value: 1.5,
    };
    assert_eq!(
        fields(&single),
        [(1, text("m")), (2, nested(&label)), (3, Double(1.5))]
    );
    let histogram = MeterHistogram {
        name: "m".into(),
        labels: vec![label.clone()],
        values: vec![bucket],
    };
    assert_eq!(
        fields(&histogram),
        [(1, text("m")), (2, nested(&label)), (3, nested(&bucket))]
    );

    let meter = |metric| MeterData {
        metric: Some(metric),
        service: "service".into(),
        service_instance: "instance".into(),
        timestamp: 8,
    };
    let rest = [(3, text("service")), (4, text("instance")), (5, Varint(8))];
    let of_single = meter(meter_data::Metric::SingleValue(single.clone()));
    assert_eq!(fields(&of_single), [&[(1, nested(&single))], &rest[..]].concat());
    let of_histogram = meter(meter_data::Metric::Histogram(histogram.clone()));
    assert_eq!(
        fields(&of_histogram),
        [&[(2, nested(&histogram))], &rest[..]].concat()
    );
    let collection = MeterDataCollection {
        meter_data: vec![of_single.clone()],
    };
    assert_eq!(fields(&collection), [(1, nested(&of_single))]);
}

#[test]
fn logs() {
    use log_data_body::Content;
    let body = |content| LogDataBody {
        r#type: "t".into(),
        content: Some(content),
    };
    let content = Wire::Bytes(vec![0x0a, 1, b'x']);
    let of_text = body(Content::Text(TextLog { text: "x".into() }));
    assert_eq!(fields(&of_text), [(1, text("t")), (2, content.clone())]);
    let of_json = body(Content::Json(JsonLog { json: "x".into() }));
    assert_eq!(fields(&of_json), [(1, text("t")), (3, content.clone())]);
    let of_yaml = body(Content::Yaml(YamlLog { yaml: "x".into() }));
    assert_eq!(fields(&of_yaml), [(1, text("t")), (4, content)]);

    let context = TraceContext {
        trace_id: "trace".into(),
        trace_segment_id: "segment".into(),
        span_id: 2,
    };
    assert_eq!(
        fields(&context),
        [(1, text("trace")), (2, text("segment")), (3, Varint(2))]
    );
    let tags = LogTags { data: vec![pair()] };
    assert_eq!(fields(&tags), [(1, nested(&pair()))]);
    let log = LogData {
        timestamp: 8,
        service: "service".into(),
        service_instance: "instance".into(),
        endpoint: "endpoint".into(),
        body: Some(of_text.clone()),
        trace_context: Some(context.clone()),
        tags: Some(tags.clone()),
        layer: "GENERAL".into(),
    };
    assert_eq!(
        fields(&log),
        [
            (1, Varint(8)),
            (2, text("service")),
            (3, text("instance")),
            (4, text("endpoint")),
            (5, nested(&of_text)),
            (6, nested(&context)),
            (7, nested(&tags)),
            (8, text("GENERAL")),
        ]
    );
}

#[test]
fn events() {
    let source = Source {
        service: "service".into(),
        service_instance: "instance".into(),
        endpoint: "endpoint".into(),
    };
    assert_eq!(
        fields(&source),
        [(1, text("service")), (2, text("instance")), (3, text("endpoint"))]
    );
    let event = Event {
        uuid: "id".into(),
        source: Some(source.clone()),
        name: "name".into(),
        r#type: Type::Error.into(),
        message: "message".into(),
        parameters: [("k".into(), "v".into())].into(),
        start_time: 8,
        end_time: 9,
        layer: "GENERAL".into(),
    };
    assert_eq!(
        fields(&event),
        [
            (1, text("id")),
            (2, nested(&source)),
            (3, text("name")),
            (4, Varint(1)),
            (5, text("message")),
            // An entry of a map stands on the wire as a pair.
            (6, nested(&pair())),
            (7, Varint(8)),
            (8, Varint(9)),
            (9, text("GENERAL")),
        ]
    );
}

#[test]
fn enum_numbers() {
    let types = [SpanType::Entry, SpanType::Exit, SpanType::Local];
    assert_eq!(types.map(|each| each as i32), [0, 1, 2]);
    let references = [RefType::CrossProcess, RefType::CrossThread];
    assert_eq!(references.map(|each| each as i32), [0, 1]);
    let layers = [
        SpanLayer::Unknown,
        SpanLayer::Database,
        SpanLayer::RpcFramework,
        SpanLayer::Http,
        SpanLayer::Mq,
        SpanLayer::Cache,
        SpanLayer::Faas,
    ];
    assert_eq!(layers.map(|each| each as i32), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!([Type::Normal, Type::Error].map(|each| each as i32), [0, 1]);
    let kinds = [
        span_attached_event::SpanReferenceType::Skywalking,
        span_attached_event::SpanReferenceType::Zipkin,
    ];
    assert_eq!(kinds.map(|each| each as i32), [0, 1]);
}

#[test]
fn call_paths() {
    // The paths are literals of the generated code: that is where the wire gets them from.
    let generated = include_str!(concat!(env!("OUT_DIR"), "/skywalking.v3.rs"));
    for path in [
        "/skywalking.v3.TraceSegmentReportService/collect",
        "/skywalking.v3.TraceSegmentReportService/collectInSync",
        "/skywalking.v3.SpanAttachedEventReportService/collect",
        "/skywalking.v3.ManagementService/reportInstanceProperties",
        "/skywalking.v3.ManagementService/keepAlive",
        "/skywalking.v3.ConfigurationDiscoveryService/fetchConfigurations",
        "/skywalking.v3.MeterReportService/collect",
        "/skywalking.v3.MeterReportService/collectBatch",
        "/skywalking.v3.LogReportService/collect",
        "/skywalking.v3.EventService/collect",
    ] {
        assert!(generated.contains(&format!("\"{path}\"")), "{path}");
    }
}
