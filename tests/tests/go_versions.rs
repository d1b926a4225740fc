//! Every Go version that can be had, each in the ways a program may be built: all hooks found, at instructions that the
//! kernel emulates, the same offsets whether DWARF or the table tells them; and traced, two processes of each at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::OnceLock,
};

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
    needs_probe,
    page::check_rows,
    probe::{Ended, Probe, find_span, has_span},
    scene::{self, Scene},
    skip::{full, skip},
    target::{Go, GoBuild},
    truth::{Account, Links, Side, span_number},
};
use xtask::go;

/// The minor versions that are always looked at, and which build of each is then traced: the oldest, a change of layout,
/// the newest.
const ALWAYS: [(u32, &str); 3] = [(19, "plain"), (24, "PIE"), (27, "-s -w")];
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

/// Programs that do not run here, but are looked at: each Go compiles its standard library anew for them, so usually
/// the newest alone does.
fn of_other_processor(minor: u32) -> Vec<(&'static str, bool, GoBuild)> {
    let build = || GoBuild::new("net_http").architecture("arm64");
    if full() {
        return vec![
            ("arm64", false, build()),
            ("arm64 PIE", false, build().flag("-buildmode=pie")),
        ];
    }
    let newest = *ALL.end() == minor;
    newest.then(|| ("arm64", false, build())).into_iter().collect()
}

/// The newest release of a minor version.
struct Toolchain {
    minor: u32,
    release: String,
    go: Go,
}

/// Those that are looked at. Each that cannot be had is named; both tests want them, and they are fetched once.
#[expect(clippy::print_stdout, reason = "what a test prints is its report")]
fn toolchains() -> Vec<&'static Toolchain> {
    static FOUND: OnceLock<Vec<Result<Toolchain, String>>> = OnceLock::new();
    let found = FOUND.get_or_init(|| match go::releases() {
        Ok(releases) => minors().map(|minor| toolchain(&releases, minor)).collect(),
        Err(error) => vec![Err(format!("no list of Go releases: {error:#}"))],
    });
    for minor in ALL.filter(|minor| !minors().any(|wanted| wanted == *minor)) {
        println!("1.{minor:<8} left to `cargo xtask test --full`");
    }
    for reason in found.iter().filter_map(|found| found.as_ref().err()) {
        skip(reason);
    }
    found.iter().flatten().collect()
}

fn minors() -> impl Iterator<Item = u32> {
    ALL.filter(|minor| full() || ALWAYS.iter().any(|(always, _)| always == minor))
}

fn toolchain(releases: &[String], minor: u32) -> Result<Toolchain, String> {
    let release = go::newest(releases, minor).ok_or_else(|| {
        format!("Go 1.{minor} cannot be had: no release of it is published for this machine")
    })?;
    let go = go::go_command(release)
        .and_then(|found| Go::at(found.command))
        .map_err(|error| format!("Go {release} cannot be had: {error:#}"))?;
    Ok(Toolchain {
        minor,
        release: release.clone(),
        go,
    })
}

