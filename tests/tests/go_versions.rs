//! Every Go version that can be had, each in the ways a program may be built: all hooks found, at instructions that the
//! kernel emulates, and the same offsets whether DWARF or the table tells them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use object::{Object as _, ObjectSymbol as _};
use probe_common::field::GoField;
use probe_user::{
    discover::{
        go::{GoBinary, GoVersion},
        types::types_field,
    },
    instrument::{
        self, Part, Place,
        offset::{OffsetSource, dwarf},
    },
};
use tests::{
    skip::{full, skip},
    target::{Go, GoBuild},
};
use xtask::go;

/// The minor versions that are always looked at: the oldest, a change of layout, the newest.
const ALWAYS: [u32; 3] = [19, 24, 27];
const ALL: std::ops::RangeInclusive<u32> = 19..=27;

/// Every way to build that makes a different binary; the second member says that it has no DWARF.
fn builds() -> [(&'static str, bool, GoBuild); 4] {
    let build = || GoBuild::new("net_http");
    [
        ("plain", false, build()),
        ("-s -w", true, build().flag("-ldflags=-s -w")),
        ("PIE", false, build().flag("-buildmode=pie")),
        (
            "PIE -s -w",
            true,
            build().flag("-buildmode=pie").flag("-ldflags=-s -w"),
        ),
    ]
}

#[test]
fn every_go_version_is_understood() {
    let releases = match go::releases() {
        Ok(releases) => releases,
        Err(error) => {
            skip(&format!("no list of Go releases: {error:#}"));
            Vec::new()
        }
    };
    let mut failures = Vec::new();
    println!(
        "{:<10} {:<10} {:>5} {:>8} {:>7}  goidgen",
        "Go", "build", "sites", "emulated", "offsets"
    );
    for minor in ALL {
        if !full() && !ALWAYS.contains(&minor) {
            println!("1.{minor:<8} left to `cargo xtask test --full`");
            continue;
        }
        let Some(release) = go::newest(&releases, minor) else {
            skip(&format!(
                "Go 1.{minor} cannot be had: no release of it is published for this machine"
            ));
            continue;
        };
        let go = match go::go_command(release).and_then(|found| Go::at(found.command)) {
            Ok(go) => go,
            Err(error) => {
                skip(&format!("Go {release} cannot be had: {error:#}"));
                continue;
            }
        };
        for (name, stripped, build) in builds() {
            match examine(&go, &build, stripped) {
                Ok(row) => println!("{release:<10} {name:<10} {row}"),
                Err(error) => failures.push(format!("Go {release}, {name}: {error:#}")),
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn examine(go: &Go, build: &GoBuild, stripped: bool) -> Result<String> {
    let path = build.build(go)?;
    let binary = GoBinary::open(&path)?;
    let plan = instrument::plan(&binary)?;
    ensure!(
        Some(binary.go_version) == GoVersion::parse(&go.version),
        "it says {}",
        binary.go_version_text
    );
    ensure!(
        plan.has(Part::Server) && plan.has(Part::Client),
        "{:?} {:?}",
        plan.absent,
        plan.refusals
    );
    let lost: Vec<_> = plan
        .refusals
        .iter()
        .filter_map(instrument::Refusal::loss)
        .collect();
    ensure!(lost.is_empty(), "{lost:?}");
    for site in &plan.sites {
        let cheap = matches!(site.place, Place::StackCheck | Place::Success) && site.emulated;
        ensure!(
            cheap || site.place == Place::Return,
            "{} is at {:?}",
            site.program,
            site.place
        );
    }
    ensure!(binary.stripped == stripped, "stripped: {}", binary.stripped);
    for (field, source) in &plan.offset_sources {
        let expected = match source {
            OffsetSource::Dwarf => !stripped,
            OffsetSource::Table(_) => stripped,
            OffsetSource::NotYet => true,
            OffsetSource::Unknown => false,
        };
        ensure!(expected, "{field:?} is known by {source:?}");
    }
    // The table was measured on another program.
    let with_dwarf = if stripped {
        unstripped(go, build)?
    } else {
        offsets(&plan)
    };
    ensure!(
        offsets(&plan) == with_dwarf,
        "{:?} and by DWARF {with_dwarf:?}",
        offsets(&plan)
    );
    let goidgen = plan.goidgen.context("the counter of goroutines is not found")?;
    if !stripped {
        let by_name = goidgen_by_name(&binary)?;
        ensure!(goidgen == by_name, "{goidgen:#x}, and by its symbol {by_name:#x}");
        let types = ("runtime.moduledata", "types");
        let by_dwarf = dwarf::find(binary.elf(), &[types]).and_then(|found| found.get(&types).copied());
        ensure!(
            types_field(binary.go_version) == by_dwarf,
            "moduledata.types is at {by_dwarf:?}"
        );
    }
    ensure!(plan.types.is_some(), "no names of types");
    let emulated = plan.sites.iter().filter(|site| site.emulated).count();
    Ok(format!(
        "{:>5} {emulated:>8} {:>7}  {goidgen:#x}{}",
        plan.sites.len(),
        with_dwarf.len(),
        if stripped { "" } else { " as its symbol says" }
    ))
}

fn offsets(plan: &instrument::Plan) -> BTreeMap<GoField, u64> {
    GoField::ALL
        .iter()
        .filter_map(|field| Some((*field, plan.offsets.get(*field)?)))
        .collect()
}

/// The offsets by the DWARF of the same program, not stripped.
fn unstripped(go: &Go, build: &GoBuild) -> Result<BTreeMap<GoField, u64>> {
    let [(_, _, plain), _, (_, _, pie), _] = builds();
    let twin = if format!("{build:?}").contains("pie") {
        pie
    } else {
        plain
    };
    Ok(offsets(&instrument::plan(&GoBinary::open(&twin.build(go)?)?)?))
}

/// The address that the symbol table has for `runtime.sched.goidgen`.
fn goidgen_by_name(binary: &GoBinary) -> Result<u64> {
    let bytes = std::fs::read(&binary.path)?;
    let file = object::File::parse(&*bytes)?;
    let mut symbols = file.symbols();
    let sched = symbols
        .find(|symbol| symbol.name() == Ok("runtime.sched"))
        .context("no symbol runtime.sched")?;
    let field = ("runtime.schedt", "goidgen");
    let offset = dwarf::find(binary.elf(), &[field]).and_then(|found| found.get(&field).copied());
    Ok(sched.address() + offset.context("no field runtime.schedt.goidgen")?)
}
