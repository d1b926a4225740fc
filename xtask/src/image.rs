//! The container images: the last stages of `deploy/*Dockerfile`, built without a daemon and without base images.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{
    build, cross::Builder, debian, demo, go, process::check, processor::Processor, step::step, toolchain,
};

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// skyprobe.
    Probe,
    /// The demo's services.
    Demo,
}

/// How to build one.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// The demo's services, not skyprobe
    #[arg(long)]
    pub demo: bool,
    /// An OCI archive, for `docker load`, `podman load`, `ctr images import` or `skopeo copy` [default:
    /// target/skyprobe-image.tar, target/skyprobe-demo-image.tar]
    #[arg(long)]
    pub output: Option<PathBuf>,
}

/// Builds it and says where it lies.
pub fn run(options: &Options) -> Result<()> {
    let image = if options.demo { Image::Demo } else { Image::Probe };
    let file = match &options.output {
        Some(file) => std::path::absolute(file).context("find the output's folder")?,
        None => build::target_directory().join(image.archive()),
    };
    if file.exists() {
        fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
    }
    image.write(&file)?;
    println!("{}", file.display());
    Ok(())
}

// === impl Image ===

impl Image {
    /// What it is called, to whom it does not matter.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Probe => concat!("skyprobe:", env!("CARGO_PKG_VERSION")),
            Self::Demo => concat!("skyprobe-demo:", env!("CARGO_PKG_VERSION")),
        }
    }

    /// Writes it to a folder in OCI's layout, under the tag `image`.
    pub fn layout(self, folder: &Path) -> Result<()> {
        self.build(&to("oci:", folder, "image"))
    }

    /// Writes it to a file for `docker load` and its like.
    pub fn write(self, file: &Path) -> Result<()> {
        self.build(&to("oci-archive:", file, self.name()))
    }

    fn archive(self) -> &'static str {
        match self {
            Self::Probe => "skyprobe-image.tar",
            Self::Demo => "skyprobe-demo-image.tar",
        }
    }

    fn dockerfile(self) -> &'static str {
        match self {
            Self::Probe => "deploy/Dockerfile",
            Self::Demo => "deploy/demo.Dockerfile",
        }
    }

    /// Puts into `stage` what the first stage would have left behind: its base image cannot be had everywhere, and what
    /// comes out is the same.
    fn first_stage(self, stage: &Path) -> Result<()> {
        let folder = |name: &str| -> Result<PathBuf> {
            let folder = stage.join(name);
            fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
            Ok(folder)
        };
        match self {
            Self::Probe => {
                let binary = Builder::new(Processor::own()?)?.release_static()?;
                fs::copy(&binary, folder("src/target/static")?.join("skyprobe"))
                    .with_context(|| format!("copy {}", binary.display()))?;
                Ok(())
            }
            Self::Demo => demo::build(&go::current()?, &folder("out")?, &demo::PROGRAMS),
        }
    }

    fn build(self, to: &OsString) -> Result<()> {
        toolchain::need_root("build an image")?;
        debian::ensure_program(
            "buildah",
            "buildah",
            "buildah, to build an image without a daemon",
        )?;
        let scratch = tempfile::tempdir().context("make a temporary directory")?;
        let stage = scratch.path().join("stage");
        self.first_stage(&stage)?;
        step(format_args!("building the image {} (buildah)", self.name()));
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
                    self.name(),
                ])
                .arg("--build-context")
                .arg(named)
                .arg("--file")
                .arg(build::root().join(self.dockerfile()))
                .arg(&stage),
        )?;
        check(buildah("push").args(["--quiet", self.name()]).arg(to))
    }
}

fn to(kind: &str, place: &Path, name: &str) -> OsString {
    let mut to = OsString::from(kind);
    to.push(place);
    to.push(":");
    to.push(name);
    to
}
