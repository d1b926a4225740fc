//! Go toolchains of any release: the one on the machine, one in the cache, or one fetched as a Go module.

pub mod programs;

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::{cache, processor::Processor, step::step, toolchain};

/// The module under which all releases are published, one version for each platform.
const MODULE: &str = "golang.org/toolchain";

/// A Go toolchain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Go {
    pub command: PathBuf,
    /// Without the `go`: `1.26.8`.
    pub version: String,
}

/// The release that programs are built with where nothing else is said, if the machine's own is older: grpc-go wants
/// nearly the newest, and a distribution's may be years old.
const CURRENT: &str = "1.26.8";

/// The machine's own toolchain if it is no older than [`CURRENT`]'s line, else that one.
pub fn current() -> Result<PathBuf> {
    let local = toolchain::go()?;
    let minor = |version: &str| numbers(version).map(|(minor, _)| minor);
    if version_of(&local).is_ok_and(|found| minor(&found) >= minor(CURRENT)) {
        return Ok(local);
    }
    Ok(go_command(CURRENT)?.command)
}

/// The toolchain of this release, such as `1.26.8`: fetched into the cache if need be. The error says why it cannot
/// be had.
pub fn go_command(version: &str) -> Result<Go> {
    let local = toolchain::go()?;
    if let Ok(found) = version_of(&local)
        && found == version
    {
        return Ok(Go {
            command: local,
            version: found,
        });
    }
    let place = cache::dir("go")?.join(format!("go{version}"));
    cache::filled(&place, |half| fetch(&local, version, half))
        .with_context(|| format!("get Go {version}"))?;
    let command = place.join("bin/go");
    let found = version_of(&command)?;
    ensure!(found == version, "{} is Go {found}", command.display());
    Ok(Go {
        command,
        version: found,
    })
}

/// Every release since Go 1.19 that can be had for this machine, the oldest first.
pub fn releases() -> Result<Vec<String>> {
    Ok(parse_releases(&versions(MODULE)?))
}

/// The module's name and all its versions, the oldest first.
pub fn versions(module: &str) -> Result<String> {
    let output = Command::new(toolchain::go()?)
        .args(["list", "-m", "-versions", module])
        .env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "-mod=mod")
        .current_dir(std::env::temp_dir())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("ask for the versions of {module}"))?;
    ensure!(output.status.success(), "the versions of {module} cannot be had");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The newest of the releases with this minor version: of `24`, `1.24.13`.
#[must_use]
pub fn newest(releases: &[String], minor: u32) -> Option<&String> {
    releases
        .iter()
        .rfind(|release| numbers(release).is_some_and(|found| found.0 == minor))
}

/// Minor version and patch.
#[must_use]
pub fn numbers(release: &str) -> Option<(u32, u32)> {
    let rest = release.strip_prefix("1.")?;
    match rest.split_once('.') {
        Some((minor, patch)) => Some((minor.parse().ok()?, patch.parse().ok()?)),
        None => Some((rest.parse().ok()?, 0)),
    }
}

fn platform() -> Result<String> {
    Ok(format!("linux-{}", Processor::own()?.short()))
}

fn parse_releases(list: &str) -> Vec<String> {
    let platform = platform().unwrap_or_default();
    let mut releases: Vec<(u32, u32, String)> = list
        .split_whitespace()
        .filter_map(|version| {
            let release = version
                .strip_prefix("v0.0.1-go")?
                .strip_suffix(&platform)?
                .strip_suffix('.')?;
            let (minor, patch) = numbers(release).filter(|(minor, _)| *minor >= 19)?;
            Some((minor, patch, release.to_owned()))
        })
        .collect();
    releases.sort();
    releases.into_iter().map(|(_, _, release)| release).collect()
}

