//! Memory that is there for a program whenever it looks, and not for a hook, which cannot wait for it: what cannot be read
//! costs a span or a link, and never gives a wrong one.
//!
//! The program lets go of a file's page just before its call begins, as a kernel might that is short of memory.
#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails; clippy knows only test functions"
)]

use std::thread;

use tests::{
    client, needs_probe,
    probe::{Ended, Probe, find_span},
    segment::Segment,
    target::{Go, GoBuild, Target},
};

fn absent() -> (Target, String) {
    let program = GoBuild::new("absent").build(&Go::system().unwrap()).unwrap();
    let target = Target::start(&program, &[]).unwrap();
    let host = target.address().unwrap();
    (target, host)
}

#[track_caller]
fn lost(ended: &Ended, reason: &str) {
    assert!(
        ended.losses().any(|line| line.contains(&format!("{reason} 1 "))),
        "{reason}: {}",
        ended.stderr
    );
}

/// The one segment with such a span.
#[track_caller]
fn segment<'e>(ended: &'e Ended, span_type: &str, path: &str) -> &'e Segment {
    let mut with = ended
        .segments
        .iter()
        .filter(|segment| find_span(segment, span_type, path).is_some());
    let found = with.next().unwrap();
    assert!(with.next().is_none(), "{span_type} {path}: {:#?}", ended.segments);
    found
}

#[test]
fn a_call_that_cannot_be_read_is_not_taken_for_the_one_before() {
    needs_probe!();
    let (target, host) = absent();
    let probe = Probe::of_pids(&[target.pid()], &[]).unwrap();
    assert_eq!(client::get(&host, "/stale").unwrap().status, 200);
    // That of /stale waits for the call that never ends, until the probe stops.
    probe.segment_of("Entry", "/second").unwrap();
    let ended = probe.stop().unwrap();
    println!("{}", ended.stderr);
    assert_eq!(
        ended.segments.iter().flat_map(Segment::exits).count(),
        0,
        "{:#?}",
        ended.segments
    );
    let second = segment(&ended, "Entry", "/second");
    assert!(second.entry().unwrap().refs.is_empty(), "{second:#?}");
    lost(&ended, "read_fault");
    lost(&ended, "end_missed");
}

#[test]
fn a_call_whose_context_cannot_be_read_has_no_parent() {
    needs_probe!();
    let (target, host) = absent();
    let probe = Probe::of_pids(&[target.pid()], &[]).unwrap();
    for query in ["?present", ""] {
        thread::scope(|scope| {
            let held = scope.spawn(|| client::get(&host, &format!("/hold{query}")).unwrap().status);
            let status = client::get(&host, &format!("/elsewhere{query}")).unwrap().status;
            assert_eq!((status, held.join().unwrap()), (200, 200));
        });
    }
    let _both = probe.wait_for("all requests", |segments| {
        segments
            .iter()
            .filter(|segment| segment.entry().is_some())
            .count()
            >= 6
    });
    let ended = probe.stop().unwrap();
    println!("{}", ended.stderr);
    let callers: Vec<Option<&str>> = ended
        .segments
        .iter()
        .filter(|segment| find_span(segment, "Exit", "/third").is_some())
        .map(|segment| segment.entry().and_then(|span| span.path()))
        .collect();
    assert_eq!(callers.len(), 2, "{:#?}", ended.segments);
    assert!(
        callers.contains(&Some("/hold")) && callers.contains(&None),
        "{callers:?}"
    );
    lost(&ended, "context_unread");
}
