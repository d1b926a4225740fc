//! One finished segment per line, in the names of protobuf's JSON form. Scripts rely on it: keys are added, never
//! renamed or taken away, and none is left out for being empty.
//!
//! Numbers are numbers. Protobuf's own writers put 64-bit ones into quotes, its readers take both, and scripts
//! want to reckon with them. Times are milliseconds since 1970, as on the wire.

use std::io::Write;

use serde::Serialize;

use super::{output::OutputError, skywalking::component};
use crate::trace::{
    segment::Segment,
    span::{Reference, ReferenceKind, Span, SpanKind, SpanLog},
};

const NANOSECONDS_PER_MILLISECOND: u64 = 1_000_000;

/// What the user can choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JsonSettings {
    /// Spans also have `startTimeNs` and `endTimeNs`.
    pub nanoseconds: bool,
}

/// Writes segments as lines of JSON.
#[derive(Debug)]
pub struct Json<W> {
    out: W,
    settings: JsonSettings,
}

impl<W: Write> Json<W> {
    pub fn new(out: W, settings: JsonSettings) -> Self {
        Self { out, settings }
    }

    /// Writes all of `segments`; when it returns they are with the operating system.
    pub fn export(&mut self, segments: &[Segment]) -> Result<(), OutputError> {
        let mut lines = Vec::with_capacity(segments.len() * 1024);
        for segment in segments {
            write_line(segment, self.settings, &mut lines)?;
        }
        // One write: lines of several probes into one pipe mix less, and a reader seldom sees half a line.
        self.out.write_all(&lines)?;
        self.out.flush()?;
        Ok(())
    }
}

/// Appends the line of a segment.
fn write_line(segment: &Segment, settings: JsonSettings, out: &mut Vec<u8>) -> Result<(), OutputError> {
    serde_json::to_writer(&mut *out, &SegmentLine::new(segment, settings)).map_err(std::io::Error::from)?;
    out.push(b'\n');
    Ok(())
}

// === The form ===

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SegmentLine<'a> {
    trace_id: &'a str,
    trace_segment_id: &'a str,
    service: &'a str,
    service_instance: &'a str,
    spans: Vec<SpanObject<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpanObject<'a> {
    span_id: i32,
    parent_span_id: i32,
    start_time: u64,
    end_time: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_time_ns: Option<u64>,
    refs: Vec<SegmentReference<'a>>,
    operation_name: &'a str,
    peer: &'a str,
    span_type: &'static str,
    span_layer: &'static str,
    component_id: i32,
    is_error: bool,
    tags: Vec<KeyValue<'a>>,
    logs: Vec<Log<'a>>,
    skip_analysis: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SegmentReference<'a> {
    ref_type: &'static str,
    trace_id: &'a str,
    parent_trace_segment_id: &'a str,
    parent_span_id: i32,
    parent_service: &'a str,
    parent_service_instance: &'a str,
    parent_endpoint: &'a str,
    network_address_used_at_peer: &'a str,
}

#[derive(Serialize)]
struct KeyValue<'a> {
    key: &'a str,
    value: &'a str,
}

#[derive(Serialize)]
struct Log<'a> {
    time: u64,
    data: Vec<KeyValue<'a>>,
}

impl<'a> SegmentLine<'a> {
    fn new(segment: &'a Segment, settings: JsonSettings) -> Self {
        Self {
            trace_id: &segment.trace_id,
            trace_segment_id: &segment.segment_id,
            service: &segment.identity.service,
            service_instance: &segment.identity.instance,
            spans: segment
                .spans
                .iter()
                .map(|span| SpanObject::new(span, settings))
                .collect(),
        }
    }
}

impl<'a> SpanObject<'a> {
    fn new(span: &'a Span, settings: JsonSettings) -> Self {
        Self {
            span_id: span.id,
            parent_span_id: span.parent_id,
            start_time: span.start_ns / NANOSECONDS_PER_MILLISECOND,
            end_time: span.end_ns / NANOSECONDS_PER_MILLISECOND,
            start_time_ns: settings.nanoseconds.then_some(span.start_ns),
            end_time_ns: settings.nanoseconds.then_some(span.end_ns),
            refs: span.references.iter().map(SegmentReference::from).collect(),
            operation_name: &span.operation,
            peer: &span.peer,
            span_type: match span.kind {
                SpanKind::Entry => "Entry",
                SpanKind::Exit => "Exit",
                SpanKind::Local => "Local",
            },
            span_layer: component::layer(span.component).name(),
            component_id: component::id(span.component),
            is_error: span.is_error,
            tags: span
                .tags
                .iter()
                .map(|tag| KeyValue {
                    key: tag.key,
                    value: &tag.value,
                })
                .collect(),
            logs: span.logs.iter().map(Log::from).collect(),
            skip_analysis: span.skip_analysis,
        }
    }
}

