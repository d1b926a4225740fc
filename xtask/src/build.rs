//! The release binary, with the kernel object inside it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{cross::Builder, processor::Processor};

/// What to build.
#[derive(clap::Args, Debug, Default)]
pub struct Options {
    /// For this processor [default: the one we run on]
    #[arg(long)]
    pub processor: Option<Processor>,
    /// With everything linked in, for an image that has nothing else: target/static/skyprobe
    #[arg(long = "static")]
    pub is_static: bool,
}

/// Builds the release and says where it lies.
pub fn run(options: &Options) -> Result<()> {
    let builder = Builder::new(match options.processor {
        Some(processor) => processor,
        None => Processor::own()?,
    })?;
    if options.is_static {
        builder.release_static()?;
    } else {
        builder.release()?;
    }
    Ok(())
}

/// Builds `target/release/skyprobe` and says where it lies.
pub fn release() -> Result<PathBuf> {
    Builder::new(Processor::own()?)?.release()
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
    // `cargo run` describes our package in our environment. Build scripts that watch these variables (ring's does)
    // would run again each time somebody calls cargo without us in between, and half the tree with them.
    for (variable, _) in std::env::vars_os() {
        if variable.to_str().is_some_and(describes_a_package) {
            command.env_remove(variable);
        }
    }
    command
}

fn describes_a_package(variable: &str) -> bool {
    let beginnings = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
    beginnings.iter().any(|beginning| variable.starts_with(beginning)) || variable == "CARGO_PRIMARY_PACKAGE"
}

/// Where Cargo puts what it builds.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "Cargo takes it from the environment")]
pub fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |directory| root().join(directory))
}
