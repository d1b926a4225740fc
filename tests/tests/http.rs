//! What the probe tells over HTTP of itself, asked of one that traces.

#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use tempfile::TempDir;
use tests::{
    client::{self, Connection},
    fake_oap::FakeOap,
    held::HeldThread,
    needs_probe,
    probe::{self, Probe},
    scene::Scene,
};
use xtask::{child::Tied, http, peers};

/// The value of a series.
fn value(text: &str, series: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    let value = line.and_then(|rest| rest.strip_prefix(' '));
    assert!(value.is_some(), "no {series} in\n{text}");
    value.unwrap().parse().unwrap()
}

/// Status and text of an answer.
fn ask(address: &str, path: &str) -> (u16, String) {
    let response = client::get(address, path).unwrap();
    (response.status, response.text())
}

/// Asks until the status is this one; what was said then.
fn ask_until(address: &str, path: &str, status: u16) -> String {
    let mut last = (0, String::new());
    for _ in 0..300 {
        last = ask(address, path);
        if last.0 == status {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(last.0, status, "{path} says {:?}", last.1);
    last.1
}

#[test]
fn the_counters_are_those_of_the_account() {
    needs_probe!();
    let address = http::free_address().unwrap().to_string();
    let scene = Scene::start().unwrap();
    let probe = scene
        .trace(&["--http", &address, "--sample-paths=/leaf/*=0"])
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
    assert_eq!(ask(&address, "/healthz").0, 200);
    assert_eq!(ask(&address, "/readyz"), (200, "ready\n".to_owned()));
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
    command.args(["run", "--all-go", "--http", &address]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(said.contains(&address) && said.contains("--http"), "{said}");
}

#[test]
fn it_is_unwell_while_a_thread_stands_still() {
    needs_probe!();
    let address = http::free_address().unwrap().to_string();
    let scene = Scene::start().unwrap();
    let probe = scene.trace(&["--http", &address]).unwrap();
    let (status, text) = ask(&address, "/healthz");
    assert_eq!(status, 200, "{text}");
    assert!(text.contains("reader") && text.contains("targets"), "{text}");

    let reader = HeldThread::of(probe.pid(), "reader").unwrap();
    let text = ask_until(&address, "/healthz", 503);
    assert!(
        text.starts_with("the reader thread has not come round for 1"),
        "{text}"
    );
    assert_eq!(
        ask(&address, "/readyz").0,
        200,
        "what it has attached to stays attached"
    );
    drop(reader);
    ask_until(&address, "/healthz", 200);
    scene.front.get("/leaf/1").unwrap();
    probe.segment_of("Entry", "/leaf/1").unwrap();
    assert!(probe.stop().unwrap().status.success());
}

#[test]
fn it_is_ready_once_oap_is_reached() {
    needs_probe!();
    let mut oap = FakeOap::start();
    oap.kill();
    let address = http::free_address().unwrap().to_string();
    let mut command = Command::new(probe::binary().unwrap());
    // Nobody is traced: there is nothing to tell, and it looks for its OAP all the same.
    command.args([
        "run",
        "--exe=/nowhere/*",
        "--oap",
        &oap.address(),
        "--http",
        &address,
    ]);
    let probe = Probe::spawn(&mut command).unwrap();
    probe.ready().unwrap();
    let text = ask_until(&address, "/readyz", 503);
    assert!(
        text.starts_with("OAP was not reached yet") && text.contains(&oap.address()),
        "{text}"
    );
    assert_eq!(
        ask(&address, "/healthz").0,
        200,
        "to start it anew would not help"
    );
    oap.restart();
    ask_until(&address, "/readyz", 200);
    // From here on it is the connection's matter, and told by `skyprobe status`.
    oap.kill();
    assert_eq!(ask(&address, "/readyz").0, 200);
    assert!(probe.stop().unwrap().status.success());
}

/// Debian's Prometheus, asking this address for metrics, with examples kept.
fn prometheus(asked: &str) -> (SocketAddr, Tied, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let address = http::free_address().unwrap();
    let config = folder.path().join("prometheus.yml");
    let jobs = format!(
        "global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}\n\
         scrape_configs: [{{job_name: skyprobe, static_configs: [{{targets: ['{asked}']}}]}}]\n"
    );
    fs::write(&config, jobs).unwrap();
    let program = Tied::start(
        peers::prometheus().unwrap().as_os_str(),
        &[
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", folder.path().join("series").display()),
            format!("--web.listen-address={address}"),
            "--enable-feature=exemplar-storage".to_owned(),
        ],
        &[],
        &folder.path().join("prometheus.log"),
    );
    (address, program.unwrap(), folder)
}

/// Asks Prometheus until the answer contains `words`.
fn found(prometheus: SocketAddr, query: &str, words: &str) -> String {
    let mut last = String::new();
    for _ in 0..300 {
        // It may not listen yet.
        if let Ok(answer) = http::get(prometheus, query) {
            last = answer.body;
            if last.contains(words) {
                return last;
            }
        }
        thread::sleep(Duration::from_millis(100));
    }
    assert!(last.contains(words), "{words} is not in {last}");
    last
}

#[test]
fn prometheus_reads_what_requests_were_like_and_a_trace_of_them() {
    needs_probe!();
    let address = http::free_address().unwrap().to_string();
    let scene = Scene::start().unwrap();
    let probe = scene.trace(&["--http", &address]).unwrap();
    let (prometheus, _program, _folder) = prometheus(&address);
    for id in 1..=3 {
        scene.front.get(&format!("/slow/{id}?ms=30")).unwrap();
    }
    for id in 4..=5 {
        scene.front.get(&format!("/status/{id}?code=503")).unwrap();
    }
    let segments = probe
        .wait_for("five segments", |segments| segments.len() == 5)
        .unwrap();

    let text = ask(&address, "/metrics").1;
    let lines = |begin: &str, words: &[&str]| -> Vec<String> {
        let fits = |line: &&str| line.starts_with(begin) && words.iter().all(|word| line.contains(word));
        text.lines().filter(fits).map(str::to_owned).collect()
    };
    let served = lines(
        "skyprobe_request_duration_seconds_count{",
        &[r#"service="front""#],
    );
    assert_eq!(served.len(), 2, "{text}");
    let failed = lines("skyprobe_requests_total{", &[r#"outcome="error""#, "/status/"]);
    assert!(
        failed.len() == 1 && failed.iter().all(|line| line.ends_with(" 2")),
        "{failed:?}\n{text}"
    );
    // 30 ms and a little: above the bound of 25 ms.
    let quick = lines(
        "skyprobe_request_duration_seconds_bucket{",
        &["/slow/", r#"le="0.025""#],
    );
    assert!(
        quick.len() == 1 && quick.iter().all(|line| line.ends_with(" 0")),
        "{quick:?}"
    );
    assert!(
        !text.contains("trace_id"),
        "only OpenMetrics has examples: {text}"
    );
    assert!(text.contains("skyprobe_targets{state=\"traced\"} 2\n"), "{text}");

    let count = "/api/v1/query?query=sum(skyprobe_request_duration_seconds_count)";
    found(prometheus, count, r#","5"]"#);
    let up = "/api/v1/query?query=up";
    found(prometheus, up, r#","1"]"#);
    let examples =
        "/api/v1/query_exemplars?query=skyprobe_request_duration_seconds_bucket&start=0&end=9999999999";
    let answer = found(prometheus, examples, "trace_id");
    assert!(
        segments.iter().any(|segment| answer.contains(&segment.trace_id)),
        "{answer}"
    );
    assert!(probe.stop().unwrap().status.success());
}
