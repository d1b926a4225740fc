//! `cargo xtask bench`: what tracing costs a program, and what other ways to trace it cost, as ratios of one
//! interleaved run.
//!
//! Turns alternate, so that a neighbour who takes the machine for a while takes it from all. All that trace report to
//! one sink of ours. The load comes from `wrk`, from a generator that keeps a fixed rate, or, by gRPC, from a client of
//! our own, on connections that stay open.

mod aims;
mod hits;
mod load;
mod probe;
mod report;
mod rest;
mod row;
mod rpc;
mod scene;
mod sink;
mod steady;
mod variant;

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};

use self::{
    hits::{Counting, Hits},
    probe::{Probe, of_pids},
    report::{Cost, Figures, Report, Turn},
    row::Row,
    scene::Scene,
    sink::Sink,
    variant::{Build, By, Programs},
};
use crate::{build, debian, process::read, step::step, toolchain};

/// How long a program may take to listen, and the probe to attach.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the kernel counts hits.
const COUNTED_S: u32 = 1;

/// How the bench runs.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Only rows whose name contains one of these; `rest` is attaching and idling
    pub rows: Vec<String>,
    /// Rounds: in each, everything that traces has its turns once
    #[arg(long, default_value_t = 3)]
    pub pairs: u32,
    /// Seconds per turn
    #[arg(long, default_value_t = 2)]
    pub seconds: u32,
    /// Measure skyprobe only, and not what else traces
    #[arg(long)]
    pub alone: bool,
    /// Write the tables into docs/performance.md
    #[arg(long)]
    pub write: bool,
    /// Print the figures as JSON instead of tables
    #[arg(long)]
    pub json: bool,
}

impl Options {
    fn wants(&self, name: &str, by_default: bool) -> bool {
        if self.rows.is_empty() {
            return by_default;
        }
        let name = name.to_lowercase();
        self.rows.iter().any(|part| name.contains(&part.to_lowercase()))
    }
}

/// Builds, runs the turns, prints the medians.
pub fn run(options: &Options) -> Result<()> {
    toolchain::need_root("trace other processes")?;
    ensure!(
        !options.write || (options.rows.is_empty() && !options.alone),
        "the page holds all rows and all that trace: --write goes without a choice of them"
    );
    debian::ensure_program("wrk", "wrk", "put the programs under load")?;
    let skyprobe = build::release()?;
    let scratch = tempfile::tempdir().context("make a temporary directory")?;
    variant::fetch()?;
    let programs = Build::ALL
        .into_iter()
        .filter(|build| !options.alone || *build == Build::Plain)
        .map(|build| Ok((build, Programs::build(build, scratch.path())?)))
        .collect::<Result<BTreeMap<_, _>>>()?;
    let plain = programs.get(&Build::Plain).context("the plain programs")?;
    let mut bench = Bench {
        turns_of_work: calibrate(&plain.hello)?,
        sink: Sink::start(scratch.path())?,
        skyprobe: &skyprobe,
        programs: &programs,
        options,
    };
    let rows = row::ROWS
        .iter()
        .filter(|row| options.wants(row.name, row.by_default));
    let figures = rows.map(|row| bench.measure(row)).collect::<Result<Vec<_>>>()?;
    let rest = options
        .wants("rest", true)
        .then(|| rest::measure(&skyprobe, bench.sink.address, &plain.hello))
        .transpose()?;
    let report = Report {
        figures,
        rest,
        rounds: options.pairs,
        seconds: options.seconds,
    };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}", report.text());
    }
    if options.write {
        report.write(&build::root().join("docs/performance.md"))?;
    }
    Ok(())
}

/// How many turns of work take 100 µs here: asked once, so that all builds do the same.
fn calibrate(hello: &Path) -> Result<u64> {
    let said = read(std::process::Command::new(hello).args(["-calibrate", "100us"]));
    let said = said.context("ask how much work 100 µs are")?;
    said.trim().parse().context("read how much work 100 µs are")
}

/// What all rows are measured with.
struct Bench<'a> {
    skyprobe: &'a Path,
    sink: Sink,
    programs: &'a BTreeMap<Build, Programs>,
    turns_of_work: u64,
    options: &'a Options,
}

