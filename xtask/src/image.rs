//! The container image: the last stage of `deploy/Dockerfile`, built without a daemon and without a base image.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{build, cross::Builder, debian, process::check, processor::Processor, step::step, toolchain};

/// What it is called, to whom it does not matter.
pub const NAME: &str = concat!("skyprobe:", env!("CARGO_PKG_VERSION"));

/// How to build it.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// An OCI archive, for `docker load`, `podman load`, `ctr images import` or `skopeo copy` [default:
    /// target/skyprobe-image.tar]
    #[arg(long)]
    pub output: Option<PathBuf>,
}

/// Builds it and says where it lies.
pub fn run(options: &Options) -> Result<()> {
    let file = match &options.output {
        Some(file) => std::path::absolute(file).context("find the output's folder")?,
        None => build::target_directory().join("skyprobe-image.tar"),
    };
    if file.exists() {
        fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
    }
    build(&to("oci-archive:", &file, NAME))?;
    println!("{}", file.display());
    Ok(())
}

/// Writes it to a folder in OCI's layout, under the tag `image`.
pub fn layout(folder: &Path) -> Result<()> {
    build(&to("oci:", folder, "image"))
}

fn to(kind: &str, place: &Path, name: &str) -> OsString {
    let mut to = OsString::from(kind);
    to.push(place);
    to.push(":");
    to.push(name);
    to
}

fn build(to: &OsString) -> Result<()> {
    toolchain::need_root("build an image")?;
    debian::ensure_program(
        "buildah",
        "buildah",
        "buildah, to build an image without a daemon",
    )?;
    let binary = Builder::new(Processor::own()?)?.release_static()?;
    step("building the image (buildah)");
    let scratch = tempfile::tempdir().context("make a temporary directory")?;
    // What the first stage would have left behind: its base image cannot be had everywhere, and the binary is the same.
    let stage = scratch.path().join("stage");
    let place = stage.join("src/target/static");
    fs::create_dir_all(&place).with_context(|| format!("make {}", place.display()))?;
    fs::copy(&binary, place.join("skyprobe")).with_context(|| format!("copy {}", binary.display()))?;
    let buildah = |command: &str| {
        let mut buildah = Command::new("buildah");
        // Nothing of it stays on the machine.
        buildah.args(["--storage-driver", "vfs", "--root"]);
        buildah.arg(scratch.path().join("root"));
        buildah.arg("--runroot").arg(scratch.path().join("run"));
        buildah.arg(command).stdin(Stdio::null()).stdout(Stdio::null());
        buildah
    };
    let mut named = OsString::from("build=");
    named.push(&stage);
    check(
        buildah("build")
            .args([
                "--quiet",
                "--isolation",
                "chroot",
                "--timestamp",
                "0",
                "--tag",
                NAME,
            ])
            .arg("--build-context")
            .arg(named)
            .arg("--file")
            .arg(build::root().join("deploy/Dockerfile"))
            .arg(&stage),
    )?;
    check(buildah("push").args(["--quiet", NAME]).arg(to))
}
