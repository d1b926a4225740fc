//! Offsets of Go struct fields: from the binary's DWARF, else from the table of measured versions, else unknown.
//!
//! Nothing is carried over to a release newer than the measured ones, not even within a minor version: a patch
//! release has moved fields before.

pub mod dwarf;
mod table;

use probe_common::field::{GoField, Offsets};

use crate::discover::go::{GoBinary, GoVersion};

/// How a field's offset came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetSource {
    /// The binary's own debugging information.
    Dwarf,
    /// The table; the release is the nearest one below the binary's that was measured.
    Table(GoVersion),
    /// The field came with a later Go.
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
        _ => None,
    }
}

/// The field's full name, such as `net/http.Request.Method`.
pub fn name(field: GoField) -> String {
    let (package, strukt, field) = field.path();
    format!("{package}.{strukt}.{field}")
}

/// The newest Go that was measured of a minor version, else of all.
pub fn newest_measured(minor: u16) -> Option<GoVersion> {
    table::newest(minor)
}

/// The offsets of one binary.
#[derive(Clone, Debug)]
pub struct StructOffsets {
    fields: Vec<(GoField, Option<u16>, OffsetSource)>,
}

// === impl StructOffsets ===

impl StructOffsets {
    pub fn find(binary: &GoBinary) -> Self {
        let structs: Vec<(String, &str)> = GoField::ALL
            .iter()
            .map(|field| {
                let (package, strukt, field) = field.path();
                (format!("{package}.{strukt}"), field)
            })
            .collect();
        let names: Vec<dwarf::FieldName<'_>> = structs
            .iter()
            .map(|(name, field)| (name.as_str(), *field))
            .collect();
        let dwarf = dwarf::find(binary.elf(), &names).unwrap_or_default();
        let measured = table::measured(binary.go_version);
        let fields = GoField::ALL.iter().zip(&names).filter_map(|(field, path)| {
            if let Some(offset) = dwarf.get(path).and_then(|offset| u16::try_from(*offset).ok()) {
                return Some((*field, Some(offset), OffsetSource::Dwarf));
            }
            if field.module().is_some() {
                // Of a library that the program mostly does not have.
                return None;
            }
            if since(*field).is_some_and(|since| binary.go_version < since) {
                return Some((*field, None, OffsetSource::NotYet));
            }
            let measured =
                measured.and_then(|row| Some((row.nearest(binary.go_version)?, row.offset(&name(*field))?)));
            Some(match measured {
                Some((version, offset)) => (*field, Some(offset), OffsetSource::Table(version)),
                None => (*field, None, OffsetSource::Unknown),
            })
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
