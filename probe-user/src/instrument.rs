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
    offset::{OffsetSource, StructOffsets, Unmeasured},
    site::SiteError,
};
use crate::discover::{
    go::{BinaryError, GoBinary, ModuleUnknown},
    layout::{FieldName, Layouts, Told},
    pclntab::{Found, Function},
    types::types_field,
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

/// Go 1 releases by their minor number, and where it matters releases of the library's module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    pub since: u16,
    pub before: Option<u16>,
    pub module: Option<(Side, &'static ModuleChange)>,
}

/// On which side of a change a release is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Before,
    Since,
}

/// A change of a library that its struct fields do not show where they are read.
#[derive(Debug, PartialEq, Eq)]
pub struct ModuleChange {
    pub module: &'static str,
    /// Major and minor number of the first release with it.
    pub since: (u64, u64),
    /// A field that went with it: by that a binary tells that does not name its modules.
    pub lost: FieldName<'static>,
}

// === impl Versions ===

impl Versions {
    fn contain(self, binary: &GoBinary, found: &Found) -> Result<bool, RefusalReason> {
        let minor = binary.go_version.minor;
        let go = minor >= self.since && self.before.is_none_or(|before| minor < before);
        match self.module {
            Some((side, change)) if go => Ok(change.side(binary, found)? == side),
            Some(_) | None => Ok(go),
        }
    }
}

// === impl ModuleChange ===

impl ModuleChange {
    /// By the version that the binary names, else by its type descriptors: a commit is named after the last tag that
    /// leads to it, which may be much older.
    fn side(&self, binary: &GoBinary, found: &Found) -> Result<Side, RefusalReason> {
        let why = match binary.module_of(self.module) {
            Ok((_, version)) if version.is_release() => {
                return Ok(if version.minor() < self.since {
                    Side::Before
                } else {
                    Side::Since
                });
            }
            Ok(_) => ModuleUnknown::NoRelease,
            Err(why) => why,
        };
        let (strukt, field) = self.lost;
        let strukt = format!("{}{strukt}", found.vendor);
        match Layouts::find(binary, &[&strukt]).field((&strukt, field)) {
            Told::At(_) => Ok(Side::Before),
            Told::NoField => Ok(Side::Since),
            Told::NoStruct => Err(RefusalReason::UnknownModule {
                module: self.module,
                why,
            }),
        }
    }
}

/// What of a library stands or falls together. The linker leaves out what a program does not use: one that only
/// serves has no client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    HttpServer,
    HttpClient,
    Http2Server,
    Http2Client,
    XHttp2Server,
    XHttp2Client,
    GrpcServer,
    GrpcClient,
}

impl Part {
    pub const ALL: [Self; 8] = [
        Self::HttpServer,
        Self::HttpClient,
        Self::Http2Server,
        Self::Http2Client,
        Self::XHttp2Server,
        Self::XHttp2Client,
        Self::GrpcServer,
        Self::GrpcClient,
    ];

    /// It writes requests as frames of HTTP/2.
    pub fn writes_frames(self) -> bool {
        match self {
            Self::HttpServer
            | Self::HttpClient
            | Self::Http2Server
            | Self::XHttp2Server
            | Self::GrpcServer => false,
            Self::Http2Client | Self::XHttp2Client | Self::GrpcClient => true,
        }
    }

