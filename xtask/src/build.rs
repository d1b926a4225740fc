//! The release binary, with the kernel object inside it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{process::check, step::step, toolchain};

/// Builds `target/release/skyprobe` and says where it lies.
pub fn release() -> Result<PathBuf> {
    toolchain::install()?;
    step("building skyprobe (release)");
    check(cargo().args([
        "build",
        "--release",
        "--locked",
        "--package",
        "probe-user",
        "--bin",
        "skyprobe",
    ]))?;
    let binary = target_directory().join("release/skyprobe");
    step(format!("built {}", binary.display()));
    Ok(binary)
}

/// The root of the workspace.
#[must_use]
pub fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// The cargo that runs us, in the workspace's root.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "Cargo says in the environment where it is"
)]
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Where Cargo puts what it builds.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "Cargo takes it from the environment")]
pub fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |directory| root().join(directory))
}
