//! One finished segment per line, in the names of protobuf's JSON form. Scripts rely on it: keys are added, never
//! renamed or taken away, and none is left out for being empty.
//!
//! Numbers are numbers. Protobuf's own writers put 64-bit ones into quotes, its readers take both, and scripts
//! want to reckon with them. Times are milliseconds since 1970, as on the wire.

use std::io::{self, Write};

use serde::Serialize;

use super::{output::OutputError, skywalking::component};
use crate::trace::{
    segment::Segment,
    span::{Reference, ReferenceKind, Span, SpanKind, SpanLog},
};

const NANOSECONDS_PER_MILLISECOND: u64 = 1_000_000;
/// What the buffer keeps of its room from one export to the next: more than a batch takes that is no burst.
const LINES_KEPT: usize = 512 * 1024;

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
    /// Empty between exports; kept for its memory.
    lines: Vec<u8>,
}

impl<W: Write> Json<W> {
    pub fn new(out: W, settings: JsonSettings) -> Self {
        Self {
            out,
            settings,
            lines: Vec::new(),
        }
    }

    /// Writes all of `segments`; when it returns they are with the operating system.
    pub fn export(&mut self, segments: &[Segment]) -> Result<(), OutputError> {
        self.lines.clear();
        self.lines.shrink_to(LINES_KEPT);
        let mut lines = Lines {
            out: &mut self.lines,
            settings: self.settings,
        };
        for segment in segments {
            lines.segment(segment)?;
        }
        // One write: lines of several probes into one pipe mix less, and a reader seldom sees half a line.
        self.out.write_all(&self.lines)?;
        self.out.flush()?;
        Ok(())
    }
}

// === The form ===

/// Appends lines. Most of a line are keys that never change: they are put down as they stand here, each with the
/// signs around it, where serde would look through them for what must be escaped.
struct Lines<'a> {
    out: &'a mut Vec<u8>,
    settings: JsonSettings,
}

impl Lines<'_> {
    fn segment(&mut self, segment: &Segment) -> io::Result<()> {
        self.text(r#"{"traceId":"#, &segment.trace_id)?;
        self.text(r#","traceSegmentId":"#, &segment.segment_id)?;
        self.text(r#","service":"#, &segment.identity.service)?;
        self.text(r#","serviceInstance":"#, &segment.identity.instance)?;
        self.list(r#","spans":["#, &segment.spans, Self::span)?;
        self.raw("}\n");
        Ok(())
    }

    fn span(&mut self, span: &Span) -> io::Result<()> {
        self.value(r#"{"spanId":"#, span.id)?;
        self.value(r#","parentSpanId":"#, span.parent_id)?;
        self.value(r#","startTime":"#, span.start_ns / NANOSECONDS_PER_MILLISECOND)?;
        self.value(r#","endTime":"#, span.end_ns / NANOSECONDS_PER_MILLISECOND)?;
        if self.settings.nanoseconds {
            self.value(r#","startTimeNs":"#, span.start_ns)?;
            self.value(r#","endTimeNs":"#, span.end_ns)?;
        }
        self.list(r#","refs":["#, &span.references, Self::reference)?;
        self.text(r#","operationName":"#, &span.operation)?;
        self.text(r#","peer":"#, &span.peer)?;
        let kind = match span.kind {
            SpanKind::Entry => "Entry",
            SpanKind::Exit => "Exit",
            SpanKind::Local => "Local",
        };
        self.text(r#","spanType":"#, kind)?;
        self.text(r#","spanLayer":"#, component::layer(span.component).name())?;
        self.value(r#","componentId":"#, component::id(span.component))?;
        self.value(r#","isError":"#, span.is_error)?;
        self.list(r#","tags":["#, &span.tags, |lines, tag| {
            lines.pair(tag.key, &tag.value)
        })?;
        self.list(r#","logs":["#, &span.logs, Self::log)?;
        self.value(r#","skipAnalysis":"#, span.skip_analysis)?;
        self.raw("}");
        Ok(())
    }

    fn reference(&mut self, reference: &Reference) -> io::Result<()> {
        let kind = match reference.kind {
            ReferenceKind::CrossProcess => "CrossProcess",
            ReferenceKind::CrossThread => "CrossThread",
        };
        self.text(r#"{"refType":"#, kind)?;
        self.text(r#","traceId":"#, &reference.trace_id)?;
        self.text(r#","parentTraceSegmentId":"#, &reference.parent_segment_id)?;
        self.value(r#","parentSpanId":"#, reference.parent_span_id)?;
        self.text(r#","parentService":"#, &reference.parent_service)?;
        self.text(r#","parentServiceInstance":"#, &reference.parent_instance)?;
        self.text(r#","parentEndpoint":"#, &reference.parent_endpoint)?;
        self.text(r#","networkAddressUsedAtPeer":"#, &reference.network_address)?;
        self.raw("}");
        Ok(())
    }

    fn log(&mut self, log: &SpanLog) -> io::Result<()> {
        self.value(r#"{"time":"#, log.time_ns / NANOSECONDS_PER_MILLISECOND)?;
        self.list(r#","data":["#, &log.data, |lines, (key, value)| {
            lines.pair(key, value)
        })?;
        self.raw("}");
        Ok(())
    }

    fn pair(&mut self, key: &str, value: &str) -> io::Result<()> {
        self.text(r#"{"key":"#, key)?;
        self.text(r#","value":"#, value)?;
        self.raw("}");
        Ok(())
    }

    // === What all of it is made of ===

    fn raw(&mut self, json: &str) {
        self.out.extend_from_slice(json.as_bytes());
    }

    /// A number, or whether something is so.
    fn value(&mut self, key: &'static str, value: impl Serialize) -> io::Result<()> {
        self.raw(key);
        serde_json::to_writer(&mut *self.out, &value).map_err(io::Error::from)
    }

    fn text(&mut self, key: &'static str, text: &str) -> io::Result<()> {
        self.raw(key);
        // Looked through without a branch, many bytes at a time; what has anything to escape is serde's.
        let is_plain = text.bytes().fold(true, |plain, byte| {
            plain & (byte >= b' ') & (byte != b'"') & (byte != b'\\')
        });
        if !is_plain {
            return serde_json::to_writer(&mut *self.out, text).map_err(io::Error::from);
        }
        self.raw("\"");
        self.raw(text);
        self.raw("\"");
        Ok(())
    }

    fn list<T>(
        &mut self,
        key: &'static str,
        items: &[T],
        item: impl Fn(&mut Self, &T) -> io::Result<()>,
    ) -> io::Result<()> {
        self.raw(key);
        for (at, each) in items.iter().enumerate() {
            if at > 0 {
                self.raw(",");
            }
            item(self, each)?;
        }
        self.raw("]");
        Ok(())
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
    fn text_is_written_as_serde_would_write_it() {
        let mut text = String::new();
        for c in ('\0'..='\u{100}').chain("→\u{2028}\u{fffd}😀".chars()) {
            text.push(c);
            for text in [
                c.to_string(),
                format!("some text before {c} and behind"),
                text.clone(),
            ] {
                let mut out = Vec::new();
                let mut lines = Lines {
                    out: &mut out,
                    settings: JsonSettings::default(),
                };
                lines.text("", &text).unwrap();
                assert_eq!(
                    String::from_utf8(out).unwrap(),
                    serde_json::to_string(&text).unwrap()
                );
            }
        }
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
