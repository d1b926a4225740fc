//! The configuration file while the probe runs: whether it has changed, and what of it can be taken over.

use std::path::PathBuf;

use tracing::warn;

use crate::{
    clock,
    config::{self, Config, ConfigFile, Invocation, Stamp},
    status::{Configuration, seconds_since},
};

/// The file, and what was last seen of it.
pub(super) struct Reload {
    path: Option<PathBuf>,
    /// Nothing while it is not there.
    seen: Option<Stamp>,
    read_ns: u64,
    /// Why what it says now is not taken over, and since when.
    error: Option<(String, u64)>,
    /// What has changed and waits for the next start.
    waiting: Vec<&'static str>,
}

impl Reload {
    /// Of the version that was read at the start, which may be another one by now.
    pub(super) fn new(file: Option<ConfigFile>) -> Self {
        let (path, stamp) = file.map(|ConfigFile { path, stamp }| (path, stamp)).unzip();
        Self {
            path,
            seen: stamp.flatten(),
            read_ns: clock::now_boot_ns(),
            error: None,
            waiting: Vec::new(),
        }
    }

    /// Whether there is another version than the one that was read last. That it is gone is said, once.
    pub(super) fn is_due(&mut self) -> bool {
        let now = self.stamp();
        if now.is_none() && self.seen.take().is_some() {
            self.fail("the file is gone".to_owned());
        }
        now.is_some() && now != self.seen
    }

    /// What holds from here on: `old` with what can be taken over. Nothing if there is nothing to take over; why has
    /// been said.
    pub(super) fn read(&mut self, old: &Config) -> Option<Config> {
        if self.path.is_none() {
            warn!("No configuration file was named with --config, so there is nothing to read anew");
            return None;
        }
        // Before it is read: what changes meanwhile is read once more.
        self.seen = self.stamp();
        let new = match config::read_process() {
            Ok(Invocation::Run(new)) => *new,
            // What was called for does not change.
            Ok(_) => return None,
            Err(error) => {
                self.fail(error.to_string());
                return None;
            }
        };
        let (taken, waiting) = old.take_over(new);
        if taken.select.is_empty() {
            // Processes named by id are those of the start.
            self.fail(
                "what it selects counts from the next start on, and until then nothing would be".to_owned(),
            );
            return None;
        }
        self.read_ns = clock::now_boot_ns();
        self.error = None;
        // Said once, and again when it is something else.
        if self.waiting != waiting && !waiting.is_empty() {
            let keys = waiting.join(", ");
            warn!(
                keys,
                "Only selection and names are taken over while the probe runs: these wait for its next start"
            );
        }
        self.waiting = waiting;
        Some(taken)
    }

    /// What the file says now cannot hold.
    pub(super) fn fail(&mut self, error: String) {
        warn!(error, "Configuration not taken over: what held before holds on");
        self.error = Some((error, clock::now_boot_ns()));
    }

    pub(super) fn tell(&self) -> Configuration {
        let (error, error_s) = self
            .error
            .as_ref()
            .map(|(error, at_ns)| (error.clone(), seconds_since(*at_ns)))
            .unzip();
        Configuration {
            file: self.path.as_ref().map(|path| path.display().to_string()),
            read_s: seconds_since(self.read_ns),
            error,
            error_s,
            waits_for_restart: self.waiting.iter().map(|&key| key.to_owned()).collect(),
        }
    }

    fn stamp(&self) -> Option<Stamp> {
        Stamp::of(self.path.as_ref()?)
    }
}
