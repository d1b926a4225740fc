//! What a binary has of the manifests: where each hook goes in it, and why it has no place.

use probe_common::field::{GoField, Offsets};
use thiserror::Error;

use super::{
    Hook, OnMissing, Part, go,
    offset::{self, OffsetSource, StructOffsets, Unmeasured},
    site::{self, Place, SiteError},
};
use crate::discover::{
    go::{BinaryError, GoBinary, ModuleUnknown},
    pclntab::{Found, Function},
    types::types_field,
};

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
mod tests;
