//! grpc-go in the versions that moved its fields: every hook is found, the type descriptors of a stripped program and the
//! table say what the DWARF of the same program says; and traced, on both sides of each break, built by the oldest Go
//! that can and by the newest.

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use probe_common::field::GoField;
use probe_user::{
    discover::go::GoBinary,
    instrument::{
        self, OnMissing, Part, Plan,
        offset::{self, OffsetSource},
    },
};
use tests::{
    needs_probe,
    page::check_rows,
    probe::Probe,
    scene::{FRONT_IDS, stop_with},
    segment::Segment,
    skip::{full, skip},
    target::Service,
    truth::{self, Account, Links, Record, Side},
};
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
    let binary = GoBinary::open(&program.build(go, STRIPPED)?)?;
    let asked = stripped.offset_sources.iter().map(|(field, _)| field);
    for field in asked.filter(|field| field.module().is_some()) {
        let (known, described) = (with_dwarf.offsets.get(*field), stripped.offsets.get(*field));
        ensure!(
            known == described,
            "{field:?}: {known:?} by DWARF, {described:?} by type descriptors"
        );
        let (measured, _) = offset::measured(&binary, *field);
        ensure!(
            known == measured.map(u64::from),
            "{field:?}: {known:?} by DWARF, {measured:?} by the table"
        );
    }
    // Of Go's own structs the program lacks those of what it does not do.
    let mut sources = stripped.offset_sources.iter();
    let from_elsewhere = sources.find(|(field, source)| {
        field.module().is_some() && !matches!(source, OffsetSource::Types | OffsetSource::NotYet)
    });
    ensure!(from_elsewhere.is_none(), "{from_elsewhere:?}");
    Ok(())
}

fn plan(path: &Path) -> Result<Plan> {
    Ok(instrument::plan(&GoBinary::open(path)?)?)
}

#[test]
fn the_table_is_asked_last() {
    let [.., newest] = ALWAYS;
    let (go, program) = match program(newest) {
        Ok(found) => found,
        Err(error) => return skip(&format!("grpc-go {newest} cannot be had: {error:#}")),
    };
    let path = program.build(&go, STRIPPED).expect("build");
    let whole = std::fs::read(&path).expect("read");
    let plan_with = |changes: &[(&[u8], &[u8])]| {
        let mut bytes = whole.clone();
        for (old, new) in changes {
            let places: Vec<usize> = (0..bytes.len() - old.len())
                .filter(|at| bytes[*at..].starts_with(old))
                .collect();
            assert!(!places.is_empty(), "nothing to change");
            for at in places {
                bytes[at..at + new.len()].copy_from_slice(new);
            }
        }
        let binary = GoBinary::from_bytes(&path, bytes).expect("a binary");
        instrument::plan(&binary).expect("a plan")
    };
    let newer: (&[u8], &[u8]) = (
        b"google.golang.org/grpc\tv1.85.0",
        b"google.golang.org/grpc\tv1.99.0",
    );
    // What brackets the list of modules.
    let unlisted: (&[u8], &[u8]) = (b"\x30\x77\xaf\x0c\x92\x74\x08\x02", b"\0\0\0\0\0\0\0\0");
    // The names of two structs: their descriptors are found no more.
    let hidden: [(&[u8], &[u8]); 2] = [
        (b"*grpc.clientStream", b"*grpc.clientStreXm"),
        (b"*transport.Stream", b"*transport.StreXm"),
    ];
    for changes in [&[newer][..], &[unlisted]] {
        let plan = plan_with(changes);
        let lost = plan.refusals.iter().find_map(instrument::Refusal::loss);
        assert!(lost.is_none(), "{lost:?}");
        assert!(plan.has(Part::GrpcServer) && plan.has(Part::GrpcClient));
    }
    // What the descriptors do not tell, the table tells of the version that is named, and of no other.
    let by_table = plan_with(&hidden);
    assert!(by_table.has(Part::GrpcServer) && by_table.has(Part::GrpcClient));
    let is_table = |(_, source): &(GoField, OffsetSource)| matches!(source, OffsetSource::Table { .. });
    assert!(by_table.offset_sources.iter().any(is_table));
    for (change, told) in [
        (
            newer,
            "is in neither the binary's DWARF nor its type descriptors, and google.golang.org/grpc v1.99.0 was not \
             measured (the newest is v1.",
        ),
        (
            unlisted,
            "and the version of google.golang.org/grpc is not known: the build information lists no modules",
        ),
    ] {
        let plan = plan_with(&[hidden[0], hidden[1], change]);
        assert!(!plan.has(Part::GrpcServer) && !plan.has(Part::GrpcClient));
        let refusals = plan.refusals.iter();
        let mut essential = refusals.filter(|refusal| refusal.on_missing == OnMissing::Refuse);
        let reason = essential.next().expect("a refusal").reason.to_string();
        assert!(reason.contains(told), "{reason}");
    }
}

