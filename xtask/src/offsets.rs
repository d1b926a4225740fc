//! `cargo xtask offsets`: builds a small Go program with every Go release there is to have, and another with every
//! grpc-go, reads the offsets of struct fields from their DWARF by skyprobe's own reader, and writes the table that is
//! used for stripped binaries.

pub mod modules;
mod x_net;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::{
    build::{self, cargo},
    go::{self, Go},
    process::check,
    step::step,
    toolchain,
};

/// Every function that is hooked, and every struct that is read, is in it.
const PROGRAM: &str = r#"package main

import (
	"io"
	"net/http"
	"os"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/taken" {
			w.(http.Hijacker).Hijack()
			return
		}
		if response, err := http.Get(r.URL.Query().Get("next")); err == nil {
			io.Copy(w, response.Body)
		}
	})
	http.ListenAndServe(os.Args[1], nil)
}
"#;

/// The oldest and newest minor version that are measured.
const MINORS: std::ops::RangeInclusive<u32> = 19..=27;

/// What is to be measured.
#[derive(Args)]
pub struct Options {
    /// Measure only these, and keep the rest of the table
    #[arg(long, value_enum)]
    only: Option<Only>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Only {
    Go,
    Modules,
    /// Of the modules, golang.org/x/net's own server and client
    XNet,
}

type Offsets = BTreeMap<String, u16>;

#[derive(Serialize, Deserialize)]
struct Table {
    rows: Vec<Row>,
    /// Of each module that is a library's, by its versions.
    #[serde(default)]
    modules: BTreeMap<String, Vec<Row>>,
}

/// What holds from the first to the last measured release. Patch releases do change layouts: Go 1.26.11 moved fields
/// of `net/http.response`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    measured: Vec<String>,
    offsets: Offsets,
}

#[derive(Deserialize)]
struct Inspected {
    modules: Option<Vec<Module>>,
    hooks: Vec<Hook>,
    offsets: Vec<Offset>,
}

#[derive(Deserialize)]
struct Module {
    path: String,
    version: Option<String>,
}

#[derive(Deserialize)]
struct Hook {
    library: String,
    program: String,
    symbol: String,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct Offset {
    field: String,
    offset: Option<u16>,
    source: String,
}

/// Measures everything anew, or what is asked for.
pub fn run(options: &Options) -> Result<()> {
    toolchain::install()?;
    step("building skyprobe, whose reader is used");
    check(cargo().args([
        "build",
        "--locked",
        "--package",
        "probe-user",
        "--bin",
        "skyprobe",
    ]))?;
    let skyprobe = build::target_directory().join("debug/skyprobe");
    let releases = go::releases()?;
    let place = table();
    let json = fs::read_to_string(&place).with_context(|| format!("read {}", place.display()))?;
    let mut table: Table =
        serde_json::from_str(&json).with_context(|| format!("read {}", place.display()))?;
    let is_asked = |part| options.only.is_none_or(|only| only == part);
    if is_asked(Only::Go) {
        table.rows = measure_go(&releases, &skyprobe)?;
    }
    if is_asked(Only::Modules) {
        table.modules = modules::measure(&releases, &skyprobe)?;
    }
    if is_asked(Only::Modules) || is_asked(Only::XNet) {
        x_net::complete(&mut table.modules, &releases, &skyprobe)?;
    }
    let mut json = serde_json::to_string_pretty(&table)?;
    json.push('\n');
    fs::write(&place, json).with_context(|| format!("write {}", place.display()))?;
    step(format!("wrote {}", place.display()));
    Ok(())
}

fn table() -> PathBuf {
    build::root().join("probe-user/src/instrument/offsets.json")
}

/// The rows of all Go releases.
fn measure_go(releases: &[String], skyprobe: &Path) -> Result<Vec<Row>> {
    let folder = tempfile::tempdir().context("make a temporary directory")?;
    fs::write(folder.path().join("main.go"), PROGRAM)?;
    fs::write(folder.path().join("go.mod"), "module example/web\n\ngo 1.19\n")?;
    let mut rows = Vec::new();
    for minor in MINORS {
        let of_minor: Vec<&String> = releases
            .iter()
            .filter(|release| go::numbers(release).is_some_and(|found| found.0 == minor))
            .collect();
        if of_minor.is_empty() {
            step(format!("Go 1.{minor} cannot be had: it has no row"));
            continue;
        }
        rows.extend(measure_minor(&of_minor, &mut |release| {
            let go = go::go_command(release)?;
            measure(&go, folder.path(), skyprobe).with_context(|| format!("measure Go {release}"))
        })?);
    }
    Ok(rows)
}

/// The rows of one minor version: one where its oldest and newest release agree, else where they part is sought.
fn measure_minor(
    releases: &[&String],
    measure: &mut impl FnMut(&str) -> Result<Offsets>,
) -> Result<Vec<Row>> {
    let (first, last) = (
        releases.first().context("no release")?,
        releases.last().context("no release")?,
    );
    let mut row = Row {
        offsets: measure(first)?,
        measured: vec![(*first).clone()],
    };
    let newest = if first == last {
        row.offsets.clone()
    } else {
        measure(last)?
    };
    let mut rows = Vec::new();
    let mut from = 0;
    while row.offsets != newest {
        // The first release that differs lies after `same` and not after `other`.
        let (mut same, mut other) = (from, releases.len() - 1);
        let mut offsets = newest.clone();
        while other - same > 1 {
            let middle = same.midpoint(other);
            let release = releases.get(middle).context("no release")?;
            let found = measure(release)?;
            if found == row.offsets {
                same = middle;
                row.measured.push((*release).clone());
            } else {
                (other, offsets) = (middle, found);
            }
        }
        let release = releases.get(other).context("no release")?;
        let measured = vec![(*release).clone()];
        rows.push(std::mem::replace(&mut row, Row { measured, offsets }));
        from = other;
    }
    if row.measured.last() != Some(*last) {
        row.measured.push((*last).clone());
    }
    rows.push(row);
    Ok(rows)
}

fn measure(go: &Go, folder: &Path, skyprobe: &Path) -> Result<Offsets> {
    step(format!("measuring Go {}", go.version));
    check(
        Command::new(&go.command)
            .args(["build", "-o", "program", "."])
            .current_dir(folder)
            .env("GOTOOLCHAIN", "local")
            .env("GOFLAGS", "-buildvcs=false")
            .env("CGO_ENABLED", "0")
            .env_remove("GOROOT"),
    )?;
    let inspected = inspect(&folder.join("program"), skyprobe)?;
    check_hooks(inspected.hooks.iter().filter(|hook| is_own(&hook.library)))?;
    inspected.offsets(is_own)
}

/// Whether a package, or a field of one, is of the standard library: the path of a module begins with a host.
fn is_own(path: &str) -> bool {
    path.split_once('/').is_none_or(|(first, _)| !first.contains('.'))
}

/// What skyprobe finds in the program.
fn inspect(program: &Path, skyprobe: &Path) -> Result<Inspected> {
    let output = Command::new(skyprobe)
        .args(["inspect", "--json"])
        .arg(program)
        .output()
        .context("run skyprobe inspect")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    serde_json::from_slice(&output.stdout).context("read the report")
}

/// Every hook of this version must have its site.
fn check_hooks<'a>(hooks: impl IntoIterator<Item = &'a Hook>) -> Result<()> {
    let is_asked = |hook: &&Hook| hook.reason.as_deref() != Some("not for this version");
    for hook in hooks.into_iter().filter(is_asked) {
        let reason = hook.reason.as_deref().unwrap_or_default();
        ensure!(
            hook.reason.is_none(),
            "{} has no site in {}: {reason}",
            hook.program,
            hook.symbol
        );
    }
    Ok(())
}

