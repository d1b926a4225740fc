//! What Prometheus is told, asked of a probe that traces.

#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::{
    net::TcpListener,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use tests::{
    client::{self, Connection},
    needs_probe, probe,
    scene::Scene,
};
use xtask::http;

/// The value of a series.
fn value(text: &str, series: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    let value = line.and_then(|rest| rest.strip_prefix(' '));
    assert!(value.is_some(), "no {series} in\n{text}");
    value.unwrap().parse().unwrap()
}

#[test]
fn the_counters_are_those_of_the_account() {
    needs_probe!();
    let address = http::free_address().unwrap().to_string();
    let scene = Scene::start().unwrap();
    let probe = scene
        .trace(&["--metrics", &address, "--sample-paths=/leaf/*=0"])
        .unwrap();
    let metrics = || {
        let response = client::get(&address, "/metrics").unwrap();
        assert_eq!(response.status, 200, "{response:?}");
        assert!(
            response.head.contains("text/plain; version=0.0.4"),
            "{}",
            response.head
        );
        response.text()
    };
    let spans = r#"skyprobe_spans_total{outcome="exported"}"#;
    assert_eq!(value(&metrics(), spans), 0);
    for id in 1..=5 {
        scene.front.get(&format!("/slow/{id}?ms=1")).unwrap();
        scene.front.get(&format!("/leaf/{id}")).unwrap();
    }
    probe
        .wait_for("five segments", |segments| segments.len() == 5)
        .unwrap();
    // What the kernel counts is looked at every two seconds.
    thread::sleep(Duration::from_millis(2_500));
    let text = metrics();
    assert_eq!(value(&text, spans), 5);
    assert_eq!(value(&text, "skyprobe_pending_segments"), 0);
    assert_eq!(
        value(
            &text,
            r#"skyprobe_lost_spans_total{side="kernel",reason="ring_full"}"#
        ),
        0
    );
    assert_eq!(
        value(&text, r#"skyprobe_sampling_requests_total{outcome="decided"}"#),
        10
    );
    assert_eq!(value(&text, "skyprobe_sampling_left_out_spans_total"), 5);
    assert!(value(&text, "process_resident_memory_bytes") > 1_000_000);

    assert_eq!(client::get(&address, "/").unwrap().status, 404);
    let mut connection = Connection::open(&address).unwrap();
    connection
        .send(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        .unwrap();
    assert_eq!(connection.receive().unwrap().status, 405);
    // Who asks and says no more does not keep the probe.
    let _silent = Connection::open(&address).unwrap();
    assert!(probe.stop().unwrap().status.success());
}

#[test]
fn an_address_that_is_taken() {
    needs_probe!();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = Command::new(probe::binary().unwrap());
    command.args(["run", "--all-go", "--metrics", &address]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(said.contains(&address) && said.contains("--metrics"), "{said}");
}
