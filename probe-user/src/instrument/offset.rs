//! Offsets of Go struct fields: from the binary's DWARF, else from its type descriptors, else from the table of measured
//! versions, else unknown.
//!
//! In the table nothing is carried over to a release newer than the measured ones, not even within a minor version: a
//! patch release has moved fields before. The fields of a library go by the version of its module, which a binary may
//! not name; then nothing is assumed.

pub mod dwarf;
mod table;

use std::fmt;

use probe_common::field::{GoField, Offsets};
use thiserror::Error;

use crate::discover::{
    go::{GoBinary, GoVersion, ModuleUnknown},
    layout::{FieldName, Layouts, Told},
};

/// How a field's offset came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetSource {
    /// The binary's own debugging information.
    Dwarf,
    /// The binary's own type descriptors, which stripping leaves alone.
    Types,
    /// The table; the release is the nearest one below the binary's that was measured, of the module or else of Go.
    Table {
        module: Option<&'static str>,
        release: &'static str,
    },
    /// The field came with a later version, or went with an earlier one.
    NotYet,
    /// Neither has it.
    Unknown,
}

/// The first Go with the field, where that is not the oldest.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "most fields are older than the oldest Go that is read"
)]
pub const fn since(field: GoField) -> Option<GoVersion> {
    match field {
        GoField::GParentGoid => Some(GoVersion::new(21, 0)),
        GoField::RequestPattern => Some(GoVersion::new(23, 0)),
        GoField::MapDirectory | GoField::MapDirectoryLen | GoField::MapTableGroups => {
            Some(GoVersion::new(24, 0))
        }
        _ => None,
    }
}

/// The first Go without the field, where it is not in the newest.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "most fields are in the newest Go that is read"
)]
pub const fn before(field: GoField) -> Option<GoVersion> {
    match field {
        GoField::HmapB | GoField::HmapBuckets => Some(GoVersion::new(24, 0)),
        _ => None,
    }
}

/// The first minor version of the field's module that has it, where that is not the oldest measured.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "most fields are as old as what is measured"
)]
pub const fn since_module(field: GoField) -> Option<(u64, u64)> {
    match field {
        GoField::GrpcServerStreamSt => Some((1, 69)),
        GoField::GrpcServerStreamDesc => Some((1, 75)),
        GoField::GrpcStatusErrorS => Some((1, 40)),
        _ => None,
    }
}

/// The first minor version of the field's module in which it was measured, where that is not the oldest measured: older
/// ones may have it elsewhere.
pub const fn measured_since(field: GoField) -> Option<(u64, u64)> {
    // Before its first release golang.org/x/net was measured as far as grpc-go hands it on.
    if matches!(field, GoField::XHttp2ServerConn)
        || field as u8 >= GoField::XHttp2WriterState as u8
            && field as u8 <= GoField::XHttp2ClientTlsState as u8
    {
        Some((0, 1))
    } else {
        None
    }
}

/// The field's full name, such as `net/http.Request.Method`.
pub fn name(field: GoField) -> String {
    let (package, strukt, field) = field.path();
    format!("{package}.{strukt}.{field}")
}

/// Where HTTP/2 of the standard library stands since Go 1.27.
const HTTP2: &str = "net/http/internal/http2";

/// The struct's full name and the field's own, as a program of this Go has them in its DWARF.
///
/// Before Go 1.27 the names of that package stood in `net/http` behind `http2`, and it took and gave `http.Request`s.
fn spelled(field: GoField, version: GoVersion, vendor: &str) -> (String, &'static str) {
    let is_foreign = field.module().is_some();
    let (package, strukt, field) = field.path();
    if is_foreign {
        return (format!("{vendor}{package}.{strukt}"), field);
    }
    if package != HTTP2 || version >= GoVersion::new(27, 0) {
        return (format!("{package}.{strukt}"), field);
    }
    if matches!(strukt, "ServerRequest" | "ClientRequest") {
        let field = if field == "Context" { "ctx" } else { field };
        return ("net/http.Request".to_owned(), field);
    }
    (format!("net/http.http2{strukt}"), field)
}

/// Why the table has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unmeasured {
    #[error("Go {version} was not measured{}", Newest(*newest))]
    Go {
        version: GoVersion,
        newest: Option<&'static str>,
    },
    #[error("{module} {version} was not measured{}", Newest(*newest))]
    Module {
        module: String,
        version: String,
        newest: Option<&'static str>,
    },
    #[error("the version of {module} is not known: {why}")]
    UnknownModule {
        module: &'static str,
        why: ModuleUnknown,
    },
}

/// The newest measured release, in brackets.
struct Newest(Option<&'static str>);

impl fmt::Display for Newest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(newest) => write!(f, " (the newest is {newest})"),
            None => Ok(()),
        }
    }
}

