//! The fields of libraries, by the versions of their modules. grpc-go is measured in its first and last patch release
//! of each minor version, the modules under it in the versions that come along, and in their newest.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use super::{Inspected, MINORS, Offsets, Row, check_hooks, inspect, measure_minor, x_net};
use crate::{
    go::{self, Go},
    process::{check, read},
    step::step,
};

const GRPC: &str = "google.golang.org/grpc";
/// The modules whose structs it hands to us.
const UNDER: [&str; 2] = [x_net::MODULE, "google.golang.org/genproto/googleapis/rpc"];

/// The oldest minor version that is measured.
const OLDEST: u32 = 37;

/// A server and a client without generated code; it is never run.
const PROGRAM: &str = r#"package main

import (
	"context"
	"net"
	"net/http"
	"os"

	"google.golang.org/grpc"
)

func main() {
	server := grpc.NewServer()
	server.RegisterService(&grpc.ServiceDesc{ServiceName: "service"}, nil)
	if listener, err := net.Listen("tcp", os.Args[1]); err == nil {
		go server.Serve(listener)
		go http.Serve(listener, server)
	}
	if client, err := grpc.Dial(os.Args[2], grpc.WithInsecure()); err == nil {
		client.Invoke(context.Background(), "/service/method", nil, nil)
		client.NewStream(context.Background(), &grpc.StreamDesc{}, "/service/method")
	}
}
"#;

const FLAGS: &str = "-buildvcs=false -mod=mod";

/// A small program with a module's server and client, in a folder of its own.
pub struct Program {
    folder: TempDir,
    module: &'static str,
}

impl Program {
    /// With grpc-go's of this version.
    pub fn new(go: &Go, version: &str) -> Result<Self> {
        Self::with(PROGRAM, go, GRPC, version)
    }

    /// The same of other sources, all files of a folder that has no `go.mod`.
    pub fn of(sources: &Path, go: &Go, version: &str) -> Result<Self> {
        let program = Self::empty(go, GRPC, version)?;
        for entry in fs::read_dir(sources).with_context(|| format!("read {}", sources.display()))? {
            let entry = entry?;
            fs::copy(entry.path(), program.folder.path().join(entry.file_name()))?;
        }
        Ok(program)
    }

    /// With this source, and a module of this version.
    pub(super) fn with(source: &str, go: &Go, module: &'static str, version: &str) -> Result<Self> {
        let program = Self::empty(go, module, version)?;
        fs::write(program.folder.path().join("main.go"), source)?;
        Ok(program)
    }

    fn empty(go: &Go, module: &'static str, version: &str) -> Result<Self> {
        let folder = tempfile::tempdir().context("make a temporary directory")?;
        // Go 1.21 and later want the patch release, too, if a module that is used names one.
        let (minor, _) = go::numbers(&go.version).context("a Go release without numbers")?;
        let language = if minor < 21 {
            format!("1.{minor}")
        } else {
            go.version.clone()
        };
        let lines = format!("module example/measured\n\ngo {language}\n\nrequire {module} {version}\n");
        fs::write(folder.path().join("go.mod"), lines)?;
        Ok(Self { folder, module })
    }

    /// Gets the module, where it is not here already.
    pub fn fetch(&self, go: &Go) -> Result<()> {
        check(self.go(go).args(["mod", "download", self.module]))
    }

    /// Builds it, and says where it is.
    pub fn build(&self, go: &Go, flags: &[&str]) -> Result<PathBuf> {
        self.build_as("program", go, flags)
    }

    /// The same under a name of its own, so that an earlier build stays.
    pub fn build_as(&self, name: &str, go: &Go, flags: &[&str]) -> Result<PathBuf> {
        check(self.go(go).args(["build", "-o", name]).args(flags).arg("."))?;
        Ok(self.folder.path().join(name))
    }

    fn go(&self, go: &Go) -> Command {
        let mut command = Command::new(&go.command);
        command
            .current_dir(self.folder.path())
            .env("GOTOOLCHAIN", "local")
            .env("GOFLAGS", FLAGS)
            .env("CGO_ENABLED", "0")
            .env_remove("GOROOT");
        command
    }

    /// The minor version of the oldest Go that the module wants, as far as we know such a Go.
    pub fn oldest_go(&self, go: &Go) -> Result<u32> {
        let wanted = read(
            self.go(go)
                .args(["list", "-m", "-f", "{{.GoVersion}}", self.module]),
        );
        let wanted = wanted.with_context(|| format!("ask which Go {} wants", self.module))?;
        // One that does not say is as old as modules.
        let minor = go::numbers(wanted.trim()).map_or(0, |(minor, _)| minor);
        Ok(minor.max(*MINORS.start()))
    }
}

