//! The probe reporting into a real OAP, and the patience that OAP wants.

use std::{collections::BTreeSet, process::Command, thread, time::Duration};

use anyhow::Result;
use xtask::oap::Oap;

use crate::probe::{Probe, binary};

/// OAP stores every 3 s in tests, and maps addresses to services every 10 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// `skyprobe run` on what `selection` selects, reporting to `oap`.
pub fn attach(oap: &Oap, selection: &[&str]) -> Result<Probe> {
    let probe = Probe::spawn(
        Command::new(binary()?)
            .args(["run", "--oap", &oap.grpc.to_string()])
            .args(selection),
    )?;
    probe.ready()?;
    Ok(probe)
}

/// The same on these processes.
pub fn attach_to(oap: &Oap, pids: &[u32]) -> Result<Probe> {
    let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
    let selection: Vec<&str> = pids.iter().flat_map(|pid| ["--pid", pid.as_str()]).collect();
    attach(oap, &selection)
}

/// Asks until `check` is content; the last complaint is the test's failure.
#[track_caller]
#[expect(clippy::panic, reason = "a test's assertion")]
pub fn eventually(what: &str, mut check: impl FnMut() -> Result<()>) {
    let tries = PATIENCE.as_secs();
    for last in 1..=tries {
        match check() {
            Ok(()) => return,
            Err(error) if last == tries => panic!("{what} after {tries} s: {error:#}"),
            Err(_) => thread::sleep(Duration::from_secs(1)),
        }
    }
}

/// The sides from which a line of the map is seen if all is well.
pub fn both_sides() -> BTreeSet<String> {
    BTreeSet::from(["CLIENT".to_owned(), "SERVER".to_owned()])
}
