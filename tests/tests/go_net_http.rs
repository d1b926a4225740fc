//! `net/http` end to end: a real Go program, the real probe, the spans that come out.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::{fs, thread, time::Duration};

use tests::{
    client::Connection,
    needs_probe,
    network::{Host, Networks},
    probe::{Probe, find_span, has_span},
    scene::{Scene, truth_program},
    segment::{Segment, Span},
    target::{Go, GoBuild, Service, Target},
    truth::{Links, Side},
};

const HTTP_SERVER: i32 = 5004;
const HTTP_CLIENT: i32 = 5005;

fn tags(span: &Span) -> Vec<&str> {
    let mut keys: Vec<&str> = span.tags.iter().map(|tag| tag.key.as_str()).collect();
    keys.sort_unstable();
    keys
}

#[track_caller]
fn check_entry(segment: &Segment, path: &str, operation: &str, host: &str, status: u16) {
    let span = find_span(segment, "Entry", path).unwrap();
    let method = operation.split(':').next().unwrap();
    assert_eq!(span.operation_name, operation);
    assert_eq!(
        (span.span_layer.as_str(), span.component_id),
        ("Http", HTTP_SERVER)
    );
    assert_eq!(span.peer, "");
    assert_eq!(span.tag("http.method"), Some(method));
    assert_eq!(span.address(), Some(format!("{host}{path}").as_str()));
    assert_eq!(span.tag("http.status_code"), Some(status.to_string().as_str()));
    assert_eq!(span.is_error, status >= 400);
    assert!(span.start_time <= span.end_time);
    let keys = tags(span);
    assert!(
        keys.windows(2).all(|pair| pair[0] != pair[1]),
        "a key stands twice: {keys:?}"
    );
}

#[track_caller]
fn check_exit(segment: &Segment, path: &str, operation: &str, peer: &str, status: u16) {
    let span = find_span(segment, "Exit", path).unwrap();
    let method = operation.split(':').next().unwrap();
    assert_eq!(span.operation_name, operation);
    assert_eq!(
        (span.span_layer.as_str(), span.component_id),
        ("Http", HTTP_CLIENT)
    );
    assert_eq!(span.peer, peer);
    assert_eq!(span.tag("http.method"), Some(method));
    assert_eq!(span.address(), Some(format!("{peer}{path}").as_str()));
    assert_eq!(span.tag("http.status_code"), Some(status.to_string().as_str()));
    assert_eq!(span.is_error, status >= 400);
    assert!(span.start_time <= span.end_time);
}

