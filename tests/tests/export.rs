//! The exporter to SkyWalking against a fake OAP, for every fault it must live with.
//!
//! In each test the sum closes: what was produced was either confirmed or is counted as lost, for one reason.

#![expect(
    clippy::disallowed_methods,
    reason = "how long things take is part of what is tested"
)]

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use probe_user::export::skywalking::management::Properties;
use probe_user::export::skywalking::{self, Authentication, Backoff, Registry, Settings, Tls, Token};
use probe_user::export::{self, SegmentSender};
use probe_user::telemetry::{Account, Loss, Tally, Telemetry};
use probe_user::trace::segment::{Identity, Segment};
use probe_user::trace::span::{Component, Span, SpanKind};
use tests::fake_oap::{FakeOap, FakeSettings, FakeTls, Mood, Received};
use tonic::Code;

const MS: Duration = Duration::from_millis(1);

/// Settings with the pauses of a test.
fn settings<const COUNT: usize>(backends: [String; COUNT]) -> Settings {
    Settings {
        batch_segments: 20,
        batch_interval: 20 * MS,
        deadline: 5_000 * MS,
        connect_timeout: 2_000 * MS,
        heartbeat: 100 * MS,
        backoff: Backoff {
            first: 20 * MS,
            most: 200 * MS,
        },
        refused_pause: 300 * MS,
        flush: 3_000 * MS,
        ..Settings::new(backends.into())
    }
}

/// An exporter that runs on a thread of its own, with its log kept.
struct Exporting {
    sender: SegmentSender,
    registry: Registry,
    telemetry: Arc<Telemetry>,
    log: Log,
    thread: JoinHandle<()>,
    next: usize,
}

impl Exporting {
    fn start(settings: Settings, capacity: usize) -> Self {
        let telemetry = Arc::new(Telemetry::default());
        let (sender, receiver) = export::queue(capacity, Arc::clone(&telemetry));
        let (registry, run) =
            skywalking::start(settings, receiver, Arc::clone(&telemetry)).expect("it can start");
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .with_max_level(tracing::Level::INFO)
            .finish();
        let thread = std::thread::spawn(move || {
            tracing::subscriber::with_default(subscriber, || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime can be made").block_on(run);
            });
        });
        Self {
            sender,
            registry,
            telemetry,
            log,
            thread,
            next: 0,
        }
    }

    /// Sends `count` segments of two spans each, numbered on.
    fn send(&mut self, count: usize) {
        for _ in 0..count {
            self.sender.send(&mut vec![segment(self.next)]);
            self.next += 1;
        }
    }

    /// Sends `count` segments over some time, as a busy program would.
    fn send_slowly(&mut self, count: usize) {
        for _ in 0..count / 5 {
            self.send(5);
            std::thread::sleep(MS);
        }
    }

    /// Waits until nothing is on its way any more.
    fn settle(&self) -> Account {
        let start = Instant::now();
        while self.telemetry.account().pending_segments() > 0 {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "{:?}",
                self.telemetry.account()
            );
            std::thread::sleep(5 * MS);
        }
        self.telemetry.account()
    }

    /// Stops it, and proves that the sum closes.
    fn finish(self) -> (Account, String) {
        let Self {
            sender,
            telemetry,
            log,
            thread,
            next,
            ..
        } = self;
        drop(sender);
        thread.join().expect("the exporter does not panic");
        let account = telemetry.account();
        let lost = account.lost_after_production();
        assert_eq!(account.produced, tally(next), "{account}");
        assert_eq!(
            account.exported.segments + lost.segments,
            account.produced.segments,
            "{account}"
        );
        assert_eq!(
            account.exported.spans + lost.spans,
            account.produced.spans,
            "{account}"
        );
        (account, log.text())
    }
}

/// What an exporter logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("nobody panicked with it")).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panicked with it").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn identity() -> Arc<Identity> {
    Arc::new(Identity {
        service: "shop".into(),
        instance: "shop@1".into(),
    })
}

fn segment(number: usize) -> Segment {
    let span = |id| Span {
        id,
        parent_id: id - 1,
        start_ns: 1_700_000_000_000_000_000,
        end_ns: 1_700_000_000_005_000_000,
        kind: if id == 0 { SpanKind::Entry } else { SpanKind::Exit },
        component: if id == 0 {
            Component::GoHttpServer
        } else {
            Component::GoHttpClient
        },
        operation: "GET:/order".into(),
        peer: String::new(),
        is_error: false,
        references: Vec::new(),
        tags: Vec::new(),
        logs: Vec::new(),
        skip_analysis: false,
    };
    Segment {
        trace_id: format!("trace-{number}"),
        segment_id: number.to_string(),
        identity: identity(),
        spans: vec![span(0), span(1)],
    }
}

