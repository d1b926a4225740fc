//! The configuration file while the probe runs: whether it has changed, and what of it can be taken over.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf};

use tracing::warn;

use crate::config::{self, Config, ConfigError, Invocation};

/// The file, and what was last seen of it. Its path is followed at each look: Kubernetes swaps a link to a folder when a
/// ConfigMap changes.
pub(super) struct Reload {
    path: Option<PathBuf>,
    seen: Option<Stamp>,
}

/// What differs between two versions of a file.
type Stamp = (u64, u64, u64, i64, i64);

impl Reload {
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        let mut reload = Self { path, seen: None };
        reload.seen = reload.stamp();
        reload
    }

    /// Whether there is another version than the one that was read last.
    pub(super) fn is_due(&self) -> bool {
        self.stamp().is_some_and(|now| Some(now) != self.seen)
    }

    /// What holds from here on: `old` with what can be taken over. Nothing if no file was named.
    pub(super) fn read(&mut self, old: &Config) -> Result<Option<Config>, ConfigError> {
        if self.path.is_none() {
            warn!("No configuration file was named with --config, so there is nothing to read anew");
            return Ok(None);
        }
        // Before it is read: what changes meanwhile is read once more.
        self.seen = self.stamp();
        let Invocation::Run(new) = config::read_process()? else {
            return Ok(None);
        };
        let new = *new;
        let taken = Config {
            select: new.select.clone(),
            naming: new.naming.clone(),
            pods: config::Pods {
                property_labels: new.pods.property_labels.clone(),
                ..old.pods.clone()
            },
            ..old.clone()
        };
        if taken != new {
            warn!(
                "Only selection and names are taken over: the rest of what has changed counts from the next start on"
            );
        }
        Ok(Some(taken))
    }

    fn stamp(&self) -> Option<Stamp> {
        let file = fs::metadata(self.path.as_ref()?).ok()?;
        Some((
            file.dev(),
            file.ino(),
            file.size(),
            file.mtime(),
            file.mtime_nsec(),
        ))
    }
}