fn version_of(command: &Path) -> Result<String> {
    let output = Command::new(command)
        .args(["env", "GOVERSION"])
        .env("GOTOOLCHAIN", "local")
        .env_remove("GOROOT")
        .output()
        .with_context(|| format!("run {} env GOVERSION", command.display()))?;
    let version = String::from_utf8_lossy(&output.stdout);
    let version = version.trim().strip_prefix("go").unwrap_or_default().to_owned();
    ensure!(!version.is_empty(), "{} tells no version", command.display());
    Ok(version)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Downloaded {
    dir: Option<PathBuf>,
    go_mod: Option<PathBuf>,
    error: Option<String>,
}

/// Gets `module@version` into Go's cache of modules.
fn downloaded(go: &Path, module: &str) -> Result<Downloaded> {
    download(go, module, &[])
}

/// The folder with a module's files.
pub fn module(module: &str, version: &str) -> Result<PathBuf> {
    downloaded(&toolchain::go()?, &format!("{module}@{version}"))?
        .dir
        .context("go mod download names no folder")
}

fn download(go: &Path, module: &str, environment: &[(&str, &OsStr)]) -> Result<Downloaded> {
    let output = Command::new(go)
        .args(["mod", "download", "-json", module])
        .env("GOTOOLCHAIN", "local")
        .envs(environment.iter().copied())
        .current_dir(std::env::temp_dir())
        .stderr(Stdio::inherit())
        .output()
        .context("run go mod download")?;
    let downloaded: Downloaded =
        serde_json::from_slice(&output.stdout).context("read what go mod download says")?;
    match downloaded.error {
        Some(error) => bail!("{error}"),
        None => Ok(downloaded),
    }
}

/// Fills the folder `place` with the release's toolchain.
fn fetch(local: &Path, version: &str, place: &Path) -> Result<()> {
    step(format!("getting Go {version} into the cache (go mod download)"));
    let modules = place.join("modules");
    let module = format!("{MODULE}@v0.0.1-go{version}.{}", platform()?);
    let environment = [
        ("GOMODCACHE", modules.as_os_str()),
        ("GOFLAGS", OsStr::new("-modcacherw")),
    ];
    let downloaded = download(local, &module, &environment)?;
    let from = downloaded.dir.context("go mod download names no folder")?;
    // Out of the module cache: Go 1.19 takes files within one for a module's, and not for the standard library.
    for entry in from.read_dir()?.collect::<Result<Vec<_>, _>>()? {
        fs::rename(entry.path(), place.join(entry.file_name()))?;
    }
    fs::remove_dir_all(&modules).context("clear the module cache")?;
    restore(place)
}

/// Undoes what a module may not be: files named `go.mod` within it, and executable ones.
fn restore(place: &Path) -> Result<()> {
    for module in ["src/go.mod", "src/cmd/go.mod"] {
        let file = place.join(module);
        let renamed = file.with_file_name("_go.mod");
        if renamed.exists() {
            fs::rename(&renamed, &file).with_context(|| format!("restore {}", file.display()))?;
        }
    }
    let mut folders = vec![place.join("bin")];
    for platform in place
        .join("pkg/tool")
        .read_dir()
        .context("read the toolchain's pkg/tool")?
    {
        folders.push(platform?.path());
    }
    for folder in folders {
        for entry in folder
            .read_dir()
            .with_context(|| format!("read {}", folder.display()))?
        {
            let path = entry?.path();
            if path.is_file() {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_ordered_by_number() {
        let platform = platform().expect("a known machine");
        let versions = [
            "1.26.10", "1.18.1", "1.26.9", "1.26rc1", "1.19.2", "1.20", "1.26.11",
        ];
        let list: Vec<String> = versions
            .iter()
            .map(|version| format!("v0.0.1-go{version}.{platform}"))
            .collect();
        let list = format!("{MODULE} {} v0.0.1-go1.26.12.plan9-386", list.join(" "));
        let releases = parse_releases(&list);
        assert_eq!(releases, ["1.19.2", "1.20", "1.26.9", "1.26.10", "1.26.11"]);
        assert_eq!(newest(&releases, 26).map(String::as_str), Some("1.26.11"));
        assert_eq!(newest(&releases, 21), None);
    }
}