    /// It answers; the others ask.
    pub fn is_server(self) -> bool {
        match self {
            Self::HttpServer | Self::Http2Server | Self::XHttp2Server | Self::GrpcServer => true,
            Self::HttpClient | Self::Http2Client | Self::XHttp2Client | Self::GrpcClient => false,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HttpServer => "HTTP server",
            Self::HttpClient => "HTTP client",
            Self::Http2Server => "HTTP/2 server",
            Self::Http2Client => "HTTP/2 client",
            Self::XHttp2Server => "HTTP/2 server of golang.org/x/net",
            Self::XHttp2Client => "HTTP/2 client of golang.org/x/net",
            Self::GrpcServer => "gRPC server",
            Self::GrpcClient => "gRPC client",
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
    /// The register that a branch looks at, by its number, where no flags tell; the program is told it.
    pub decides_on: Option<u8>,
}

/// A hook that has no site in a binary, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub program: &'static str,
    pub symbol: &'static str,
    pub part: Part,
    pub on_missing: OnMissing,
    pub reason: RefusalReason,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RefusalReason {
    #[error("not in the binary")]
    NotInBinary,
    #[error("it depends on the version of {module}, which is not known: {why}")]
    UnknownModule {
        module: &'static str,
        why: ModuleUnknown,
    },
    #[error(transparent)]
    Site(#[from] SiteError),
    #[error("the function's code cannot be read")]
    Unreadable,
    #[error("the offset of {} is in neither the binary's DWARF nor its type descriptors, and {why}", offset::name(*field))]
    UnknownOffset { field: GoField, why: Unmeasured },
    #[error("{0} has no site, and without it this {1} cannot be traced")]
    PartRefused(&'static str, Part),
}

// === impl Refusal ===

impl Refusal {
    /// What is lost by it; `None` if nothing is.
    pub fn loss(&self) -> Option<String> {
        match (self.on_missing, &self.reason) {
            (OnMissing::Unused(_), RefusalReason::NotInBinary) => None,
            (OnMissing::Refuse, _) => Some(format!("the {} is not traced", self.part)),
            (OnMissing::Degrade(what) | OnMissing::Unused(what), _) => Some(what.to_owned()),
        }
    }
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
    /// Where grpc-go's `(*clientStream).RecvMsg` keeps the stream, above the stack pointer.
    pub grpc_received_at: Option<u64>,
    /// Address where the names of types count from, before the load bias: see [`crate::discover::types`].
    pub types: Option<u64>,
    /// It may ask `FIONREAD` of its sockets, as Go's own packages never do.
    pub may_ask_fionread: bool,
    /// The SkyWalking agent that is already in the program: it is left to it.
    pub already_traced: Option<String>,
}

impl Plan {
    pub fn has(&self, part: Part) -> bool {
        self.sites.iter().any(|site| site.part == part)
    }

    /// Whether each of the programs has a site.
    pub fn attaches(&self, programs: &[&str]) -> bool {
        let has_site = |program: &&str| self.sites.iter().any(|site| site.program == *program);
        programs.iter().all(has_site)
    }

    /// The program writes requests as frames of HTTP/2.
    pub fn writes_frames(&self) -> bool {
        self.sites.iter().any(|site| site.part.writes_frames())
    }
}

/// Finds every hook's place in the binary.
pub fn plan(binary: &GoBinary) -> Result<Plan, BinaryError> {
    let hooks = || go::LIBRARIES.iter().flat_map(|library| library.hooks);
    let mut symbols: Vec<&str> = hooks().flat_map(|hook| hook.symbols).copied().collect();
    symbols.extend(hooks().filter_map(|hook| hook.site.callee()));
    symbols.extend([go::runtime::NEWPROC, go::runtime::IOCTL]);
    let agents: Vec<&str> = go::AGENTS.iter().map(|(prefix, _)| *prefix).collect();
    let found = binary.look_up(&symbols, &agents)?;

    let asked: Vec<GoField> = hooks()
        .filter(|hook| is_present(hook.part, &found))
        .flat_map(|hook| hook.needs.iter().chain(hook.wants))
        .copied()
        .collect();
    let structs = StructOffsets::find(binary, &found.vendor, &asked);
    let mut planned = Plan {
        sites: Vec::new(),
        refusals: Vec::new(),
        absent: Vec::new(),
        offsets: structs.offsets(),
        offset_sources: structs.sources(),
        goidgen: goidgen(binary, &found),
        grpc_received_at: grpc_received_at(binary, &found),
        types: types(binary),
        may_ask_fionread: binary.may_hold_c() || found.names.contains(go::runtime::IOCTL),
        already_traced: found.prefixed.as_deref().and_then(agent_name),
    };
    for part in Part::ALL {
        if is_present(part, &found) {
            let hooks: Vec<&Hook> = hooks().filter(|hook| hook.part == part).collect();
            plan_part(binary, &found, part, &hooks, &mut planned);
        } else {
            planned.absent.push(part);
        }
    }
    Ok(planned)
}

/// Whether the program has any function without which the part is nothing; or any at all, of a part that only adds.
fn is_present(part: Part, found: &Found) -> bool {
    let hooks = || {
        let hooks = go::LIBRARIES.iter().flat_map(|library| library.hooks);
        hooks.filter(move |hook| hook.part == part)
    };
    let is_essential = |hook: &&Hook| hook.on_missing == OnMissing::Refuse;
    let adds = !hooks().any(|hook| is_essential(&hook));
    hooks()
        .filter(|hook| adds || is_essential(hook))
        .any(|hook| hook.symbols.iter().any(|symbol| found.function(symbol).is_some()))
}

fn agent_name(function: &str) -> Option<String> {
    let (_, agent) = go::AGENTS
        .iter()
        .find(|(prefix, _)| function.starts_with(prefix))?;
    Some((*agent).to_owned())
}

fn plan_part(binary: &GoBinary, found: &Found, part: Part, hooks: &[&'static Hook], planned: &mut Plan) {
    let mut sites = Vec::new();
    let mut refusals = Vec::new();
    for hook in hooks {
        let placed = match hook.versions.contain(binary, found) {
            Ok(true) => place(binary, found, hook, &planned.offset_sources),
            Ok(false) => continue,
            Err(reason) => Err((hook.symbols.first().copied().unwrap_or_default(), reason)),
        };
        match placed {
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

/// The sites of one hook, in the first function of its name that has any, or the symbol and why there are none.
fn place(
    binary: &GoBinary,
    found: &Found,
    hook: &Hook,
    sources: &[(GoField, OffsetSource)],
) -> Result<Vec<Site>, (&'static str, RefusalReason)> {
    let first = hook.symbols.first().copied().unwrap_or_default();
    let mut placed = Err((first, RefusalReason::NotInBinary));
    for symbol in hook.symbols {
        if let Some(function) = found.function(symbol) {
            placed = place_in(binary, found, hook, sources, symbol, function);
        }
        if placed.is_ok() {
            break;
        }
    }
    placed
}

fn place_in(
    binary: &GoBinary,
    found: &Found,
    hook: &Hook,
    sources: &[(GoField, OffsetSource)],
    symbol: &'static str,
    function: &Function,
) -> Result<Vec<Site>, (&'static str, RefusalReason)> {
    let unknown = |field: &&GoField| {
        !sources
            .iter()
            .any(|(source_field, source)| source_field == *field && *source != OffsetSource::Unknown)
    };
    if let Some(field) = go::runtime::NEEDS.iter().chain(hook.needs).find(unknown) {
        return Err((
            symbol,
            RefusalReason::UnknownOffset {
                field: *field,
                why: Unmeasured::new(binary, *field),
            },
        ));
    }
    let offset = binary.elf().file_offset(function.address);
    let (Some(body), Some(offset)) = (body(binary, function), offset) else {
        return Err((symbol, RefusalReason::Unreadable));
    };
    let callee = hook.site.callee().and_then(|callee| found.function(callee));
    let callee = callee.map(|callee| callee.address.wrapping_sub(function.address));
    let spots =
        site::find(binary.architecture, hook.site, &body, callee).map_err(|error| (symbol, error.into()))?;
    let site = |spot: site::Spot| Site {
        program: hook.program,
        symbol,
        part: hook.part,
        file_offset: offset + spot.at,
        place: spot.place,
        emulated: spot.emulated,
        decides_on: spot.decides_on,
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

/// Where the names of types count from.
fn types(binary: &GoBinary) -> Option<u64> {
    let field = types_field(binary.go_version)?;
    let mut word = [0; 8];
    binary
        .elf()
        .read_relocated(binary.moduledata?.checked_add(field)?, &mut word)
        .ok()?;
    let types = u64::from_le_bytes(word);
    binary
        .elf()
        .segment(types)
        .is_some_and(|segment| !segment.executable)
        .then_some(types)
}

fn grpc_received_at(binary: &GoBinary, found: &Found) -> Option<u64> {
    let function = found.function(go::grpc::RECV_MSG)?;
    site::receiver_at(binary.architecture, &body(binary, function)?)
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
    use std::path::Path;

    use object::{Object as _, ObjectSymbol as _};

    use super::*;
    use crate::discover::sample::{CLIENT, SERVER_AND_CLIENT, VARIANTS, build, build_variant};

    /// The programs with their places, each once.
    fn places(plan: &Plan) -> Vec<(&'static str, Place)> {
        let mut places: Vec<_> = plan.sites.iter().map(|site| (site.program, site.place)).collect();
        places.dedup();
        places
    }

    const EVERYTHING: [(&str, Place); 13] = [
        ("go_net_http_serve_http", Place::StackCheck),
        ("go_net_http_finish_request", Place::StackCheck),
        ("go_net_http_hijack", Place::StackCheck),
        ("go_net_http_conn_close", Place::StackCheck),
        ("go_net_http_round_trip", Place::StackCheck),
        ("go_net_http_round_trip_success", Place::Success),
        ("go_net_http_round_trip_alternative", Place::Success),
        ("go_net_http_round_trip_return", Place::Return),
        ("go_net_http_persist_conn_round_trip", Place::StackCheck),
        ("go_http2_process_headers", Place::StackCheck),
        ("go_http2_run_handler", Place::StackCheck),
        ("go_http2_handler_end", Place::StackCheck),
        ("go_http2_encode_headers", Place::StackCheck),
    ];

    /// The address that the symbol table has for `runtime.sched.goidgen`.
    fn goidgen_by_name(binary: &GoBinary) -> u64 {
        let bytes = std::fs::read(&binary.path).unwrap();
        let file = object::File::parse(&*bytes).unwrap();
        let sched = file
            .symbols()
            .find(|symbol| symbol.name() == Ok("runtime.sched"))
            .unwrap()
            .address();
        let field = ("runtime.schedt", "goidgen");
        sched + offset::dwarf::find(binary.elf(), &[field]).unwrap()[&field]
    }

    #[test]
    fn every_hook_has_its_place_however_the_program_is_built() {
        let directory = tempfile::tempdir().unwrap();
        let mut with_dwarf = None;
        for variant in VARIANTS {
            let binary = build_variant(directory.path(), SERVER_AND_CLIENT, variant);
            let plan = plan(&binary).unwrap();
            let name = variant.0;
            assert_eq!(places(&plan), EVERYTHING, "{name}");
            assert_eq!(plan.refusals, [], "{name}");
            assert!(
                plan.sites
                    .iter()
                    .all(|site| site.emulated == (site.place != Place::Return)),
                "{name}"
            );
            assert!(plan.goidgen.is_some() && plan.types.is_some(), "{name}");
            assert_eq!(
                (binary.stripped, binary.pie),
                (name.contains("stripped"), name.contains("PIE")),
                "{name}"
            );
            assert_eq!(binary.externally_linked, Some(variant.2), "{name}");
            assert_eq!(plan.may_ask_fionread, variant.2, "{name}");
            assert!(binary.build_id.is_some(), "{name}");
            let mut sources = plan
                .offset_sources
                .iter()
                .map(|(_, source)| source)
                .filter(|source| **source != OffsetSource::NotYet);
            if binary.stripped {
                assert!(sources.all(|source| *source == OffsetSource::Types), "{name}");
                assert_eq!(Some(plan.offsets), with_dwarf, "{name}");
                // The table has been measured on another build, and says the same.
                for (field, source) in &plan.offset_sources {
                    let (measured, by_table) = offset::measured(&binary, *field);
                    let is_there = *source == OffsetSource::Types;
                    assert_eq!(measured.is_some(), is_there, "{field:?} by {by_table:?}");
                    assert_eq!(
                        measured,
                        plan.offsets.get(*field).map(|at| at as u16),
                        "{field:?}"
                    );
                }
            } else {
                assert!(sources.all(|source| *source == OffsetSource::Dwarf), "{name}");
                assert_eq!(plan.goidgen, Some(goidgen_by_name(&binary)), "{name}");
                with_dwarf = Some(plan.offsets);
            }
        }
    }

    #[test]
    fn a_program_without_a_server_keeps_its_client() {
        let directory = tempfile::tempdir().unwrap();
        let plan = plan(&build(directory.path(), CLIENT, &[], &[])).unwrap();
        let of_client = |program: &str| program.contains("round_trip") || program.contains("encode");
        let wanted: Vec<_> = EVERYTHING
            .into_iter()
            .filter(|(program, _)| of_client(program))
            .collect();
        assert_eq!(places(&plan), wanted);
        assert_eq!(
            plan.absent,
            [
                Part::HttpServer,
                Part::Http2Server,
                Part::XHttp2Server,
                Part::XHttp2Client,
                Part::GrpcServer,
                Part::GrpcClient
            ]
        );
        assert_eq!(plan.refusals, []);
    }

    #[test]
    fn a_program_with_an_agent_is_known_by_it() {
        let directory = tempfile::tempdir().unwrap();
        let tracer = directory.path().join("go2sky");
        std::fs::create_dir(&tracer).unwrap();
        std::fs::write(tracer.join("go.mod"), "module github.com/SkyAPM/go2sky\n").unwrap();
        let source = "package go2sky\n\n//go:noinline\nfunc NewTracer() { println(1) }\n";
        std::fs::write(tracer.join("tracer.go"), source).unwrap();
        std::fs::write(
            directory.path().join("go.work"),
            "go 1.19\nuse (\n\t.\n\t./go2sky\n)\n",
        )
        .unwrap();
        let main =
            "package main\n\nimport \"github.com/SkyAPM/go2sky\"\n\nfunc main() { go2sky.NewTracer() }\n";
        let plan = plan(&build(directory.path(), main, &[], &[])).unwrap();
        assert_eq!(plan.already_traced.as_deref(), Some("go2sky"));
        assert_eq!(plan.absent, Part::ALL);
    }

    #[test]
    fn arm64_binaries_are_understood() {
        let directory = tempfile::tempdir().unwrap();
        let binary = build(directory.path(), SERVER_AND_CLIENT, &[], &[("GOARCH", "arm64")]);
        let plan = plan(&binary).unwrap();
        let wanted: Vec<_> = EVERYTHING
            .into_iter()
            .filter(|(_, place)| *place != Place::Success)
            .collect();
        assert_eq!(places(&plan), wanted);
        assert!(plan.sites.iter().all(|site| site.emulated));
        assert_eq!(plan.refusals, []);
        assert_eq!(plan.goidgen, Some(goidgen_by_name(&binary)));
    }

    #[test]
    fn a_damaged_binary_is_refused_or_read_but_never_a_panic() {
        let directory = tempfile::tempdir().unwrap();
        let binary = build_variant(directory.path(), SERVER_AND_CLIENT, VARIANTS[4]);
        let whole = std::fs::read(&binary.path).unwrap();
        let read = |bytes: Vec<u8>| {
            GoBinary::from_bytes(Path::new("damaged"), bytes).and_then(|binary| plan(&binary))
        };
        for part in 0..40 {
            let length = whole.len() * part / 40;
            // The last parts are data that nobody needs.
            assert!(
                read(whole[..length].to_vec()).is_err() || part > 30,
                "cut to {length} bytes"
            );
        }
        // Where it hurts: headers, build information, the function table's head, moduledata, names and bodies.
        let elf = binary.elf();
        let table = elf.file_offset(binary.function_table()).unwrap();
        let moduledata = elf.file_offset(binary.moduledata.unwrap()).unwrap();
        let sections = u64::from_le_bytes(whole[40..48].try_into().unwrap());
        let buildinfo = elf.section(".go.buildinfo").unwrap().offset;
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let (mut refused, mut planned) = (0, 0);
        for start in [
            0,
            64,
            sections,
            buildinfo,
            table,
            table + 0x1000,
            table + 0x10_0000,
            moduledata,
        ] {
            for _ in 0..12 {
                let mut bytes = whole.clone();
                for _ in 0..3 {
                    let at = start as usize + (random() % 256) as usize;
                    bytes[at] ^= 1 << (random() % 8);
                }
                match read(bytes) {
                    Ok(_) => planned += 1,
                    Err(_) => refused += 1,
                }
            }
        }
        assert!(refused > 0 && planned > 0, "{refused} refused, {planned} planned");
    }

    #[test]
    fn every_field_is_asked_for_by_a_hook() {
        let hooks = go::LIBRARIES.iter().flat_map(|library| library.hooks);
        let mut asked: Vec<GoField> = hooks
            .flat_map(|hook| hook.needs.iter().chain(hook.wants))
            .copied()
            .collect();
        asked.extend(go::runtime::NEEDS.iter().chain(go::runtime::ANCESTRY));
        for field in GoField::ALL {
            assert!(
                asked.contains(field),
                "{field:?} is in the table and nobody reads it"
            );
        }
    }
}
