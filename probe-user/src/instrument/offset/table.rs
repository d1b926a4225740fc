//! The table of measured offsets, `offsets.json`, which `cargo xtask offsets` makes.

use std::{collections::BTreeMap, sync::OnceLock};

use serde::Deserialize;

use crate::discover::go::GoVersion;

const JSON: &str = include_str!("../offsets.json");

#[derive(Deserialize)]
struct Table {
    rows: Vec<Row>,
}

/// The offsets of the releases from one on, up to the next row of the same minor version.
#[derive(Deserialize)]
pub(super) struct Row {
    /// The first of them.
    from: String,
    /// Those of them that were measured, the newest last.
    measured: Vec<String>,
    offsets: BTreeMap<String, u16>,
}

impl Row {
    /// The newest release that was measured.
    pub(super) fn version(&self) -> Option<GoVersion> {
        GoVersion::parse(self.measured.last()?)
    }

    /// The offset of a field by its full name.
    pub(super) fn offset(&self, field: &str) -> Option<u16> {
        self.offsets.get(field).copied()
    }
}

fn rows() -> &'static [Row] {
    static ROWS: OnceLock<Vec<Row>> = OnceLock::new();
    ROWS.get_or_init(|| {
        // The file is part of this program, and a test reads it: it is never damaged.
        serde_json::from_str(JSON)
            .map(|table: Table| table.rows)
            .unwrap_or_default()
    })
}

/// The row for a version: the last of its minor version that does not begin after it.
pub(super) fn measured(version: GoVersion) -> Option<&'static Row> {
    let starts = |row: &Row| GoVersion::parse(&row.from);
    rows()
        .iter()
        .filter(|row| starts(row).is_some_and(|from| from.minor == version.minor && from <= version))
        .max_by_key(|row| starts(row))
}

/// The newest release that was measured.
pub(super) fn newest() -> Option<GoVersion> {
    rows().iter().filter_map(Row::version).max()
}

#[cfg(test)]
mod tests {
    use probe_common::field::GoField;

    use super::*;
    use crate::instrument::offset::{name, since};

    #[test]
    fn every_row_is_complete() {
        assert!(serde_json::from_str::<Table>(JSON).is_ok_and(|table| table.rows.len() >= 9));
        for row in rows() {
            let (from, measured) = (GoVersion::parse(&row.from).unwrap(), row.version().unwrap());
            assert!(from.minor == measured.minor && from <= measured);
            for field in GoField::ALL {
                let there = since(*field).is_none_or(|since| since <= from);
                assert_eq!(
                    row.offset(&name(*field)).is_some(),
                    there,
                    "{field:?} in {}",
                    row.from
                );
            }
        }
    }

    #[test]
    fn a_version_has_the_row_of_its_own_minor_version_only() {
        let row = |minor, patch| measured(GoVersion::new(minor, patch));
        assert_eq!(row(24, 3).unwrap().offset("runtime.g.goid"), Some(160));
        assert_eq!(row(25, 0).unwrap().offset("runtime.g.goid"), Some(152));
        assert_eq!(row(27, 99).unwrap().offset("net/http.response.status"), Some(128));
        assert!(row(18, 0).is_none() && row(28, 0).is_none());
    }
}
