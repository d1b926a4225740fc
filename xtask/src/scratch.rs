//! Folders for what runs, in the system's own place for such: gone after the run, or at the latest with the next one.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};

/// A folder of this run's own, for the settings and logs of `what`. Runs that were killed left theirs: they go now.
pub fn folder(what: &str) -> Result<PathBuf> {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let place = std::env::temp_dir();
    let prefix = format!("skyprobe-{what}-");
    for entry in place.read_dir().into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(&prefix))
            .and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let folder = place.join(format!("{prefix}{}-{run}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    Ok(folder)
}