#[test]
fn a_request_served() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let probe = scene.trace(&[]).unwrap();
    let host = scene.front.host();

    // Several on one connection, each with its own segment.
    let mut connection = Connection::open(host).unwrap();
    let send = |connection: &mut Connection, method: &str, path: &str, body: &str| {
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}");
        connection.send(request.as_bytes()).unwrap();
        if method == "HEAD" {
            connection.receive_head().unwrap()
        } else {
            connection.receive().unwrap()
        }
    };
    assert_eq!(send(&mut connection, "GET", "/leaf/1", "").text(), "leaf 1\n");
    assert_eq!(
        send(&mut connection, "POST", "/echo/2?with=query", "body").status,
        200
    );
    assert_eq!(send(&mut connection, "GET", "/status/3?code=404", "").status, 404);
    assert_eq!(send(&mut connection, "GET", "/status/4?code=500", "").status, 500);
    assert_eq!(
        send(&mut connection, "DELETE", "/status/5?code=204", "").status,
        204
    );
    assert_eq!(send(&mut connection, "HEAD", "/leaf/6", "").status, 200);
    assert_eq!(send(&mut connection, "GET", "/stream/7", "").status, 200);
    assert_eq!(send(&mut connection, "GET", "/nowhere/8", "").status, 404);
    drop(connection);
    // HTTP/1.0, without a Host.
    let mut old = Connection::open(host).unwrap();
    old.send(b"GET /leaf/9 HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(old.receive().unwrap().status, 200);

    let expected = [
        ("/leaf/1", "GET:/leaf/{id}", 200),
        ("/echo/2", "POST:/echo/{id}", 200),
        ("/status/3", "GET:/status/{id}", 404),
        ("/status/4", "GET:/status/{id}", 500),
        ("/status/5", "DELETE:/status/{id}", 204),
        ("/leaf/6", "HEAD:/leaf/{id}", 200),
        ("/stream/7", "GET:/stream/{id}", 200),
        ("/nowhere/8", "GET:/nowhere/{id}", 404),
    ];
    for (path, operation, status) in expected {
        let segment = probe.segment_of("Entry", path).unwrap();
        check_entry(&segment, path, operation, host, status);
        assert_eq!(
            (segment.spans.len(), segment.service.as_str()),
            (1, "front"),
            "{segment:#?}"
        );
        assert!(!segment.service_instance.is_empty());
        let span = &segment.spans[0];
        assert_eq!((span.span_id, span.parent_span_id), (0, -1));
        assert!(span.refs.is_empty());
    }
    let streamed = probe.segment_of("Entry", "/stream/7").unwrap();
    let span = &streamed.spans[0];
    assert!(
        span.end_time - span.start_time >= 9,
        "five pieces with 2 ms after each: {span:?}"
    );

    let ended = probe.stop().unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
    let old = ended
        .segments
        .iter()
        .flat_map(|segment| &segment.spans)
        .find(|span| span.path() == Some("/leaf/9"));
    assert_eq!(old.unwrap().operation_name, "GET:/leaf/{id}");
    let mut ids: Vec<&str> = ended
        .segments
        .iter()
        .map(|segment| segment.trace_segment_id.as_str())
        .collect();
    let mut traces: Vec<&str> = ended
        .segments
        .iter()
        .map(|segment| segment.trace_id.as_str())
        .collect();
    for list in [&mut ids, &mut traces] {
        list.sort_unstable();
        list.dedup();
        assert_eq!(list.len(), 9, "each request of a stranger is a trace of its own");
    }
}

#[test]
fn a_call_made_while_serving() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let probe = scene.trace(&[]).unwrap();
    assert_eq!(scene.ask("chain", 1).unwrap().status, 200);
    let path = scene.call_of(1).unwrap().path;
    let back = scene.back.host();

    let front = probe.segment_of("Entry", "/chain/1").unwrap();
    check_entry(&front, "/chain/1", "GET:/chain/{id}", scene.front.host(), 200);
    check_exit(&front, &path, "GET:/sync/{id}", back, 200);
    let (entry, exit) = (front.entry().unwrap(), front.exits().next().unwrap());
    assert_eq!((entry.span_id, entry.parent_span_id), (0, -1));
    assert_eq!((exit.span_id, exit.parent_span_id), (1, 0));
    assert_eq!(front.spans.len(), 2);
    assert!(entry.start_time <= exit.start_time && exit.end_time <= entry.end_time);

    // The other process, which calls itself.
    let middle = probe.segment_of("Entry", &path).unwrap();
    check_entry(&middle, &path, "GET:/sync/{id}", back, 200);
    assert_eq!((middle.service.as_str(), middle.spans.len()), ("back", 2));
    assert_eq!(middle.trace_id, front.trace_id);
    assert_ne!(middle.trace_segment_id, front.trace_segment_id);
    let [reference] = middle.entry().unwrap().refs.as_slice() else {
        panic!("{middle:#?}")
    };
    assert_eq!(reference.ref_type, "CrossProcess");
    assert_eq!(reference.trace_id, front.trace_id);
    assert_eq!(reference.parent_trace_segment_id, front.trace_segment_id);
    assert_eq!(reference.parent_span_id, exit.span_id);
    assert_eq!(reference.parent_service, "front");
    assert_eq!(reference.parent_service_instance, front.service_instance);
    assert_eq!(reference.parent_endpoint, "GET:/chain/{id}");
    assert_eq!(reference.network_address_used_at_peer, exit.peer);

    let (account, _) = scene.judge(probe, true).unwrap();
    let total = account.total();
    assert_eq!(
        (total.found, total.made, total.wrong_facts),
        (5, 5, 0),
        "{account}"
    );
    assert_eq!((total.parents.right, total.references.right), (2, 2), "{account}");
}

