//! Recordings in, segments out: each case of `testdata/trace` is a pair of files. `UPDATE_EXPECT=1` rewrites what
//! is expected.

use std::{fs, path::Path};

use serde::Deserialize;

use super::{span::SpanKind, *};
use crate::{
    event::{
        decode,
        recording::{Recorded, Types},
    },
    export::json::{Json, JsonSettings},
};

/// A line of a case that is no event: what the tracer is told besides.
#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
enum Step {
    Settings {
        debug_tags: bool,
        names_max: usize,
        held_spans_max: usize,
    },
    Add {
        tgid: u32,
        service: String,
    },
    Remove {
        tgid: u32,
        now_ns: u64,
    },
    Tick {
        now_ns: u64,
    },
    /// The wall clock is set: it is so far from the kernel's from here on.
    Clock {
        offset_ns: i64,
    },
    Flush {},
}

struct Names<'a>(&'a Types);

impl TypeNames for Names<'_> {
    fn type_name(&self, _tgid: u32, address: u64) -> Option<String> {
        self.0.name(address).map(str::to_owned)
    }
}

/// Plays a case. Each line's segments follow it; the losses stand at the end.
fn play(case: &str) -> String {
    let mut tracer = Tracer::new(Settings::default());
    let mut types = Types::default();
    let mut played = String::new();
    let mut clock_offset_ns = 1_700_000_000_000_000_000;
    for line in case
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let mut out = Vec::new();
        if line.starts_with(r#"{"do""#) {
            match serde_json::from_str(line).expect(line) {
                Step::Settings {
                    debug_tags,
                    names_max,
                    held_spans_max,
                } => {
                    tracer = Tracer::new(Settings {
                        debug_tags,
                        names_max,
                        held_spans_max,
                    });
                }
                Step::Add { tgid, service } => {
                    let instance = format!("{service}@host");
                    tracer.add_target(tgid, Arc::new(Identity { service, instance }));
                }
                Step::Remove { tgid, now_ns } => tracer.remove_target(tgid, now_ns),
                Step::Tick { now_ns } => tracer.tick(now_ns, &mut out),
                Step::Clock { offset_ns } => clock_offset_ns = offset_ns,
                Step::Flush {} => tracer.flush(&mut out),
            }
        } else {
            let bytes = Recorded::from_line(line).expect(line).to_bytes(&mut types);
            let event = decode(&bytes).expect(line);
            tracer.on_event(&event, clock_offset_ns, &Names(&types), &mut out);
        }
        out.sort_by(|one, other| one.segment_id.cmp(&other.segment_id));
        for segment in &out {
            assert_sound(segment);
        }
        let mut lines = Vec::new();
        Json::new(&mut lines, JsonSettings { nanoseconds: true })
            .export(&out)
            .unwrap();
        played.push_str(&String::from_utf8(lines).unwrap());
    }
    for (loss, count) in tracer.losses().filter(|(_, count)| *count > 0) {
        played.push_str(&format!("# {} {count}\n", loss.name()));
    }
    assert_eq!(
        tracer.held_spans,
        tracer.held.values().map(Held::spans).sum::<usize>()
    );
    played
}

/// What OAP wants of any segment.
#[track_caller]
fn assert_sound(segment: &Segment) {
    assert_eq!(
        segment.spans.first().map(|span| (span.id, span.parent_id)),
        Some((0, -1)),
        "{segment:?}"
    );
    assert!(!segment.trace_id.is_empty() && segment.trace_id.len() <= 150);
    for span in &segment.spans {
        assert!(span.end_ns >= span.start_ns);
        assert!(!span.operation.is_empty() && span.operation.is_ascii());
        assert_eq!(span.kind == SpanKind::Exit, !span.peer.is_empty(), "{span:?}");
        let mut keys = span.tags.iter().map(|tag| tag.key).collect::<Vec<_>>();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), span.tags.len(), "a key stands twice: {:?}", span.tags);
        for reference in &span.references {
            assert!(!reference.parent_service.is_empty() && !reference.parent_segment_id.is_empty());
        }
    }
}

#[test]
fn recordings_give_the_segments_beside_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/trace");
    #[expect(
        clippy::disallowed_methods,
        reason = "not the program's: asked of whoever runs the tests"
    )]
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let mut cases = 0;
    let mut wrong = Vec::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "events") {
            continue;
        }
        cases += 1;
        let played = play(&fs::read_to_string(&path).unwrap());
        let expected = path.with_extension("segments");
        if update {
            fs::write(&expected, played).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != played {
            wrong.push(format!("{}:\n{played}", path.display()));
        }
    }
    assert!(cases >= 10, "only {cases} cases in {}", folder.display());
    assert!(
        wrong.is_empty(),
        "not as expected (UPDATE_EXPECT=1 accepts it):\n{}",
        wrong.join("\n")
    );
}

#[test]
fn memory_is_bounded_whatever_comes() {
    let mut tracer = Tracer::new(Settings {
        held_spans_max: 100,
        ..Settings::default()
    });
    tracer.add_target(
        7,
        Arc::new(Identity {
            service: "shop".into(),
            instance: "i".into(),
        }),
    );
    let mut types = Types::default();
    let mut spans = 0;
    for number in 0..10_000u32 {
        let mut out = Vec::new();
        let line = if number % 3 == 0 {
            format!(
                r#"{{"event":"request","tgid":7,"start_ns":1,"end_ns":{number},"segment_id":"{number:08x}","span_count":9}}"#
            )
        } else {
            format!(
                r#"{{"event":"call","tgid":7,"start_ns":1,"end_ns":{number},"segment_id":"{:08x}","span_id":{number},"parent":"context","peer":"h:1"}}"#,
                number / 2
            )
        };
        let bytes = Recorded::from_line(&line).unwrap().to_bytes(&mut types);
        tracer.on_event(&decode(&bytes).unwrap(), 0, &(), &mut out);
        assert!(tracer.held_spans <= 100 && tracer.sent.len() <= 100);
        assert_eq!(
            tracer.held_spans,
            tracer.held.values().map(Held::spans).sum::<usize>()
        );
        spans += out
            .iter()
            .flat_map(|segment| &segment.spans)
            .filter(|span| span.kind != SpanKind::Local)
            .count();
    }
    let mut out = Vec::new();
    tracer.flush(&mut out);
    spans += out
        .iter()
        .flat_map(|segment| &segment.spans)
        .filter(|span| span.kind != SpanKind::Local)
        .count();
    assert_eq!(spans, 10_000, "each event is a span somewhere");
    assert_eq!(tracer.held_spans, 0);
}
