//! What is printed, and when.

use super::*;
use crate::trace::span::{Component, Reference, ReferenceKind, Span, SpanKind, SpanLog, Tag};

const START_NS: u64 = 1_700_000_000_000_000_000;
const MS: u64 = MILLISECOND_NS;

fn span(id: i32, kind: SpanKind, operation: &str, from_ms: u64, to_ms: u64, status: &'static str) -> Span {
    Span {
        id,
        parent_id: id.min(1) - 1,
        start_ns: START_NS + from_ms * MS,
        end_ns: START_NS + to_ms * MS,
        kind,
        component: Component::GoHttpServer,
        operation: operation.into(),
        peer: if kind == SpanKind::Exit {
            "localhost:8081".into()
        } else {
            String::new()
        },
        is_error: status >= "400",
        references: Vec::new(),
        tags: if status.is_empty() {
            vec![]
        } else {
            vec![Tag {
                key: "http.status_code",
                value: status.into(),
            }]
        },
        logs: Vec::new(),
        skip_analysis: false,
    }
}

fn segment(service: &str, spans: Vec<Span>) -> Segment {
    Segment {
        trace_id: "0af7651916cd43dd8448eb211c80319c".into(),
        segment_id: format!("segment of {service}"),
        identity: Arc::new(Identity {
            service: service.into(),
            instance: format!("{service}@host"),
        }),
        spans,
    }
}

fn called_by(mut segment: Segment, caller: &str, span_id: i32) -> Segment {
    segment.spans[0].references.push(Reference {
        kind: ReferenceKind::CrossProcess,
        trace_id: segment.trace_id.clone(),
        parent_segment_id: format!("segment of {caller}"),
        parent_span_id: span_id,
        parent_service: caller.into(),
        parent_instance: format!("{caller}@host"),
        parent_endpoint: "GET:/".into(),
        network_address: "localhost:8081".into(),
    });
    segment
}

/// The classic picture, the callee first.
fn profile() -> Vec<Segment> {
    let mut refused = span(2, SpanKind::Exit, "GET:/stock", 8, 9, "");
    refused.is_error = true;
    let data = vec![
        ("event", "error".to_owned()),
        ("error.kind", "*net.OpError".to_owned()),
        ("message", "dial: connect: connection refused".to_owned()),
    ];
    refused.logs.push(SpanLog {
        time_ns: refused.end_ns,
        data,
    });
    vec![
        called_by(
            segment(
                "order-service",
                vec![span(0, SpanKind::Entry, "GET:/orders", 4, 6, "500")],
            ),
            "user-service",
            1,
        ),
        called_by(
            segment(
                "user-service",
                vec![
                    span(0, SpanKind::Entry, "GET:/users/{id}", 2, 10, "200"),
                    span(1, SpanKind::Exit, "GET:/orders", 3, 7, "500"),
                    refused,
                ],
            ),
            "gateway",
            1,
        ),
        segment(
            "gateway",
            vec![
                span(0, SpanKind::Entry, "GET:/profile", 0, 12, "200"),
                span(1, SpanKind::Exit, "GET:/users/{id}", 1, 11, "200"),
            ],
        ),
    ]
}

const PROFILE: &str = "\
trace 0af7651916cd43dd8448eb211c80319c  22:13:20.000 UTC, 3 services, 6 spans, 12.0 ms
  gateway        entry GET:/profile                                200  12.0 ms ━━━━━━━━━━━━━━━━━━━━
  gateway        └─ exit GET:/users/{id} to localhost:8081         200  10.0 ms  ━━━━━━━━━━━━━━━━━
  user-service      └─ entry GET:/users/{id}                       200   8.0 ms    ━━━━━━━━━━━━━
✗ user-service         ├─ exit GET:/orders to localhost:8081       500   4.0 ms      ━━━━━━
✗ order-service        │  └─ entry GET:/orders                     500   2.0 ms       ━━━━
✗ user-service         └─ exit GET:/stock to localhost:8081        err   1.0 ms              ━━
✗                            dial: connect: connection refused (*net.OpError)

";

fn text() -> Text<Vec<u8>> {
    Text::new(Vec::new(), TextSettings::default())
}

fn shown(text: &mut Text<Vec<u8>>) -> String {
    String::from_utf8(std::mem::take(&mut text.out)).unwrap()
}

#[test]
fn a_trace_over_three_processes() {
    let mut text = text();
    text.export(profile(), 0).unwrap();
    assert_eq!(shown(&mut text), "", "it may not be whole yet");
    text.tick(QUIET_NS - 1).unwrap();
    assert_eq!(shown(&mut text), "");
    let printed = text.tick(QUIET_NS).unwrap();
    assert_eq!((printed.segments, printed.spans), (3, 6));
    assert_eq!(shown(&mut text), PROFILE);
    assert!(PROFILE.lines().all(|line| line.chars().count() <= 100));
    assert_eq!(text.pending(), Tally::default());
}

