//! Headers on the wire: what a traced program sends is, but for the header, what it sends untraced.

#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails; clippy knows only test functions"
)]

use tests::{
    client::Connection,
    line::{Carried, Line, check_plain, check_sw8, compare},
    needs_probe,
    probe::{Probe, find_span},
    scene::{Scene, truth_program},
    segment::Segment,
    target::{Addresses, Service},
    wire::{Recorder, Request, Sw8, requests},
};

#[test]
fn requests_are_exact_but_for_the_header() {
    needs_probe!();
    check_plain(&["plain", "-seed", "1"]);
}

#[test]
fn requests_side_by_side_are_exact_but_for_the_header() {
    needs_probe!();
    check_plain(&["plain", "-seed", "2", "-workers", "8"]);
}

#[test]
fn both_headers_or_none() {
    needs_probe!();
    let line = Line::start();
    let what = ["plain", "-seed", "3"];
    let untraced = line.untraced(&what);

    let (traced, ended) = line.traced(&what, &["--propagate", "sw8,w3c"]);
    let carried = compare(&untraced, &traced, &["sw8", "traceparent"]);
    for one in &carried["sw8"] {
        check_sw8(one, line.recorder.host(), &ended.segments);
    }
    assert!(carried["traceparent"].len() >= carried["sw8"].len());
    for one in &carried["traceparent"] {
        let fields: Vec<&str> = one.value.split('-').collect();
        let hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        assert_eq!(
            fields.iter().map(|field| field.len()).collect::<Vec<_>>(),
            [2, 32, 16, 2],
            "{}",
            one.value
        );
        assert!(fields.iter().all(|field| hex(field)), "{}", one.value);
        assert_eq!(fields[0], "00");
        assert!(
            fields[1] != "0".repeat(32) && fields[2] != "0".repeat(16),
            "{}",
            one.value
        );
    }

    let (traced, ended) = line.traced(&what, &["--propagate", "w3c"]);
    let carried = compare(&untraced, &traced, &["traceparent"]);
    assert!(!carried["traceparent"].is_empty(), "{}", ended.stderr);

    let (traced, ended) = line.traced(&what, &["--propagate", "off"]);
    assert!(compare(&untraced, &traced, &[]).is_empty());
    assert!(!ended.segments.is_empty(), "spans still come");
}

#[test]
fn tunnels_are_not_touched() {
    needs_probe!();
    let line = Line::start();

    // After 101 Switching Protocols: the request may have its header, what follows is the program's.
    let untraced = line.untraced(&["upgrade"]);
    let (traced, _) = line.traced(&["upgrade"], &[]);
    compare(&untraced, &traced, &["sw8"]);

    // Written by hand, past the library: nothing at all is put in.
    let untraced = line.untraced(&["raw"]);
    let (traced, _) = line.traced(&["raw"], &[]);
    assert_eq!(
        untraced.iter().map(|one| &one.sent).collect::<Vec<_>>(),
        traced.iter().map(|one| &one.sent).collect::<Vec<_>>()
    );

    // CONNECT and TLS within: were a byte put into the tunnel, TLS would fail.
    let what = ["connect", "-secure", &line.server.addresses.tls];
    let (traced, ended) = line.traced(&what, &[]);
    for exchange in &traced {
        let requests = requests(&exchange.sent).unwrap();
        assert!(requests[0].target().starts_with("CONNECT "), "{:?}", requests[0]);
        assert!(requests[0].values("sw8").is_empty(), "{:?}", requests[0]);
    }
    assert_eq!(
        ended.segments.iter().flat_map(Segment::exits).count(),
        10,
        "spans still come"
    );
}

#[test]
fn answers_are_whole_and_in_time() {
    needs_probe!();
    let line = Line::start();
    // The client checks each byte and gives up on an answer after 20 seconds.
    let (_, ended) = line.traced(&["download", "-workers", "4"], &[]);
    let longest_ms = ended
        .segments
        .iter()
        .flat_map(Segment::exits)
        .map(|span| span.end_time - span.start_time)
        .max();
    assert!(longest_ms.unwrap() < 2000, "{longest_ms:?}");
}

