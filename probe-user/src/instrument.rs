//! Instrumentation as data: which programs go to which functions, what they need to know, and what a binary has of
//! it. [`plan`] is the answer for one binary; nothing here attaches anything.

pub mod go;
pub mod offset;
pub mod site;

use std::fmt;

use probe_common::field::{GoField, Offsets};
use thiserror::Error;

pub use self::site::{Place, SiteKind};
use self::{
    offset::{OffsetSource, StructOffsets},
    site::SiteError,
};
use crate::discover::{
    go::{BinaryError, GoBinary, GoVersion},
    pclntab::{Found, Function},
};

/// A library's manifest.
#[derive(Debug)]
pub struct Instrumentation {
    /// Its import path.
    pub library: &'static str,
    pub hooks: &'static [Hook],
}

/// A program, and where it goes.
#[derive(Debug)]
pub struct Hook {
    pub program: &'static str,
    /// The function; more than one where versions spell it differently.
    pub symbols: &'static [&'static str],
    pub site: SiteKind,
    pub versions: Versions,
    pub part: Part,
    pub on_missing: OnMissing,
    /// Fields without which the program cannot work.
    pub needs: &'static [GoField],
    /// Fields that add something where they are known.
    pub wants: &'static [GoField],
}

/// Go 1 releases by their minor number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    pub since: u16,
    pub before: Option<u16>,
}

impl Versions {
    pub fn contain(self, version: GoVersion) -> bool {
        version.minor >= self.since && self.before.is_none_or(|before| version.minor < before)
    }
}

/// What of a library stands or falls together. The linker leaves out what a program does not use: one that only
/// serves has no client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Server,
    Client,
}

impl Part {
    pub const ALL: [Self; 2] = [Self::Server, Self::Client];
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Client => "client",
        })
    }
}

/// What becomes of the part when a hook cannot be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnMissing {
    /// The whole part is left alone.
    Refuse,
    /// The rest goes on, and this is lost.
    Degrade(&'static str),
    /// Nothing is lost where the linker left the function out: the program never does this.
    Unused(&'static str),
}

/// An instruction of a binary, and the program for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    pub program: &'static str,
    pub symbol: &'static str,
    pub part: Part,
    /// Where the instruction is in the file, as uprobes want it.
    pub file_offset: u64,
    pub place: Place,
    /// The kernel emulates the instruction instead of single-stepping it.
    pub emulated: bool,
}

