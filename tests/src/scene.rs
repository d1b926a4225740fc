//! Two services, one calling the other: what most tests look at.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    client,
    network::{Host, Networks},
    probe::{Ended, Probe},
    segment::Segment,
    target::{Go, GoBuild, Service},
    truth::{self, Account, Record, Side},
};

/// The program `net_http`, built once with the Go that is at hand.
pub fn truth_program() -> Result<PathBuf> {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    if let Some(program) = PROGRAM.get() {
        return Ok(program.clone());
    }
    let program = GoBuild::new("net_http").build(&Go::system()?)?;
    Ok(PROGRAM.get_or_init(|| program).clone())
}

/// Calls of `front` are numbered from here on, those of `back` from the next number on; tests use smaller ones.
pub const FRONT_IDS: u64 = 1_000_000_000;
const BACK_IDS: u64 = 2_000_000_000;

/// `front` calls `back`.
#[derive(Debug)]
pub struct Scene {
    pub front: Service,
    pub back: Service,
}

impl Scene {
    pub fn start() -> Result<Self> {
        Self::of(&truth_program()?)
    }

    /// With another build of the program.
    pub fn of(program: &Path) -> Result<Self> {
        Self::named(program, ["front", "back"])
    }

    /// With names of their own, for several scenes under one probe.
    pub fn named(program: &Path, [front, back]: [&str; 2]) -> Result<Self> {
        let back = Service::start(program, back, BACK_IDS, None)?;
        let front = Service::start(program, front, FRONT_IDS, Some(&back))?;
        Ok(Self { front, back })
    }

    /// Each on a host of its own.
    pub fn apart(networks: &Networks) -> Result<Self> {
        let program = truth_program()?;
        let back = networks.within(Host::Server, || {
            Service::start_at(Networks::SERVER, &program, "back", BACK_IDS)
        })?;
        let front = networks.within(Host::Client, || {
            Service::start(&program, "front", FRONT_IDS, Some(&back))
        })?;
        Ok(Self { front, back })
    }

    /// Both under the probe.
    pub fn trace(&self, arguments: &[&str]) -> Result<Probe> {
        Probe::of_pids(&[self.front.target.pid(), self.back.target.pid()], arguments)
    }

    /// What both have done.
    pub fn records(&self) -> Result<Vec<Record>> {
        let mut records = self.front.records()?;
        records.append(&mut self.back.records()?);
        Ok(records)
    }

    /// Waits until the probe has as many spans as the services know of, stops it and compares.
    pub fn judge(&self, probe: Probe, propagated: bool) -> Result<(Account, Ended)> {
        let ended = stop_with(probe, self.records()?.len())?;
        // Asked again: a program may answer before it has written down that it did.
        Ok((truth::join(&self.records()?, &ended.segments, propagated), ended))
    }

    /// The number of the call that `front` made for the request `id`.
    pub fn call_of(&self, id: u64) -> Result<Record> {
        let records = self.front.records()?;
        let call = records
            .into_iter()
            .find(|record| record.kind == Side::Exit && record.parent == id);
        call.with_context(|| format!("request {id} made no call"))
    }

    /// Requests a route of `front` by a number of the caller's.
    pub fn ask(&self, route: &str, id: u64) -> Result<client::Response> {
        self.front.get(&format!("/{route}/{id}"))
    }
}

/// The same for several scenes under one probe, each by itself: its segments are those of its services' names, so that
/// what leads from one scene into another is wrong in both.
pub fn judge_each(scenes: &[&Scene], probe: Probe) -> Result<(Vec<Account>, Ended)> {
    let truths = scenes
        .iter()
        .map(|scene| scene.records())
        .collect::<Result<Vec<_>>>()?;
    let ended = stop_with(probe, truths.iter().map(Vec::len).sum())?;
    let mut strangers: HashSet<&str> = ended
        .segments
        .iter()
        .map(|segment| segment.service.as_str())
        .collect();
    let mut accounts = Vec::new();
    for records in &truths {
        let services: HashSet<&str> = records.iter().map(|record| record.service.as_str()).collect();
        let own: Vec<Segment> = ended
            .segments
            .iter()
            .filter(|segment| services.contains(segment.service.as_str()))
            .cloned()
            .collect();
        strangers.retain(|service| !services.contains(service));
        accounts.push(truth::join(records, &own, true));
    }
    ensure!(strangers.is_empty(), "segments of nobody: {strangers:?}");
    Ok((accounts, ended))
}

/// Waits until the probe has as many spans, and stops it. What does not come in time shows in the account.
pub fn stop_with(probe: Probe, spans: usize) -> Result<Ended> {
    let _ = probe.wait_for("all spans", |segments| numbered(segments) >= spans);
    let ended = probe.stop()?;
    ensure!(
        ended.status.success(),
        "the probe ended with {}:\n{}",
        ended.status,
        ended.stderr
    );
    Ok(ended)
}

/// Spans that carry a number, all but those of the harness's own requests.
fn numbered(segments: &[Segment]) -> usize {
    segments
        .iter()
        .flat_map(|segment| &segment.spans)
        .filter(|span| truth::span_number(span).is_some())
        .count()
}

/// Fails unless all that the programs wrote down is there, once and with the right parents.
#[track_caller]
pub fn all_is_told(records: &[Record], ended: &Ended) {
    let account = truth::join(records, &ended.segments, true);
    let total = account.total();
    assert_eq!(total.found, total.made, "{account}\n{}", ended.stderr);
    assert_eq!(
        (total.parents.wrong, total.references.wrong, account.invented),
        (0, 0, 0),
        "{account}\n{}",
        ended.stderr
    );
}
