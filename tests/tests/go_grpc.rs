//! grpc-go end to end: a real Go program, the real probe, the spans that come out.

use std::collections::HashSet;

use tests::{
    needs_rpc,
    probe::find_span,
    rpc::{PROPAGATED, Row, check_shapes, check_shapes_of},
    segment::{Segment, Span},
    target::{Go, GoBuild},
    truth::{GRPC, Record, Side},
};

/// The keys of all tags but those of messages, in order.
fn tags(span: &Span) -> Vec<&str> {
    let mut keys: Vec<&str> = span.tags.iter().map(|tag| tag.key.as_str()).collect();
    keys.retain(|key| !key.starts_with("rpc.messages."));
    keys.sort_unstable();
    keys
}

#[track_caller]
fn check_entry(span: &Span, operation: &str, path: &str) {
    assert_eq!(span.operation_name, operation);
    assert_eq!(
        (span.span_layer.as_str(), span.component_id),
        ("RPCFramework", GRPC)
    );
    assert_eq!((span.peer.as_str(), span.is_error), ("", false));
    assert_eq!((span.span_id, span.parent_span_id), (0, -1));
    assert_eq!(tags(span), ["rpc.status_code", "url"]);
    assert_eq!(
        (span.tag("url"), span.tag("rpc.status_code")),
        (Some(path), Some("OK"))
    );
    assert!(
        span.start_time <= span.end_time && span.logs.is_empty(),
        "{span:?}"
    );
}

#[track_caller]
fn check_exit(span: &Span, operation: &str, path: &str, rpc_type: &str, peer: &str) {
    assert_eq!(span.operation_name, operation);
    assert_eq!(
        (span.span_layer.as_str(), span.component_id),
        ("RPCFramework", GRPC)
    );
    assert_eq!((span.peer.as_str(), span.is_error), (peer, false));
    assert_eq!(tags(span), ["rpc.status_code", "rpc.type", "url"]);
    assert_eq!(
        (span.tag("url"), span.tag("rpc.type")),
        (Some(path), Some(rpc_type))
    );
    assert_eq!(span.tag("rpc.status_code"), Some("OK"));
    assert!(
        span.start_time <= span.end_time && span.logs.is_empty(),
        "{span:?}"
    );
}

#[test]
fn a_call_through_three_services() {
    needs_rpc!();
    let row = Row::start().unwrap();
    let probe = row.trace(&[]).unwrap();
    row.ask("chain", 1).unwrap();

    let front = probe.segment_of("Entry", "/chain/1").unwrap();
    let call = row.call_of(1).unwrap();
    let [entry, exit] = front.spans.as_slice() else {
        panic!("{front:#?}")
    };
    assert_eq!(entry.operation_name, "GET:/chain/");
    assert_eq!((exit.span_id, exit.parent_span_id), (1, 0));
    let operation = format!("truth.unary.sync.{}", call.id);
    check_exit(exit, &operation, &call.path, "Unary", &row.middle.addresses.rpc);
    assert!(entry.start_time <= exit.start_time && exit.end_time <= entry.end_time);

    let middle = probe.segment_of("Entry", &call.path).unwrap();
    let [entry, exit] = middle.spans.as_slice() else {
        panic!("{middle:#?}")
    };
    assert_eq!(middle.service, "middle");
    check_entry(entry, &operation, &call.path);
    assert_eq!((exit.span_id, exit.parent_span_id), (1, 0));
    let path = exit.tag("url").unwrap();
    let operation = path.trim_start_matches('/').replace('/', ".");
    check_exit(exit, &operation, path, "Unary", &row.back.addresses.rpc);

    let back = probe.segment_of("Entry", path).unwrap();
    assert_eq!((back.service.as_str(), back.spans.len()), ("back", 1));
    check_entry(&back.spans[0], &operation, path);
}

