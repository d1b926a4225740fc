//! More than the probe can take: what is lost is counted to the unit, and the traced program does not notice.

#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::{thread, time::Duration};

use probe_common::limits::OPEN_REQUESTS_MAX;
use probe_user::export::QUEUE_SEGMENTS;
use tests::{
    client::Connection,
    needs_probe,
    probe::Ended,
    scene::{Scene, truth_program},
    target::Load,
};

/// How much the account says was lost for this reason.
fn lost(ended: &Ended, reason: &str) -> u64 {
    let said = ended
        .losses()
        .find_map(|line| line.split_once(&format!(": {reason} ")));
    said.map_or(0, |(_, rest)| rest.split(' ').next().unwrap().parse().unwrap())
}

/// What it says was lost at all. Processes of others, which come and go meanwhile, are no spans.
fn losses(ended: &Ended) -> Vec<&str> {
    ended
        .losses()
        .filter(|line| !line.contains("process_unnoticed"))
        .collect()
}

#[test]
fn a_ring_that_runs_over_while_nobody_reads() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let probe = scene.trace(&[]).unwrap();
    let load = |rate, seconds| {
        let load = Load::start(&truth_program().unwrap(), &scene.front, rate, seconds, "leaf").unwrap();
        let load = load.finish().unwrap();
        assert_eq!(load.failed, 0, "{load:?}");
        load.sent
    };
    // As a debugger or a frozen cgroup does it.
    probe.signal(libc::SIGSTOP);
    let mut sent = load(5_000, 6.0);
    probe.signal(libc::SIGCONT);
    // Afterwards all is well again.
    thread::sleep(Duration::from_millis(500));
    sent += load(100, 1.0);
    thread::sleep(Duration::from_millis(200));
    let ended = probe.stop().unwrap();
    let ring = lost(&ended, "ring_full");
    assert!(ring > 0, "{sent} spans fit into the ring");
    assert_eq!(ended.spans() + ring, sent, "{}", ended.stderr);
    // What was in the ring comes at once, and is more than the queue before the exporter holds: it waits.
    assert!(
        ended.spans() > 2 * QUEUE_SEGMENTS as u64,
        "{} spans",
        ended.spans()
    );
    assert_eq!(losses(&ended).len(), 1, "{}", ended.stderr);
}

/// Lets this process and those it starts open so many descriptors more.
fn raise_descriptors() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` outlives both calls.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        limit.rlim_cur = limit.rlim_max;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
    }
}

#[test]
fn more_requests_open_than_the_table_holds() {
    needs_probe!();
    const BEYOND: usize = 150;
    raise_descriptors();
    let scene = Scene::start().unwrap();
    let probe = scene.trace(&[]).unwrap();
    let count = OPEN_REQUESTS_MAX as usize + BEYOND;
    let mut connections: Vec<Connection> = (0..count)
        .map(|id| {
            let mut connection = Connection::open(scene.front.host()).unwrap();
            let request = format!("GET /slow/{id}?ms=15000 HTTP/1.1\r\nHost: front\r\n\r\n");
            connection.send(request.as_bytes()).unwrap();
            connection
        })
        .collect();
    for connection in &mut connections {
        assert_eq!(connection.receive().unwrap().status, 200);
    }
    // With room again, the next one is traced.
    assert_eq!(scene.front.get("/leaf/1").unwrap().status, 200);
    thread::sleep(Duration::from_millis(500));
    let ended = probe.stop().unwrap();
    assert_eq!(lost(&ended, "requests_full"), BEYOND as u64, "{}", ended.stderr);
    assert_eq!(
        ended.spans(),
        u64::from(OPEN_REQUESTS_MAX) + 1,
        "{}",
        ended.stderr
    );
    assert_eq!(losses(&ended).len(), 1, "{}", ended.stderr);
}