#[test]
fn a_steady_stream_is_printed_too() {
    let mut text = text();
    text.export(profile(), 0).unwrap();
    for now_ms in (10..300).step_by(10) {
        let mut other = segment("shop", vec![span(0, SpanKind::Entry, "GET:/", 0, 1, "200")]);
        other.trace_id = now_ms.to_string();
        text.export(vec![other], now_ms * MS).unwrap();
    }
    assert!(shown(&mut text).starts_with(PROFILE));
}

#[test]
fn the_order_of_arrival_does_not_matter() {
    let mut segments = profile();
    segments.reverse();
    let mut text = text();
    text.export(segments, 0).unwrap();
    text.flush().unwrap();
    assert_eq!(shown(&mut text), PROFILE);
}

#[test]
fn errors_are_red_where_there_are_colours() {
    let mut text = Text::new(
        Vec::new(),
        TextSettings {
            colour: true,
            width: 100,
        },
    );
    text.export(profile(), 0).unwrap();
    text.flush().unwrap();
    let shown = shown(&mut text);
    let red: Vec<_> = shown
        .lines()
        .filter(|line| line.starts_with("\x1b[31m✗ ") && line.ends_with("\x1b[0m"))
        .collect();
    assert_eq!(red.len(), 4);
    assert!(shown.starts_with("\x1b[1mtrace "));
    let uncoloured = ["\x1b[31m", "\x1b[1m", "\x1b[2m", "\x1b[0m"]
        .iter()
        .fold(shown, |text, code| text.replace(code, ""));
    assert_eq!(uncoloured, PROFILE);
}

#[test]
fn on_a_narrow_terminal_the_bar_shrinks_before_the_words_are_cut() {
    let narrow = |width| {
        let settings = TextSettings { colour: false, width };
        let mut text = Text::new(Vec::new(), settings);
        text.export(profile(), 0).unwrap();
        text.flush().unwrap();
        shown(&mut text)
    };
    let shown = narrow(80);
    assert!(
        shown.contains("└─ exit GET:/stock to localhost:8081  err   1.0 ms"),
        "{shown}"
    );
    assert!(
        shown.lines().skip(1).all(|line| line.chars().count() <= 80),
        "{shown}"
    );
    // Where it is cut after all, the reason names the peer.
    let shown = narrow(66);
    assert!(shown.contains("localhost:8081: dial: connect"), "{shown}");
    assert!(
        shown.lines().skip(1).all(|line| line.chars().count() <= 66),
        "{shown}"
    );
}

#[test]
fn statuses_of_any_length_stand_in_one_column() {
    let mut failed = span(1, SpanKind::Exit, "shop.Orders.Recommend", 1, 9, "");
    failed.tags = vec![Tag {
        key: "rpc.status_code",
        value: "DEADLINE_EXCEEDED".into(),
    }];
    let mut text = text();
    let spans = vec![span(0, SpanKind::Entry, "GET:/", 0, 10, "502"), failed];
    text.export(vec![segment("shop", spans)], 0).unwrap();
    text.flush().unwrap();
    let shown = shown(&mut text);
    let lines: Vec<&str> = shown.lines().skip(1).filter(|line| !line.is_empty()).collect();
    let [above, below] = lines[..] else {
        panic!("{shown}")
    };
    let status_ends = |line: &str, status: &str| {
        line.chars().count() - line[line.find(status).unwrap() + status.len()..].chars().count()
    };
    assert_eq!(
        status_ends(above, " 502"),
        status_ends(below, " DEADLINE_EXCEEDED"),
        "{shown}"
    );
    assert!(lines.iter().all(|line| line.chars().count() <= 100), "{shown}");
}

#[test]
fn a_caller_that_is_traced_is_waited_for() {
    let mut segments = profile();
    let gateway = segments.pop().unwrap();
    let user = segments.pop().unwrap();
    let mut text = text();
    // Nobody has heard of the user service yet.
    text.export(segments.clone(), 0).unwrap();
    text.tick(QUIET_NS).unwrap();
    assert_eq!(shown(&mut text), "");
    text.tick(QUIET_STRANGER_NS).unwrap();
    assert!(shown(&mut text).starts_with("trace 0af7651916cd43dd8448eb211c80319c  "));
    // Now somebody has: the next time there is patience.
    text.export(vec![user.clone(), gateway.clone()], QUIET_STRANGER_NS)
        .unwrap();
    text.flush().unwrap();
    assert!(shown(&mut text).starts_with("trace 0af7651916cd43dd8448eb211c80319c (continued)  "));
    let now_ns = 2 * QUIET_STRANGER_NS;
    text.export(segments, now_ns).unwrap();
    text.tick(now_ns + QUIET_CALLER_NS - 1).unwrap();
    assert_eq!(shown(&mut text), "");
    text.export(vec![user, gateway], now_ns + QUIET_CALLER_NS - 1)
        .unwrap();
    text.tick(now_ns + QUIET_CALLER_NS - 1 + QUIET_NS).unwrap();
    assert_eq!(shown(&mut text), PROFILE.replace("319c  ", "319c (continued)  "));
}