#[test]
fn methods_of_a_registered_service() {
    needs_rpc!();
    let row = Row::start().unwrap();
    let probe = row.trace(&[]).unwrap();
    row.ask("relays", 1).unwrap();
    let kinds = [
        ("Unary", "Unary"),
        ("Upload", "Streaming"),
        ("Download", "Streaming"),
        ("Chat", "Streaming"),
    ];
    let is_of = |segment: &Segment, service: &str| segment.service == service;
    let segments = probe
        .wait_for("a segment of each request", |segments| {
            let count = |service| segments.iter().filter(|one| is_of(one, service)).count();
            (count("front"), count("middle"), count("back")) == (1, 4, 4)
        })
        .unwrap();
    let front = segments.iter().find(|segment| is_of(segment, "front")).unwrap();
    let calls: Vec<&Span> = front.exits().collect();
    assert_eq!(calls.len(), kinds.len(), "{front:#?}");
    for ((method, rpc_type), call) in kinds.into_iter().zip(calls) {
        let (operation, path) = (format!("demo.Echo.{method}"), format!("/demo.Echo/{method}"));
        check_exit(call, &operation, &path, rpc_type, &row.middle.addresses.rpc);
        for service in ["middle", "back"] {
            let serves = |one: &&Segment| is_of(one, service) && one.spans[0].tag("url") == Some(&path);
            let served: Vec<&Segment> = segments.iter().filter(serves).collect();
            assert_eq!(served.len(), 1, "{service} {method}");
            check_entry(&served[0].spans[0], &operation, &path);
            let onward: Vec<&Span> = served[0].exits().collect();
            assert_eq!(onward.len(), usize::from(service == "middle"), "{:#?}", served[0]);
            for call in onward {
                check_exit(call, &operation, &path, rpc_type, &row.back.addresses.rpc);
                assert_eq!(call.parent_span_id, 0);
            }
        }
    }
}

#[test]
fn spans_end_when_the_status_is_there() {
    needs_rpc!();
    let row = Row::start().unwrap();
    let probe = row.trace(&[]).unwrap();
    // It has its first answer at once, ends what it sends after 30 ms, and looks for the status after another 30.
    row.ask("linger", 1).unwrap();
    let call = row.call_of(1).unwrap();
    let took_ms = |span: &Span| span.end_time - span.start_time;
    let front = probe.segment_of("Entry", "/linger/1").unwrap();
    let exit = find_span(&front, "Exit", &call.path).unwrap();
    assert!(took_ms(exit) >= 59, "{exit:#?}");
    assert!(
        (exit.end_time - call.end_ns / 1_000_000).abs() <= 1,
        "{exit:#?} {call:?}"
    );
    let middle = probe.segment_of("Entry", &call.path).unwrap();
    let entry = find_span(&middle, "Entry", &call.path).unwrap();
    assert!((29..59).contains(&took_ms(entry)), "{entry:#?}");
}

#[test]
fn calls_on_the_request_goroutine_find_their_parent() {
    needs_rpc!();
    check_shapes(&[
        "sync", "upload", "download", "chat", "chain", "streams", "bare", "twice", "web",
    ]);
}

#[test]
fn a_call_that_is_over_leaves_its_header_to_nobody() {
    needs_rpc!();
    let row = Row::start().unwrap();
    let probe = row.trace(&[]).unwrap();
    for id in 1..=10 {
        row.ask("hasty", id).unwrap();
    }
    let (account, ended) = row.judge(probe, PROPAGATED).unwrap();
    println!("{account}\n{}", ended.stderr);
    let total = account.total();
    assert_eq!(
        (total.found, account.invented, total.wrong_facts),
        (total.made, 0, 0),
        "{account}"
    );
    assert_eq!((total.parents.wrong, total.references.wrong), (0, 0), "{account}");
    assert!(
        total.references.right > 0 && total.references.unknowable > 0,
        "{account}"
    );
}

#[test]
fn calls_on_other_goroutines_find_their_parent() {
    needs_rpc!();
    check_shapes(&["values", "fanout_ctx", "fanout", "pool_ctx", "many"]);
}

#[test]
fn more_calls_at_once_than_one_message_holds() {
    needs_rpc!();
    let row = Row::start().unwrap();
    let probe = row.trace(&[]).unwrap();
    for id in 1..=15 {
        row.ask("flood", id).unwrap();
    }
    let (account, ended) = row.judge(probe, PROPAGATED).unwrap();
    println!("{account}\n{}", ended.stderr);
    let total = account.total();
    assert_eq!(
        (total.found, account.invented, total.wrong_facts),
        (total.made, 0, 0),
        "{account}"
    );
    assert_eq!(
        (total.parents.right, total.parents.wrong, total.references.wrong),
        (9000, 0, 0),
        "{account}"
    );
    // Only a frame that lies across two messages is left alone, and those are of some four hundred calls each.
    assert!(
        total.references.orphan * 1000 <= total.references.required(),
        "{account}"
    );
}