#[test]
fn every_go_version_is_understood() {
    let mut failures = Vec::new();
    println!(
        "{:<10} {:<10} {:>5} {:>8} {:>7}  goidgen",
        "Go", "build", "sites", "emulated", "offsets"
    );
    for Toolchain { minor, release, go } in toolchains() {
        for (name, stripped, build) in builds().into_iter().chain(of_other_processor(*minor)) {
            match examine(go, &build, stripped) {
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
        plan.has(Part::HttpServer) && plan.has(Part::HttpClient),
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
        let cheap = matches!(site.place, Place::StackCheck | Place::Call | Place::Success) && site.emulated;
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
            OffsetSource::Types => stripped,
            OffsetSource::Table { .. } => false,
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

/// Where the results are written down, and under which head.
const PAGE: &str = "docs/compatibility.md";
const HEAD: &str =
    "| Go | build | served | called | parents | propagated | offsets | success at a | single-stepped |";
const REWRITE: &str = "UPDATE_EXPECT=1 cargo xtask test --full every_go_version_is_traced";

/// What is asked of each program, and its answer: every way to find a parent, every way for a call to end.
const ROUTES: [(&str, u16); 9] = [
    // First, since its far end hears only later that nobody waits any more.
    ("timeout", 504),
    ("sync", 200),
    ("bare", 200),
    ("fanout", 200),
    ("chain", 200),
    ("post", 200),
    ("failed", 200),
    ("status", 418),
    ("refused", 504),
];
const ROUNDS: usize = 2;

/// How many programs one probe gets: the kernel takes some 90 ms to let go of each hook, one after the other, and a
/// probe is given a minute to end.
const AT_ONCE: usize = 12;

/// Why a call failed, in words of its span.
const FAILURES: [(&str, &str); 2] = [
    ("refused", "connection refused"),
    ("timeout", "deadline exceeded"),
];

/// All requests: number, route, status.
fn requests() -> impl Iterator<Item = (u64, &'static str, u16)> {
    (1..)
        .zip(ROUTES.repeat(ROUNDS))
        .map(|(number, (route, status))| (number, route, status))
}

/// One program of the matrix, of which two processes run.
struct Case {
    release: String,
    build: &'static str,
    services: [String; 2],
    offsets: String,
    success: &'static str,
    stepped: String,
    scene: Scene,
}

#[test]
fn every_go_version_is_traced() {
    needs_probe!();
    let toolchains = toolchains();
    let whole = full() && toolchains.len() == ALL.count();
    let mut programs = Vec::new();
    for toolchain in toolchains {
        programs.extend(
            builds()
                .into_iter()
                .filter(|(name, ..)| full() || ALWAYS.contains(&(toolchain.minor, name)))
                .map(|(name, _, build)| (toolchain, name, build)),
        );
    }
    if !full() {
        println!("of each version one build; the others are left to `cargo xtask test --full`");
    }
    println!("{HEAD}");
    let mut rows = Vec::new();
    let mut failures = Vec::new();
    for programs in programs.chunks(AT_ONCE) {
        let mut cases = Vec::new();
        for (toolchain, name, build) in programs {
            match Case::start(toolchain, name, build) {
                Ok(case) => cases.push(case),
                Err(error) => failures.push(format!("Go {}, {name}: {error:#}", toolchain.release)),
            }
        }
        match trace(&cases, &mut failures) {
            Ok(traced) => rows.extend(traced),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    check_rows(PAGE, HEAD, &rows, whole).unwrap_or_else(|error| panic!("{error:#}\nrewrite it: {REWRITE}"));
}

/// One probe on all of them: what one program does must not disturb another's traces. Returns their rows.
#[expect(clippy::print_stdout, reason = "what a test prints is its report")]
fn trace(cases: &[Case], failures: &mut Vec<String>) -> Result<Vec<String>> {
    let pids: Vec<u32> = cases.iter().flat_map(Case::pids).collect();
    let probe = Probe::of_pids(&pids, &[])?;
    for (number, route, status) in requests() {
        for case in cases {
            match case.scene.ask(route, number) {
                Ok(answer) if answer.status == status => {}
                answer => failures.push(format!("{case}: /{route}/{number} was answered by {answer:?}")),
            }
        }
    }
    let scenes: Vec<&Scene> = cases.iter().map(|case| &case.scene).collect();
    let (accounts, ended) = scene::judge_each(&scenes, probe)?;
    let mut rows = Vec::new();
    for (case, account) in cases.iter().zip(&accounts) {
        let row = case.row(account);
        println!("{row}");
        rows.push(row);
        let checked = check_account(account).and_then(|()| case.check_spans(&ended));
        failures.extend(checked.err().map(|error| format!("{case}: {error:#}")));
    }
    // One line says what went well, each further one what did not.
    failures.extend(ended.losses().map(str::to_owned));
    ensure!(
        ended.stderr.contains(", all exported"),
        "no account, or one with losses:\n{}",
        ended.stderr
    );
    Ok(rows)
}

impl Case {
    fn start(toolchain: &Toolchain, build: &'static str, how: &GoBuild) -> Result<Self> {
        let program = how.build(&toolchain.go)?;
        let plan = instrument::plan(&GoBinary::open(&program)?)?;
        let stepped: BTreeSet<String> = plan
            .sites
            .iter()
            .filter(|site| !site.emulated)
            .map(|site| format!("`{}`", site.program))
            .collect();
        let offsets: BTreeSet<String> = plan
            .offset_sources
            .iter()
            .filter_map(|(_, source)| match source {
                OffsetSource::Dwarf => Some("DWARF".to_owned()),
                OffsetSource::Types => Some("type descriptors".to_owned()),
                OffsetSource::Table { release, .. } => Some(format!("table, {release}")),
                OffsetSource::NotYet => None,
                OffsetSource::Unknown => Some("unknown".to_owned()),
            })
            .collect();
        let services =
            ["front", "back"].map(|end| format!("{end}-{}-{}", toolchain.release, build.replace(' ', "")));
        let [front, back] = &services;
        let scene = Scene::named(&program, [front, back])?;
        Ok(Self {
            release: toolchain.release.clone(),
            build,
            services,
            offsets: joined(&offsets),
            success: if plan.sites.iter().any(|site| site.place == Place::Success) {
                "branch"
            } else {
                "return"
            },
            stepped: joined(&stepped),
            scene,
        })
    }

    fn pids(&self) -> [u32; 2] {
        [self.scene.front.target.pid(), self.scene.back.target.pid()]
    }

    /// Its line in the table: what was found of what there was.
    fn row(&self, account: &Account) -> String {
        let total = account.total();
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            self.release,
            self.build,
            account.score(Side::Entry),
            account.score(Side::Exit),
            total.parents.score(),
            total.references.score(),
            self.offsets,
            self.success,
            self.stepped
        )
    }

    /// What the account does not look at: whole operation names, and what failed calls say of themselves.
    fn check_spans(&self, ended: &Ended) -> Result<()> {
        let own = || {
            ended
                .segments
                .iter()
                .filter(|segment| self.services.contains(&segment.service))
        };
        for span in own().flat_map(|segment| &segment.spans) {
            let path = span.path().context("a span without a path")?;
            let method = span.tag("http.method").context("a span without a method")?;
            let folded = match path.rsplit_once('/') {
                Some((route, _)) if span_number(span).is_some() => format!("{method}:{route}/{{id}}"),
                _ => format!("{method}:{path}"),
            };
            ensure!(
                span.operation_name == folded,
                "{path} is called {}",
                span.operation_name
            );
        }
        for (failing, reason) in FAILURES {
            for (number, ..) in requests().filter(|(_, route, _)| *route == failing) {
                let call = self.scene.call_of(number)?;
                let segment = own()
                    .find(|segment| has_span(segment, "Entry", &format!("/{failing}/{number}")))
                    .with_context(|| format!("/{failing}/{number} has no span"))?;
                let span = find_span(segment, "Exit", &call.path)
                    .with_context(|| format!("the call of /{failing}/{number} is not in its segment"))?;
                ensure!(
                    span.log("event") == Some("error")
                        && span.words().contains(reason)
                        && span.tag("http.status_code").is_none(),
                    "not {reason}: {span:?}"
                );
            }
        }
        Ok(())
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Go {}, {}", self.release, self.build)
    }
}

fn joined(words: &BTreeSet<String>) -> String {
    words.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Everything found, nothing invented, every parent that can be known, and each request by the call that sent it.
fn check_account(account: &Account) -> Result<()> {
    let total = account.total();
    let all = |links: &Links| links.right > 0 && links.right == links.required();
    ensure!(
        total.found == total.made
            && account.invented == 0
            && total.wrong_facts == 0
            && all(&total.parents)
            && all(&total.references),
        "\n{account}"
    );
    Ok(())
}
