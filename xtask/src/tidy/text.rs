//! What every file must say, and what none may say.

use super::{
    expect_none,
    source::{all, rust},
};

#[test]
fn each_rust_file_says_what_lives_there() {
    let silent = rust().into_iter().filter(|file| !file.text.starts_with("//! "));
    expect_none(
        &silent
            .map(|file| format!("{}: the first line is no `//! …`", file.path))
            .collect::<Vec<_>>(),
    );
}

/// What is public is found where it is written: a module may show its own children, nobody shows another's.
#[test]
fn nothing_is_exported_twice() {
    let mut faults = Vec::new();
    for file in rust().into_iter().filter(|file| !file.path.ends_with("/lib.rs")) {
        let code = file.shipped();
        for line in code.lines().map(str::trim) {
            let Some(exported) = line.strip_prefix("pub use ") else {
                continue;
            };
            let path = exported.strip_prefix("self::").unwrap_or(exported);
            let first = path.split([':', ';', ' ', '{']).next().unwrap_or_default();
            let own = exported == "self::{" || exported.starts_with("self::{");
            let child = code.contains(&format!("mod {first};"));
            if !own && !child {
                faults.push(format!("{}: `{line}` shows what lives elsewhere", file.path));
            }
        }
    }
    expect_none(&faults);
}

/// Where URLs may point: documentation, identifiers of formats, this machine. A registry or a mirror is the business of
/// whoever builds.
const HOSTS: &[&str] = &[
    "127.0.0.1",
    "localhost",
    "github.com",
    "go.dev",
    "pkg.go.dev",
    "docs.kernel.org",
    "www.kernel.org",
    "maven.apache.org",
    "skywalking.apache.org",
    "www.apache.org",
    "www.debian.org",
    "www.gnu.org",
    "www.w3.org",
    "spdx.org",
    "opentelemetry.io",
    "json-schema.org",
];

/// Paths of the machine on which something was written.
const MACHINE: [&str; 4] = [
    concat!("/root", "/"),
    concat!("/home", "/"),
    concat!("/work", "/"),
    concat!("/tmp", "/wt"),
];

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    let mut faults = Vec::new();
    let other_hands = ["Cargo.lock", "LICENSE", "LICENSE-GPL2"];
    for file in all()
        .into_iter()
        .filter(|file| !other_hands.contains(&file.path.as_str()))
    {
        for (number, line) in (1..).zip(file.text.lines()) {
            let known = MACHINE.iter().filter(|path| line.contains(**path));
            faults.extend(known.map(|path| format!("{}:{number}: a path of one machine, {path}", file.path)));
            for host in hosts(line).filter(|host| !allowed(host)) {
                faults.push(format!(
                    "{}:{number}: the host {host} is not in HOSTS ({})",
                    file.path,
                    file!()
                ));
            }
        }
    }
    expect_none(&faults);
}

fn hosts(line: &str) -> impl Iterator<Item = &str> {
    line.split("://").skip(1).map(|rest| {
        let end = rest
            .find(|character: char| !character.is_ascii_alphanumeric() && !matches!(character, '.' | '-'));
        &rest[..end.unwrap_or(rest.len())]
    })
}

/// Names without a dot, and those that are reserved for examples, are nobody's; services of a cluster are its own.
fn allowed(host: &str) -> bool {
    let reserved = [
        ".invalid",
        ".test",
        ".example",
        "example.com",
        "example.org",
        ".svc",
    ];
    !host.contains('.') || HOSTS.contains(&host) || reserved.iter().any(|ending| host.ends_with(ending))
}