#[test]
fn strangers_are_left_alone() {
    needs_probe!();
    let line = Line::start();
    let what = ["plain", "-seed", "4"];
    let before = line.untraced(&what);
    let scene = Scene::start().unwrap();
    let _probe = scene.trace(&[]).unwrap();
    let beside = line.untraced(&what);
    assert!(compare(&before, &beside, &[]).is_empty());
}

// === A service in between ===

/// Two services with a recorder between them.
fn recorded_scene() -> (Scene, Recorder) {
    let program = truth_program().unwrap();
    let mut back = Service::start(&program, "back", 2_000_000_000, None).unwrap();
    let recorder = Recorder::start(back.host()).unwrap();
    let own = (back.printed.clone(), back.addresses.clone());
    back.addresses = Addresses {
        main: format!("http://{}", recorder.host()),
        ..own.1.clone()
    };
    back.printed = back.printed.replace(&own.1.main, &back.addresses.main);
    let front = Service::start(&program, "front", 1_000_000_000, Some(&back)).unwrap();
    (back.printed, back.addresses) = own;
    (Scene { front, back }, recorder)
}

/// The only request that was recorded.
#[track_caller]
fn only(recorder: &Recorder) -> Request {
    let sent: Vec<u8> = recorder
        .take()
        .into_iter()
        .flat_map(|exchange| exchange.sent)
        .collect();
    let mut requests = requests(&sent).unwrap();
    assert_eq!(requests.len(), 1, "{requests:?}");
    requests.remove(0)
}

fn ask(scene: &Scene, path: &str, headers: &[(&str, &str)]) {
    let mut connection = Connection::open(scene.front.host()).unwrap();
    let lines: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    connection
        .send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n{lines}Connection: close\r\n\r\n").as_bytes())
        .unwrap();
    assert_eq!(connection.receive().unwrap().status, 200);
}

#[test]
fn open_connections_are_enrolled() {
    needs_probe!();
    let (scene, recorder) = recorded_scene();
    ask(&scene, "/sync/1", &[]);
    assert!(only(&recorder).values("sw8").is_empty());

    let probe = scene.trace(&[]).unwrap();
    ask(&scene, "/sync/2", &[]);
    let exchanges = recorder.take();
    assert_eq!(exchanges.len(), 1);
    let later = requests(&exchanges[0].sent).unwrap();
    assert_eq!(later.len(), 1, "the connection is the old one");
    let segment = probe.segment_of("Entry", "/sync/2").unwrap();
    assert_eq!(
        later[0].values("sw8").len(),
        1,
        "{:?}\n{}",
        later[0],
        probe.stderr()
    );
    check_sw8(
        &Carried {
            request: later[0].clone(),
            value: later[0].values("sw8").remove(0),
        },
        recorder.host(),
        &[segment],
    );
}

#[test]
fn endpoint_and_peer_are_those_of_the_spans() {
    needs_probe!();
    for routes in ["pattern", "path"] {
        let (scene, recorder) = recorded_scene();
        let probe = scene.trace(&["--routes", routes]).unwrap();
        for id in 1..=20 {
            ask(
                &scene,
                &format!("/{}/{id}", if id % 2 == 0 { "sync" } else { "fanout_ctx" }),
                &[],
            );
        }
        let sent: Vec<Request> = recorder
            .take()
            .iter()
            .flat_map(|one| requests(&one.sent).unwrap())
            .collect();
        assert_eq!(sent.len(), 10 + 10 * 4);
        let done = |segments: &[Segment]| segments.iter().filter(|one| one.service == "front").count() == 20;
        let segments = probe.wait_for("front's segments", done).unwrap();
        for request in sent {
            let value = request.values("sw8").remove(0);
            let endpoint = Sw8::parse(&value).unwrap().endpoint;
            assert_eq!(endpoint.ends_with("{id}"), routes == "pattern", "{endpoint}");
            check_sw8(&Carried { request, value }, recorder.host(), &segments);
        }
    }
}