/// The newest Go that is measured.
pub(super) fn newest_go(releases: &[String]) -> Result<Go> {
    let newest = releases
        .iter()
        .rfind(|release| go::numbers(release).is_some_and(|(minor, _)| MINORS.contains(&minor)));
    go::go_command(newest.context("no Go release can be had")?)
}

/// The rows of each module; of x/net without its own server and client.
pub(super) fn measure(releases: &[String], skyprobe: &Path) -> Result<BTreeMap<String, Vec<Row>>> {
    let go = newest_go(releases)?;
    let list = go::versions(GRPC)?;
    let versions = parse_versions(&list);
    let mut measuring = Measuring {
        skyprobe,
        under: BTreeMap::new(),
    };
    let mut rows: Vec<Row> = Vec::new();
    for of_minor in versions.chunk_by(|one, other| minor(one) == minor(other)) {
        let of_minor: Vec<&String> = of_minor.iter().collect();
        for row in measure_minor(&of_minor, &mut |version| {
            measuring.measure(&go, &Program::new(&go, version)?, version)
        })? {
            join(&mut rows, row);
        }
    }
    // A layout goes by grpc-go's version only if no type of Go's own in it has another size in another Go.
    for row in &rows {
        let first = row.measured.first().context("a row without a release")?;
        let minor = Program::new(&go, first)?.oldest_go(&go)?;
        let oldest = go::newest(releases, minor).with_context(|| format!("Go 1.{minor} cannot be had"))?;
        let oldest = go::go_command(oldest)?;
        let offsets = measuring.measure(&oldest, &Program::new(&oldest, first)?, first)?;
        ensure!(
            offsets == row.offsets,
            "grpc-go {first} has other offsets with Go {} than with Go {}",
            oldest.version,
            go.version
        );
    }
    // Programs are not bound to what grpc-go asks for.
    let last = versions.last().context("no grpc-go can be had")?;
    let program = Program::new(&go, last)?;
    let newest = UNDER.map(|module| format!("{module}@latest"));
    check(program.go(&go).arg("get").args(newest))?;
    measuring.measure(&go, &program, last)?;

    let mut modules = BTreeMap::from([(GRPC.to_owned(), rows)]);
    for (module, found) in measuring.under {
        let rows = modules.entry(module).or_default();
        for (version, offsets) in found {
            let measured = vec![version.0];
            join(rows, Row { measured, offsets });
        }
    }
    Ok(modules)
}

struct Measuring<'a> {
    skyprobe: &'a Path,
    /// What has been found of the modules under grpc-go.
    under: BTreeMap<String, BTreeMap<Version, Offsets>>,
}

impl Measuring<'_> {
    /// The offsets of grpc-go's fields; those of other modules are noted.
    fn measure(&mut self, go: &Go, program: &Program, version: &str) -> Result<Offsets> {
        step(format!("measuring grpc-go {version} with Go {}", go.version));
        let measured = || {
            let inspected = inspect(&program.build(go, &[])?, self.skyprobe)?;
            let of_grpc = inspected.hooks.iter().filter(|hook| hook.library == GRPC);
            check_hooks(of_grpc)?;
            by_module(&inspected)
        };
        let measured =
            measured().with_context(|| format!("measure grpc-go {version} with Go {}", go.version))?;
        let mut of_grpc = None;
        for ((module, version), offsets) in measured {
            if module == GRPC {
                of_grpc = Some(offsets);
                continue;
            }
            match self.under.entry(module).or_default().entry(Version(version)) {
                Entry::Vacant(entry) => {
                    entry.insert(offsets);
                }
                Entry::Occupied(entry) => ensure!(
                    *entry.get() == offsets,
                    "{} has different offsets in different programs",
                    entry.key().0
                ),
            }
        }
        of_grpc.context("no field of grpc-go was found")
    }
}