fn tally(segments: usize) -> Tally {
    Tally {
        segments: segments as u64,
        spans: 2 * segments as u64,
    }
}

/// Numbers of the segments that came, each with how often.
fn counts(received: &Received) -> HashMap<usize, usize> {
    let mut counts = HashMap::new();
    for id in received.segment_ids() {
        *counts
            .entry(id.parse().expect("the test numbered it"))
            .or_default() += 1;
    }
    counts
}

fn lines<'a>(log: &'a str, message: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains(message)).collect()
}

/// An address nobody listens at.
fn nobody() -> SocketAddr {
    xtask::http::free_address().expect("there is a free port")
}

#[test]
fn everything_arrives_once_and_in_order() {
    let oap = FakeOap::start();
    let mut exporting = Exporting::start(settings([oap.address()]), 1_000);
    exporting.send(500);
    let (account, log) = exporting.finish();
    assert_eq!(account.exported, tally(500), "{log}");
    let received = oap.received();
    let expected: Vec<_> = (0..500).map(|number| number.to_string()).collect();
    assert_eq!(received.segment_ids(), expected);
    assert_eq!(received.streams, 500 / 20);
    let first = &received.segments[0];
    assert_eq!(
        (first.service.as_str(), first.service_instance.as_str()),
        ("shop", "shop@1")
    );
    assert_eq!(first.spans.len(), 2);
    assert_eq!(lines(&log, "OAP connected").len(), 1, "{log}");
}

#[test]
fn instances_are_told_and_kept_alive_until_they_go() {
    let oap = FakeOap::start();
    let exporting = Exporting::start(settings([oap.address()]), 10);
    let identity = identity();
    let properties = Properties::of_process(std::process::id(), "go");
    exporting.registry.register(Arc::clone(&identity), properties);
    oap.wait("properties, then pings", |received| {
        !received.properties.is_empty() && received.pings.len() >= 3
    });
    let received = oap.received();
    assert_eq!(received.properties.len(), 1, "told once");
    let told = &received.properties[0];
    assert_eq!(
        (told.service.as_str(), told.service_instance.as_str()),
        ("shop", "shop@1")
    );
    let value = |key: &str| {
        told.properties
            .iter()
            .find(|pair| pair.key == key)
            .map(|pair| pair.value.as_str())
    };
    assert_eq!(value("language"), Some("go"));
    assert_eq!(value("OS Name"), Some("Linux"));
    assert_eq!(
        value("Process No."),
        Some(std::process::id().to_string().as_str())
    );
    assert_eq!(received.pings[0].service_instance, "shop@1");

    exporting.registry.unregister(&identity);
    // One may be under way.
    std::thread::sleep(150 * MS);
    let pings = oap.received().pings.len();
    std::thread::sleep(350 * MS);
    assert_eq!(
        oap.received().pings.len(),
        pings,
        "an instance that is gone is silent"
    );
    exporting.finish();
}

#[test]
fn an_instance_is_alive_as_soon_as_it_is_told() {
    let oap = FakeOap::start();
    let never = Settings {
        heartbeat: Duration::from_secs(3600),
        ..settings([oap.address()])
    };
    let exporting = Exporting::start(never, 10);
    exporting
        .registry
        .register(identity(), Properties::of_process(std::process::id(), "go"));
    oap.wait("a ping", |received| !received.pings.is_empty());
    assert_eq!(oap.received().properties.len(), 1);
    exporting.finish();
}

#[test]
fn an_oap_that_is_absent_at_start_gets_what_waited() {
    let port = nobody().port();
    let mut exporting = Exporting::start(settings([format!("127.0.0.1:{port}")]), 1_000);
    exporting.registry.register(identity(), Properties::default());
    exporting.send(50);
    // Some ten attempts.
    std::thread::sleep(1_000 * MS);
    let oap = FakeOap::start_with(FakeSettings {
        port,
        ..FakeSettings::default()
    });
    assert_eq!(exporting.settle().exported, tally(50));
    oap.wait("properties", |received| !received.properties.is_empty());
    let (_, log) = exporting.finish();
    let said = lines(&log, "OAP not reachable");
    assert_eq!(said.len(), 1, "not a flood: {log}");
    assert!(
        said[0].contains(&port.to_string()) && said[0].contains("refused"),
        "{log}"
    );
    assert_eq!(lines(&log, "OAP connected").len(), 1, "{log}");
    assert_eq!(counts(&oap.received()).len(), 50);
}

