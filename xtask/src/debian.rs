//! Debian's packages: installed where a program is missing, or only unpacked into the cache.

pub mod lists;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::cache;
use crate::process::check;
use crate::step::step;
use crate::toolchain;

/// Makes sure that `program` can be run, by installing `package` if it is not there.
pub fn ensure_program(program: &str, package: &str, what_for: &str) -> Result<()> {
    let found = Command::new("sh")
        .args(["-c", "command -v \"$0\" >/dev/null", program])
        .status();
    if found.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    toolchain::apt_install(&[package], what_for)
}

/// The folder into which Debian's `package` was unpacked, without installing it: its files as they
/// would stand under `/`, no service started, no user made.
pub fn unpacked(package: &str) -> Result<PathBuf> {
    let place = cache::dir("debian")?.join(package);
    cache::filled(&place, |half| {
        ensure!(
            toolchain::apt_has(&[package]),
            "this system's package lists do not have it"
        );
        step(format_args!(
            "getting Debian's {package} into the cache (apt-get download)"
        ));
        // The sandbox user of apt may not write here and says so on stderr; root then does it.
        check(
            Command::new("apt-get")
                .args(["download", "-qq", package])
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .current_dir(half),
        )?;
        extract_only(half, half)
    })
    .with_context(|| format!("get Debian's package {package}"))?;
    Ok(place)
}

/// Unpacks the one package file in `folder` into `to`, and removes it.
fn extract_only(folder: &Path, to: &Path) -> Result<()> {
    let deb = folder
        .read_dir()?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get left no file")?;
    check(Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(to))?;
    Ok(std::fs::remove_file(deb)?)
}