impl Inspected {
    /// The offsets of the fields that are wanted, which all must come from DWARF.
    fn offsets(&self, is_wanted: impl Fn(&str) -> bool) -> Result<Offsets> {
        let mut offsets = Offsets::new();
        for row in self.offsets.iter().filter(|row| is_wanted(&row.field)) {
            match (row.source.as_str(), row.offset) {
                ("DWARF", Some(offset)) => {
                    offsets.insert(row.field.clone(), offset);
                }
                ("not in this version", _) => {}
                (source, _) => anyhow::bail!("{} is not in the DWARF ({source})", row.field),
            }
        }
        Ok(offsets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The measured releases and the offset of each row, for releases whose field lies at these offsets.
    fn rows(offsets: &[u16]) -> Vec<(String, u16)> {
        let releases: Vec<String> = (0..offsets.len()).map(|patch| format!("1.30.{patch}")).collect();
        let rows = measure_minor(&releases.iter().collect::<Vec<_>>(), &mut |release| {
            let (_, patch) = go::numbers(release).expect("a release");
            Ok(Offsets::from([("a.b.c".to_owned(), offsets[patch as usize])]))
        });
        let row = |row: Row| (row.measured.join(" "), row.offsets["a.b.c"]);
        rows.expect("rows").into_iter().map(row).collect()
    }

    #[test]
    fn a_minor_version_has_a_row_for_each_layout() {
        let row = |measured: &str, offset| (measured.to_owned(), offset);
        assert_eq!(rows(&[8]), [row("1.30.0", 8)]);
        assert_eq!(rows(&[8, 8, 8, 8]), [row("1.30.0 1.30.3", 8)]);
        assert_eq!(
            rows(&[8, 8, 16, 16, 16]),
            [row("1.30.0 1.30.1", 8), row("1.30.2 1.30.4", 16)]
        );
        assert_eq!(
            rows(&[8, 8, 8, 8, 16]),
            [row("1.30.0 1.30.2 1.30.3", 8), row("1.30.4", 16)]
        );
        assert_eq!(
            rows(&[8, 16, 16, 24]),
            [row("1.30.0", 8), row("1.30.1 1.30.2", 16), row("1.30.3", 24)]
        );
    }
}