impl Bench<'_> {
    /// The rounds of a row: in each, one after the other, everything that traces.
    fn measure(&mut self, row: &Row) -> Result<Figures> {
        let Options { pairs, seconds, .. } = *self.options;
        let turns: Vec<By> = row
            .by
            .iter()
            .copied()
            .filter(|by| self.programs.contains_key(&by.build()))
            .collect();
        step(format!(
            "{}: {pairs} rounds of {} by {seconds} s twice",
            row.name,
            turns.len()
        ));
        let mut scenes = BTreeMap::new();
        for by in &turns {
            if let Some(programs) = self.programs.get(&by.build())
                && !scenes.contains_key(&by.build())
            {
                let mut scene = Scene::start(row.work, programs, self.sink.address, self.turns_of_work)?;
                // Connections, caches and the Go scheduler settle first.
                let settled = scene.saturate(seconds)?;
                scenes.insert(by.build(), (scene, settled));
            }
        }
        let (_, untraced) = scenes.get(&Build::Plain).context("the plain programs")?;
        let rate = (untraced.requests_per_s / 2.0).round();
        let mut rounds = Vec::new();
        for _ in 0..pairs {
            let mut round = BTreeMap::new();
            for by in &turns {
                let (scene, _) = scenes.get_mut(&by.build()).context("the programs of a turn")?;
                round.insert(*by, self.turn(*by, scene, rate)?);
            }
            rounds.push(round);
        }
        let (scene, _) = scenes.get_mut(&Build::Plain).context("the plain programs")?;
        Ok(Figures {
            name: row.name,
            spans: row.spans,
            segments: row.segments,
            rate,
            rounds,
            hits: self.count_hits(scene)?,
        })
    }

    /// At saturation and at the fixed rate.
    fn turn(&mut self, by: By, scene: &mut Scene, rate: f64) -> Result<Turn> {
        let seconds = self.options.seconds;
        let reported = self.sink.reported()?;
        let sink_cpu = load::cpu(self.sink.pid())?;
        let probe = match by {
            By::Nobody | By::OpenTelemetry => None,
            By::Skyprobe | By::SkyprobeWithoutHeaders => {
                let mut arguments = of_pids(&scene.pids());
                if by == By::SkyprobeWithoutHeaders {
                    arguments.extend(["--propagate".to_owned(), "off".to_owned()]);
                }
                Some(Probe::attach(self.skyprobe, self.sink.address, &arguments)?)
            }
        };
        let probe_cpu = || probe.as_ref().map_or(Ok(Duration::ZERO), Probe::cpu);
        let before = probe_cpu()?;
        let saturated = scene.saturate(seconds)?;
        let between = probe_cpu()?;
        let steady = scene.steady(seconds, rate)?;
        let after = probe_cpu()?;
        let cost = probe
            .map(|probe| -> Result<Cost> {
                let (rss_bytes, peak_rss_bytes) = probe.rss_bytes()?;
                let attach_ms = probe.ready_in.as_secs_f64() * 1e3;
                let (account, detached_in) = probe.stop()?;
                Ok(Cost {
                    saturated_cpu_s: between.saturating_sub(before).as_secs_f64(),
                    steady_cpu_s: after.saturating_sub(between).as_secs_f64(),
                    rss_bytes,
                    peak_rss_bytes,
                    attach_ms,
                    detach_ms: detached_in.as_secs_f64() * 1e3,
                    account,
                })
            })
            .transpose()?;
        Ok(Turn {
            saturated,
            steady,
            probe: cost,
            reported: self.sink.reported()? - reported,
            sink_cpu_s: load::cpu(self.sink.pid())?.saturating_sub(sink_cpu).as_secs_f64(),
        })
    }

    /// Counting costs something with every run of a program: it has a turn of its own.
    fn count_hits(&self, scene: &mut Scene) -> Result<Hits> {
        let probe = Probe::attach(self.skyprobe, self.sink.address, &of_pids(&scene.pids()))?;
        let counting = Counting::begin()?;
        let (runs, ns) = hits::runs(probe.pid())?;
        let requests = scene.saturate(COUNTED_S)?.requests as f64;
        let (runs_after, ns_after) = hits::runs(probe.pid())?;
        drop(counting);
        probe.stop()?;
        Ok(Hits {
            per_request: (runs_after - runs) as f64 / requests,
            ns_per_request: (ns_after - ns) as f64 / requests,
        })
    }
}
