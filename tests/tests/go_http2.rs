//! HTTP/2 of Go's own packages end to end: real Go programs, the real probe, the spans that come out.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use tests::{
    client::{self, Connection},
    go_http2::{MIX, Package},
    http2::{Answering, RST_STREAM, frame},
    needs_http2, needs_probe,
    probe::{Ended, Probe, find_span},
    scene::Scene,
    segment::{Segment, Span},
    skip::{full, skip},
    target::{self, Addresses, Go, Load, Target},
    truth::{Record, Side, span_number},
};
use xtask::go;

const HTTP_SERVER: i32 = 5004;
const HTTP_CLIENT: i32 = 5005;

/// Requests a second, for as long as all shapes come up.
const RATE: u32 = 200;
const SECONDS: f64 = 1.5;

/// Asks the front of a scene of this program for shapes by HTTP/2, and holds what comes out to the truth: everything
/// found, with the right parents, references and facts, and nothing lost.
fn check(program: &Path, shapes: &str) -> Result<Ended> {
    let scene = Scene::of(program)?;
    let probe = scene.trace(&[])?;
    let summary = Load::start(program, &scene.front, RATE, SECONDS, shapes)?.finish()?;
    ensure!(summary.failed == 0, "{}", summary.first_error);
    let (account, ended) = scene.judge(probe, true)?;
    println!("{account}\n{}", ended.stderr);
    let total = account.total();
    ensure!(
        (total.found, account.invented) == (total.made, 0),
        "not all is found"
    );
    let links = [&total.parents, &total.references];
    ensure!(
        links.iter().all(|links| links.wrong == 0 && links.orphan == 0),
        "{links:?}"
    );
    ensure!(total.wrong_facts == 0, "{:?}", account.examples);
    let lost = ended.losses().next();
    ensure!(lost.is_none(), "{lost:?}");
    Ok(ended)
}

fn check_package(package: Package, flags: &[&str]) {
    let program = package.program(&Go::system().unwrap(), flags).unwrap();
    check(&program, MIX).unwrap();
}

#[test]
fn all_shapes_by_the_standard_library() {
    needs_http2!(Package::Standard);
    check_package(Package::Standard, &[]);
}

#[test]
fn all_shapes_by_x_net() {
    needs_http2!(Package::XNet);
    check_package(Package::XNet, &[]);
}

#[test]
fn all_shapes_by_the_newest_x_net() {
    needs_http2!(Package::Handing);
    check_package(Package::Handing, &[]);
}

#[test]
fn programs_without_debug_information_and_position_independent_ones() {
    for package in [Package::Standard, Package::XNet] {
        needs_http2!(package);
        check_package(package, &["-ldflags=-s -w", "-buildmode=pie"]);
    }
}

#[test]
fn headers_in_memory_that_was_never_used_before() {
    // A map of headers may end in a page that the program has not come to: a new process has many of those. What a
    // redirect leads to is asked for with one header, in a map that was made for it.
    let oldest = go::releases().and_then(|releases| program_of(&releases, 19, Package::XNet, &[]));
    let newest = |package: Package| Go::system().and_then(|go| package.program(&go, &[]));
    for program in [oldest, newest(Package::Standard), newest(Package::XNet)] {
        needs_probe!();
        match program {
            Ok(program) => drop(check(&program, "redirect").unwrap()),
            Err(error) => skip(&format!("{error:#}")),
        }
    }
}

/// Minor versions of Go with what speaks HTTP/2 in them; the first three are always looked at.
const VERSIONS: [(u32, Package, &[&str]); 13] = [
    (19, Package::XNet, &["-ldflags=-s -w"]),
    (27, Package::Standard, &["-ldflags=-s -w"]),
    (27, Package::Handing, &[]),
    (20, Package::XNet, &[]),
    (21, Package::XNet, &["-ldflags=-s -w"]),
    (22, Package::XNet, &["-buildmode=pie"]),
    (23, Package::XNet, &["-ldflags=-s -w"]),
    (24, Package::Standard, &["-ldflags=-s -w"]),
    (24, Package::XNet, &[]),
    (25, Package::Standard, &["-buildmode=pie"]),
    (26, Package::Standard, &["-ldflags=-s -w"]),
    (27, Package::XNet, &["-ldflags=-s -w"]),
    (27, Package::Standard, &["-buildmode=pie"]),
];