#[test]
fn an_oap_that_never_comes_does_not_hold_up_the_end() {
    let mut exporting = Exporting::start(settings([nobody().to_string()]), 40);
    exporting.send(100);
    std::thread::sleep(100 * MS);
    exporting.send(100);
    let start = Instant::now();
    let (account, log) = exporting.finish();
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?} {log}",
        start.elapsed()
    );
    // What was in the queue and what had been taken from it; all others found no room.
    let unreachable = account.lost_to(Loss::OapUnreachable).segments;
    assert!((40..=60).contains(&unreachable), "{account}");
    assert_eq!(
        account.lost_to(Loss::QueueFull).segments,
        200 - unreachable,
        "{account}"
    );
}

#[test]
fn the_next_backend_takes_over_when_one_dies() {
    let mut oaps = [FakeOap::start(), FakeOap::start()];
    let addresses = [oaps[0].address(), oaps[1].address()];
    let mut exporting = Exporting::start(settings(addresses), 10_000);
    exporting.send_slowly(500);
    exporting.settle();
    let used = usize::from(oaps[0].received().segments.is_empty());
    assert!(oaps[1 - used].received().segments.is_empty(), "one at a time");
    oaps[used].kill();
    exporting.send_slowly(500);
    let (account, log) = exporting.finish();
    assert_eq!(account.exported, tally(1_000), "{account}\n{log}");
    let [first, second] = [used, 1 - used].map(|each| counts(&oaps[each].received()));
    let all: HashSet<_> = first.keys().chain(second.keys()).collect();
    assert_eq!(all.len(), 1_000);
    // At most the batch under way is told to both.
    assert!(
        first.len() + second.len() <= 1_000 + 20,
        "{} {}",
        first.len(),
        second.len()
    );
}

#[test]
fn a_restart_under_load_loses_nothing_the_queue_can_hold() {
    let mut oap = FakeOap::start();
    let mut exporting = Exporting::start(settings([oap.address()]), 10_000);
    exporting.registry.register(identity(), Properties::default());
    oap.wait("properties", |received| !received.properties.is_empty());
    for _ in 0..3 {
        exporting.send_slowly(300);
        oap.kill();
        exporting.send_slowly(300);
        oap.restart();
    }
    exporting.send_slowly(200);
    // The new process may know nothing of the instance.
    oap.wait("properties, told again", |received| received.properties.len() > 1);
    let (account, log) = exporting.finish();
    assert_eq!(account.exported, tally(2_000), "{account}\n{log}");
    let counts = counts(&oap.received());
    assert_eq!(counts.len(), 2_000, "every segment came");
    assert!(
        counts.values().all(|count| *count <= 2),
        "a break sends a segment once more, not more often"
    );
    let twice = counts.values().filter(|count| **count > 1).count();
    assert!(twice <= 3 * 20, "at most one batch for each kill: {twice}");
    assert!(lines(&log, "WARN").len() <= 4, "not a flood: {log}");
}

#[test]
fn a_batch_under_way_when_oap_dies_is_sent_once_more_but_not_twice() {
    let mut oap = FakeOap::start_with(FakeSettings {
        segments: Mood::Silent,
        ..FakeSettings::default()
    });
    let mut exporting = Exporting::start(settings([oap.address()]), 1_000);
    exporting.send(20);
    oap.wait("a batch", |received| received.segments.len() == 20);
    oap.kill();
    oap.restart();
    oap.wait("the same batch", |received| received.segments.len() == 40);
    oap.kill();
    assert_eq!(exporting.settle().lost_to(Loss::Unconfirmed), tally(20));
    oap.change(|settings| settings.segments = Mood::Well);
    oap.restart();
    exporting.send(20);
    let (account, log) = exporting.finish();
    assert_eq!(account.exported, tally(20), "{account}\n{log}");
    assert_eq!(oap.received().segments.len(), 60);
}

