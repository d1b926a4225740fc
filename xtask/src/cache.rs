//! Where everything that was fetched lives: `$SKYPROBE_CACHE`, else `~/.cache/skyprobe`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The folder `part` of the cache, made if need be.
pub fn dir(part: &str) -> Result<PathBuf> {
    let dir = root()?.join(part);
    fs::create_dir_all(&dir).with_context(|| format!("make the cache folder {}", dir.display()))?;
    Ok(dir)
}

/// Makes the folder `place` by `fill`, all of it or nothing: a half-filled folder is never seen. Who else wants it
/// meanwhile waits: two npm at once spoil each other's installation.
pub fn filled(place: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if place.is_dir() {
        return Ok(());
    }
    let name = place
        .file_name()
        .context("a cache folder needs a name")?
        .to_string_lossy();
    let lock = place.with_file_name(format!(".{name}.lock"));
    let lock = File::create(&lock).with_context(|| format!("make {}", lock.display()))?;
    // Let go when the file is closed, however this ends.
    lock.lock()
        .with_context(|| format!("wait for {}", place.display()))?;
    if place.is_dir() {
        return Ok(());
    }
    let half = place.with_file_name(format!(".{name}.half"));
    if half.exists() {
        fs::remove_dir_all(&half).with_context(|| format!("clear {}", half.display()))?;
    }
    fs::create_dir_all(&half).with_context(|| format!("make {}", half.display()))?;
    let outcome = fill(&half).and_then(|()| {
        fs::rename(&half, place).with_context(|| format!("put {} in its place", place.display()))
    });
    if half.exists() {
        let _ = fs::remove_dir_all(&half);
    }
    outcome
}

#[expect(
    clippy::disallowed_methods,
    reason = "xtask is no part of the probe and has no config module"
)]
fn root() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("SKYPROBE_CACHE").filter(|dir| !dir.is_empty()) {
        return Ok(dir.into());
    }
    let home =
        std::env::var_os("HOME").context("neither SKYPROBE_CACHE nor HOME is set: no place for the cache")?;
    Ok(PathBuf::from(home).join(".cache/skyprobe"))
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        thread,
        time::Duration,
    };

    use super::*;

    #[test]
    fn a_folder_that_could_not_be_filled_is_not_there() {
        let place = std::env::temp_dir().join(format!("skyprobe-cache-{}", std::process::id()));
        assert!(filled(&place, |_| anyhow::bail!("no network")).is_err());
        assert!(!place.exists());
        filled(&place, |half| Ok(fs::write(half.join("a"), "1")?)).expect("fill");
        assert_eq!(fs::read_to_string(place.join("a")).expect("read"), "1");
        filled(&place, |_| anyhow::bail!("must not be filled twice")).expect("kept");
        fs::remove_dir_all(place).expect("clean");
    }

    #[test]
    fn two_at_once_fill_it_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("place");
        let fills = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    filled(&place, |half| {
                        fills.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(Duration::from_millis(50));
                        Ok(fs::write(half.join("a"), "1")?)
                    })
                    .expect("fill");
                });
            }
        });
        assert_eq!(fills.into_inner(), 1);
    }
}
