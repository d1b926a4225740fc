//! The table of measured offsets, `offsets.json`, which `cargo xtask offsets` makes.

use std::{collections::BTreeMap, sync::OnceLock};

use serde::Deserialize;

use crate::discover::{go::GoVersion, module::ModuleVersion};

const JSON: &str = include_str!("../offsets.json");

#[derive(Default, Deserialize)]
struct Table {
    /// By Go's version.
    rows: Vec<Row>,
    /// Of each library, by its module's version.
    modules: BTreeMap<String, Vec<Row>>,
}

/// The offsets that hold from the first measured release to the last.
#[derive(Deserialize)]
pub(super) struct Row {
    measured: Vec<String>,
    offsets: BTreeMap<String, u16>,
}

/// What rows are ordered by.
pub(super) trait Version: Ord + Sized {
    fn read(release: &str) -> Option<Self>;
}

impl Version for GoVersion {
    fn read(release: &str) -> Option<Self> {
        Self::parse(release)
    }
}

impl Version for ModuleVersion {
    fn read(release: &str) -> Option<Self> {
        Self::parse(release)
    }
}

impl Row {
    fn first<V: Version>(&self) -> Option<V> {
        V::read(self.measured.first()?)
    }

    fn last<V: Version>(&self) -> Option<V> {
        V::read(self.measured.last()?)
    }

    fn holds<V: Version>(&self, version: &V) -> bool {
        let (first, last) = (self.first::<V>(), self.last::<V>());
        first.is_some_and(|first| first <= *version) && last.is_some_and(|last| *version <= last)
    }

    /// The newest measured release that is not newer than this one.
    pub(super) fn nearest<V: Version>(&self, version: &V) -> Option<&str> {
        let mut measured = self.measured.iter().rev();
        let nearest = measured.find(|release| V::read(release).is_some_and(|release| release <= *version));
        nearest.map(String::as_str)
    }

    fn has_commits(&self) -> bool {
        let mut measured = self
            .measured
            .iter()
            .filter_map(|release| ModuleVersion::parse(release));
        measured.any(|release| !release.is_release())
    }

    /// The offset of a field by its full name.
    pub(super) fn offset(&self, field: &str) -> Option<u16> {
        self.offsets.get(field).copied()
    }
}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    // The file is part of this program, and a test reads it: it is never damaged.
    TABLE.get_or_init(|| serde_json::from_str(JSON).unwrap_or_default())
}

/// The row for a version of Go. A patch release newer than those that were measured has none: such a release has
/// moved fields before.
pub(super) fn measured(version: GoVersion) -> Option<&'static Row> {
    table().rows.iter().find(|row| row.holds(&version))
}

/// The row for a version of a module, and the module's name. A commit has one only among commits: those of grpc-go are
/// named after a tag on another branch, and lie between other releases than their names do.
pub(super) fn measured_of_module(
    module: &str,
    version: &ModuleVersion,
) -> Option<(&'static str, &'static Row)> {
    let (module, rows) = table().modules.get_key_value(module)?;
    let is_ordered = |row: &Row| version.is_release() || row.has_commits();
    let row = rows.iter().find(|row| row.holds(version) && is_ordered(row))?;
    Some((module, row))
}

/// The newest release of Go that was measured of this minor version, else of all.
pub(super) fn newest(minor: u16) -> Option<&'static str> {
    let releases = || table().rows.iter().rev().filter_map(|row| row.measured.last());
    let of_minor = |release: &&String| GoVersion::parse(release).is_some_and(|found| found.minor == minor);
    let newest = releases().find(of_minor).or_else(|| releases().next());
    newest.map(String::as_str)
}