#[test]
fn references_in_a_circle_are_drawn_all_the_same() {
    let one = called_by(
        segment("one", vec![span(0, SpanKind::Entry, "GET:/1", 0, 4, "200")]),
        "two",
        0,
    );
    let two = called_by(
        segment("two", vec![span(0, SpanKind::Entry, "GET:/2", 1, 3, "200")]),
        "one",
        0,
    );
    let own = called_by(
        segment("own", vec![span(0, SpanKind::Entry, "GET:/3", 2, 3, "200")]),
        "own",
        0,
    );
    let mut text = text();
    text.export(vec![one, two, own], 0).unwrap();
    text.flush().unwrap();
    let shown = shown(&mut text);
    for operation in ["GET:/1", "GET:/2", "GET:/3"] {
        assert_eq!(shown.matches(operation).count(), 1, "{shown}");
    }
}

#[test]
fn a_deep_chain_stays_within_the_line() {
    let mut segments = vec![segment(
        "s0",
        vec![span(0, SpanKind::Entry, "GET:/", 0, 100, "200")],
    )];
    for depth in 1..60 {
        let entry = vec![span(
            0,
            SpanKind::Entry,
            "GET:/a/rather/long/path/for/a/deep/tree",
            depth,
            100,
            "200",
        )];
        segments.push(called_by(
            segment(&format!("s{depth}"), entry),
            &format!("s{}", depth - 1),
            0,
        ));
    }
    let mut text = text();
    text.export(segments, 0).unwrap();
    text.flush().unwrap();
    let shown = shown(&mut text);
    assert_eq!(shown.lines().filter(|line| line.contains("entry")).count(), 60);
    assert!(shown.lines().all(|line| line.chars().count() <= 100), "{shown}");
}

#[test]
fn a_wide_trace_is_cut() {
    let mut spans = vec![span(0, SpanKind::Entry, "GET:/", 0, 9, "200")];
    spans.extend((1..500).map(|id| span(id, SpanKind::Exit, "GET:/x", 1, 2, "200")));
    let mut text = text();
    text.export(vec![segment("shop", spans)], 0).unwrap();
    let printed = text.flush().unwrap();
    assert_eq!(printed.spans, 500);
    let shown = shown(&mut text);
    assert_eq!(shown.lines().count(), 1 + 200 + 1 + 1);
    assert!(shown.contains("\n  and 300 more spans\n"));
}

#[test]
fn memory_is_bounded() {
    let mut text = text();
    let mut printed = Tally::default();
    for number in 0..3_000 {
        let mut segment = segment(
            "shop",
            (0..10)
                .map(|id| span(id, SpanKind::Entry, "GET:/", 0, 1, "200"))
                .collect(),
        );
        segment.trace_id = number.to_string();
        printed += text.export(vec![segment], 0).unwrap();
        assert!(text.pending().spans <= COLLECTED_SPANS_MAX as u64);
        assert!(text.printed.len() <= PRINTED_MAX && text.printed.len() == text.printed_order.len());
    }
    printed += text.flush().unwrap();
    assert_eq!((printed.segments, printed.spans), (3_000, 30_000));
    let shown = shown(&mut text);
    let first_lines: Vec<_> = shown.lines().filter(|line| line.starts_with("trace ")).collect();
    assert!(first_lines[0].starts_with("trace 0 ") && first_lines[2_999].starts_with("trace 2999 "));
}

#[test]
fn what_cannot_be_written_stays_pending() {
    struct Once(u32);
    impl Write for Once {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += 1;
            if self.0 > 1 {
                Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe))
            } else {
                Ok(bytes.len())
            }
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut text = Text::new(Once(0), TextSettings::default());
    let mut other = segment("shop", vec![span(0, SpanKind::Entry, "GET:/", 0, 1, "200")]);
    other.trace_id = "other".into();
    text.export(vec![other], 0).unwrap();
    text.export(profile(), 0).unwrap();
    assert!(matches!(text.flush(), Err(OutputError::Closed(_))));
    // The first trace was written, but nobody was told.
    assert_eq!((text.pending().segments, text.pending().spans), (4, 7));
}
