//! Sampling: each method holds its rate under ten times the load, traces stay whole, and all requests are counted.

#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::{collections::HashSet, thread, time::Duration};

use tests::{
    client::{Connection, Response},
    needs_probe, needs_rpc,
    probe::{Ended, Probe, has_span},
    rpc::Row,
    scene::{Scene, truth_program},
    segment::Segment,
    target::{Load, LoadSummary},
};

/// What the account says of sampling.
#[derive(Debug)]
struct Sampled {
    sampled: u64,
    decided: u64,
    followed: u64,
    kept: u64,
    left_out: u64,
}

impl Sampled {
    #[track_caller]
    fn of(ended: &Ended) -> Self {
        let line = ended.stderr.lines().find(|line| line.starts_with("sampled: "));
        let line = line.unwrap();
        let number = |word: &str| word.trim_end_matches(',').parse::<u64>().ok();
        let numbers: Vec<u64> = line.split(' ').filter_map(number).collect();
        let [sampled, decided, followed, kept, left_out] = numbers.try_into().unwrap();
        Self {
            sampled,
            decided,
            followed,
            kept,
            left_out,
        }
    }
}

/// Whether the segment refers to the first call of `caller`.
fn follows(segment: &Segment, caller: &Segment) -> bool {
    let exit = caller.exits().next().unwrap();
    let reference = segment.entry().and_then(|entry| entry.refs.first());
    reference.is_some_and(|it| {
        it.parent_trace_segment_id == caller.trace_segment_id && it.parent_span_id == exit.span_id
    })
}

/// The paths of the requests that were reported.
fn served(ended: &Ended) -> HashSet<&str> {
    let segments = ended.segments.iter();
    segments.filter_map(|segment| segment.entry()?.path()).collect()
}

/// Ends the probe once all requests are: one may be answered before its end is seen.
fn end(probe: Probe) -> Ended {
    thread::sleep(Duration::from_millis(300));
    let ended = probe.stop().unwrap();
    assert_eq!(ended.losses().count(), 0, "{}", ended.stderr);
    ended
}

/// Loads the front of a scene under the probe.
fn load(arguments: &[&str], rate: u32, seconds: f64, shapes: &str) -> (Ended, LoadSummary) {
    let scene = Scene::start().unwrap();
    let probe = scene.trace(arguments).unwrap();
    let load = Load::start(&truth_program().unwrap(), &scene.front, rate, seconds, shapes).unwrap();
    let summary = load.finish().unwrap();
    assert_eq!(summary.failed, 0, "{summary:?}");
    (end(probe), summary)
}

#[test]
fn a_ratio_holds_and_traces_stay_whole() {
    needs_probe!();
    let (ended, load) = load(&["--sample-rate=0.1"], 500, 4.0, "sync");
    let said = Sampled::of(&ended);
    let of = |service: &'static str| ended.segments.iter().filter(move |it| it.service == service);
    let fronts = of("front").count() as u64;
    let wanted = load.sent / 10;
    // Five standard deviations.
    assert!(fronts.abs_diff(wanted) < 70, "{fronts} of {}", load.sent);
    for front in of("front") {
        let backs = of("back").filter(|back| follows(back, front));
        assert_eq!(backs.count(), 1, "{front:#?}");
    }
    // Those behind a request that was not sampled are decided anew.
    let alone = of("back").filter(|back| back.entry().unwrap().refs.is_empty());
    assert_eq!(alone.count() as u64 + fronts, said.sampled);
    assert_eq!(said.decided, 2 * load.sent - fronts, "{said:?}");
    assert_eq!((said.followed, said.kept), (fronts, 0));
    // Two spans of the front and one of the back, each reported or counted.
    assert_eq!(ended.spans() + said.left_out, 3 * load.sent, "{said:?}");
}

#[test]
fn a_bucket_holds_its_rate() {
    needs_probe!();
    let (ended, load) = load(&["--rate-per-second=20", "--burst-size=10"], 200, 4.0, "leaf");
    let said = Sampled::of(&ended);
    assert_eq!(said.decided, load.sent);
    assert_eq!(said.sampled, ended.segments.len() as u64);
    assert_eq!(said.left_out, load.sent - said.sampled);
    let most = 11.0 + 20.0 * load.seconds;
    let least = 20.0 * (load.seconds - 0.5);
    assert!(
        (least..=most).contains(&(said.sampled as f64)),
        "{said:?} in {} s",
        load.seconds
    );
}

#[test]
fn of_each_three_seconds_the_first_few() {
    needs_probe!();
    let (ended, load) = load(&["--sample-n-per-3-secs=12"], 40, 6.5, "leaf");
    let said = Sampled::of(&ended);
    assert_eq!(said.decided, load.sent);
    assert_eq!(said.sampled, ended.segments.len() as u64);
    // Two windows are whole, and one or two are not.
    assert!((24..=48).contains(&said.sampled), "{said:?}");
}

