//! The Debian package, by cargo-deb, as `[package.metadata.deb]` in `probe-user/Cargo.toml` describes it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{build, debian, notices, process::check, step::step, toolchain};

const CARGO_DEB_VERSION: &str = "3.8.0";

/// How to build it.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// The package's file, or a folder for it [default: target/debian]
    #[arg(long)]
    pub output: Option<PathBuf>,
}

/// Builds it and says where it lies.
pub fn run(options: &Options) -> Result<()> {
    build::release()?;
    let output = match &options.output {
        Some(output) => std::path::absolute(output).context("find the output's folder")?,
        None => build::target_directory().join("debian"),
    };
    deb(&output, &[])?;
    println!("{}", output.display());
    Ok(())
}

/// Packs the release as it was built, but for its debug information.
pub fn without_symbols(output: &Path) -> Result<()> {
    deb(output, &["--no-dbgsym", "--strip"])
}

fn deb(output: &Path, options: &[&str]) -> Result<()> {
    debian::ensure_program(
        "dpkg-shlibdeps",
        "dpkg-dev",
        "what says which libraries a program wants",
    )?;
    // xz is a program's here, not a library's, which would have to be compiled.
    debian::ensure_program("xz", "xz-utils", "xz, to compress a package")?;
    let cargo_deb = toolchain::cargo_program("cargo-deb", CARGO_DEB_VERSION, &["--no-default-features"])?;
    // Where its manifest has it, wherever Cargo builds.
    let folder = build::root().join("target/debian");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    fs::write(folder.join("third-party.txt"), notices::text()?)
        .context("write the notices of what is linked")?;
    step("packing it (cargo-deb)");
    let mut command = Command::new(cargo_deb);
    command.args([
        "--variant",
        "complete",
        "--package",
        "probe-user",
        "--no-build",
        "--locked",
        "--output",
    ]);
    command.arg(output).args(options).stdout(Stdio::null());
    check(command.current_dir(build::root()))
}
