//! The licences of everything we link are on the list in `deny.toml`.

use std::{collections::BTreeSet, fs};

use serde::Deserialize;

use super::expect_none;
use crate::build::{cargo, root};

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

#[test]
fn every_licence_is_allowed() {
    let deny = fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
    let allowed = allowed(&deny);
    assert!(
        allowed.contains("Apache-2.0"),
        "the list is not read as it should be: {allowed:?}"
    );
    let output = cargo()
        .args(["metadata", "--format-version=1", "--locked"])
        .output()
        .expect("cargo metadata");
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Metadata = serde_json::from_slice(&output.stdout).expect("what cargo metadata prints");
    let mut faults = Vec::new();
    for Package {
        name,
        version,
        license,
        source,
    } in metadata.packages
    {
        match &license {
            None => faults.push(format!("{name} {version} names no licence")),
            Some(license) if accepts(license, &allowed) => {}
            Some(license) => faults.push(format!("{name} {version}: {license} is not in deny.toml")),
        }
        if source
            .as_ref()
            .is_some_and(|source| !source.starts_with("registry+"))
        {
            faults.push(format!(
                "{name} {version} comes from {source:?}, not from the registry"
            ));
        }
    }
    expect_none(&faults);
}

/// The quoted words of `allow = [ … ]` in the table of licences.
fn allowed(deny: &str) -> BTreeSet<&str> {
    let table = deny.split("[licenses]").nth(1).unwrap_or_default();
    let list = table
        .split("allow = [")
        .nth(1)
        .and_then(|rest| rest.split(']').next())
        .unwrap_or_default();
    list.split('"').skip(1).step_by(2).collect()
}

/// An SPDX expression: AND binds closer than OR; the old slash means OR.
fn accepts(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    any_of(&mut words, allowed)
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> bool {
    let mut accepted = all_of(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        accepted |= all_of(words, allowed);
    }
    accepted
}

fn all_of(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> bool {
    let mut accepted = licence(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        accepted &= licence(words, allowed);
    }
    accepted
}

fn licence(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let accepted = any_of(words, allowed);
        words.next_if_eq(&")");
        return accepted;
    }
    let Some(name) = words.next() else { return false };
    if words.next_if_eq(&"WITH").is_some() {
        let exception = words.next().unwrap_or_default();
        return allowed.contains(format!("{name} WITH {exception}").as_str());
    }
    allowed.contains(name)
}

#[test]
fn expressions_are_understood() {
    let allowed = BTreeSet::from(["MIT", "Zlib"]);
    for good in [
        "MIT",
        "GPL-3.0 OR MIT",
        "MIT AND Zlib",
        "(GPL-3.0 OR MIT) AND Zlib",
        "GPL-3.0/MIT",
    ] {
        assert!(accepts(good, &allowed), "{good}");
    }
    for bad in [
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "MIT WITH X",
        "(MIT OR Zlib) AND GPL-3.0",
        "",
    ] {
        assert!(!accepts(bad, &allowed), "{bad}");
    }
}