fn foreign() -> Sw8 {
    Sw8 {
        trace_id: "c5d6a3a2f3b94c1a9f6f3a0e6a3c8b11.57.16900000000000001".into(),
        segment_id: "c5d6a3a2f3b94c1a9f6f3a0e6a3c8b11.57.16900000000000000".into(),
        span_id: 4,
        service: "shop::ordering".into(),
        instance: "7a1@10.0.0.7".into(),
        endpoint: "GET:/checkout/{cart}".into(),
        peer: "front.example:8080".into(),
    }
}

#[test]
fn a_foreign_trace_is_continued() {
    needs_probe!();
    let (scene, recorder) = recorded_scene();
    let probe = scene.trace(&[]).unwrap();
    let foreign = foreign();
    // Wherever the header stands, and however it is written.
    let filler = "f".repeat(300);
    let before: Vec<(&str, &str)> = (0..8).map(|_| ("X-Filler", filler.as_str())).collect();
    for (id, name, fillers) in [(1, "sw8", 0), (2, "SW8", 1), (3, "Sw8", 8)] {
        let value = foreign.print();
        let mut headers = before[..fillers].to_vec();
        headers.extend([(name, value.as_str()), ("Accept", "*/*")]);
        ask(&scene, &format!("/sync/{id}"), &headers);
        let segment = probe.segment_of("Entry", &format!("/sync/{id}")).unwrap();
        assert_eq!(segment.trace_id, foreign.trace_id, "{}", probe.stderr());
        let [reference] = segment.entry().unwrap().refs.as_slice() else {
            panic!("{segment:#?}")
        };
        assert_eq!(reference.ref_type, "CrossProcess");
        assert_eq!(reference.trace_id, foreign.trace_id);
        assert_eq!(reference.parent_trace_segment_id, foreign.segment_id);
        assert_eq!(reference.parent_span_id, foreign.span_id);
        assert_eq!(reference.parent_service, foreign.service);
        assert_eq!(reference.parent_service_instance, foreign.instance);
        assert_eq!(reference.parent_endpoint, foreign.endpoint);
        assert_eq!(reference.network_address_used_at_peer, foreign.peer);
        let onward = Sw8::parse(&only(&recorder).values("sw8")[0]).unwrap();
        assert_eq!(
            (onward.trace_id, onward.segment_id),
            (foreign.trace_id.clone(), segment.trace_segment_id)
        );
    }
}

#[test]
fn a_malformed_header_starts_a_new_trace_and_is_counted() {
    needs_probe!();
    let (scene, recorder) = recorded_scene();
    let probe = scene.trace(&[]).unwrap();
    let good = foreign().print();
    let long = "A".repeat(5000);
    let bad = [
        "",
        "1",
        "nonsense",
        "1-a-b-c-d-e-f-g",
        "1-%-%-0-%-%-%-%",
        &good[..good.len() - 21],
        &format!("{good}-more"),
        &long,
    ];
    let mut traces = Vec::new();
    for (id, value) in (1..).zip(bad) {
        ask(&scene, &format!("/sync/{id}"), &[("sw8", value)]);
        let segment = probe.segment_of("Entry", &format!("/sync/{id}")).unwrap();
        assert!(
            segment.entry().unwrap().refs.is_empty(),
            "{value:?}: {segment:#?}"
        );
        let onward = Sw8::parse(&only(&recorder).values("sw8")[0]).unwrap();
        assert_eq!(onward.trace_id, segment.trace_id);
        traces.push(segment.trace_id);
    }
    traces.sort();
    traces.dedup();
    assert_eq!(traces.len(), bad.len());
    let ended = probe.stop().unwrap();
    assert!(ended.stderr.contains("sw8_malformed"), "{}", ended.stderr);
}