/// A hook that has no site in a binary, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub program: &'static str,
    pub symbol: &'static str,
    pub part: Part,
    pub on_missing: OnMissing,
    pub reason: RefusalReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RefusalReason {
    #[error("not in the binary")]
    NotInBinary,
    #[error("not for this Go version")]
    OtherVersion,
    #[error(transparent)]
    Site(#[from] SiteError),
    #[error("the function's code cannot be read")]
    Unreadable,
    #[error("the offset of {} is not known for this Go version and the binary has no DWARF", offset::name(*.0))]
    UnknownOffset(GoField),
    #[error("{0} has no site, and without it this {1} cannot be traced")]
    PartRefused(&'static str, Part),
}

// === impl Refusal ===

impl Refusal {
    /// What is lost by it; `None` if nothing is.
    pub fn loss(&self) -> Option<String> {
        match (self.on_missing, self.reason) {
            (OnMissing::Unused(_), RefusalReason::NotInBinary) => None,
            (OnMissing::Refuse, _) => Some(format!("the {} is not traced", self.part)),
            (OnMissing::Degrade(what) | OnMissing::Unused(what), _) => Some(what.to_owned()),
        }
    }
}

/// Every program that some library's hooks ask for, once.
pub fn programs() -> impl Iterator<Item = &'static str> {
    let mut programs: Vec<&str> = go::LIBRARIES
        .iter()
        .flat_map(|library| library.hooks)
        .map(|hook| hook.program)
        .collect();
    programs.sort_unstable();
    programs.dedup();
    programs.into_iter()
}

/// What a binary offers.
#[derive(Clone, Debug)]
pub struct Plan {
    pub sites: Vec<Site>,
    /// Hooks of parts that the program has, which cannot be placed.
    pub refusals: Vec<Refusal>,
    /// Parts that the program does not have.
    pub absent: Vec<Part>,
    pub offsets: Offsets,
    pub offset_sources: Vec<(GoField, OffsetSource)>,
    /// Address of `runtime.sched.goidgen`, before the load bias.
    pub goidgen: Option<u64>,
    /// Address where the names of types count from, before the load bias: see [`crate::discover::types`].
    pub types: Option<u64>,
    /// The SkyWalking agent that is already in the program: it is left to it.
    pub already_traced: Option<String>,
}

impl Plan {
    pub fn has(&self, part: Part) -> bool {
        self.sites.iter().any(|site| site.part == part)
    }
}

/// Finds every hook's place in the binary.
pub fn plan(binary: &GoBinary) -> Result<Plan, BinaryError> {
    let hooks = || go::LIBRARIES.iter().flat_map(|library| library.hooks);
    let mut symbols: Vec<&str> = hooks().flat_map(|hook| hook.symbols).copied().collect();
    symbols.push(go::runtime::NEWPROC);
    let agents: Vec<&str> = go::AGENTS.iter().map(|(prefix, _)| *prefix).collect();
    let found = binary.look_up(&symbols, &agents)?;

    let structs = StructOffsets::find(binary);
    let mut planned = Plan {
        sites: Vec::new(),
        refusals: Vec::new(),
        absent: Vec::new(),
        offsets: structs.offsets(),
        offset_sources: structs.sources(),
        goidgen: goidgen(binary, &found),
        types: None,
        already_traced: found.prefixed.as_deref().and_then(agent_name),
    };
    for part in Part::ALL {
        let hooks: Vec<&Hook> = hooks().filter(|hook| hook.part == part).collect();
        plan_part(binary, &found, part, &hooks, &mut planned);
    }
    Ok(planned)
}

fn agent_name(function: &str) -> Option<String> {
    let (_, agent) = go::AGENTS
        .iter()
        .find(|(prefix, _)| function.starts_with(prefix))?;
    Some((*agent).to_owned())
}

fn plan_part(binary: &GoBinary, found: &Found, part: Part, hooks: &[&'static Hook], planned: &mut Plan) {
    let has = |hook: &Hook| hook.symbols.iter().any(|symbol| found.function(symbol).is_some());
    if !hooks
        .iter()
        .any(|hook| hook.on_missing == OnMissing::Refuse && has(hook))
    {
        planned.absent.push(part);
        return;
    }
    let mut sites = Vec::new();
    let mut refusals = Vec::new();
    for hook in hooks
        .iter()
        .filter(|hook| hook.versions.contain(binary.go_version))
    {
        match place(binary, found, hook, &planned.offset_sources) {
            Ok(mut spots) => sites.append(&mut spots),
            Err((symbol, reason)) => {
                let (program, on_missing) = (hook.program, hook.on_missing);
                refusals.push(Refusal {
                    program,
                    symbol,
                    part,
                    on_missing,
                    reason,
                });
            }
        }
    }
    let fatal = refusals
        .iter()
        .find(|refusal| refusal.on_missing == OnMissing::Refuse)
        .map(|r| r.program);
    match fatal {
        None => planned.sites.append(&mut sites),
        // The others are named too, so that each hook of the part has its line.
        Some(missing) => {
            let mut programs: Vec<&Site> = sites.iter().collect();
            programs.dedup_by_key(|site| site.program);
            refusals.extend(programs.iter().map(|site| Refusal {
                program: site.program,
                symbol: site.symbol,
                part,
                on_missing: OnMissing::Refuse,
                reason: RefusalReason::PartRefused(missing, part),
            }));
        }
    }
    planned.refusals.append(&mut refusals);
}

/// The sites of one hook, or the symbol and why there are none.
fn place(
    binary: &GoBinary,
    found: &Found,
    hook: &Hook,
    sources: &[(GoField, OffsetSource)],
) -> Result<Vec<Site>, (&'static str, RefusalReason)> {
    let first = hook.symbols.first().copied().unwrap_or_default();
    let symbol = hook
        .symbols
        .iter()
        .find(|symbol| found.function(symbol).is_some());
    let Some((symbol, function)) = symbol.and_then(|symbol| Some((*symbol, found.function(symbol)?))) else {
        return Err((first, RefusalReason::NotInBinary));
    };
    let unknown = |field: &&GoField| {
        sources
            .iter()
            .any(|(source_field, source)| source_field == *field && *source == OffsetSource::Unknown)
    };
    if let Some(field) = go::runtime::NEEDS.iter().chain(hook.needs).find(unknown) {
        return Err((symbol, RefusalReason::UnknownOffset(*field)));
    }
    let offset = binary.elf().file_offset(function.address);
    let (Some(body), Some(offset)) = (body(binary, function), offset) else {
        return Err((symbol, RefusalReason::Unreadable));
    };
    let spots = site::find(binary.architecture, hook.site, &body).map_err(|error| (symbol, error.into()))?;
    let site = |spot: site::Spot| Site {
        program: hook.program,
        symbol,
        part: hook.part,
        file_offset: offset + spot.at,
        place: spot.place,
        emulated: spot.emulated,
    };
    Ok(spots.into_iter().map(site).collect())
}

/// A function's bytes, if it is of a size that a hooked function may have and lies in code.
fn body(binary: &GoBinary, function: &Function) -> Option<Vec<u8>> {
    if function.size_bytes == 0 || function.size_bytes > site::BODY_MAX {
        return None;
    }
    let elf = binary.elf();
    if !elf.is_executable(function.address) {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(function.size_bytes).ok()?];
    elf.read_address(function.address, &mut bytes).ok()?;
    Some(bytes)
}

fn goidgen(binary: &GoBinary, found: &Found) -> Option<u64> {
    let function = found.function(go::runtime::NEWPROC)?;
    let address = site::goidgen(binary.architecture, function.address, &body(binary, function)?)?;
    // It counts in memory that is written: `runtime.sched` is in the data that starts as zero.
    let writable = binary.elf().segments.iter().any(|segment| {
        let inside = address
            .checked_sub(segment.address)
            .is_some_and(|at| at < segment.memory_bytes);
        inside && segment.writable
    });
    writable.then_some(address)
}

#[cfg(test)]
mod tests {
    use std::{path::Path, process::Command};

    use super::*;

    const SERVER_AND_CLIENT: &str = r#"package main

import (
	"io"
	"net/http"
	"os"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if response, err := http.Get(r.URL.Query().Get("next")); err == nil {
			io.Copy(w, response.Body)
		}
	})
	http.ListenAndServe(os.Args[1], nil)
}
"#;
    const CLIENT: &str = r#"package main

import (
	"net/http"
	"os"
)

func main() { http.Get(os.Args[1]) }
"#;

    /// Builds a program with the machine's Go.
    fn build(directory: &Path, source: &str, arguments: &[&str], environment: &[(&str, &str)]) -> GoBinary {
        std::fs::write(directory.join("main.go"), source).unwrap();
        std::fs::write(directory.join("go.mod"), "module example/web\n\ngo 1.19\n").unwrap();
        let output = Command::new("go")
            .current_dir(directory)
            .envs([
                ("CGO_ENABLED", "0"),
                ("GOTOOLCHAIN", "local"),
                ("GOFLAGS", "-buildvcs=false"),
            ])
            .envs(environment.iter().copied())
            .args(["build", "-o", "program"])
            .args(arguments)
            .arg(".")
            .output()
            .expect("these tests build Go programs: install Go");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        GoBinary::open(&directory.join("program")).unwrap()
    }

    /// The programs with their places, each once.
    fn places(plan: &Plan) -> Vec<(&'static str, Place)> {
        let mut places: Vec<_> = plan.sites.iter().map(|site| (site.program, site.place)).collect();
        places.dedup();
        places
    }

    const EVERYTHING: [(&str, Place); 6] = [
        ("go_net_http_serve_http", Place::StackCheck),
        ("go_net_http_finish_request", Place::StackCheck),
        ("go_net_http_conn_close", Place::StackCheck),
        ("go_net_http_round_trip", Place::StackCheck),
        ("go_net_http_round_trip_return", Place::Return),
        ("go_net_http_persist_conn_round_trip", Place::StackCheck),
    ];

    #[test]
    fn every_hook_has_its_place_with_dwarf() {
        let directory = tempfile::tempdir().unwrap();
        for arguments in [&[][..], &["-buildmode=pie"], &["-ldflags=-compressdwarf=false"]] {
            let binary = build(directory.path(), SERVER_AND_CLIENT, arguments, &[]);
            let plan = plan(&binary).unwrap();
            assert_eq!(places(&plan), EVERYTHING, "{arguments:?}");
            assert!(
                plan.offset_sources
                    .iter()
                    .all(|(_, source)| *source == OffsetSource::Dwarf)
            );
            assert_eq!(plan.offsets.get(GoField::RequestUrl), Some(16));
            assert!(plan.goidgen.is_some());
            assert_eq!(plan.refusals.iter().filter_map(Refusal::loss).count(), 0);
        }
    }

    #[test]
    fn a_program_without_a_server_keeps_its_client() {
        let directory = tempfile::tempdir().unwrap();
        let plan = plan(&build(directory.path(), CLIENT, &[], &[])).unwrap();
        assert_eq!(places(&plan), EVERYTHING[3..]);
        assert_eq!(plan.absent, [Part::Server]);
        assert_eq!(plan.refusals, []);
    }

    #[test]
    fn arm64_binaries_are_understood() {
        let directory = tempfile::tempdir().unwrap();
        let plan = plan(&build(
            directory.path(),
            SERVER_AND_CLIENT,
            &[],
            &[("GOARCH", "arm64")],
        ))
        .unwrap();
        assert_eq!(places(&plan), EVERYTHING);
        assert!(plan.sites.iter().all(|site| site.emulated));
    }
}