/// Asks for each route in turn and lets the truth judge.
#[track_caller]
fn check_routes(routes: &[(&str, u16)]) {
    let scene = Scene::start().unwrap();
    let probe = scene.trace(&[]).unwrap();
    let mut id = 0;
    for round in 0..5 {
        for (route, status) in routes {
            id += 1;
            let answer = scene.ask(route, id).unwrap();
            assert_eq!(
                answer.status,
                *status,
                "{route}, round {round}: {}",
                answer.text()
            );
        }
    }
    let (account, _) = scene.judge(probe, true).unwrap();
    println!("{account}");
    let total = account.total();
    assert_eq!((total.found, account.invented), (total.made, 0), "{account}");
    assert_eq!(
        (total.wrong_facts, total.parents.wrong, total.references.wrong),
        (0, 0, 0),
        "{account}"
    );
    assert_eq!(
        (total.parents.orphan, total.references.orphan),
        (0, 0),
        "{account}"
    );
    assert!(total.parents.right > 0, "{account}");
}

#[test]
fn calls_on_the_request_goroutine_find_their_parent() {
    needs_probe!();
    check_routes(&[
        ("sync", 200),
        ("bare", 200),
        ("twice", 200),
        ("chain", 200),
        ("redirect", 200),
        ("retry", 200),
        ("post", 200),
        ("chunked", 200),
        ("proxy", 200),
        ("via_proxy", 200),
        ("failed", 200),
    ]);
}

#[test]
fn calls_on_other_goroutines_find_their_parent() {
    needs_probe!();
    check_routes(&[
        ("values", 200),
        ("deadline", 200),
        ("fanout_ctx", 200),
        ("fanout", 200),
        ("pool_ctx", 200),
        ("overlap", 200),
    ]);
}

#[test]
fn calls_that_nothing_ties_to_a_request_get_no_wrong_parent() {
    needs_probe!();
    check_routes(&[
        ("sync", 200),
        ("fanout_deep", 200),
        ("pool", 200),
        ("pool_lazy", 200),
        ("outlive", 200),
        ("outlive_ctx", 200),
    ]);
}

#[test]
fn calls_that_fail_say_why() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let probe = scene.trace(&[]).unwrap();
    let cases: [(&str, u64, &[&str]); 5] = [
        ("refused", 1, &["connection refused"]),
        ("timeout", 2, &["deadline", "timeout"]),
        ("cancel", 3, &["canceled", "cancelled"]),
        ("tls_bad", 4, &["certificate", "x509", "tls"]),
        ("no_host", 5, &["lookup", "no such host", "dns"]),
    ];
    for (route, id, _) in cases {
        assert_eq!(scene.ask(route, id).unwrap().status, 504, "{route}");
    }
    for (route, id, reasons) in cases {
        let call = scene.call_of(id).unwrap();
        let segment = probe.segment_of("Exit", &call.path).unwrap();
        let span = find_span(&segment, "Exit", &call.path).unwrap();
        assert!(span.is_error, "{route}: {span:#?}");
        assert_eq!(span.peer, call.peer, "{route}");
        assert_eq!(span.tag("http.status_code"), None, "{route}: {span:#?}");
        assert!(
            has_span(&segment, "Entry", &format!("/{route}/{id}")),
            "{route}: {segment:#?}"
        );
        assert_eq!(span.log("event"), Some("error"), "{route}: {span:#?}");
        assert!(
            reasons.iter().any(|reason| span.words().contains(reason)),
            "{route}: {}",
            span.words()
        );
    }
    let (account, _) = scene.judge(probe, true).unwrap();
    let total = account.total();
    assert_eq!(
        (total.found, total.wrong_facts, total.parents.wrong),
        (total.made, 0, 0),
        "{account}"
    );
}

