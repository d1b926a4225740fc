//! The table of measured offsets, `offsets.json`, which `cargo xtask offsets` makes.

use std::{collections::BTreeMap, sync::OnceLock};

use serde::Deserialize;

use crate::discover::go::GoVersion;

const JSON: &str = include_str!("../offsets.json");

#[derive(Deserialize)]
struct Table {
    rows: Vec<Row>,
}

/// The offsets that hold from the first measured release to the last.
#[derive(Deserialize)]
pub(super) struct Row {
    measured: Vec<String>,
    offsets: BTreeMap<String, u16>,
}

impl Row {
    fn first(&self) -> Option<GoVersion> {
        GoVersion::parse(self.measured.first()?)
    }

    fn last(&self) -> Option<GoVersion> {
        GoVersion::parse(self.measured.last()?)
    }

    /// The newest measured release that is not newer than this one.
    pub(super) fn nearest(&self, version: GoVersion) -> Option<GoVersion> {
        let measured = self
            .measured
            .iter()
            .filter_map(|release| GoVersion::parse(release));
        measured.filter(|release| *release <= version).max()
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

/// The row for a version. A patch release newer than those that were measured has none: such a release has moved
/// fields before.
pub(super) fn measured(version: GoVersion) -> Option<&'static Row> {
    rows().iter().find(|row| {
        let (first, last) = (row.first(), row.last());
        first.is_some_and(|first| first <= version) && last.is_some_and(|last| version <= last)
    })
}

/// The newest release that was measured of this minor version, else of all.
pub(super) fn newest(minor: u16) -> Option<GoVersion> {
    let releases = || rows().iter().filter_map(Row::last);
    releases()
        .filter(|release| release.minor == minor)
        .max()
        .or_else(|| releases().max())
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
            let (first, last) = (row.first().unwrap(), row.last().unwrap());
            assert!(first.minor == last.minor && first <= last);
            for field in GoField::ALL.iter().filter(|field| field.module().is_none()) {
                let there = since(*field).is_none_or(|since| since <= first);
                assert_eq!(row.offset(&name(*field)).is_some(), there, "{field:?} in {first}");
            }
        }
    }

    #[test]
    fn a_release_has_the_row_that_was_measured_around_it() {
        let offset = |minor, patch, field| measured(GoVersion::new(minor, patch))?.offset(field);
        assert_eq!(offset(24, 3, "runtime.g.goid"), Some(160));
        assert_eq!(offset(25, 0, "runtime.g.goid"), Some(152));
        // A patch release moved it.
        assert_eq!(offset(26, 8, "net/http.response.status"), Some(120));
        assert_eq!(offset(26, 11, "net/http.response.status"), Some(128));
        for (minor, patch) in [(18, 0), (27, 999), (28, 0)] {
            assert!(measured(GoVersion::new(minor, patch)).is_none());
        }
        assert_eq!(newest(19), Some(GoVersion::new(19, 13)));
        assert_eq!(newest(99).map(|newest| newest.minor), Some(27));
    }
}
