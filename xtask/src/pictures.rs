//! `cargo xtask pictures`: what is shown in the documentation, taken from what runs.
//!
//! Pods, an API server and an OAP for it are what the tests have, so a program of theirs does it.

use anyhow::Result;

use crate::{
    build::{self, cargo},
    process::check,
    toolchain,
};

/// Writes them over those that are there.
pub fn run() -> Result<()> {
    toolchain::need_root("trace other processes")?;
    let skyprobe = build::release()?;
    check(
        cargo()
            .args([
                "run",
                "--quiet",
                "--locked",
                "--package",
                "tests",
                "--bin",
                "pictures",
                "--",
            ])
            .arg(build::root().join("docs/images"))
            .env("SKYPROBE_BIN", skyprobe),
    )
}