#[test]
fn requests_that_end_otherwise_leave_a_span_and_nothing_else() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let probe = scene.trace(&[]).unwrap();
    let host = scene.front.host();
    let mut id = 0;
    for _ in 0..20 {
        // A panic and a goroutine's end close the connection without an answer.
        for route in ["panic", "goexit"] {
            id += 1;
            assert!(scene.ask(route, id).is_err(), "{route}");
        }
        id += 1;
        assert_eq!(scene.ask("hijack", id).unwrap().text(), "hijacked\n");
        // A client that does not wait.
        id += 1;
        let mut gone = Connection::open(host).unwrap();
        gone.send(format!("GET /slow/{id}?ms=40 HTTP/1.1\r\nHost: gone\r\n\r\n").as_bytes())
            .unwrap();
        thread::sleep(Duration::from_millis(5));
    }
    let says = |path: &str, reasons: &[&str]| {
        let segment = probe.segment_of("Entry", path).unwrap();
        let span = find_span(&segment, "Entry", path).unwrap();
        assert!(
            reasons.iter().any(|reason| span.words().contains(reason)),
            "{path}: {}",
            span.words()
        );
        let took_ms = span.end_time - span.start_time;
        assert!((0..1000).contains(&took_ms), "{path} took {took_ms} ms");
        span.is_error
    };
    assert!(says("/panic/1", &["panic"]));
    // The server gives the connection up in a panic; the client was there.
    let panicked = probe.segment_of("Entry", "/panic/1").unwrap();
    let panicked = find_span(&panicked, "Entry", "/panic/1").unwrap();
    assert_eq!(panicked.tag("http.client_gone"), None, "{}", panicked.words());
    assert!(
        !panicked.words().contains("client was gone"),
        "{}",
        panicked.words()
    );
    assert!(says("/goexit/2", &["panic", "goexit"]));
    assert!(!says("/hijack/3", &["hijack"]));
    says("/slow/4", &["client was gone"]);

    // Nothing hangs on: what comes next is right.
    id += 1;
    assert_eq!(scene.ask("sync", id).unwrap().status, 200);
    let (account, ended) = scene.judge(probe, true).unwrap();
    let total = account.total();
    assert_eq!((total.found, account.invented), (total.made, 0), "{account}");
    assert_eq!((total.parents.wrong, total.parents.orphan), (0, 0), "{account}");
    assert!(
        ended.segments.iter().all(|segment| segment.spans.len() <= 2),
        "{:#?}",
        ended.segments
    );
}

#[test]
fn pipelined_requests_are_kept_apart() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let probe = scene.trace(&[]).unwrap();
    let mut connection = Connection::open(scene.front.host()).unwrap();
    for round in 0..10 {
        let batch: String = (1..=8)
            .map(|n| {
                format!(
                    "GET /{}/{} HTTP/1.1\r\nHost: pipe\r\n\r\n",
                    if n % 3 == 0 { "leaf" } else { "sync" },
                    round * 8 + n
                )
            })
            .collect();
        connection.send(batch.as_bytes()).unwrap();
        for _ in 0..8 {
            assert_eq!(connection.receive().unwrap().status, 200);
        }
    }
    let (account, _) = scene.judge(probe, true).unwrap();
    let total = account.total();
    assert_eq!(
        (total.found, account.invented, total.wrong_facts),
        (total.made, 0, 0),
        "{account}"
    );
    assert_eq!(
        (total.parents.wrong, total.parents.orphan, total.references.orphan),
        (0, 0, 0),
        "{account}"
    );
    assert_eq!(account.shapes[&(Side::Entry, "sync".into())].found, 60);
}

#[test]
fn a_handler_on_a_goroutine_of_its_own() {
    needs_probe!();
    // http.TimeoutHandler runs the real handler elsewhere and gives it a context of its own.
    let scene = Scene::start().unwrap();
    let probe = scene.trace(&[]).unwrap();
    let late = tests::target::host(&scene.front.addresses.late).to_owned();
    for (id, route) in ["sync", "bare", "fanout_ctx", "panic"].into_iter().enumerate() {
        let answer = tests::client::get(&late, &format!("/{route}/{}", id + 1));
        assert_eq!(answer.is_ok(), route != "panic");
    }
    let (account, _) = scene.judge(probe, true).unwrap();
    let total = account.total();
    assert_eq!(
        (total.found, total.parents.wrong, total.parents.orphan),
        (total.made, 0, 0),
        "{account}"
    );
}

