//! The licences of what is linked into the program, and the notices that some of them want passed on with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::{build::cargo, process::read};

const HEAD: &str = "\
What is linked into skyprobe, and under which licence. Where it may be chosen we take the Apache License, version 2.0,
whose text is in /usr/share/common-licenses. The texts of the others follow.

";

/// What files with texts of licences, or notices, begin with.
const NAMES: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    manifest_path: PathBuf,
    /// None for our own.
    source: Option<String>,
}

/// All of them.
pub fn text() -> Result<String> {
    let linked = linked()?;
    let metadata =
        read(cargo().args(["metadata", "--format-version=1", "--locked"])).context("run cargo metadata")?;
    let metadata: Metadata = serde_json::from_str(&metadata).context("read what cargo metadata says")?;
    let mut list = String::new();
    // By text, as many crates have the same.
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in metadata
        .packages
        .iter()
        .filter(|package| package.source.is_some())
    {
        let name = format!("{} {}", package.name, package.version);
        if !linked.contains(&name) {
            continue;
        }
        let licence = package
            .license
            .as_deref()
            .with_context(|| format!("{name} names no licence"))?;
        let _infallible = writeln!(list, "{name}: {licence}");
        let folder = package
            .manifest_path
            .parent()
            .context("a manifest without a folder")?;
        let is_apache = offers_apache(licence);
        for file in files(folder)? {
            let is_notice = file
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("NOTICE"));
            if !is_apache || is_notice {
                let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
                texts
                    .entry(text.trim_end().to_owned())
                    .or_default()
                    .push(name.clone());
            }
        }
        let has_text = texts.values().flatten().any(|other| *other == name);
        if !is_apache && !has_text {
            let _infallible = writeln!(list, "  (it brings no text)");
        }
    }
    ensure!(!list.is_empty(), "nothing is linked");
    let mut all = format!("{HEAD}{list}");
    for (text, crates) in texts {
        let _infallible = write!(all, "\n{}\n{}\n\n{text}\n", "-".repeat(80), crates.join(", "));
    }
    Ok(all)
}

/// Name and version of each crate whose code is in the program, not of those that only help to build it.
fn linked() -> Result<BTreeSet<String>> {
    let mut tree = cargo();
    tree.args(["tree", "--locked", "--package", "probe-user", "--edges", "normal"]);
    tree.args(["--prefix", "none", "--format", "{p}"]);
    let tree = read(&mut tree).context("run cargo tree")?;
    let lines = tree.lines().filter(|line| !line.contains("(proc-macro)"));
    let named = lines.filter_map(|line| {
        let mut words = line.split(' ');
        Some(format!("{} {}", words.next()?, words.next()?.strip_prefix('v')?))
    });
    Ok(named.collect())
}

/// Whether that licence alone is enough.
fn offers_apache(licence: &str) -> bool {
    !licence.contains(" AND ")
        && licence
            .split(" OR ")
            .any(|one| one.trim_matches(['(', ')']) == "Apache-2.0")
}

fn files(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let entries = folder
        .read_dir()
        .with_context(|| format!("look into {}", folder.display()))?;
    let files = entries.filter_map(Result::ok).map(|entry| entry.path());
    let is_one = |path: &PathBuf| {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .to_uppercase();
        path.is_file() && NAMES.iter().any(|beginning| name.starts_with(beginning))
    };
    Ok(files.filter(is_one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_choice_needs_no_text() {
        assert!(offers_apache("MIT OR Apache-2.0"));
        assert!(offers_apache("Apache-2.0"));
        assert!(!offers_apache("MIT"));
        assert!(!offers_apache("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(!offers_apache("Apache-2.0 AND ISC"));
    }

    #[test]
    fn every_crate_is_listed_and_those_with_a_licence_of_their_own_bring_it() {
        let text = text().expect("the notices");
        let (list, texts) = text.split_once("\n----").expect("texts below a list");
        let lines: Vec<&str> = list.lines().filter(|line| line.contains(": ")).collect();
        assert!(lines.len() > 100, "{list}");
        assert!(
            !list.contains("clap_derive ") && !list.contains("clap_mangen "),
            "{list}"
        );
        for line in lines {
            let (name, licence) = line.split_once(": ").expect("a licence");
            let is_told = texts.contains(name) || list.contains(&format!("{line}\n  (it brings no text)"));
            assert!(offers_apache(licence) || is_told, "{line}");
        }
    }
}