/// The newest release of a module that was measured.
pub(super) fn newest_of_module(module: &str) -> Option<&'static str> {
    let newest = table().modules.get(module)?.last()?.measured.last()?;
    Some(newest)
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use probe_common::field::GoField;

    use super::*;
    use crate::instrument::offset::{before, measured_since, name, since, since_module};

    const GRPC: &str = "google.golang.org/grpc";
    const GENPROTO: &str = "google.golang.org/genproto/googleapis/rpc";
    /// Where that package was before.
    const GENPROTO_BEFORE: &str = "google.golang.org/genproto";
    const NET: &str = "golang.org/x/net";

    fn version(text: &str) -> ModuleVersion {
        ModuleVersion::parse(text).unwrap()
    }

    /// Each release is older than the next, and so are the rows.
    fn check_order<V: Version + Debug>(rows: &[Row]) {
        let releases: Vec<V> = rows
            .iter()
            .flat_map(|row| &row.measured)
            .map(|release| V::read(release).unwrap())
            .collect();
        assert!(releases.is_sorted_by(|one, next| one < next), "{releases:?}");
        assert!(rows.iter().all(|row| !row.measured.is_empty()));
    }

    #[test]
    fn every_row_is_complete() {
        let table = serde_json::from_str::<Table>(JSON).unwrap();
        assert!(table.rows.len() >= 9);
        check_order::<GoVersion>(&table.rows);
        for row in &table.rows {
            let (first, last): (GoVersion, GoVersion) = (row.first().unwrap(), row.last().unwrap());
            assert_eq!(first.minor, last.minor);
            for field in GoField::ALL.iter().filter(|field| field.module().is_none()) {
                let there = since(*field).is_none_or(|since| since <= first)
                    && before(*field).is_none_or(|before| first < before);
                assert_eq!(row.offset(&name(*field)).is_some(), there, "{field:?} in {first}");
            }
        }
        let modules: Vec<&str> = table.modules.keys().map(String::as_str).collect();
        assert_eq!(modules, [NET, GENPROTO_BEFORE, GENPROTO, GRPC]);
        for (module, rows) in &table.modules {
            check_order::<ModuleVersion>(rows);
            let of = if module == GENPROTO_BEFORE {
                GENPROTO
            } else {
                module
            };
            for row in rows {
                let fields = GoField::ALL.iter().filter(|field| field.module() == Some(of));
                let first: ModuleVersion = row.first().unwrap();
                let mut there = fields.filter(|field| {
                    let since = since_module(**field).max(measured_since(**field));
                    since.is_none_or(|since| since <= first.minor())
                });
                assert!(there.clone().count() == row.offsets.len(), "{module} {first:?}");
                assert!(
                    there.all(|field| row.offset(&name(*field)).is_some()),
                    "{module} {first:?}"
                );
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
        assert_eq!(newest(19), Some("1.19.13"));
        assert!(newest(99).is_some_and(|newest| newest.starts_with("1.27.")));
    }

    #[test]
    fn a_module_has_the_row_that_was_measured_around_it() {
        let offset = |module, text, field| measured_of_module(module, &version(text))?.1.offset(field);
        let method = "google.golang.org/grpc/internal/transport.Stream.method";
        for (text, at) in [
            ("v1.37.0", Some(80)),
            ("v1.66.2", Some(88)),
            ("v1.75.0", Some(24)),
            ("v1.77.0", Some(16)),
            ("v1.65.2", None),
            // May be a commit of years later.
            ("v1.58.0-dev.0.20251001000000-abcdefabcdef", None),
            ("v1.36.1", None),
            ("v1.999.0", None),
        ] {
            assert_eq!(offset(GRPC, text, method), at, "{text}");
        }
        let code = "google.golang.org/genproto/googleapis/rpc/status.Status.Code";
        let commit = "v0.0.0-20240701130421-f6361c86f094";
        assert_eq!(offset(GENPROTO, commit, code), Some(40));
        let (module, row) = measured_of_module(GENPROTO, &version(commit)).unwrap();
        let nearest = row.nearest(&version(commit)).map(version).unwrap();
        assert!(module == GENPROTO && nearest < version(commit));
        assert_eq!(offset(GENPROTO, "v0.0.0-20990101000000-abcdefabcdef", code), None);
        assert!(newest_of_module(GRPC).map(version) >= Some(version("v1.85.0")));
        assert_eq!(newest_of_module("example/unknown"), None);
    }
}