// === Traced ===

/// The versions on both sides of each break, and which Go and build of each is always traced, if one is.
const TRACED: [(&str, Option<(Age, &str)>); 20] = [
    ("v1.37.1", None),
    ("v1.39.1", Some((Age::Oldest, STRIPPED_NAME))),
    ("v1.40.1", None),
    ("v1.51.0", None),
    ("v1.52.3", None),
    ("v1.57.2", None),
    ("v1.58.3", None),
    ("v1.59.0", None),
    ("v1.60.1", None),
    ("v1.65.1", None),
    ("v1.66.3", Some((Age::Newest, PLAIN_NAME))),
    ("v1.68.1", None),
    ("v1.69.4", None),
    ("v1.76.0", None),
    ("v1.77.0", None),
    ("v1.82.0", None),
    ("v1.82.1", None),
    ("v1.83.2", None),
    ("v1.84.0", None),
    ("v1.85.0", Some((Age::Newest, STRIPPED_NAME))),
];

/// Of those Go versions that build a program.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Age {
    Oldest,
    Newest,
}

const PLAIN_NAME: &str = "plain";
const STRIPPED_NAME: &str = "-s -w";
const BUILDS: [(&str, &[&str]); 2] = [(PLAIN_NAME, &[]), (STRIPPED_NAME, STRIPPED)];

/// Where the results are written down, and under which head.
const PAGE: &str = "docs/compatibility.md";
const HEAD: &str = "| grpc-go | Go | build | served | called | parents | propagated | offsets |";
const REWRITE: &str = "UPDATE_EXPECT=1 cargo xtask test --full every_grpc_version_is_traced";

/// What is asked of each program. Calls that nobody waits for come first, since their far end hears of it only later.
const SHAPES: [&str; 11] = [
    "late",
    "abort",
    "unary",
    "upload",
    "download",
    "chat",
    "chain",
    "bare",
    "registered",
    "fanout",
    "failed",
];
const ROUNDS: usize = 2;

/// The first version whose errors say their status in a way that is read.
const STATUS_READ: u32 = 40;

/// One program of the matrix, of which two processes run.
struct Case {
    version: &'static str,
    release: String,
    build: &'static str,
    offsets: String,
    front: Service,
    back: Service,
}