#[test]
fn so_it_is_on_a_connection_older_than_the_probe() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    assert_eq!(scene.ask("tls", 1).unwrap().status, 200);
    let probe = scene.trace(&[]).unwrap();
    assert_eq!(scene.ask("tls", 2).unwrap().status, 200);
    check_hop(&scene, &probe, 2);
}

/// Where networks are parted, the addresses say less than the numbers that a connection began with: on loopback, two
/// networks may have the very same ones.
#[test]
fn so_it_is_from_one_network_to_another() {
    needs_probe!();
    let networks = Networks::new().unwrap();
    let scene = Scene::apart(&networks).unwrap();
    let probe = scene.trace(&[]).unwrap();
    let there = networks.within(Host::Client, || {
        assert_eq!(scene.ask("tls", 1)?.status, 200);
        check_hop(&scene, &probe, 1);
        Ok(())
    });
    there.unwrap();
}

/// The call of the request `id` has a server, whose span refers to it.
fn check_hop(scene: &Scene, probe: &Probe, id: u64) {
    let call = scene.call_of(id).unwrap();
    let front = probe.segment_of("Exit", &call.path).unwrap();
    let back = probe.segment_of("Entry", &call.path).unwrap();
    let references = &back.entry().unwrap().refs;
    let parents: Vec<&str> = references
        .iter()
        .map(|reference| reference.parent_trace_segment_id.as_str())
        .collect();
    assert_eq!(parents, [&front.trace_segment_id]);
    assert_eq!(back.trace_id, front.trace_id);
}

#[test]
fn over_tls_the_hop_is_joined() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let probe = scene.trace(&[]).unwrap();
    for id in 1..=5 {
        assert_eq!(scene.ask("tls", id).unwrap().status, 200);
    }
    let call = scene.call_of(1).unwrap();
    let front = probe.segment_of("Exit", &call.path).unwrap();
    check_exit(&front, &call.path, "GET:/leaf/{id}", &call.peer, 200);
    assert!(call.peer == tests::target::host(&scene.back.addresses.tls));
    let back = probe.segment_of("Entry", &call.path).unwrap();
    check_entry(&back, &call.path, "GET:/leaf/{id}", &call.peer, 200);
    let (account, _) = scene.judge(probe, true).unwrap();
    let total = account.total();
    assert_eq!((total.found, total.wrong_facts), (total.made, 0), "{account}");
    let links = |links: Links| (links.right, links.orphan, links.wrong);
    assert_eq!(
        (links(total.parents), links(total.references)),
        ((5, 0, 0), (5, 0, 0)),
        "{account}"
    );
}

#[test]
fn routes_are_named_by_pattern_or_path() {
    needs_probe!();
    let go = Go::system().unwrap();
    let program = match GoBuild::new("patterns").build(&go) {
        Ok(program) => program,
        Err(error) => {
            return tests::skip::skip(&format!("{} has no patterns: {error}", go.version));
        }
    };
    let target = Target::start(&program, &[]).unwrap();
    let host = target.address().unwrap();
    let cases = [
        ("GET", "/users/ada", "GET:/users/{name}"),
        ("POST", "/users/ada/orders/7", "POST:/users/{name}/orders/{order}"),
        ("GET", "/files/a/b/c.txt", "GET:/files/{path...}"),
        ("GET", "/static/7/app.js", "GET:/static/"),
        ("GET", "/", "GET:/"),
        ("GET", "/admin/rooms/blue", "GET:/admin/rooms/{room}"),
        ("GET", "/none/12345", "GET:/none/{id}"),
    ];
    let ask_all = || {
        for (method, path, _) in cases {
            let mut connection = Connection::open(&host).unwrap();
            connection
                .send(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())
                .unwrap();
            connection.receive().unwrap();
        }
    };
    let probe = Probe::of_pids(&[target.pid()], &["--routes", "pattern"]).unwrap();
    ask_all();
    for (_, path, operation) in cases {
        let segment = probe.segment_of("Entry", path).unwrap();
        assert_eq!(segment.entry().unwrap().operation_name, operation);
    }
    probe.stop().unwrap();

    let probe = Probe::of_pids(&[target.pid()], &["--routes", "path"]).unwrap();
    ask_all();
    for (method, path, _) in cases {
        let segment = probe.segment_of("Entry", path).unwrap();
        assert_eq!(
            segment.entry().unwrap().operation_name,
            format!("{method}:{path}")
        );
    }
}