/// The program, built by the newest Go of this minor version.
fn program_of(releases: &[String], minor: u32, package: Package, flags: &[&str]) -> Result<PathBuf> {
    let release = go::newest(releases, minor).context("no release is published")?;
    package.program(&Go::at(go::go_command(release)?.command)?, flags)
}

#[test]
fn every_go_version_speaks_http2() {
    needs_probe!();
    let releases = match go::releases() {
        Ok(releases) => releases,
        Err(error) => return skip(&format!("no list of Go releases: {error:#}")),
    };
    let wanted = if full() { VERSIONS.len() } else { 3 };
    let mut failures = Vec::new();
    for (minor, package, flags) in VERSIONS.into_iter().take(wanted) {
        let name = format!("Go 1.{minor}, {package:?} {flags:?}");
        match program_of(&releases, minor, package, flags) {
            Ok(program) => {
                println!("=== {name}");
                if let Err(error) = check(&program, MIX) {
                    failures.push(format!("{name}: {error:#}"));
                }
            }
            Err(error) => skip(&format!("{name} cannot be had: {error:#}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The only record of this side and shape, and its span.
#[track_caller]
fn only<'s>(
    side: Side,
    shape: &str,
    records: &[Record],
    segments: &'s [Segment],
) -> (Record, &'s Segment, &'s Span) {
    let mut of_shape = records
        .iter()
        .filter(|record| record.kind == side && record.shape == shape);
    let record = of_shape.next().unwrap();
    assert!(of_shape.next().is_none(), "more than one {shape}");
    let kind = if side == Side::Entry { "Entry" } else { "Exit" };
    let found = segments
        .iter()
        .find_map(|segment| Some((segment, find_span(segment, kind, &record.path)?)));
    let (segment, span) = found.unwrap();
    (record.clone(), segment, span)
}

#[test]
fn spans_are_those_of_http() {
    for package in [Package::Standard, Package::XNet] {
        needs_http2!(package);
        let scene = package.scene().unwrap();
        let probe = scene.trace(&[]).unwrap();
        assert_eq!(scene.ask("failed", 1).unwrap().status, 200);
        assert_eq!(scene.ask("tls", 2).unwrap().status, 200);
        assert_eq!(scene.ask("post", 3).unwrap().status, 200);
        let records = scene.records().unwrap();
        let (_, ended) = scene.judge(probe, true).unwrap();
        let find = |side, shape| only(side, shape, &records, &ended.segments);

        let (call, of_call, exit) = find(Side::Exit, "failed");
        let (_, of_request, entry) = find(Side::Entry, "status");
        assert_eq!(
            (exit.component_id, entry.component_id),
            (HTTP_CLIENT, HTTP_SERVER)
        );
        assert_eq!(
            (exit.span_layer.as_str(), entry.span_layer.as_str()),
            ("Http", "Http")
        );
        assert_eq!(exit.peer, call.peer);
        assert_eq!(exit.operation_name, "GET:/status/{id}");
        assert_eq!(entry.operation_name, exit.operation_name);
        for span in [exit, entry] {
            assert_eq!(span.tag("http.status_code"), Some("503"));
            assert_eq!(span.tag("http.method"), Some("GET"));
            assert!(span.is_error);
        }
        assert_eq!(of_call.trace_id, of_request.trace_id);
        let reference = entry.refs.first().unwrap();
        assert_eq!(reference.parent_trace_segment_id, of_call.trace_segment_id);
        assert_eq!(reference.parent_span_id, exit.span_id);
        assert_eq!(reference.parent_service, "front");
        assert_eq!(reference.parent_endpoint, "GET:/failed/{id}");
        assert_eq!(reference.network_address_used_at_peer, exit.peer);

        // Over TLS no header goes along, but both ends are traced here.
        let (call, of_call, exit) = find(Side::Exit, "tls");
        let answered = ended
            .segments
            .iter()
            .find_map(|segment| Some((segment, find_span(segment, "Entry", &call.path)?)));
        let (of_request, entry) = answered.unwrap();
        assert_eq!(of_call.trace_id, of_request.trace_id);
        let reference = entry.refs.first().unwrap();
        assert_eq!(reference.parent_trace_segment_id, of_call.trace_segment_id);
        assert_eq!(reference.parent_span_id, exit.span_id);
        for span in [exit, entry] {
            assert!(span.tag("url").unwrap().starts_with("https://"), "{span:?}");
            assert_eq!(span.tag("http.status_code"), Some("200"));
        }

        // Of a length that is known at both ends.
        let (_, _, entry) = find(Side::Entry, "echo");
        assert!(entry.tag("http.response.bytes").is_some());
        assert_eq!(entry.tag("http.method"), Some("POST"));
    }
}

#[test]
fn a_handler_that_panics_loses_its_stream_alone() {
    for package in [Package::Standard, Package::XNet] {
        needs_http2!(package);
        let program = package.program(&Go::system().unwrap(), &[]).unwrap();
        let ended = check(&program, "panic,goexit,leaf").unwrap();
        let entries: Vec<&Span> = ended
            .segments
            .iter()
            .flat_map(|segment| &segment.spans)
            .filter(|span| span.is_entry() && span_number(span).is_some())
            .collect();
        let mut counts = [0, 0];
        for entry in entries {
            let panics = !entry.operation_name.contains("leaf");
            counts[usize::from(panics)] += 1;
            assert_eq!(entry.is_error, panics, "{entry:?}");
            let says = entry.words().contains("and the stream was reset");
            assert_eq!(says, panics, "{entry:?}");
            assert_eq!(entry.tag("http.status_code"), (!panics).then_some("200"));
        }
        assert!(counts.iter().all(|count| *count > 20), "{counts:?}");
    }
}

#[test]
fn a_client_that_cancels_resets_its_stream() {
    for package in [Package::Standard, Package::XNet] {
        needs_http2!(package);
        let scene = package.scene().unwrap();
        let probe = scene.trace(&[]).unwrap();
        assert_eq!(scene.ask("timeout", 1).unwrap().status, 504);
        assert_eq!(scene.ask("cancel", 2).unwrap().status, 504);
        assert_eq!(scene.ask("refused", 3).unwrap().status, 504);
        let records = scene.records().unwrap();
        let (_, ended) = scene.judge(probe, true).unwrap();
        for (shape, message) in [
            ("timeout", "context deadline exceeded"),
            ("cancel", "context canceled"),
            ("refused", "connection refused"),
        ] {
            let (call, _, exit) = only(Side::Exit, shape, &records, &ended.segments);
            assert!(exit.is_error && exit.words().contains(message), "{exit:?}");
            assert_eq!(
                (exit.peer.as_str(), exit.tag("http.status_code")),
                (call.peer.as_str(), None)
            );
            let served = ended
                .segments
                .iter()
                .find_map(|segment| find_span(segment, "Entry", &call.path));
            assert_eq!(served.is_some(), shape != "refused");
            if let Some(entry) = served {
                assert_eq!(entry.tag("http.client_gone"), Some("true"), "{entry:?}");
            }
        }
    }
}

/// A client outside, that says who it is: the base64 of these words, and the address by which it calls.
const STRANGER: &str = "1-dHJhY2U=-c2VnbWVudA==-3-c3RyYW5nZXI=-aW5zdGFuY2U=-ZW5kcG9pbnQ=-ZnJvbnQ6ODA=";

/// Sends a request through the front's proxy, with these headers and some more; the span at the other end.
fn through_proxy(scene: &Scene, id: u64, headers: &[(&str, &str)], more: usize) -> String {
    let mut request = format!("GET /proxy/{id} HTTP/1.1\r\nHost: front\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    for header in 0..more {
        request.push_str(&format!("X-Header-{header}: {header}\r\n"));
    }
    let mut connection = Connection::open(scene.front.host()).unwrap();
    connection.send(format!("{request}\r\n").as_bytes()).unwrap();
    assert_eq!(connection.receive().unwrap().status, 200);
    scene.call_of(id).unwrap().path
}

#[test]
fn a_header_of_the_programs_own_stays_alone_unless_it_is_only_forwarded() {
    for package in [Package::Standard, Package::XNet] {
        needs_http2!(package);
        let scene = package.scene().unwrap();
        let probe = scene.trace(&[]).unwrap();
        let another = STRANGER.replace("c3RyYW5nZXI=", "YW5vdGhlcg==");
        let (came, own) = (("sw8", STRANGER), "X-Name-Parent");
        // Few headers, and more than fit one group of a map.
        let mut leaves = Vec::new();
        for more in [0, 7, 40] {
            for (headers, parent) in [
                (vec![(own, STRANGER)], "stranger"),
                (vec![came, (own, &another)], "another"),
                (vec![came], "front"),
                (vec![came, (own, STRANGER)], "front"),
            ] {
                let id = leaves.len() as u64 + 1;
                leaves.push((through_proxy(&scene, id, &headers, more), Some(parent)));
            }
        }
        // More than are looked at: none goes out, for there may be one.
        leaves.push((through_proxy(&scene, 100, &[], 80), None));

        let (account, ended) = scene.judge(probe, true).unwrap();
        println!("{account}\n{}", ended.stderr);
        for (path, parent) in &leaves {
            let found = ended
                .segments
                .iter()
                .find_map(|segment| Some((segment, find_span(segment, "Entry", path)?)));
            let (segment, leaf) = found.unwrap();
            let parents: Vec<&str> = leaf
                .refs
                .iter()
                .map(|reference| reference.parent_service.as_str())
                .collect();
            assert_eq!(parents, Vec::from_iter(*parent), "{leaf:?}");
            assert_eq!(segment.trace_id == "trace", parent.is_some());
        }
        let mut lost: Vec<&str> = ended
            .stderr
            .lines()
            .filter_map(|line| line.strip_prefix("lost in the kernel: "))
            .collect();
        lost.sort_unstable();
        assert_eq!(
            lost,
            ["propagation_present 6 links", "propagation_refused 1 link"]
        );
    }
}

#[test]
fn a_server_that_refuses_says_why() {
    // Without TLS x/net leaves the first stream to a request that would upgrade.
    for (package, stream) in [(Package::Standard, 1), (Package::XNet, 3)] {
        needs_http2!(package);
        let program = package.program(&Go::system().unwrap(), &[]).unwrap();
        // The stream fails with an internal error; the connection goes on.
        let reset = frame(RST_STREAM, 0, stream, &2_u32.to_be_bytes());
        let peer = Answering::start(reset).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("truth.log");
        let next = format!(r#"{{"main": "http://{}"}}"#, peer.host());
        let arguments = [
            "serve",
            "-name",
            "front",
            "-first-id",
            "100",
            "-next",
            &next,
            "-log",
        ];
        let mut command = Command::new(&program);
        command.args(arguments).arg(&log).env("SW_AGENT_NAME", "front");
        let front = Target::spawn(&mut command).unwrap();
        let printed: Addresses = serde_json::from_str(&front.line().unwrap()).unwrap();
        let probe = Probe::of_pids(&[front.pid()], &[]).unwrap();
        let answer = client::get(target::host(&printed.main), "/sync/1").unwrap();
        assert_eq!(answer.status, 502);
        let segment = probe.segment_of("Entry", "/sync/1").unwrap();
        let exit = find_span(&segment, "Exit", "/leaf/101").unwrap();
        assert!(exit.is_error, "{exit:?}");
        assert_eq!(exit.log("message"), Some("the stream was reset: INTERNAL_ERROR"));
        let kind = exit.log("error.kind").unwrap();
        assert!(
            matches!(kind, "http.http2StreamError" | "http2.StreamError"),
            "{kind}"
        );
        assert_eq!(exit.tag("http.status_code"), None);
    }
}
