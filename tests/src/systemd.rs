//! The probe as a service of a machine's systemd.

use std::{
    fs,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use xtask::step::wait_until;

use crate::{machine::Machine, scene::Scene, segment::Segment};

/// What it is called.
pub const UNIT: &str = "skyprobe.service";

/// Its settings.
pub const SETTINGS: &str = "/etc/skyprobe/skyprobe.yaml";

/// What it tells and what it says.
const SEGMENTS: &str = "/run/segments";
const WORDS: &str = "/run/words";

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Probes know of one another, and say so.
static TURN: Mutex<()> = Mutex::new(());

/// A machine that knows the unit, wherever it comes from.
pub struct Host {
    pub machine: Machine,
    _turn: MutexGuard<'static, ()>,
}

impl Host {
    /// With `drop_in` besides what the unit says.
    pub fn new(drop_in: &str) -> Result<Self> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let machine = Machine::with_systemd(&[UNIT])?;
        let beside = machine.drop_ins(UNIT);
        fs::create_dir(&beside)?;
        // There is no journal.
        let places = format!("StandardOutput=append:{SEGMENTS}\nStandardError=append:{WORDS}\n");
        fs::write(beside.join("test.conf"), format!("[Service]\n{places}{drop_in}"))?;
        Ok(Self { machine, _turn: turn })
    }

    /// Has it trace the scene, and nothing else.
    pub fn choose(&self, scene: &Scene) -> Result<()> {
        self.choose_with(scene, json!({ "export": "json" }))
    }

    /// The same with these settings.
    pub fn choose_with(&self, scene: &Scene, settings: Value) -> Result<()> {
        let pids = [&scene.front, &scene.back].map(|service| service.target.pid());
        let Value::Object(mut settings) = settings else {
            bail!("{settings} are no settings");
        };
        settings.insert("pid".to_owned(), json!(pids));
        fs::write(self.machine.path(SETTINGS), Value::from(settings).to_string())
            .context("write the settings")
    }

    /// `systemctl VERB`.
    pub fn control(&self, verb: &str) -> Result<()> {
        let done = self.machine.run("systemctl", &[verb, UNIT]);
        done.map(drop).with_context(|| self.words())
    }

    pub fn property(&self, name: &str) -> Result<String> {
        let value = self
            .machine
            .run("systemctl", &["show", "--value", "--property", name, UNIT])?;
        Ok(value.trim().to_owned())
    }

    /// All it has said so far.
    pub fn words(&self) -> String {
        fs::read_to_string(self.machine.path(WORDS)).unwrap_or_default()
    }

    pub fn wait_for_words(&self, words: &str, times: usize) -> Result<()> {
        let heard = || self.words().matches(words).count() >= times;
        ensure!(wait_until(PATIENCE, heard), "no {words:?}: {}", self.words());
        Ok(())
    }

    fn segments(&self) -> Vec<Segment> {
        let told = fs::read_to_string(self.machine.path(SEGMENTS)).unwrap_or_default();
        told.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Makes a request of this number and waits for both its segments, the second with the first as its parent.
    pub fn traces(&self, scene: &Scene, id: u64) -> Result<()> {
        scene.ask("sync", id)?;
        let (front, back) = (format!("/sync/{id}"), scene.call_of(id)?.path);
        let joined = || {
            let told = self.segments();
            let of = |path: &str| {
                let is_it =
                    |segment: &&Segment| segment.entry().is_some_and(|span| span.path() == Some(path));
                told.iter().find(is_it)
            };
            let (Some(front), Some(back)) = (of(&front), of(&back)) else {
                return false;
            };
            let mut references = back.spans.iter().flat_map(|span| &span.refs);
            references.any(|it| it.parent_trace_segment_id == front.trace_segment_id)
        };
        ensure!(
            wait_until(PATIENCE, joined),
            "request {id} is not told: {:#?}\n{}",
            self.segments(),
            self.words()
        );
        Ok(())
    }
}