#[test]
fn only_what_was_chosen_is_traced() {
    needs_probe!();
    // Both run the same program: the hooks are in its file, the choice is by process.
    let scene = Scene::start().unwrap();
    let probe = Probe::of_pids(&[scene.back.target.pid()], &[]).unwrap();
    assert_eq!(scene.ask("sync", 1).unwrap().status, 200);
    let call = scene.call_of(1).unwrap();
    probe.segment_of("Entry", &call.path).unwrap();
    let ended = probe.stop().unwrap();
    assert!(
        ended.segments.iter().all(|segment| segment.service == "back"),
        "{:#?}",
        ended.segments
    );
}

#[test]
fn processes_come_and_go() {
    needs_probe!();
    // A program of its own, so that the other tests' processes do not match.
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("comes-and-goes");
    fs::copy(truth_program().unwrap(), &program).unwrap();
    let pattern = program.to_str().unwrap();
    let probe = Probe::start(&["--exe", pattern]).unwrap();
    for round in 0..3_u64 {
        let service = Service::start(&program, &format!("round-{round}"), 1000 * round, None).unwrap();
        let is_traced = || {
            probe
                .segments()
                .iter()
                .any(|segment| segment.service == format!("round-{round}"))
        };
        // It takes a moment to see a new process: the first requests may be missed, later ones may not.
        let mut n = 0;
        while !is_traced() {
            let path = format!("/leaf/{}", 1_000_000 * (round + 1) + n);
            assert_eq!(service.get(&path).unwrap().status, 200);
            n += 1;
            assert!(
                n < 1000,
                "a process that came later is not traced; the probe says:\n{}",
                probe.stderr()
            );
            thread::sleep(Duration::from_millis(10));
        }
        let path = format!("/sync/{}", 7_000_000 + round);
        assert_eq!(service.get(&path).unwrap().status, 200);
        let segment = probe.segment_of("Entry", &path).unwrap();
        assert_eq!(
            (segment.service, segment.spans.len()),
            (format!("round-{round}"), 2)
        );
        assert!(service.target.terminate().unwrap().success());
    }
    let ended = probe.stop().unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
}

#[test]
fn chosen_by_port() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let port = scene.back.host().rsplit(':').next().unwrap();
    let probe = Probe::start(&["--port", port]).unwrap();
    assert_eq!(scene.ask("sync", 1).unwrap().status, 200);
    let call = scene.call_of(1).unwrap();
    probe.segment_of("Entry", &call.path).unwrap();
    let ended = probe.stop().unwrap();
    assert!(
        ended.segments.iter().all(|segment| segment.service == "back"),
        "{:#?}",
        ended.segments
    );
}

#[test]
fn a_request_that_is_open_while_the_probe_attaches_does_no_harm() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let mut connection = Connection::open(scene.front.host()).unwrap();
    // The server has begun with it once a second request on another connection has been answered.
    connection
        .send(b"GET /slow/1?ms=3000 HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    assert_eq!(scene.ask("leaf", 2).unwrap().status, 200);
    let probe = scene.trace(&[]).unwrap();
    assert_eq!(connection.receive().unwrap().text(), "slow 1\n");
    // The same connection, whose goroutine was there before the probe.
    assert_eq!(connection.get("/sync/3").unwrap().status, 200);
    let segment = probe.segment_of("Entry", "/sync/3").unwrap();
    assert_eq!(segment.spans.len(), 2);
    let ended = probe.stop().unwrap();
    let seen = ended.segments.iter().flat_map(|segment| &segment.spans);
    let first = seen.filter(|span| span.path() == Some("/slow/1")).count();
    assert_eq!(first, 0, "its start was not seen: {:#?}", ended.segments);
}
