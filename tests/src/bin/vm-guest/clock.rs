//! The wall clock is set while requests are served: in here it is ours.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use tests::{client, probe::Probe, scene::Scene, segment::Span, truth};

use crate::checks::{Finding, judged};

const HOUR_S: i64 = 3600;
/// The probe looks at the clock four times a second; this machine is emulated.
const SETTLED: Duration = Duration::from_secs(2);
/// How far a span may be from what the program itself has noted, which looks at the clock a little later or earlier.
const TOLERANCE_MS: i64 = 1000;
/// No request here takes as long.
const DURATION_MAX_MS: i64 = 60_000;
/// What runs all the time is numbered from here on.
const UNDER_WAY_IDS: u64 = 1_000_000;
/// For so long the probe is stopped.
const STOPPED: Duration = Duration::from_secs(6);

/// An hour on, two back, one on while the probe is stopped: what is asked afterwards has the wall's time, no span takes
/// an hour or less than nothing, and all links are as ever.
pub(crate) fn clock() -> Result<Finding> {
    let scene = Scene::start()?;
    let probe = scene.trace(&[])?;
    let over = AtomicBool::new(false);
    let asked = AtomicU64::new(0);
    let host = scene.front.host();
    let settled = thread::scope(|scope| {
        scope.spawn(|| {
            let mut id = UNDER_WAY_IDS;
            while !over.load(Ordering::Relaxed) {
                id += 1;
                if client::get(host, &format!("/sync/{id}")).is_ok_and(|answer| answer.status == 200) {
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let settled = steps(&scene, &probe);
        over.store(true, Ordering::Relaxed);
        settled
    })?;
    ensure!(
        asked.load(Ordering::Relaxed) > 100,
        "hardly anything ran meanwhile: {asked:?} requests"
    );
    let records: HashMap<u64, truth::Record> = scene
        .records()?
        .into_iter()
        .filter(|record| record.kind == truth::Side::Entry && settled.contains(&record.id))
        .map(|record| (record.id, record))
        .collect();
    let (account, ended) = scene.judge(probe, true)?;
    let finding = judged(&account, &ended);
    let mut compared = 0;
    for span in ended.segments.iter().flat_map(|segment| &segment.spans) {
        let took_ms = span.end_time - span.start_time;
        ensure!(
            (0..DURATION_MAX_MS).contains(&took_ms),
            "a span took {took_ms} ms: {span:?}"
        );
        let record = truth::span_number(span).and_then(|id| records.get(&id));
        if let Some(record) = record.filter(|_| span.is_entry()) {
            let off_ms = off_ms(span, record);
            ensure!(
                off_ms <= TOLERANCE_MS,
                "{off_ms} ms from the wall's time: {span:?}, {record:?}"
            );
            compared += 1;
        }
    }
    ensure!(
        compared == settled.len(),
        "{compared} of the {} spans that come after a step",
        settled.len()
    );
    Ok(finding)
}

/// Sets the clock three times; the numbers of what was asked when it had been right for a while.
fn steps(scene: &Scene, probe: &Probe) -> Result<Vec<u64>> {
    let mut settled = Vec::new();
    let mut ask = || -> Result<()> {
        thread::sleep(SETTLED);
        for _ in 0..10 {
            let id = settled.len() as u64 + 1;
            ensure!(scene.ask("sync", id)?.status == 200, "no answer");
            settled.push(id);
        }
        // A span has the time of the clock as it is when its record is read.
        thread::sleep(SETTLED);
        Ok(())
    };
    ask()?;
    for hours in [1, -2] {
        set_forward(hours * HOUR_S)?;
        ask()?;
    }
    probe.signal(libc::SIGSTOP);
    thread::sleep(STOPPED / 2);
    set_forward(HOUR_S)?;
    thread::sleep(STOPPED / 2);
    probe.signal(libc::SIGCONT);
    ask()?;
    Ok(settled)
}

fn set_forward(seconds: i64) -> Result<()> {
    let now = clock_gettime(ClockId::Realtime);
    let then = Timespec {
        tv_sec: now.tv_sec + seconds,
        ..now
    };
    clock_settime(ClockId::Realtime, then).context("set the clock")
}

fn off_ms(span: &Span, record: &truth::Record) -> i64 {
    let off = |reported_ms: i64, true_ns: i64| (true_ns / 1_000_000 - reported_ms).abs();
    off(span.start_time, record.start_ns).max(off(span.end_time, record.end_ns))
}