#[test]
fn calls_that_nothing_ties_to_a_request_get_no_wrong_parent() {
    needs_rpc!();
    check_shapes(&["sync", "pool", "outlive"]);
}

#[test]
fn every_way_to_dial() {
    needs_rpc!();
    check_shapes(&[
        "unix",
        "secret",
        "dns",
        "passthrough",
        "brief",
        "handler",
        "patient",
        "baggage",
    ]);
}

#[test]
fn calls_that_fail_say_why() {
    needs_rpc!();
    let row = Row::start().unwrap();
    let probe = row.trace(&[]).unwrap();
    let mut id = 0;
    for shape in [
        "failed", "failed", "failed", "failed", "late", "abort", "leave", "overlong",
    ]
    .repeat(3)
    {
        id += 1;
        row.ask(shape, id).unwrap();
    }
    let records = row.records().unwrap();
    let codes = |side: Side| -> HashSet<&str> {
        let of = |record: &&Record| record.kind == side && !record.rpc.is_empty();
        records
            .iter()
            .filter(of)
            .map(|record| record.code.as_str())
            .collect()
    };
    // All there are; a server may also find that all is well.
    assert_eq!(codes(Side::Exit).len(), 16);
    assert!(codes(Side::Exit).is_subset(&codes(Side::Entry)));
    let (account, _) = row.judge(probe, PROPAGATED).unwrap();
    println!("{account}");
    let total = account.total();
    assert_eq!((total.found, account.invented), (total.made, 0), "{account}");
    assert_eq!(
        (
            total.wrong_facts,
            total.parents.wrong,
            total.parents.orphan,
            total.references.wrong
        ),
        (0, 0, 0, 0),
        "{account}"
    );
}

#[test]
fn a_call_that_is_never_tried_has_no_span() {
    needs_rpc!();
    let row = Row::start().unwrap();
    let probe = row.trace(&[]).unwrap();
    // A known limit: the name of its target is not resolved before it gives up.
    row.ask("unheard", 1).unwrap();
    row.ask("sync", 2).unwrap();
    let ended = {
        probe.segment_of("Exit", &row.call_of(2).unwrap().path).unwrap();
        probe.segment_of("Entry", "/unheard/1").unwrap();
        probe.stop().unwrap()
    };
    let spans = ended.segments.iter().flat_map(|segment| &segment.spans);
    assert!(!ended.stderr.contains("call_missing"), "{}", ended.stderr);
    assert_eq!(spans.filter(|span| span.peer.starts_with("never:")).count(), 0);
}

#[test]
fn calls_that_nobody_answers() {
    needs_rpc!();
    // Without an end, the one would be taken for the next at its address.
    let account = check_shapes(&["nobody", "sync", "nowhere", "twice"]);
    for shape in ["nobody", "nowhere"] {
        assert_eq!(account.shapes[&(Side::Exit, shape.into())].found, 10);
    }
}

#[test]
fn calls_that_are_tried_again_are_one_call() {
    needs_rpc!();
    let account = check_shapes(&["retry", "tired"]);
    let made = |side, shape: &str| account.shapes[&(side, shape.into())].made;
    assert_eq!((made(Side::Exit, "retry"), made(Side::Entry, "flaky")), (5, 10));
    assert_eq!((made(Side::Exit, "tired"), made(Side::Entry, "down")), (5, 15));
}

#[test]
fn copies_in_the_programs_own_tree_are_traced() {
    needs_rpc!();
    // By its debug information, and stripped.
    for flags in ["-ldflags=", "-ldflags=-s -w"] {
        let tree = tempfile::tempdir().unwrap();
        let build = GoBuild::new("grpc").flag(flags);
        let program = build.build_vendored(&Go::system().unwrap(), tree.path()).unwrap();
        let row = Row::of(&program, ["front", "middle", "back"]).unwrap();
        let account = check_shapes_of(&row, &["sync", "chat", "failed", "secret", "handler"]);
        assert!(account.total().references.right > 0, "{account}");
    }
}
