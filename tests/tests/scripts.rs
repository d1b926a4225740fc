//! The shell scripts of the repository, by shellcheck.

use std::{fs, path::Path, process::Command};

use tests::{deploy::run, needs_probe};
use xtask::{build::root, debian};

/// Whether shellcheck knows its language; it does not know zsh and fish.
fn is_shell(path: &Path) -> bool {
    let text = fs::read(path).unwrap_or_default();
    let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let first = String::from_utf8_lossy(first);
    let is_ours = |interpreter: &str| matches!(interpreter, "sh" | "bash" | "dash");
    let by_line = first.starts_with("#!") && first.split(['/', ' ']).any(is_ours);
    by_line || path.extension().and_then(|it| it.to_str()).is_some_and(is_ours)
}

#[test]
fn every_script_is_sound() {
    needs_probe!();
    debian::ensure_program("shellcheck", "shellcheck", "what checks shell scripts").unwrap();
    let mut git = Command::new("git");
    // A clone may belong to another user than the root that runs the tests.
    git.args([
        "-c",
        "safe.directory=*",
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    let files = run(git.current_dir(root())).unwrap();
    let scripts: Vec<&str> = files
        .lines()
        .filter(|file| is_shell(&root().join(file)))
        .collect();
    for known in [
        ".ci/run",
        "deploy/completions/skyprobe.bash",
        "tests/src/machine/boot.sh",
    ] {
        assert!(scripts.contains(&known), "{known} is not found: {scripts:?}");
    }
    let mut shellcheck = Command::new("shellcheck");
    run(shellcheck.args(scripts).current_dir(root())).unwrap();
}