#[test]
fn correlation_and_extension_are_honoured() {
    needs_probe!();
    let (scene, recorder) = recorded_scene();
    let probe = scene.trace(&[]).unwrap();
    let sw8 = foreign().print();
    let correlation = "dGVuYW50:YWNtZQ==,dHJhY2U=:eWVz";
    let now_ms = format!("1-{}", 1_700_000_000_000_u64);
    ask(
        &scene,
        "/sync/1",
        &[
            ("sw8", &sw8),
            ("sw8-correlation", correlation),
            ("sw8-x", &now_ms),
        ],
    );
    let sent = only(&recorder);
    assert_eq!(sent.values("sw8-correlation"), [correlation]);
    let segment = probe.segment_of("Entry", "/sync/1").unwrap();
    assert!(
        segment.spans.iter().all(|span| span.skip_analysis),
        "{segment:#?}"
    );
    let latency_ms: u64 = segment
        .entry()
        .unwrap()
        .tag("transmission.latency")
        .unwrap()
        .parse()
        .unwrap();
    assert!(latency_ms > 1_000_000, "{latency_ms}");
    // Of a request without them, nothing is passed on.
    ask(&scene, "/sync/2", &[]);
    assert!(only(&recorder).values("sw8-correlation").is_empty());
    let segment = probe.segment_of("Entry", "/sync/2").unwrap();
    assert!(segment.spans.iter().all(|span| !span.skip_analysis));
}

#[test]
fn a_w3c_trace_is_continued() {
    needs_probe!();
    let (scene, recorder) = recorded_scene();
    let probe = scene.trace(&["--propagate", "sw8,w3c"]).unwrap();
    let trace_id = "4bf92f3577b34da6a3ce929d0e0e4736";
    ask(
        &scene,
        "/sync/1",
        &[("traceparent", &format!("00-{trace_id}-00f067aa0ba902b7-01"))],
    );
    let sent = only(&recorder);
    let onward = sent.values("traceparent");
    assert_eq!(onward.len(), 1, "{sent:?}");
    assert!(onward[0].starts_with(&format!("00-{trace_id}-")), "{onward:?}");
    assert!(
        !onward[0].contains("00f067aa0ba902b7"),
        "the parent is now the call: {onward:?}"
    );
    let segment = probe.segment_of("Entry", "/sync/1").unwrap();
    let entry = segment.entry().unwrap();
    assert!(entry.refs.is_empty());
    assert!(
        entry.tags.iter().any(|tag| tag.value.contains(trace_id)),
        "{entry:#?}"
    );
}

#[test]
fn a_forwarded_header_is_replaced() {
    needs_probe!();
    let (scene, recorder) = recorded_scene();
    let foreign = foreign();
    let value = foreign.print();
    // Untraced, the proxy hands it on as it is.
    ask(&scene, "/proxy/1", &[("sw8", &value)]);
    assert_eq!(only(&recorder).values("sw8"), [value.as_str()]);

    let probe = scene.trace(&[]).unwrap();
    ask(&scene, "/proxy/2", &[("sw8", &value)]);
    let sent = only(&recorder);
    let segment = probe.segment_of("Entry", "/proxy/2").unwrap();
    assert_eq!(sent.values("sw8").len(), 1, "{sent:?}");
    let onward = Sw8::parse(&sent.values("sw8")[0]).unwrap();
    assert_eq!(onward.trace_id, foreign.trace_id);
    assert_eq!(
        onward.segment_id, segment.trace_segment_id,
        "it names the proxy's own call"
    );
    check_sw8(
        &Carried {
            value: sent.values("sw8").remove(0),
            request: sent.clone(),
        },
        recorder.host(),
        &[segment],
    );

    // Across both hops one trace, and the parent of the last is the proxy.
    let back = probe.segment_of("Entry", &sent.path()).unwrap();
    assert_eq!(back.trace_id, foreign.trace_id);
    assert_eq!(
        back.entry().unwrap().refs[0].parent_trace_segment_id,
        onward.segment_id
    );
}

