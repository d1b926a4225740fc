//! grpc-go in the versions that moved its fields: every hook is found, the table says of a stripped program what the
//! DWARF of the same program says, and a version that was not measured is refused.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use probe_common::field::GoField;
use probe_user::{
    discover::go::GoBinary,
    instrument::{self, OnMissing, Part, Plan, offset::OffsetSource},
};
use tests::skip::{full, skip};
use xtask::{
    go::{self, Go},
    offsets::modules::Program,
};

/// The versions that are always looked at.
const ALWAYS: [&str; 2] = ["v1.58.3", "v1.85.0"];
/// One of each other layout, and of each spelling of a hooked function.
const FURTHER: [&str; 8] = [
    "v1.39.1", "v1.40.1", "v1.57.2", "v1.66.3", "v1.76.0", "v1.82.1", "v1.83.2", "v1.84.0",
];
/// The minor version of Go that builds them all.
const GO: u32 = 27;
const STRIPPED: &[&str] = &["-ldflags=-s -w"];

/// A Go and a version that can be built with it, or the reason for there being none.
fn program(version: &str) -> Result<(Go, Program)> {
    let releases = go::releases()?;
    let release = go::newest(&releases, GO).with_context(|| format!("no Go 1.{GO} is published"))?;
    let go = go::go_command(release)?;
    let program = Program::new(&go, version)?;
    program.fetch(&go)?;
    Ok((go, program))
}

#[test]
fn a_stripped_program_has_the_offsets_of_its_debug_information() {
    let further = FURTHER.iter().filter(|_| full());
    for version in ALWAYS.iter().chain(further) {
        match program(version) {
            Ok((go, program)) => {
                compare(&go, &program).unwrap_or_else(|error| panic!("{version}: {error:#}"))
            }
            Err(error) => skip(&format!("grpc-go {version} cannot be had: {error:#}")),
        }
    }
}

fn compare(go: &Go, program: &Program) -> Result<()> {
    let with_dwarf = plan(&program.build(go, &[])?)?;
    let stripped = plan(&program.build(go, STRIPPED)?)?;
    for plan in [&with_dwarf, &stripped] {
        ensure!(
            plan.has(Part::GrpcServer) && plan.has(Part::GrpcClient),
            "{:?}",
            plan.refusals
        );
        let lost = plan.refusals.iter().find_map(instrument::Refusal::loss);
        ensure!(lost.is_none(), "{lost:?}");
    }
    let library = GoField::ALL.iter().filter(|field| field.module().is_some());
    for field in library {
        let (known, by_table) = (with_dwarf.offsets.get(*field), stripped.offsets.get(*field));
        ensure!(
            known == by_table,
            "{field:?}: {known:?} by DWARF, {by_table:?} by the table"
        );
    }
    let mut sources = stripped.offset_sources.iter();
    let from_elsewhere = sources.find(|(field, source)| match source {
        OffsetSource::Table { module, .. } => module.is_some() != field.module().is_some(),
        OffsetSource::NotYet => false,
        OffsetSource::Dwarf | OffsetSource::Unknown => true,
    });
    ensure!(from_elsewhere.is_none(), "{from_elsewhere:?}");
    Ok(())
}

fn plan(path: &Path) -> Result<Plan> {
    Ok(instrument::plan(&GoBinary::open(path)?)?)
}

#[test]
fn what_was_not_measured_is_refused() {
    let [.., newest] = ALWAYS;
    let (go, program) = match program(newest) {
        Ok(found) => found,
        Err(error) => return skip(&format!("grpc-go {newest} cannot be had: {error:#}")),
    };
    let path = program.build(&go, STRIPPED).expect("build");
    let whole = std::fs::read(&path).expect("read");
    let refused = |old: &[u8], new: &[u8]| {
        let mut bytes = whole.clone();
        let places: Vec<usize> = (0..bytes.len() - old.len())
            .filter(|at| bytes[*at..].starts_with(old))
            .collect();
        assert!(!places.is_empty(), "nothing to change");
        for at in places {
            bytes[at..at + new.len()].copy_from_slice(new);
        }
        let binary = GoBinary::from_bytes(&path, bytes).expect("a binary");
        let plan = instrument::plan(&binary).expect("a plan");
        assert!(!plan.has(Part::GrpcServer) && !plan.has(Part::GrpcClient));
        let refusals = plan.refusals.iter();
        let mut essential = refusals.filter(|refusal| refusal.on_missing == OnMissing::Refuse);
        essential.next().expect("a refusal").reason.to_string()
    };
    let newer = refused(
        b"google.golang.org/grpc\tv1.85.0",
        b"google.golang.org/grpc\tv1.99.0",
    );
    let told = "is not in the binary's DWARF, and google.golang.org/grpc v1.99.0 was not measured (the newest is v1.";
    assert!(newer.contains(told), "{newer}");
    // What brackets the list of modules.
    let unlisted = refused(b"\x30\x77\xaf\x0c\x92\x74\x08\x02", b"\0\0\0\0\0\0\0\0");
    let told =
        "and the version of google.golang.org/grpc is not known: the build information lists no modules";
    assert!(unlisted.ends_with(told), "{unlisted}");
}