#[test]
fn a_wrong_token_is_said_once_and_never_shown() {
    let oap = FakeOap::start_with(FakeSettings {
        token: Some("right".into()),
        ..FakeSettings::default()
    });
    let authentication = Some(Authentication::Token(Token::new("s3cret")));
    let mut exporting = Exporting::start(
        Settings {
            authentication,
            ..settings([oap.address()])
        },
        1_000,
    );
    exporting.registry.register(identity(), Properties::default());
    for _ in 0..10 {
        exporting.send(10);
        std::thread::sleep(100 * MS);
    }
    exporting.settle();
    assert!(oap.received().streams == 0 && oap.received().segments.is_empty());
    let tries = oap.received().tokens.len();
    assert!((2..=20).contains(&tries), "tried again, but slowly: {tries}");
    // OAP is given the token the probe has.
    oap.change(|settings| settings.token = Some("s3cret".into()));
    std::thread::sleep(400 * MS);
    exporting.send(30);
    oap.wait("properties", |received| !received.properties.is_empty());
    let (account, log) = exporting.finish();
    assert_eq!(account.lost_to(Loss::OapRefused), tally(100), "{account}\n{log}");
    assert_eq!(account.exported, tally(30), "{account}\n{log}");
    let said = lines(&log, "ERROR");
    assert_eq!(said.len(), 1, "{log}");
    assert!(
        said[0].contains("SW_AGENT_AUTHENTICATION") && said[0].contains("wrong"),
        "{log}"
    );
    assert!(!log.contains("s3cret"), "{log}");
    let received = oap.received();
    assert!(
        received
            .tokens
            .iter()
            .all(|token| token.as_deref() == Some("s3cret")),
        "on every call"
    );
    assert!(!received.properties.is_empty(), "heartbeats recover as well");
}

/// As Kubernetes does with a secret, whichever of the two is first.
#[test]
fn a_token_is_followed_when_its_file_is_written_anew() {
    let oap = FakeOap::start_with(FakeSettings {
        token: Some("s3cret-1".into()),
        ..FakeSettings::default()
    });
    let directory = tempfile::tempdir().expect("a directory can be made");
    let file = directory.path().join("token");
    let write = |token: &str| std::fs::write(&file, token).expect("a file can be written");
    write("s3cret-1");
    let mut exporting = Exporting::start(
        Settings {
            authentication: Some(Authentication::File(file.clone())),
            // Nothing below waits for it.
            refused_pause: 60_000 * MS,
            ..settings([oap.address()])
        },
        1_000,
    );
    exporting.send(20);
    assert_eq!(exporting.settle().exported, tally(20));
    // The file is first: what is refused with the old one is sent again with the new one.
    write("s3cret-2");
    oap.change(|settings| settings.token = Some("s3cret-2".into()));
    exporting.send(20);
    assert_eq!(exporting.settle().exported, tally(40));
    // OAP is first: that is a loss, until the file is there.
    oap.change(|settings| settings.token = Some("s3cret-3".into()));
    exporting.send(20);
    assert_eq!(exporting.settle().lost_to(Loss::OapRefused), tally(20));
    write("s3cret-3");
    exporting.send(20);
    assert_eq!(exporting.settle().exported, tally(60));
    let (_, log) = exporting.finish();
    assert_eq!(
        lines(&log, "The authentication token has changed").len(),
        2,
        "{log}"
    );
    assert_eq!(lines(&log, "ERROR").len(), 1, "{log}");
    assert!(!log.contains("s3cret"), "{log}");
}

#[test]
fn a_missing_token_is_said_to_be_missing() {
    let oap = FakeOap::start_with(FakeSettings {
        token: Some("right".into()),
        ..FakeSettings::default()
    });
    let mut exporting = Exporting::start(settings([oap.address()]), 1_000);
    exporting.send(10);
    exporting.settle();
    let (account, log) = exporting.finish();
    assert_eq!(account.lost_to(Loss::OapRefused), tally(10));
    assert!(
        lines(&log, "ERROR").len() == 1 && log.contains("missing"),
        "{log}"
    );
}

#[test]
fn a_backend_that_refuses_leaves_all_to_the_other() {
    let refusing = FakeOap::start_with(FakeSettings {
        token: Some("other".into()),
        ..FakeSettings::default()
    });
    let oap = FakeOap::start();
    // Whichever is tried first.
    for _ in 0..4 {
        let mut exporting = Exporting::start(settings([refusing.address(), oap.address()]), 1_000);
        exporting.send(50);
        let (account, log) = exporting.finish();
        assert_eq!(account.exported, tally(50), "{account}\n{log}");
    }
    assert_eq!(refusing.received().segments.len(), 0);
    assert_eq!(oap.received().segments.len(), 4 * 50);
}