impl Unmeasured {
    /// Why there is none for this binary's field.
    pub fn new(binary: &GoBinary, field: GoField) -> Self {
        let Some(module) = field.module() else {
            let version = binary.go_version;
            return Self::Go {
                version,
                newest: table::newest(version.minor),
            };
        };
        match binary.module_of(field.path().0) {
            Ok((found, _)) => Self::Module {
                module: found.path.clone(),
                version: found.version.clone(),
                newest: table::newest_of_module(&found.path),
            },
            Err(why) => Self::UnknownModule { module, why },
        }
    }
}

/// The offsets of one binary.
#[derive(Clone, Debug)]
pub struct StructOffsets {
    fields: Vec<(GoField, Option<u16>, OffsetSource)>,
}

// === impl StructOffsets ===

impl StructOffsets {
    /// `vendor` is what stands before the names of other people's packages, `asked` are the fields that matter to this
    /// binary: of a library that it does not have, none.
    pub fn find(binary: &GoBinary, vendor: &str, asked: &[GoField]) -> Self {
        let structs: Vec<(String, &str)> = GoField::ALL
            .iter()
            .map(|field| spelled(*field, binary.go_version, vendor))
            .collect();
        let names: Vec<FieldName<'_>> = structs
            .iter()
            .map(|(name, field)| (name.as_str(), *field))
            .collect();
        let dwarf = dwarf::find(binary.elf(), &names).unwrap_or_default();
        // Read only where something is missing that may be there.
        let is_missing = |field: &GoField, name: &FieldName<'_>| {
            (field.module().is_none() || asked.contains(field)) && !dwarf.contains_key(name)
        };
        let missing = GoField::ALL.iter().zip(&names);
        let mut missing: Vec<&str> = missing
            .filter(|(field, name)| is_missing(field, name))
            .map(|(_, (name, _))| *name)
            .collect();
        missing.sort_unstable();
        missing.dedup();
        let layouts = if dwarf.is_empty() {
            Layouts::find(binary, &missing)
        } else {
            Layouts::default()
        };
        let fields = GoField::ALL.iter().zip(&names).filter_map(|(field, path)| {
            if let Some(offset) = dwarf.get(path).and_then(|offset| u16::try_from(*offset).ok()) {
                return Some((*field, Some(offset), OffsetSource::Dwarf));
            }
            match layouts.field(*path) {
                Told::At(offset) => {
                    let offset = u16::try_from(offset).ok()?;
                    return Some((*field, Some(offset), OffsetSource::Types));
                }
                Told::NoField => return Some((*field, None, OffsetSource::NotYet)),
                Told::NoStruct => {}
            }
            if field.module().is_some() && !asked.contains(field) {
                return None;
            }
            let (offset, source) = measured(binary, *field);
            Some((*field, offset, source))
        });
        Self {
            fields: fields.collect(),
        }
    }

    pub fn offsets(&self) -> Offsets {
        let mut offsets = Offsets::NONE;
        for (field, offset, _) in &self.fields {
            if let Some(offset) = offset {
                offsets.set(*field, *offset);
            }
        }
        offsets
    }

    pub fn sources(&self) -> Vec<(GoField, OffsetSource)> {
        self.fields
            .iter()
            .map(|(field, _, source)| (*field, *source))
            .collect()
    }
}

/// What the table says.
pub fn measured(binary: &GoBinary, field: GoField) -> (Option<u16>, OffsetSource) {
    match field.module() {
        None => by_go(binary, field),
        Some(_) => by_module(binary, field),
    }
}

/// What it says of a field of Go's own.
fn by_go(binary: &GoBinary, field: GoField) -> (Option<u16>, OffsetSource) {
    let version = binary.go_version;
    let too_old = since(field).is_some_and(|since| version < since);
    let too_new = before(field).is_some_and(|before| version >= before);
    if too_old || too_new {
        return (None, OffsetSource::NotYet);
    }
    let found = table::measured(version).and_then(|row| {
        let (module, release) = (None, row.nearest(&version)?);
        Some((row.offset(&name(field))?, OffsetSource::Table { module, release }))
    });
    known(found)
}

/// What it says of a field of a library.
fn by_module(binary: &GoBinary, field: GoField) -> (Option<u16>, OffsetSource) {
    let Ok((module, version)) = binary.module_of(field.path().0) else {
        return (None, OffsetSource::Unknown);
    };
    if since_module(field).is_some_and(|since| version.minor() < since) {
        return (None, OffsetSource::NotYet);
    }
    let found = table::measured_of_module(&module.path, &version).and_then(|(module, row)| {
        let (module, release) = (Some(module), row.nearest(&version)?);
        Some((row.offset(&name(field))?, OffsetSource::Table { module, release }))
    });
    known(found)
}

fn known(found: Option<(u16, OffsetSource)>) -> (Option<u16>, OffsetSource) {
    match found {
        Some((offset, source)) => (Some(offset), source),
        None => (None, OffsetSource::Unknown),
    }
}
