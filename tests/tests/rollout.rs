//! The probe itself is replaced, as a DaemonSet's update does, and OAP moves to another address.

#![expect(
    clippy::disallowed_methods,
    reason = "which requests fell into a probe's time is what is tested"
)]
#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::{
    fs,
    net::Ipv4Addr,
    process::Command,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tests::{
    fake_oap::{FakeOap, FakeSettings},
    needs_probe,
    probe::{self, Ended, Probe},
    scene::{Scene, truth_program},
    target::Load,
    truth::{self, Record},
};

/// How long each of the probes traces.
const TERM: Duration = Duration::from_secs(2);

fn now_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_nanos()).unwrap()
}

/// A probe's time: from when it was ready until it was told to stop.
struct Term {
    begin_ns: i64,
    end_ns: i64,
    ended: Ended,
}

impl Term {
    fn of(scene: &Scene, arguments: &[&str]) -> Self {
        let probe = scene.trace(arguments).unwrap();
        let begin_ns = now_ns();
        thread::sleep(TERM);
        let end_ns = now_ns();
        let ended = probe.stop().unwrap();
        assert!(ended.status.success(), "{}", ended.stderr);
        Self {
            begin_ns,
            end_ns,
            ended,
        }
    }

    /// What began and ended in its time. A call that was served by then was made by then, but not yet ended.
    fn records<'a>(&self, all: &'a [Record]) -> Vec<&'a Record> {
        all.iter()
            .filter(|record| {
                record.start_ns > self.begin_ns && record.end_ns > 0 && record.end_ns < self.end_ns
            })
            .collect()
    }
}

/// An update and its rollback, under load: the old one has ended when the new one starts, as with `maxSurge: 0`.
#[test]
fn the_probe_is_updated_and_rolled_back_without_harm() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let load = Load::start(&truth_program().unwrap(), &scene.front, 200, 3600.0, "sync").unwrap();
    // The versions differ by what they are told: that it is another build makes no difference to the kernel.
    let terms = [&[][..], &["--propagate=sw8,w3c"], &[]].map(|arguments| Term::of(&scene, arguments));
    let summary = load.enough().unwrap();
    assert_eq!(summary.failed, 0, "{}", summary.first_error);

    let records = scene.records().unwrap();
    let mut told = 0;
    for term in &terms {
        let own = term.records(&records);
        assert!(own.len() > 100, "{} in {TERM:?}", own.len());
        let account = truth::join(&records, &term.ended.segments, true);
        let total = account.total();
        assert_eq!(
            (total.parents.wrong, total.references.wrong, account.invented),
            (0, 0, 0),
            "{account}\n{}",
            term.ended.stderr
        );
        // All of its time, whatever it may know of the moments before and after.
        let own: Vec<Record> = own.into_iter().cloned().collect();
        let account = truth::join(&own, &term.ended.segments, true).total();
        assert_eq!(account.found, account.made, "{}", term.ended.stderr);
        told += account.found;
    }
    println!(
        "{told} of {} spans fell into a probe's time, and all were told",
        records.len()
    );
    assert!(summary.sent * 3 > told, "some fell between");
}

/// Traces to an OAP that has one name and moves, as one behind a gateway's or a headless service's name does.
#[test]
fn an_oap_is_found_where_its_name_leads() {
    const NAME: &str = "oap.skyprobe.test";
    needs_probe!();
    let folder = tempfile::tempdir().unwrap();
    let hosts = folder.path().join("hosts");
    let point = |addresses: &[Ipv4Addr]| {
        let lines = addresses.iter().map(|address| format!("{address} {NAME}\n"));
        fs::write(&hosts, lines.collect::<String>()).unwrap();
    };
    let [first, second, dead] = [1, 2, 3].map(|last| Ipv4Addr::new(127, 0, 0, last));
    let mut oap = FakeOap::start();
    let (_, port) = oap
        .address()
        .rsplit_once(':')
        .map(|(host, port)| (host.to_owned(), port.parse().unwrap()))
        .unwrap();
    point(&[first]);
    let scene = Scene::start().unwrap();
    let pid = scene.back.target.pid().to_string();
    // With a file of its own for names.
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "sh",
        "-c",
        "mount --bind \"$0\" /etc/hosts && exec \"$@\"",
    ]);
    command.arg(&hosts).arg(probe::binary().unwrap());
    command.args(["run", "--pid", &pid, "--oap", &format!("{NAME}:{port}")]);
    let probe = Probe::spawn(&mut command).unwrap();
    probe.ready().unwrap();
    let ask = |id: u32| {
        let answer = scene.back.get(&format!("/leaf/{id}")).unwrap();
        assert_eq!(answer.status, 200);
    };
    ask(1);
    oap.wait("a segment", |received| received.segments.len() == 1);

    let start = |host, port| {
        FakeOap::start_with(FakeSettings {
            host: Some(host),
            port,
            ..FakeSettings::default()
        })
    };
    point(&[second]);
    let moved = start(second, port);
    oap.kill();
    ask(2);
    moved.wait("a segment at the other address", |received| {
        received.segments.len() == 1
    });
    // A name with several addresses, of which one does not answer.
    point(&[dead, first]);
    drop(moved);
    oap.restart();
    ask(3);
    oap.wait("a segment at the first address", |received| {
        received.segments.len() == 2
    });
    let ended = probe.stop().unwrap();
    assert!(
        ended.status.success() && ended.segments.is_empty(),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("all exported"), "{}", ended.stderr);
}