#[test]
fn a_queue_that_overflows_closes_the_sum_exactly() {
    let oap = FakeOap::start_with(FakeSettings {
        segments: Mood::Silent,
        ..FakeSettings::default()
    });
    let mut exporting = Exporting::start(
        Settings {
            deadline: 300 * MS,
            flush: 200 * MS,
            ..settings([oap.address()])
        },
        100,
    );
    exporting.send(1_000);
    let full = exporting.telemetry.account().lost_to(Loss::QueueFull).segments;
    assert!(
        (850..=900).contains(&full),
        "the newest are dropped at once: {full}"
    );
    std::thread::sleep(500 * MS);
    let start = Instant::now();
    let (account, log) = exporting.finish();
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "the end is not held up: {:?}\n{log}",
        start.elapsed()
    );
    assert_eq!(account.exported, tally(0));
    assert!(account.lost_to(Loss::Unconfirmed).segments >= 20, "{account}");
    assert!(account.lost_to(Loss::FlushDeadline).segments >= 20, "{account}");
    let oldest: HashSet<usize> = counts(&oap.received()).into_keys().collect();
    assert!(
        oldest.contains(&0) && oldest.iter().all(|number| *number < 150),
        "the oldest were kept"
    );
}

#[test]
fn what_was_not_confirmed_in_time_is_not_told_twice() {
    for mood in [Mood::Silent, Mood::Deaf] {
        let oap = FakeOap::start_with(FakeSettings {
            segments: mood,
            ..FakeSettings::default()
        });
        let mut exporting = Exporting::start(
            Settings {
                deadline: 300 * MS,
                ..settings([oap.address()])
            },
            1_000,
        );
        exporting.send(20);
        oap.wait("a stream", |received| received.streams == 1);
        oap.change(|settings| settings.segments = Mood::Well);
        exporting.send(20);
        let (account, log) = exporting.finish();
        assert_eq!(
            account.lost_to(Loss::Unconfirmed),
            tally(20),
            "{mood:?} {account}\n{log}"
        );
        assert_eq!(account.exported, tally(20), "{mood:?} {account}\n{log}");
        assert!(counts(&oap.received()).values().all(|count| *count == 1));
        assert_eq!(lines(&log, "did not confirm").len(), 1, "{log}");
    }
}

#[test]
fn a_stream_that_fails_costs_only_its_batch() {
    let oap = FakeOap::start_with(FakeSettings {
        segments: Mood::FailingAfter(3),
        ..FakeSettings::default()
    });
    let mut exporting = Exporting::start(settings([oap.address()]), 1_000);
    exporting.send(20);
    oap.wait("a failed stream", |received| received.segments.len() == 3);
    oap.change(|settings| settings.segments = Mood::Well);
    exporting.send(100);
    let (account, log) = exporting.finish();
    let failed = account.lost_to(Loss::ExportFailed).segments;
    assert!((3..=20).contains(&failed), "{account}\n{log}");
    assert_eq!(account.exported.segments, 120 - failed, "{account}\n{log}");
    assert!(
        counts(&oap.received()).values().all(|count| *count == 1),
        "none is told twice"
    );
    assert_eq!(lines(&log, "OAP did not take a batch").len(), 1, "{log}");
}

#[test]
fn something_that_takes_no_segments_is_named_and_left_alone() {
    let oap = FakeOap::start_with(FakeSettings {
        segments: Mood::Refusing(Code::Unimplemented),
        ..FakeSettings::default()
    });
    let mut exporting = Exporting::start(settings([oap.address()]), 1_000);
    exporting.registry.register(identity(), Properties::default());
    for _ in 0..10 {
        exporting.send(10);
        std::thread::sleep(50 * MS);
    }
    exporting.settle();
    oap.wait("pings", |received| received.pings.len() >= 2);
    let (account, log) = exporting.finish();
    assert_eq!(
        account.lost_to(Loss::OapUnimplemented),
        tally(100),
        "{account}\n{log}"
    );
    let streams = oap.received().streams;
    assert!((1..=4).contains(&streams), "tried again, but slowly: {streams}");
    assert_eq!(lines(&log, "takes no segments").len(), 1, "{log}");
}