/// The fields of modules, by module and version.
fn by_module(inspected: &Inspected) -> Result<BTreeMap<(String, String), Offsets>> {
    let modules = inspected.modules.as_deref().unwrap_or_default();
    // As Go has it, a package is of the module whose path is the longest beginning of its own.
    let module_of = |field: &str| {
        let holds = |path: &str| {
            field
                .strip_prefix(path)
                .is_some_and(|rest| rest.starts_with(['/', '.']))
        };
        let holding = modules.iter().filter(|module| holds(&module.path));
        holding.max_by_key(|module| module.path.len())
    };
    let mut found: BTreeMap<_, Offsets> = BTreeMap::new();
    let is_here = |field: &str| module_of(field).is_some() && !x_net::is_own(field);
    for (field, offset) in inspected.offsets(is_here)? {
        let module = module_of(&field).context("a field without a module")?;
        let version = module
            .version
            .clone()
            .with_context(|| format!("{} has no version", module.path))?;
        found
            .entry((module.path.clone(), version))
            .or_default()
            .insert(field, offset);
    }
    Ok(found)
}

/// Adds a row that follows the others, to the last of them if nothing has changed.
pub(super) fn join(rows: &mut Vec<Row>, mut row: Row) {
    match rows.last_mut().filter(|last| last.offsets == row.offsets) {
        Some(last) => last.measured.append(&mut row.measured),
        None => rows.push(row),
    }
}

/// The releases that are measured, the oldest first.
fn parse_versions(list: &str) -> Vec<String> {
    list.split_whitespace()
        .filter(|version| minor(version).is_some_and(|minor| minor >= OLDEST))
        .map(str::to_owned)
        .collect()
}

/// The minor version of a release; `None` for what only leads to one.
fn minor(version: &str) -> Option<u32> {
    let (minor, _) = go::numbers(version.strip_prefix('v')?)?;
    Some(minor)
}

/// A version of a module under grpc-go: a release, or a commit by its time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Version(pub(super) String);

impl Version {
    /// Releases are later than the commits that lead to them.
    fn key(&self) -> (Vec<u32>, bool, &str) {
        let (numbers, commit) = self.0.split_once('-').unwrap_or((&self.0, ""));
        let numbers = numbers.trim_start_matches('v').split('.');
        let numbers = numbers.map(|number| number.parse().unwrap_or_default());
        (numbers.collect(), commit.is_empty(), commit)
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_what_is_measured() {
        let list = "google.golang.org/grpc v1.36.1 v1.37.0 v1.79.0-dev v1.79.0 v1.79.3 v2.0.0\n";
        assert_eq!(parse_versions(list), ["v1.37.0", "v1.79.0", "v1.79.3"]);
    }

    #[test]
    fn commits_come_before_what_they_lead_to() {
        let ordered = [
            "v0.0.0-20190311183353-d8887717615a",
            "v0.0.0-20200822124328-c89045814202",
            "v0.4.0",
            "v0.46.0",
            "v0.46.1-0.20251013234738-63d1a5100f82",
            "v0.46.1",
        ];
        let versions = ordered.map(|version| Version(version.to_owned()));
        assert!(versions.is_sorted_by(|one, next| one < next));
    }

    #[test]
    fn neighbours_that_agree_are_one_row() {
        let row = |release: &str, offset| Row {
            measured: vec![release.to_owned()],
            offsets: Offsets::from([("a.b.c".to_owned(), offset)]),
        };
        let mut rows = Vec::new();
        for (release, offset) in [("v1.1.0", 8), ("v1.2.0", 8), ("v1.3.0", 16), ("v1.4.0", 8)] {
            join(&mut rows, row(release, offset));
        }
        let measured: Vec<String> = rows.iter().map(|row| row.measured.join(" ")).collect();
        assert_eq!(measured, ["v1.1.0 v1.2.0", "v1.3.0", "v1.4.0"]);
    }

    #[test]
    fn a_field_is_of_the_module_that_holds_its_package() {
        let json = r#"{"modules": [{"path": "example/rpc", "version": null},
                {"path": "google.golang.org/genproto", "version": "v0.0.0-1"},
                {"path": "google.golang.org/genproto/googleapis/rpc", "version": "v0.0.0-2"}],
            "hooks": [], "offsets": [
                {"field": "google.golang.org/genproto/googleapis/rpc/status.Status.Code", "offset": 40, "source": "DWARF"},
                {"field": "google.golang.org/genprototype.T.f", "offset": 8, "source": "DWARF"},
                {"field": "net/http.conn.bufr", "offset": 80, "source": "table"}]}"#;
        let inspected: Inspected = serde_json::from_str(json).expect("a report");
        let found = by_module(&inspected).expect("offsets");
        let keys: Vec<&str> = found.keys().map(|(_, version)| version.as_str()).collect();
        assert_eq!(keys, ["v0.0.0-2"]);
    }
}
