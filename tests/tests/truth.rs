//! Services that log their own truth, under concurrent load with every shape of call: is each span there, and is
//! each parent the right one?

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::collections::{HashMap, HashSet};

use tests::{
    go_http2::{self, Package},
    needs_http2, needs_probe, needs_rpc,
    rpc::{self, Row},
    scene::{Scene, truth_program},
    skip,
    target::{Go, Load, LoadSummary},
    truth::{Account, Count, Record, Side},
};

/// Requests a second that the client sends; the services' calls to each other come on top.
const RATE: u32 = 2000;

/// Of calls whose parent can be known.
const ORPHANS_MAX: f64 = 0.001;
const TIME_ERROR_P99_MAX_MS: f64 = 1.0;

fn seconds() -> f64 {
    if skip::full() { 30.0 } else { 10.0 }
}

fn load(scene: &Scene, rate: u32, seconds: f64) -> LoadSummary {
    let summary = Load::start(&truth_program().unwrap(), &scene.front, rate, seconds, "")
        .unwrap()
        .finish()
        .unwrap();
    println!("{summary:?}");
    assert_eq!(summary.failed, 0, "{}", summary.first_error);
    summary
}

/// The account's last line, and what has to be in it.
#[expect(clippy::cast_precision_loss, reason = "counts of some thousands")]
fn check(account: &Account, summary: &LoadSummary, rate: u32) {
    let total = account.total();
    let made = |wanted: Side| -> u64 {
        let of = account.shapes.iter().filter(|((side, _), _)| *side == wanted);
        of.map(|(_, count)| count.made).sum()
    };
    println!(
        "served {:.0} requests/s and made {:.0} calls/s in {:.0} s: {}, times off p50 {:.3} ms p99 {:.3} ms",
        made(Side::Entry) as f64 / summary.seconds,
        made(Side::Exit) as f64 / summary.seconds,
        summary.seconds,
        account.sum(),
        total.time_error_ms(0.50),
        total.time_error_ms(0.99),
    );
    assert!(
        summary.per_second > 0.95 * f64::from(rate),
        "the machine is too slow for the rate: {summary:?}"
    );
    assert_eq!((total.found, account.invented), (total.made, 0));
    assert_eq!(
        (total.parents.wrong, total.references.wrong, total.wrong_facts),
        (0, 0, 0)
    );
    assert!(total.parents.orphan as f64 <= ORPHANS_MAX * total.parents.required() as f64);
    assert!(total.references.orphan as f64 <= ORPHANS_MAX * total.references.required() as f64);
    assert!(total.time_error_ms(0.99) <= TIME_ERROR_P99_MAX_MS);
}

#[test]
fn under_load_every_span_is_found_and_no_parent_is_wrong() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let probe = scene.trace(&[]).unwrap();
    let summary = load(&scene, RATE, seconds());
    let (account, ended) = scene.judge(probe, true).unwrap();
    println!("{account}\n{}", ended.stderr);
    check(&account, &summary, RATE);
}

/// Requests a second by HTTP/2, and the calls that these make come by HTTP/2, too.
const HTTP2_RATE: u32 = 1000;

#[test]
fn under_load_every_stream_of_http2_is_found_and_no_parent_is_wrong() {
    for package in [Package::Standard, Package::XNet] {
        needs_http2!(package);
        let program = package.program(&Go::system().unwrap(), &[]).unwrap();
        let scene = Scene::of(&program).unwrap();
        let probe = scene.trace(&[]).unwrap();
        let seconds = if skip::full() { 30.0 } else { 5.0 };
        let summary = Load::start(&program, &scene.front, HTTP2_RATE, seconds, go_http2::MIX)
            .unwrap()
            .finish()
            .unwrap();
        println!("{summary:?}");
        assert_eq!(summary.failed, 0, "{}", summary.first_error);
        let (account, ended) = scene.judge(probe, true).unwrap();
        println!("{account}\n{}", ended.stderr);
        check(&account, &summary, HTTP2_RATE);
    }
}

/// Requests a second that come by HTTP; each makes some calls by gRPC, which make others.
const ROW_RATE: u32 = 900;
/// Calls a second that this has to come to.
const ROW_CALLS: f64 = 2000.0;

#[test]
#[expect(clippy::cast_precision_loss, reason = "counts of some thousands")]
fn under_load_every_call_by_grpc_is_found_and_no_parent_is_wrong() {
    needs_rpc!();
    let row = Row::start().unwrap();
    let probe = row.trace(&[]).unwrap();
    let seconds = if skip::full() { 30.0 } else { 5.0 };
    let summary = Load::start(&truth_program().unwrap(), &row.front, ROW_RATE, seconds, rpc::MIX)
        .unwrap()
        .finish()
        .unwrap();
    println!("{summary:?}");
    assert_eq!(summary.failed, 0, "{}", summary.first_error);
    let (account, ended) = row.judge(probe, rpc::PROPAGATED).unwrap();
    println!("{account}\n{}", ended.stderr);
    check(&account, &summary, ROW_RATE);
    let calls: u64 = account
        .shapes
        .iter()
        .filter(|((side, _), _)| *side == Side::Exit)
        .map(|(_, count): (_, &Count)| count.made)
        .sum();
    assert!(calls as f64 > ROW_CALLS * summary.seconds, "{calls} calls");
}

#[test]
fn the_services_tell_a_consistent_truth() {
    // Without a probe: what the judge goes by has to be right itself.
    let scene = Scene::start().unwrap();
    let summary = load(&scene, 500, 2.0);
    let records = scene.records().unwrap();
    let of = |side: Side| records.iter().filter(move |record| record.kind == side);
    let served: HashMap<u64, &Record> = of(Side::Entry).map(|record| (record.id, record)).collect();
    let asked = served.keys().filter(|&&id| id < 1_000_000_000).count();
    // One that has gone may not have been read at all.
    assert!(
        summary.sent - asked as u64 <= summary.sent / 50,
        "{asked} of {} arrived",
        summary.sent
    );
    let mut ids = HashSet::new();
    for call in of(Side::Exit) {
        assert!(ids.insert(call.id), "two calls have the number {}", call.id);
        let parent = served[&call.parent];
        assert_eq!(parent.service, call.service);
        assert!(
            parent.start_ns <= call.start_ns && call.start_ns <= call.end_ns,
            "{parent:?} {call:?}"
        );
        if call.error.is_empty() {
            let request = served
                .get(&call.id)
                .unwrap_or_else(|| panic!("nobody served {call:?}"));
            assert_eq!((&request.method, &request.path), (&call.method, &call.path));
            assert!(request.start_ns >= call.start_ns);
        }
    }
    let shapes: HashSet<&str> = records.iter().map(|record| record.shape.as_str()).collect();
    for shape in [
        "sync",
        "redirect",
        "retry",
        "proxy",
        "fanout",
        "pool_lazy",
        "outlive",
        "timeout",
        "panic",
        "tls",
    ] {
        assert!(shapes.contains(shape), "{shape} did not come up");
    }
}
