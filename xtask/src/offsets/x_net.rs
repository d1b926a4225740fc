//! The fields of `golang.org/x/net/http2`, by the versions of `golang.org/x/net`: of its server and its client, which the
//! linker leaves out of programs that only have grpc-go, and so with a program that has both. Every release is measured,
//! and what comes along with grpc-go.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    Offsets, Row, check_hooks, inspect,
    modules::{Program, Version, join, newest_go},
};
use crate::{
    go::{self, Go},
    step::step,
};

/// The module, and the package in it.
pub(super) const MODULE: &str = "golang.org/x/net";
const PACKAGE: &str = "golang.org/x/net/http2";

/// The fields that grpc-go hands to us, which all versions have.
const FRAMES: [&str; 2] = [
    "golang.org/x/net/http2.FrameHeader.StreamID",
    "golang.org/x/net/http2.MetaHeadersFrame.Fields",
];

/// From some version on it hands on to the standard library with Go 1.27 and later, unless it is told not to.
const FLAGS: &[&str] = &["-tags=http2legacy"];

/// It is never run.
const PROGRAM: &str = r#"package main

import (
	"net"
	"net/http"
	"os"

	"golang.org/x/net/http2"
)

func main() {
	client := &http.Client{Transport: &http2.Transport{AllowHTTP: true}}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { client.Do(r) })
	if connection, err := net.Dial("tcp", os.Args[1]); err == nil {
		new(http2.Server).ServeConn(connection, &http2.ServeConnOpts{Handler: handler})
	}
}
"#;

/// Whether a field is measured here, and not where grpc-go is.
pub(super) fn is_own(field: &str) -> bool {
    let of_package = field
        .strip_prefix(PACKAGE)
        .is_some_and(|rest| rest.starts_with('.'));
    of_package && !FRAMES.contains(&field)
}

/// Puts the rows in place of those that have what grpc-go hands to us alone.
pub(super) fn complete(
    modules: &mut BTreeMap<String, Vec<Row>>,
    releases: &[String],
    skyprobe: &Path,
) -> Result<()> {
    let before = modules.remove(MODULE).unwrap_or_default();
    let go = newest_go(releases)?;
    let mut versions: BTreeSet<Version> = before
        .iter()
        .flat_map(|row| &row.measured)
        .chain(&parse_releases(&go::versions(MODULE)?))
        .map(|version| Version(version.clone()))
        .collect();
    let mut rows: Vec<Row> = Vec::new();
    while let Some(Version(version)) = versions.pop_first() {
        let known = before.iter().find(|row| row.measured.contains(&version));
        let mut frames = known.map(|row| row.offsets.clone()).unwrap_or_default();
        frames.retain(|field, _| FRAMES.contains(&field.as_str()));
        let offsets = if is_release_or_later(&version) {
            let offsets = measure(&go, &version, skyprobe)?;
            let agrees = frames
                .iter()
                .all(|(field, offset)| offsets.get(field) == Some(offset));
            ensure!(agrees, "x/net {version} has other offsets in another program");
            offsets
        } else {
            frames
        };
        let measured = vec![version];
        join(&mut rows, Row { measured, offsets });
    }
    for row in &rows {
        let first = row.measured.first().context("a row without a release")?;
        if !is_release_or_later(first) {
            continue;
        }
        let minor = program(&go, first)?.oldest_go(&go)?;
        let oldest = go::newest(releases, minor).with_context(|| format!("Go 1.{minor} cannot be had"))?;
        let oldest = go::go_command(oldest)?;
        ensure!(
            measure(&oldest, first, skyprobe)? == row.offsets,
            "x/net {first} has other offsets with Go {} than with Go {}",
            oldest.version,
            go.version
        );
    }
    modules.insert(MODULE.to_owned(), rows);
    Ok(())
}

fn program(go: &Go, version: &str) -> Result<Program> {
    Program::with(PROGRAM, go, MODULE, version)
}

fn measure(go: &Go, version: &str, skyprobe: &Path) -> Result<Offsets> {
    step(format!("measuring x/net {version} with Go {}", go.version));
    let measured = || {
        let program = program(go, version)?;
        let inspected = inspect(&program.build(go, FLAGS)?, skyprobe)?;
        check_hooks(inspected.hooks.iter().filter(|hook| hook.library == PACKAGE))?;
        inspected.offsets(|field| is_own(field) || FRAMES.contains(&field))
    };
    measured().with_context(|| format!("measure x/net {version} with Go {}", go.version))
}

/// Commits before the first release have what grpc-go hands to us alone.
fn is_release_or_later(version: &str) -> bool {
    !version.starts_with("v0.0.")
}

fn parse_releases(list: &str) -> Vec<String> {
    let versions = list.split_whitespace().filter(|word| word.starts_with('v'));
    versions
        .filter(|version| is_release_or_later(version) && !version.contains('-'))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grpc_hands_on_is_measured_there() {
        assert!(is_own("golang.org/x/net/http2.stream.id"));
        assert!(!is_own("golang.org/x/net/http2.MetaHeadersFrame.Fields"));
        assert!(!is_own("golang.org/x/net/http2x.stream.id"));
        assert!(!is_own("net/http.Request.Method"));
    }

    #[test]
    fn releases_are_what_is_listed() {
        let list = "golang.org/x/net v0.0.1 v0.1.0 v0.2.0-rc.1 v0.62.0\n";
        assert_eq!(parse_releases(list), ["v0.1.0", "v0.62.0"]);
    }
}