#[test]
fn a_missing_management_service_does_not_hurt_segments() {
    let oap = FakeOap::start_with(FakeSettings {
        management: Mood::Refusing(Code::Unimplemented),
        ..FakeSettings::default()
    });
    let mut exporting = Exporting::start(settings([oap.address()]), 1_000);
    exporting.registry.register(identity(), Properties::default());
    exporting.send(50);
    // Five heartbeats.
    std::thread::sleep(500 * MS);
    exporting.send(50);
    let (account, log) = exporting.finish();
    assert_eq!(account.exported, tally(100), "{account}\n{log}");
    assert_eq!(oap.received().management_calls, 1, "asked once, then left alone");
    assert_eq!(lines(&log, "no management service").len(), 1, "{log}");
}

#[test]
fn a_management_service_that_hangs_does_not_hurt_segments() {
    let oap = FakeOap::start_with(FakeSettings {
        management: Mood::Silent,
        ..FakeSettings::default()
    });
    let mut exporting = Exporting::start(settings([oap.address()]), 1_000);
    exporting.registry.register(identity(), Properties::default());
    exporting.send(50);
    assert_eq!(exporting.settle().exported, tally(50));
    let start = Instant::now();
    exporting.finish();
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[test]
fn an_oap_that_wants_to_be_spared_is_spared() {
    for code in [Code::ResourceExhausted, Code::Unavailable] {
        let oap = FakeOap::start_with(FakeSettings {
            segments: Mood::Refusing(code),
            ..FakeSettings::default()
        });
        let mut exporting = Exporting::start(settings([oap.address()]), 1_000);
        exporting.send(100);
        // Attempts after 20, 32, 51, 82, 131, 200, 200 ms.
        std::thread::sleep(600 * MS);
        let streams = oap.received().streams;
        assert!((3..=8).contains(&streams), "{code:?}: backs off: {streams}");
        oap.change(|settings| settings.segments = Mood::Well);
        assert_eq!(exporting.settle().exported, tally(100), "{code:?}");
        let (_, log) = exporting.finish();
        assert_eq!(lines(&log, "OAP did not take a batch").len(), 1, "{log}");
        assert!(counts(&oap.received()).values().all(|count| *count == 1));
    }
}

#[test]
fn an_oap_that_is_never_spared_enough_does_not_block_for_ever() {
    let oap = FakeOap::start_with(FakeSettings {
        segments: Mood::Refusing(Code::ResourceExhausted),
        ..FakeSettings::default()
    });
    let backoff = Backoff {
        first: MS,
        most: 5 * MS,
    };
    let mut exporting = Exporting::start(
        Settings {
            backoff,
            ..settings([oap.address()])
        },
        1_000,
    );
    exporting.send(20);
    assert_eq!(exporting.settle().lost_to(Loss::ExportFailed), tally(20));
    exporting.finish();
}

/// A certificate authority, in PEM, and what it has signed.
struct Authority {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().expect("a key can be made");
        let mut parameters = rcgen::CertificateParams::default();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).expect("it signs itself");
        Self {
            certificate,
            issuer: rcgen::Issuer::new(parameters, key),
        }
    }

    /// A certificate and its key.
    fn sign(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().expect("a key can be made");
        let parameters = rcgen::CertificateParams::new([name.to_owned()]).expect("the name is one");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("it signs");
        (certificate.pem(), key.serialize_pem())
    }

    fn pem(&self) -> String {
        self.certificate.pem()
    }
}