#[test]
fn a_call_of_nobody_is_a_trace_of_its_own() {
    needs_probe!();
    let (scene, recorder) = recorded_scene();
    let probe = scene.trace(&[]).unwrap();
    ask(&scene, "/outlive/1", &[]);
    // Its call comes after the answer.
    let call = scene.call_of(1).unwrap();
    let segment = probe.segment_of("Exit", &call.path).unwrap();
    let span = find_span(&segment, "Exit", &call.path).unwrap();
    if segment.entry().is_none() {
        assert_eq!((span.span_id, span.parent_span_id), (0, -1));
        let sent = only(&recorder);
        check_sw8(
            &Carried {
                value: sent.values("sw8").remove(0),
                request: sent,
            },
            recorder.host(),
            &[segment],
        );
    }
}

#[test]
fn what_cannot_carry_a_header_is_counted() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    // Were the other end a target too, the hop would be joined without a header.
    let probe = Probe::of_pids(&[scene.front.target.pid()], &[]).unwrap();
    assert_eq!(scene.ask("tls", 1).unwrap().status, 200);
    let call = scene.call_of(1).unwrap();
    probe.segment_of("Exit", &call.path).unwrap();
    let ended = probe.stop().unwrap();
    assert!(ended.stderr.contains("propagation_encrypted"), "{}", ended.stderr);
}

#[test]
fn multipath_tcp_goes_without() {
    needs_probe!();
    if std::fs::read_to_string("/proc/sys/net/mptcp/enabled").is_ok_and(|enabled| enabled.trim() != "1") {
        return tests::skip::skip("this kernel has no multipath TCP");
    }
    let program = truth_program().unwrap();
    let multipath = [("GODEBUG", "multipathtcp=1")];
    let back = Service::start_with(&program, "back", 2_000_000_000, None, &multipath).unwrap();
    let front = Service::start_with(&program, "front", 1_000_000_000, Some(&back), &multipath).unwrap();
    let scene = Scene { front, back };
    let probe = scene.trace(&[]).unwrap();
    for id in 1..=20 {
        assert_eq!(scene.ask("post", id).unwrap().status, 200);
    }
    // The kernel takes no such socket into a socket map; with or without a header, all else holds.
    let records = scene.records().unwrap();
    let spans =
        |segments: &[Segment]| segments.iter().map(|one| one.spans.len()).sum::<usize>() >= records.len();
    probe.wait_for("all spans", spans).unwrap();
    let ended = probe.stop().unwrap();
    let account = tests::truth::join(&records, &ended.segments, false);
    let total = account.total();
    assert_eq!((total.found, total.parents.right), (total.made, 20), "{account}");
    assert_eq!(
        (total.parents.wrong, total.references.wrong, total.wrong_facts),
        (0, 0, 0),
        "{account}"
    );
}

#[test]
fn the_recorder_can_compare() {
    // The comparison itself, on a run that nobody traces: equal to itself, and a header put in is seen.
    let line = Line::start();
    let once = line.untraced(&["plain", "-seed", "9"]);
    let twice = line.untraced(&["plain", "-seed", "9"]);
    assert!(compare(&once, &twice, &["sw8"]).is_empty());
    let mut changed = twice.clone();
    let at = changed[0]
        .sent
        .windows(2)
        .position(|pair| pair == b"\r\n")
        .unwrap()
        + 2;
    changed[0].sent.splice(at..at, *b"sw8: x\r\n");
    assert_eq!(compare(&once, &changed, &["sw8"])["sw8"][0].value, "x");
    assert!(std::panic::catch_unwind(|| compare(&once, &changed, &[])).is_err());
}
