//! The files of the project, and Rust code without what does not count.

use std::{fs, process::Command};

use crate::build::root;

/// A file, by its path from the root of the workspace.
#[derive(Debug)]
pub(super) struct SourceFile {
    pub(super) path: String,
    pub(super) text: String,
}

/// Every text file that is in git, or would be with `git add`.
pub(super) fn all() -> Vec<SourceFile> {
    // A clone may belong to another user than the root that runs the tests.
    let list = [
        "-c",
        "safe.directory=*",
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
    ];
    let output = Command::new("git")
        .args(list)
        .current_dir(root())
        .output()
        .expect("tidy asks git for the files");
    assert!(
        output.status.success(),
        "git ls-files: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let paths = String::from_utf8(output.stdout).expect("paths are UTF-8");
    let read = |path: &str| {
        // A file may be deleted and not yet committed; one that is not text has no rules.
        let text = String::from_utf8(fs::read(root().join(path)).ok()?).ok()?;
        Some(SourceFile {
            path: path.to_owned(),
            text,
        })
    };
    paths.lines().filter_map(read).collect()
}

/// Every Rust file.
pub(super) fn rust() -> Vec<SourceFile> {
    all()
        .into_iter()
        .filter(|file| file.path.ends_with(".rs"))
        .collect()
}

impl SourceFile {
    /// The code that ships: no comments, no test module at the end; nothing of a file of tests.
    pub(super) fn shipped(&self) -> String {
        if self.path.ends_with("/tests.rs") || self.path.contains("/tests/") {
            return String::new();
        }
        let end = self.text.find("#[cfg(test)]\nmod ").unwrap_or(self.text.len());
        let lines = self.text[..end].lines().map(|line| match line.find("//") {
            // The slashes of a URL follow a colon.
            Some(slashes) if !line[..slashes].ends_with(':') => &line[..slashes],
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// Whether a path in the code begins with this name: `name::…`, not `other::name::…`.
pub(super) fn names(code: &str, name: &str) -> bool {
    let part = format!("{name}::");
    code.match_indices(&part).any(|(position, _)| {
        let before = code[..position].chars().next_back();
        before.is_none_or(|before| !before.is_alphanumeric() && !matches!(before, '_' | ':' | '.'))
    })
}

/// The names that follow `crate::`, one by one or in braces.
pub(super) fn crate_modules(code: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for (position, matched) in code.match_indices("crate::") {
        let rest = &code[position + matched.len()..];
        if code[..position].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
            continue;
        }
        match rest.strip_prefix('{') {
            None => modules.push(identifier(rest)),
            Some(group) => modules.extend(group_members(group).map(identifier)),
        }
    }
    modules.sort();
    modules.dedup();
    modules
}

/// The members of a `{a::b, c::{d, e}}`, read from behind the opening brace.
fn group_members(group: &str) -> impl Iterator<Item = &str> {
    let mut depth = 1;
    let mut start = 0;
    let mut members = Vec::new();
    for (position, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if (character == ',' && depth == 1) || depth == 0 {
            members.push(group[start..position].trim());
            start = position + 1;
        }
        if depth == 0 {
            break;
        }
    }
    members.into_iter().filter(|member| !member.is_empty())
}

fn identifier(text: &str) -> String {
    text.chars()
        .take_while(|character| character.is_alphanumeric() || *character == '_')
        .collect()
}

#[test]
fn modules_are_found_in_every_spelling() {
    let code = "use crate::{config::Config, trace::{Span, segment}};\nfn f() { crate::clock::now() }";
    assert_eq!(crate_modules(code), ["clock", "config", "trace"]);
    assert!(names("use aya::Ebpf;", "aya"));
    assert!(names("use {aya::Ebpf, std::fs};", "aya"));
    assert!(!names("use maya::Ebpf; use x::aya::Y;", "aya"));
}