#[test]
fn tls_with_a_private_authority() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let write = |name: &str, pem: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, pem).expect("a file can be written");
        Some(path)
    };
    let authority = Authority::new();
    let (certificate, key) = authority.sign("localhost");
    let server = FakeTls {
        certificate,
        key,
        client_ca: None,
    };
    let start = |tls: FakeTls| {
        FakeOap::start_with(FakeSettings {
            tls: Some(tls),
            ..FakeSettings::default()
        })
    };
    let oap = start(server.clone());
    let strict = start(FakeTls {
        client_ca: Some(authority.pem()),
        ..server
    });
    let at =
        |oap: &FakeOap, scheme: &str| [oap.address().replace("127.0.0.1", &format!("{scheme}localhost"))];
    let ca = write("ca.pem", &authority.pem());
    let (certificate, key) = authority.sign("probe");
    let (certificate, key) = (write("probe.pem", &certificate), write("probe.key", &key));

    let trusting = Tls { ca, ..Tls::default() };
    let known = Tls {
        certificate,
        key,
        ..trusting.clone()
    };
    let outcome = |backends: [String; 1], tls: Tls| {
        let mut exporting = Exporting::start(
            Settings {
                tls,
                ..settings(backends)
            },
            1_000,
        );
        exporting.send(30);
        exporting.finish()
    };

    let (account, log) = outcome(
        at(&oap, ""),
        Tls {
            enabled: true,
            ..trusting.clone()
        },
    );
    assert_eq!(account.exported, tally(30), "by the setting: {log}");
    let (account, log) = outcome(at(&oap, "https://"), trusting.clone());
    assert_eq!(account.exported, tally(30), "by the prefix: {log}");
    let (account, log) = outcome(at(&strict, "https://"), known.clone());
    assert_eq!(
        account.exported,
        tally(30),
        "with a certificate of our own: {log}"
    );

    let (account, log) = outcome(at(&strict, "https://"), trusting.clone());
    assert_eq!(account.exported, tally(0), "without one: {log}");
    assert!(
        log.contains("if it asks for a client certificate, name one"),
        "{log}"
    );
    let (account, log) = outcome(at(&oap, "https://"), Tls::default());
    assert_eq!(account.exported, tally(0), "an authority nobody knows: {log}");
    assert!(log.contains("UnknownIssuer"), "{log}");
    let other = write("other.pem", &Authority::new().pem());
    let (account, log) = outcome(
        at(&oap, "https://"),
        Tls {
            ca: other,
            ..Tls::default()
        },
    );
    assert_eq!(account.exported, tally(0), "another authority: {log}");
    let (account, log) = outcome(
        [oap.address().replace("127.0.0.1", "https://127.0.0.1")],
        trusting,
    );
    assert_eq!(account.exported, tally(0), "another name: {log}");
    let (account, log) = outcome(at(&oap, ""), Tls::default());
    assert_eq!(account.exported, tally(0), "plaintext to a TLS port: {log}");
    assert_eq!(counts(&oap.received()).len(), 30);
    assert_eq!(oap.received().segments.len(), 60);
    assert_eq!(strict.received().segments.len(), 30);
}

#[test]
fn certificates_are_read_anew() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let ca = directory.path().join("ca.pem");
    let server_of = |authority: &Authority| {
        let (certificate, key) = authority.sign("localhost");
        std::fs::write(&ca, authority.pem()).expect("a file can be written");
        FakeTls {
            certificate,
            key,
            client_ca: None,
        }
    };
    let mut oap = FakeOap::start_with(FakeSettings {
        tls: Some(server_of(&Authority::new())),
        ..FakeSettings::default()
    });
    let mut exporting = Exporting::start(
        Settings {
            tls: Tls {
                ca: Some(ca.clone()),
                ..Tls::default()
            },
            ..settings([oap.address().replace("127.0.0.1", "https://localhost")])
        },
        1_000,
    );
    exporting.send(20);
    assert_eq!(exporting.settle().exported, tally(20));
    // A file that is being written changes nothing.
    std::fs::write(&ca, "").expect("a file can be written");
    oap.kill();
    oap.restart();
    exporting.send(20);
    assert_eq!(exporting.settle().exported, tally(40));
    let next = server_of(&Authority::new());
    oap.kill();
    oap.change(|settings| settings.tls = Some(next));
    oap.restart();
    exporting.send(20);
    assert_eq!(exporting.settle().exported, tally(60));
    let (_, log) = exporting.finish();
    // Whether the broken file was looked at depends on which end noticed first that the connection was gone.
    let changed = "The certificates for the connection to OAP have changed";
    assert_eq!(lines(&log, changed).len(), 1, "{log}");
}

#[test]
fn what_listens_there_is_no_oap() {
    // It takes connections and never says a word.
    let mute = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
    let address = mute.local_addr().expect("a listener has an address").to_string();
    let mut exporting = Exporting::start(
        Settings {
            deadline: 200 * MS,
            flush: 300 * MS,
            connect_timeout: 200 * MS,
            ..settings([address])
        },
        1_000,
    );
    exporting.send(20);
    std::thread::sleep(500 * MS);
    let start = Instant::now();
    let (account, log) = exporting.finish();
    assert!(start.elapsed() < Duration::from_secs(1), "{log}");
    assert_eq!(account.exported, tally(0));
    assert!(lines(&log, "WARN").len() <= 3, "not a flood: {log}");
}