#[test]
fn every_grpc_version_is_traced() {
    needs_probe!();
    let mut rows = Vec::new();
    let mut failures = Vec::new();
    let mut whole = full();
    println!("{HEAD}");
    for (version, always) in TRACED {
        if !full() && always.is_none() {
            println!("{version} left to `cargo xtask test --full`");
            continue;
        }
        let programs = match programs(version, always.filter(|_| !full())) {
            Ok(programs) => programs,
            Err(error) => {
                skip(&format!("grpc-go {version} cannot be had: {error:#}"));
                whole = false;
                continue;
            }
        };
        match trace(version, &programs) {
            Ok(traced) => rows.extend(traced),
            Err(error) => failures.push(format!("{version}: {error:#}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    check_rows(PAGE, HEAD, &rows, whole).unwrap_or_else(|error| panic!("{error:#}\nrewrite it: {REWRITE}"));
}

/// A built program, and how it was built.
struct Built {
    _folder: Program,
    path: PathBuf,
    release: String,
    build: &'static str,
}

/// The program with this version of grpc-go in all ways, or in the only one.
fn programs(version: &str, only: Option<(Age, &str)>) -> Result<Vec<Built>> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("targets/go/grpc_any");
    let releases = go::releases()?;
    let command = |minor: u32| -> Result<Go> {
        let release =
            go::newest(&releases, minor).with_context(|| format!("no Go 1.{minor} is published"))?;
        go::go_command(release)
    };
    let newest = command(GO)?;
    let oldest = Program::of(&sources, &newest, version)?.oldest_go(&newest)?;
    let mut built = Vec::new();
    for (age, go) in [(Age::Oldest, command(oldest)?), (Age::Newest, newest)] {
        if built.iter().any(|built: &Built| built.release == go.version) {
            continue;
        }
        for (build, flags) in BUILDS {
            if only.is_some_and(|only| only != (age, build)) {
                continue;
            }
            let program = Program::of(&sources, &go, version)?;
            program.fetch(&go)?;
            built.push(Built {
                path: program.build(&go, flags)?,
                _folder: program,
                release: go.version.clone(),
                build,
            });
        }
    }
    Ok(built)
}

/// One probe on all programs of a version. Returns their rows.
#[expect(clippy::print_stdout, reason = "what a test prints is its report")]
fn trace(version: &'static str, programs: &[Built]) -> Result<Vec<String>> {
    let cases = programs
        .iter()
        .map(|built| Case::start(version, built))
        .collect::<Result<Vec<_>>>()?;
    let pids: Vec<u32> = cases.iter().flat_map(Case::pids).collect();
    let probe = Probe::of_pids(&pids, &[])?;
    let mut number = 0;
    for shape in SHAPES.repeat(ROUNDS) {
        number += 1;
        for case in &cases {
            let answer = case.front.get(&format!("/{shape}/{number}"))?;
            ensure!(
                answer.status == 200,
                "{case}: /{shape}/{number} was answered by {answer:?}"
            );
        }
    }
    let truths = cases.iter().map(Case::records).collect::<Result<Vec<_>>>()?;
    let ended = stop_with(probe, truths.iter().map(Vec::len).sum())?;
    let mut rows = Vec::new();
    for (case, records) in cases.iter().zip(&truths) {
        let own = ended
            .segments
            .iter()
            .filter(|segment| case.is_of(&segment.service));
        let own: Vec<Segment> = own.cloned().collect();
        let account = truth::join(records, &own, true);
        let row = case.row(&account);
        println!("{row}");
        rows.push(row);
        let total = account.total();
        let all = |links: &Links| links.right > 0 && links.right == links.required();
        ensure!(
            (total.found, account.invented, total.wrong_facts) == (total.made, 0, 0)
                && all(&total.parents)
                && all(&total.references),
            "{case}\n{account}"
        );
    }
    ensure!(
        ended.stderr.contains(", all exported") && ended.losses().next().is_none(),
        "no account, or one with losses:\n{}",
        ended.stderr
    );
    Ok(rows)
}

impl Case {
    fn start(version: &'static str, built: &Built) -> Result<Self> {
        let plan = plan(&built.path)?;
        let offsets: BTreeSet<String> = plan
            .offset_sources
            .iter()
            .filter(|(field, _)| field.module() == Some("google.golang.org/grpc"))
            .filter_map(|(_, source)| match source {
                OffsetSource::Dwarf => Some("DWARF".to_owned()),
                OffsetSource::Types => Some("type descriptors".to_owned()),
                OffsetSource::Table { release, .. } => Some(format!("table, {release}")),
                OffsetSource::NotYet => None,
                OffsetSource::Unknown => Some("unknown".to_owned()),
            })
            .collect();
        let name = |end: &str| format!("{end}-{}-{}", built.release, built.build.replace(' ', ""));
        let back = Service::start(&built.path, &name("back"), 2 * FRONT_IDS, None)?;
        let front = Service::start(&built.path, &name("front"), FRONT_IDS, Some(&back))?;
        Ok(Self {
            version,
            release: built.release.clone(),
            build: built.build,
            offsets: offsets.into_iter().collect::<Vec<_>>().join(", "),
            front,
            back,
        })
    }

    fn pids(&self) -> [u32; 2] {
        [self.front.target.pid(), self.back.target.pid()]
    }

    fn is_of(&self, service: &str) -> bool {
        let end = format!("-{}-{}", self.release, self.build.replace(' ', ""));
        service
            .strip_suffix(&end)
            .is_some_and(|name| ["front", "back"].contains(&name))
    }

    /// What both have done, as far as a probe can know it.
    fn records(&self) -> Result<Vec<Record>> {
        let mut records = self.front.records()?;
        records.append(&mut self.back.records()?);
        let minor = go::numbers(self.version.trim_start_matches('v')).map(|(minor, _)| minor);
        if minor.context("a version without numbers")? < STATUS_READ {
            let failed = |record: &&mut Record| record.kind == Side::Exit && !record.error.is_empty();
            for record in records.iter_mut().filter(failed) {
                record.code.clear();
            }
        }
        Ok(records)
    }

    /// Its line in the table: what was found of what there was.
    fn row(&self, account: &Account) -> String {
        let total = account.total();
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            self.version.trim_start_matches('v'),
            self.release,
            self.build,
            account.score(Side::Entry),
            account.score(Side::Exit),
            total.parents.score(),
            total.references.score(),
            self.offsets
        )
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "grpc-go {}, Go {}, {}", self.version, self.release, self.build)
    }
}
