//! Two services, one calling the other: what most tests look at.

use std::{path::PathBuf, sync::OnceLock};

use anyhow::{Context as _, Result};

use crate::{
    client,
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
    pub fn of(program: &std::path::Path) -> Result<Self> {
        let back = Service::start(program, "back", BACK_IDS, None)?;
        let front = Service::start(program, "front", FRONT_IDS, Some(&back))?;
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
        let records = self.records()?;
        // What does not come in time shows in the account.
        let _ = probe.wait_for("all spans", |segments| numbered(segments) >= records.len());
        let ended = probe.stop()?;
        anyhow::ensure!(
            ended.status.success(),
            "the probe ended with {}:\n{}",
            ended.status,
            ended.stderr
        );
        Ok((truth::join(&records, &ended.segments, propagated), ended))
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

/// Spans that carry a number, all but those of the harness's own requests.
fn numbered(segments: &[Segment]) -> usize {
    segments
        .iter()
        .flat_map(|segment| &segment.spans)
        .filter(|span| truth::span_number(span).is_some())
        .count()
}