impl<'a> From<&'a Reference> for SegmentReference<'a> {
    fn from(reference: &'a Reference) -> Self {
        Self {
            ref_type: match reference.kind {
                ReferenceKind::CrossProcess => "CrossProcess",
                ReferenceKind::CrossThread => "CrossThread",
            },
            trace_id: &reference.trace_id,
            parent_trace_segment_id: &reference.parent_segment_id,
            parent_span_id: reference.parent_span_id,
            parent_service: &reference.parent_service,
            parent_service_instance: &reference.parent_instance,
            parent_endpoint: &reference.parent_endpoint,
            network_address_used_at_peer: &reference.network_address,
        }
    }
}

impl<'a> From<&'a SpanLog> for Log<'a> {
    fn from(log: &'a SpanLog) -> Self {
        Self {
            time: log.time_ns / NANOSECONDS_PER_MILLISECOND,
            data: log
                .data
                .iter()
                .map(|(key, value)| KeyValue { key, value })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use super::*;
    use crate::trace::{
        segment::Identity,
        span::{Component, Tag},
    };

    fn segment() -> Segment {
        Segment {
            trace_id: "trace".into(),
            segment_id: "segment".into(),
            identity: Arc::new(Identity {
                service: "shop".into(),
                instance: "shop@host".into(),
            }),
            spans: vec![Span {
                id: 0,
                parent_id: -1,
                start_ns: 1_700_000_000_123_456_789,
                end_ns: 1_700_000_000_125_000_000,
                kind: SpanKind::Entry,
                component: Component::GoHttpServer,
                operation: "GET:/a".into(),
                peer: String::new(),
                is_error: true,
                references: vec![Reference {
                    kind: ReferenceKind::CrossProcess,
                    trace_id: "trace".into(),
                    parent_segment_id: "parent".into(),
                    parent_span_id: 1,
                    parent_service: "gate".into(),
                    parent_instance: "gate@host".into(),
                    parent_endpoint: "GET:/".into(),
                    network_address: "localhost:80".into(),
                }],
                tags: vec![Tag {
                    key: "url",
                    value: "http://h/\"quoted\"\n".into(),
                }],
                logs: vec![SpanLog {
                    time_ns: 1_700_000_000_124_999_999,
                    data: vec![("event", "error".into()), ("message", "boom".into())],
                }],
                skip_analysis: false,
            }],
        }
    }

    const LINE: &str = concat!(
        r#"{"traceId":"trace","traceSegmentId":"segment","service":"shop","serviceInstance":"shop@host","#,
        r#""spans":[{"spanId":0,"parentSpanId":-1,"startTime":1700000000123,"endTime":1700000000125,"#,
        r#""refs":[{"refType":"CrossProcess","traceId":"trace","parentTraceSegmentId":"parent","parentSpanId":1,"#,
        r#""parentService":"gate","parentServiceInstance":"gate@host","parentEndpoint":"GET:/","#,
        r#""networkAddressUsedAtPeer":"localhost:80"}],"operationName":"GET:/a","peer":"","spanType":"Entry","#,
        r#""spanLayer":"Http","componentId":5004,"isError":true,"#,
        r#""tags":[{"key":"url","value":"http://h/\"quoted\"\n"}],"#,
        r#""logs":[{"time":1700000000124,"data":[{"key":"event","value":"error"},{"key":"message","value":"boom"}]}],"#,
        r#""skipAnalysis":false}]}"#,
        "\n"
    );

    #[test]
    fn a_line_has_all_keys() {
        let mut out = Vec::new();
        Json::new(&mut out, JsonSettings::default())
            .export(&[segment(), segment()])
            .unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), LINE.repeat(2));
    }

    #[test]
    fn nanoseconds_are_added_when_wanted() {
        let mut out = Vec::new();
        Json::new(&mut out, JsonSettings { nanoseconds: true })
            .export(&[segment()])
            .unwrap();
        let times = r#""endTime":1700000000125,"#;
        let more = r#""startTimeNs":1700000000123456789,"endTimeNs":1700000000125000000,"#;
        assert_eq!(
            String::from_utf8(out).unwrap(),
            LINE.replace(times, &format!("{times}{more}"))
        );
    }

    #[test]
    fn a_full_disk_is_an_error() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = Json::new(Full, JsonSettings::default())
            .export(&[segment()])
            .unwrap_err();
        assert!(matches!(error, OutputError::Full(_)));
    }
}