#[test]
fn adaptive_falls_under_load_and_recovers() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let probe = scene
        .trace(&[
            "--sampling=adaptive",
            "--adaptive-threshold=50",
            "--adaptive-cpu-percent=0.1",
        ])
        .unwrap();
    let program = truth_program().unwrap();
    let much = Load::start(&program, &scene.front, 500, 10.0, "leaf").unwrap();
    let much = much.finish().unwrap();
    let under_load = probe.segments();
    let last_ms = under_load.iter().map(|it| it.spans[0].start_time).max().unwrap();
    let late = under_load
        .iter()
        .filter(|it| it.spans[0].start_time > last_ms - 4_000);
    let late = late.count();
    // 500 a second came; 50 are always sampled, and a thousandth of a processor pays for few more.
    assert!((120..=800).contains(&late), "{late} in the last four seconds");
    let little = Load::start(&program, &scene.front, 10, 14.0, "leaf").unwrap();
    let little = little.finish().unwrap();
    let ended = end(probe);
    assert!(
        ended.stderr.contains("Sampling adapted to the load"),
        "{}",
        ended.stderr
    );
    let last_ms = ended
        .segments
        .iter()
        .map(|it| it.spans[0].start_time)
        .max()
        .unwrap();
    let recovered = ended
        .segments
        .iter()
        .filter(|it| it.spans[0].start_time > last_ms - 3_000);
    let recovered = recovered.count();
    assert!((28..=32).contains(&recovered), "{recovered} of 30");
    assert_eq!(Sampled::of(&ended).decided, much.sent + little.sent);
}

#[test]
fn errors_and_slow_requests_are_kept() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let probe = scene
        .trace(&["--sample-rate=0", "--keep-errors", "--keep-slower-than=150ms"])
        .unwrap();
    for path in [
        "/leaf/1",
        "/sync/2",
        "/slow/3?ms=20",
        "/slow/4?ms=300",
        "/status/5?code=503",
        "/failed/6",
        "/timeout/7",
    ] {
        scene.front.get(path).unwrap();
    }
    let ended = end(probe);
    let served: HashSet<&str> = ended
        .segments
        .iter()
        .filter(|it| it.service == "front")
        .filter_map(|it| it.entry()?.path())
        .collect();
    assert_eq!(
        served,
        HashSet::from(["/slow/4", "/status/5", "/failed/6", "/timeout/7"]),
        "{:#?}",
        ended.segments
    );
    // The call that failed is kept with its request, though that one answers well.
    for path in ["/failed/6", "/timeout/7"] {
        let segment = ended
            .segments
            .iter()
            .find(|it| has_span(it, "Entry", path))
            .unwrap();
        assert!(segment.exits().any(|exit| exit.is_error), "{segment:#?}");
    }
    let said = Sampled::of(&ended);
    assert_eq!(said.sampled, 0);
    assert_eq!(said.kept, ended.segments.len() as u64, "{:#?}", ended.segments);
}

#[test]
fn a_path_may_have_its_own_ratio() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let probe = scene
        .trace(&[
            "--sample-paths=/leaf/*=0",
            "--sample-paths=/leaf/7=1",
            "--sample-paths=/leaf/70*=1",
        ])
        .unwrap();
    for path in ["/leaf/1", "/leaf/7", "/leaf/77", "/leaf/701", "/slow/2?ms=1"] {
        scene.front.get(path).unwrap();
    }
    let ended = end(probe);
    assert_eq!(served(&ended), HashSet::from(["/leaf/7", "/leaf/701", "/slow/2"]));
    assert_eq!(Sampled::of(&ended).left_out, 2);
}

#[test]
fn whose_caller_is_sampled_is_sampled_too() {
    needs_probe!();
    let scene = Scene::start().unwrap();
    let probe = scene.trace(&["--sample-rate=0", "--propagate=sw8,w3c"]).unwrap();
    let ask = |path: &str, header: &str| -> Response {
        let mut connection = Connection::open(scene.front.host()).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: front\r\n{header}\r\n\r\n");
        connection.send(request.as_bytes()).unwrap();
        connection.receive().unwrap()
    };
    let w3c =
        |flags: &str| format!("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
    ask("/leaf/1", "X-Other: 1");
    ask("/leaf/2", "sw8: 1-YQ==-Yg==-0-Yw==-ZA==-ZQ==-Zg==");
    ask("/leaf/3", &w3c("01"));
    // Decided by the back, too: what it is told is that nobody records this.
    ask("/sync/4", &w3c("00"));
    let ended = end(probe);
    assert_eq!(served(&ended), HashSet::from(["/leaf/2", "/leaf/3"]));
    let said = Sampled::of(&ended);
    assert_eq!((said.followed, said.decided, said.left_out), (2, 3, 4));
}

#[test]
fn calls_by_grpc_share_the_fate_of_their_request() {
    needs_rpc!();
    let row = Row::start().unwrap();
    let probe = row.trace(&["--sample-rate=0.5"]).unwrap();
    for id in 1..=100 {
        row.ask("relay", id).unwrap();
    }
    let ended = end(probe);
    let entries = |segment: &&Segment| {
        segment
            .entry()
            .is_some_and(|entry| entry.path().is_some_and(|path| path.starts_with("/relay/")))
    };
    let fronts: Vec<&Segment> = ended.segments.iter().filter(entries).collect();
    assert!((25..=75).contains(&fronts.len()), "{}", fronts.len());
    for front in fronts {
        let backs = ended.segments.iter().filter(|segment| follows(segment, front));
        assert_eq!(backs.count(), 1, "{front:#?}");
    }
    // No call is reported without what it belongs to.
    assert!(ended.segments.iter().all(|segment| segment.entry().is_some()));
}
