//! The probe over a long time, one hour with `--full`: each span accounted for, its memory flat, its clock true, and a
//! pause in the middle as a suspended machine makes it.

#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use probe_user::clock::{WallClock, now_boot_ns};
use tests::{
    needs_probe, probe,
    scene::{Scene, truth_program},
    segment::Segment,
    skip::full,
    target::Load,
};

/// What is noted of the segments; they are too many to keep.
#[derive(Debug, Default)]
struct Noted {
    spans: u64,
    with_parent_missing: u64,
    /// By turns of the test: how late the quickest segment came after its last span's end, in milliseconds.
    least_late_ms: Vec<i64>,
}

/// Two requests' worth of spans each: a request at the front, its call, the request at the back.
const SPANS_EACH: u64 = 3;

/// Requests a second: few enough that a pause of half a minute fits into the ring.
const RATE: u32 = 60;

/// Turns that the time is cut into.
const TURNS: u32 = 10;

/// What the probe holds may grow by so much before the pause, and after it.
const GROWTH_MAX_KB: u64 = 1024;

/// What has waited while it was paused is held at once, and the room for it stays.
const PAUSE_MAX_KB: u64 = 8 * 1024;

fn now_ms() -> i64 {
    i64::try_from(WallClock::read().wall_ns(now_boot_ns()) / 1_000_000).unwrap()
}

fn rss_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap().trim().trim_end_matches(" kB").parse().unwrap()
}

fn listen(child: &mut Child, noted: &Arc<Mutex<Noted>>) -> thread::JoinHandle<()> {
    let (stdout, noted) = (child.stdout.take().unwrap(), Arc::clone(noted));
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let segment: Segment = serde_json::from_str(&line).unwrap();
            let late_ms = now_ms() - segment.spans.iter().map(|span| span.end_time).max().unwrap();
            let mut noted = noted.lock().unwrap();
            noted.spans += segment.spans.len() as u64;
            noted.with_parent_missing +=
                u64::from(segment.service == "back" && segment.spans.iter().any(|span| span.refs.is_empty()));
            if let Some(least) = noted.least_late_ms.last_mut() {
                *least = late_ms.min(*least);
            }
        }
    })
}

fn signal(child: &Child, signal: libc::c_int) {
    // SAFETY: the child has not been waited for, so its pid is still its own.
    unsafe { libc::kill(libc::pid_t::try_from(child.id()).unwrap(), signal) };
}

#[test]
fn nothing_is_lost_and_nothing_grows() {
    needs_probe!();
    let (turn_s, pause_s) = if full() { (360, 30) } else { (2, 1) };
    let scene = Scene::start().unwrap();
    let pids = [scene.front.target.pid(), scene.back.target.pid()];
    let mut command = Command::new(probe::binary().unwrap());
    command
        .args(["run", "--export", "json"])
        .args(pids.iter().flat_map(|pid| ["--pid".to_owned(), pid.to_string()]))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let noted = Arc::new(Mutex::new(Noted::default()));
    let listener = listen(&mut child, &noted);
    let mut words = BufReader::new(child.stderr.take().unwrap()).lines();
    let is_ready = words
        .by_ref()
        .map_while(Result::ok)
        .any(|line| line.starts_with("ready"));
    assert!(is_ready);

    let seconds = f64::from(turn_s * TURNS);
    let load = Load::start(&truth_program().unwrap(), &scene.front, RATE, seconds, "sync").unwrap();
    let mut rss = Vec::new();
    for turn in 0..TURNS {
        noted.lock().unwrap().least_late_ms.push(i64::MAX);
        let paused_s = if turn == TURNS / 2 { pause_s } else { 0 };
        if paused_s > 0 {
            signal(&child, libc::SIGSTOP);
            thread::sleep(Duration::from_secs(paused_s));
            signal(&child, libc::SIGCONT);
        }
        thread::sleep(Duration::from_secs(u64::from(turn_s) - paused_s));
        rss.push(rss_kb(child.id()));
    }
    let load = load.finish().unwrap();
    assert_eq!(load.failed, 0, "{load:?}");
    thread::sleep(Duration::from_millis(300));
    signal(&child, libc::SIGTERM);
    let account: Vec<String> = words.map_while(Result::ok).collect();
    assert!(child.wait().unwrap().success(), "{account:#?}");
    listener.join().unwrap();

    let noted = noted.lock().unwrap();
    println!("{load:?}\n{noted:?}\nRSS in KB at the end of each turn: {rss:?}\n{account:#?}");
    assert_eq!(noted.spans, load.sent * SPANS_EACH, "{account:#?}");
    assert_eq!(noted.with_parent_missing, 0);
    assert!(
        !account.iter().any(|line| line.contains("lost in")),
        "{account:#?}"
    );
    let (before, after) = rss.split_at(TURNS as usize / 2);
    for part in [before, after] {
        let (first, last) = (part.first().unwrap(), part.last().unwrap());
        assert!(*last <= first + GROWTH_MAX_KB, "{rss:?}");
    }
    assert!(after[0] <= before[0] + PAUSE_MAX_KB, "{rss:?}");
    // A clock that ran away would make the quickest segment of a turn early, or late. Times are cut to milliseconds.
    for late_ms in &noted.least_late_ms {
        assert!((0..=50).contains(late_ms), "{:?}", noted.least_late_ms);
    }
}
