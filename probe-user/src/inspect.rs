//! What a binary offers to tracing and why: told as text or JSON, without attaching anything.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::Serialize;
use thiserror::Error;

use crate::{
    config::Subject,
    discover::{
        elf::Architecture,
        go::{BinaryError, GoBinary},
    },
    instrument::{self, OnMissing, Part, Place, Plan, Refusal, offset, offset::OffsetSource},
};

/// Why there is nothing to tell.
#[derive(Debug, Error)]
pub enum InspectError {
    #[error("there is no process {0}")]
    NoProcess(u32),
    #[error("process {pid} cannot be looked at: {source}")]
    Process { pid: u32, source: io::Error },
    #[error("not allowed to read {}: run as root, or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH", .0.display())]
    Denied(PathBuf),
    #[error(transparent)]
    Binary(BinaryError),
    #[error("the report cannot be written: {0}")]
    Write(#[from] io::Error),
}

impl From<BinaryError> for InspectError {
    fn from(error: BinaryError) -> Self {
        if let BinaryError::Open { path, source } | BinaryError::Read { path, source } = &error
            && source.kind() == io::ErrorKind::PermissionDenied
        {
            return Self::Denied(path.clone());
        }
        Self::Binary(error)
    }
}

/// Everything that is told. Its JSON form is for scripts.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub path: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    pub go_version: String,
    pub architecture: &'static str,
    pub stripped: bool,
    pub pie: bool,
    /// `null` where the section headers are gone.
    pub externally_linked: Option<bool>,
    pub build_id: Option<String>,
    pub functions: u64,
    /// `null`: unknown.
    pub modules: Option<Vec<ModuleReport>>,
    pub hooks: Vec<HookReport>,
    pub offsets: Vec<OffsetReport>,
    /// Whether calls made by goroutines that a request started can be given to it.
    pub ancestry: bool,
    /// Whether errors are told by the names of their types.
    pub type_names: bool,
    /// The SkyWalking agent that the program has already.
    pub already_traced: Option<String>,
    pub verdict: Verdict,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ModuleReport {
    pub path: String,
    /// `null`: unknown.
    pub version: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub replaced: bool,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HookReport {
    pub library: &'static str,
    pub part: String,
    pub program: &'static str,
    pub symbol: String,
    pub sites: Vec<SiteReport>,
    /// Why there are no sites; a fault only where something is lost by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What is lost by that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<String>,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SiteReport {
    pub file_offset: u64,
    pub place: &'static str,
    /// The kernel emulates the instruction; it single-steps others, which costs ten times as much.
    pub emulated: bool,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OffsetReport {
    pub field: String,
    /// `null` where the field is absent or unknown.
    pub offset: Option<u16>,
    pub source: &'static str,
    /// The release on which a table's offset was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<&'static str>,
    /// What that is a release of, if not of Go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<&'static str>,
}

/// The answer in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub server: bool,
    pub client: bool,
    pub words: String,
}

/// Tells programs why there is no report.
pub fn write_failure(error: &InspectError, out: &mut dyn Write) -> io::Result<()> {
    let failure = serde_json::json!({ "error": crate::chain(error) });
    serde_json::to_writer_pretty(&mut *out, &failure)?;
    writeln!(out)
}

/// Looks at a file or a running program, and tells.
pub fn run(subject: &Subject, json: bool, out: &mut dyn Write) -> Result<(), InspectError> {
    let report = match subject {
        Subject::File(path) => inspect(path, None)?,
        Subject::Pid(pid) => inspect_process(*pid)?,
    };
    if json {
        serde_json::to_writer_pretty(&mut *out, &report).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        write_text(&report, out)?;
    }
    Ok(())
}

fn inspect_process(pid: u32) -> Result<Report, InspectError> {
    let link = PathBuf::from(format!("/proc/{pid}/exe"));
    let named = fs::read_link(&link).map_err(|source| {
        if source.kind() == io::ErrorKind::NotFound {
            InspectError::NoProcess(pid)
        } else if source.kind() == io::ErrorKind::PermissionDenied {
            InspectError::Denied(link.clone())
        } else {
            InspectError::Process { pid, source }
        }
    })?;
    let mut report = inspect(&link, Some(pid))?;
    // The link leads to the right file even where the name does not: in a container, or after an update.
    report.path = named;
    Ok(report)
}

/// The report of one file.
pub fn inspect(path: &Path, pid: Option<u32>) -> Result<Report, InspectError> {
    let binary = GoBinary::open(path)?;
    let plan = instrument::plan(&binary)?;
    Ok(report(&binary, &plan, pid))
}

fn report(binary: &GoBinary, plan: &Plan, pid: Option<u32>) -> Report {
    let modules = binary.modules.as_ref().map(|modules| {
        let known = |version: &String| !version.is_empty() && version != "(devel)";
        let module = modules.iter().map(|module| ModuleReport {
            path: module.path.clone(),
            version: Some(module.version.clone()).filter(known),
            replaced: module.replaced,
        });
        module.collect()
    });
    Report {
        path: binary.path.clone(),
        pid,
        go_version: binary.go_version_text.clone(),
        architecture: binary.architecture.name(),
        stripped: binary.stripped,
        pie: binary.pie,
        externally_linked: binary.externally_linked,
        build_id: binary.build_id.clone(),
        functions: binary.function_count(),
        modules,
        hooks: hooks(plan),
        offsets: offsets(plan),
        ancestry: plan.goidgen.is_some() && has_ancestry(plan),
        type_names: plan.types.is_some(),
        already_traced: plan.already_traced.clone(),
        verdict: verdict(binary, plan),
    }
}

fn has_ancestry(plan: &Plan) -> bool {
    instrument::go::runtime::ANCESTRY
        .iter()
        .all(|field| plan.offsets.get(*field).is_some())
}

fn hooks(plan: &Plan) -> Vec<HookReport> {
    let mut reports = Vec::new();
    for library in instrument::go::LIBRARIES {
        for hook in library.hooks {
            let in_it = |program, symbol| program == hook.program && hook.symbols.contains(&symbol);
            let placed = || plan.sites.iter().filter(|site| in_it(site.program, site.symbol));
            let sites: Vec<SiteReport> = placed()
                .filter(|site| site.part == hook.part)
                .map(|site| SiteReport {
                    file_offset: site.file_offset,
                    place: place(site.place),
                    emulated: site.emulated,
                })
                .collect();
            let refusal = plan
                .refusals
                .iter()
                .find(|refusal| in_it(refusal.program, refusal.symbol));
            // Of a hook that counts for another part in other versions, one line is enough.
            if sites.is_empty() && placed().next().is_some() {
                continue;
            }
            let absent = plan.absent.contains(&hook.part);
            let reason = match refusal {
                Some(refusal) if refusal.loss().is_none() => {
                    Some("the program does not hold the function, so it never calls it".to_owned())
                }
                Some(refusal) => Some(refusal.reason.to_string()),
                None if absent => Some(format!("the program has no {}", hook.part)),
                None if sites.is_empty() && hook.site.is_spared_by_returns() => {
                    Some("the returns serve".to_owned())
                }
                None if sites.is_empty() => Some("not for this version".to_owned()),
                None => None,
            };
            let symbol = placed().next().map(|site| site.symbol);
            let symbol = symbol.or(hook.symbols.first().copied());
            reports.push(HookReport {
                library: library.library,
                part: hook.part.to_string(),
                program: hook.program,
                symbol: symbol.unwrap_or_default().to_owned(),
                sites,
                reason,
                loss: refusal.and_then(Refusal::loss),
            });
        }
    }
    reports
}

fn place(place: Place) -> &'static str {
    match place {
        Place::StackCheck => "stack check",
        Place::Entry => "entry",
        Place::Call => "call",
        Place::Success => "success of a call",
        Place::Return => "return",
    }
}

fn offsets(plan: &Plan) -> Vec<OffsetReport> {
    let report = |(field, source): &(_, OffsetSource)| {
        let (source, measured, module) = match *source {
            OffsetSource::Dwarf => ("DWARF", None, None),
            OffsetSource::Types => ("type descriptors", None, None),
            OffsetSource::Table { module, release } => ("table", Some(release), module),
            OffsetSource::NotYet => ("not in this version", None, None),
            OffsetSource::Unknown => ("unknown", None, None),
        };
        let offset = plan
            .offsets
            .get(*field)
            .and_then(|offset| u16::try_from(offset).ok());
        OffsetReport {
            field: offset::name(*field),
            offset,
            source,
            measured,
            module,
        }
    };
    plan.offset_sources.iter().map(report).collect()
}

fn verdict(binary: &GoBinary, plan: &Plan) -> Verdict {
    let other_machine = Architecture::host().is_some_and(|host| host != binary.architecture);
    let has = |part: &Part| plan.has(*part) && plan.already_traced.is_none() && !other_machine;
    let traced: Vec<Part> = Part::ALL.into_iter().filter(|part| has(part)).collect();
    let server = traced.iter().any(|part| part.is_server());
    let client = traced.iter().any(|part| !part.is_server());
    let words = if let Some(agent) = &plan.already_traced {
        format!("Left alone: the program reports to SkyWalking itself, by {agent}.")
    } else if other_machine {
        format!("Cannot run here: it is built for {}.", binary.architecture.name())
    } else {
        let mut sentences = vec![parts(&traced, plan)];
        let losses = plan
            .refusals
            .iter()
            .filter(|refusal| refusal.on_missing != OnMissing::Refuse);
        let mut losses: Vec<String> = losses
            .filter_map(Refusal::loss)
            .map(|loss| format!("Lost: {loss}."))
            .collect();
        losses.dedup();
        sentences.extend(losses);
        if (server && client) && !(plan.goidgen.is_some() && has_ancestry(plan)) {
            sentences.push(
                "Calls that a request makes from goroutines it starts find it only by their context."
                    .to_owned(),
            );
        }
        sentences.join(" ")
    };
    Verdict {
        server,
        client,
        words,
    }
}

/// What is traced, and why not the rest of what the program has.
fn parts(traced: &[Part], plan: &Plan) -> String {
    let refused = Part::ALL.into_iter().filter_map(|part| {
        let refusals = plan.refusals.iter().filter(|refusal| refusal.part == part);
        let first = refusals
            .filter(|refusal| refusal.on_missing == OnMissing::Refuse)
            .min_by_key(|refusal| matches!(refusal.reason, instrument::RefusalReason::PartRefused(..)))?;
        Some(format!(
            "its {part} cannot be: {}: {}",
            first.symbol, first.reason
        ))
    });
    let refused: Vec<String> = refused.collect();
    let traced: Vec<String> = traced.iter().map(|part| format!("its {part}")).collect();
    let mut sentence = match traced.split_last() {
        None if refused.is_empty() => {
            return "Nothing to trace: the program has neither net/http's server or client nor grpc-go's."
                .to_owned();
        }
        None => "Nothing is traced".to_owned(),
        Some((only, [])) => format!("Traced: {only}"),
        Some((last, others)) => format!("Traced: {} and {last}", others.join(", ")),
    };
    for why in refused {
        sentence.push_str("; ");
        sentence.push_str(&why);
    }
    sentence.push('.');
    sentence
}

/// Tells the report to people.
pub fn write_text(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    // First what was asked for, then what it rests on.
    writeln!(out, "{}\n", report.verdict.words)?;
    let yes = |value: bool| if value { "yes" } else { "no" };
    let mut line = |what: &str, found: &str| writeln!(out, "{what:<12} {found}");
    match report.pid {
        Some(pid) => line("process", &format!("{pid}, {}", report.path.display()))?,
        None => line("file", &report.path.display().to_string())?,
    }
    line("Go", &format!("{}, {}", report.go_version, report.architecture))?;
    line("stripped", yes(report.stripped))?;
    line("PIE", yes(report.pie))?;
    let linker = report.externally_linked.map_or("unknown", |external| {
        if external {
            "a C linker (cgo or external linking)"
        } else {
            "Go's own"
        }
    });
    line("linker", linker)?;
    line("build id", report.build_id.as_deref().unwrap_or("none"))?;
    line("functions", &report.functions.to_string())?;
    match &report.modules {
        None => line("modules", "unknown")?,
        Some(modules) => {
            for (index, module) in modules.iter().enumerate() {
                let version = module.version.as_deref().unwrap_or("unknown");
                let replaced = if module.replaced { " (replaced)" } else { "" };
                let what = if index == 0 { "modules" } else { "" };
                line(what, &format!("{} {version}{replaced}", module.path))?;
            }
        }
    }
    writeln!(out)?;
    for hook in &report.hooks {
        write_hook(hook, out)?;
    }
    writeln!(out)?;
    let fields = report.offsets.iter().map(|offset| offset.field.len());
    let width = fields.max().unwrap_or_default();
    for offset in &report.offsets {
        let value = offset
            .offset
            .map_or_else(|| "-".to_owned(), |offset| offset.to_string());
        let measured = offset
            .measured
            .map(|release| format!(" of {} {release}", offset.module.unwrap_or("Go")))
            .unwrap_or_default();
        writeln!(
            out,
            "{:<width$} {value:>5}  {}{measured}",
            offset.field, offset.source
        )?;
    }
    Ok(())
}

fn write_hook(hook: &HookReport, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{:<38} {}", hook.program, hook.symbol)?;
    for site in &hook.sites {
        let cost = if site.emulated {
            "emulated"
        } else {
            "single-stepped"
        };
        writeln!(
            out,
            "{:<38} {} at file offset {:#x}, {cost}",
            "", site.place, site.file_offset
        )?;
    }
    if let Some(reason) = &hook.reason {
        let no_site = if hook.loss.is_some() {
            "no site"
        } else {
            "not needed"
        };
        writeln!(out, "{:<38} {no_site}: {reason}", "")?;
    }
    if let Some(loss) = &hook.loss {
        writeln!(out, "{:<38} lost: {loss}", "")?;
    }
    Ok(())
}
