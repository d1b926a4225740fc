//! Who traces the programs, and how the programs are built for that.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::{build, go, process::check, step::step};

/// Who traces in a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) enum By {
    Nobody,
    Skyprobe,
    /// Without headers in outgoing requests: what those cost is the difference.
    SkyprobeWithoutHeaders,
    OpenTelemetry,
}

/// How a program is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Build {
    Plain,
    /// With the SDK, and what its contributors wrote for `net/http` and grpc-go.
    OpenTelemetry,
}

impl Build {
    pub(super) const ALL: [Self; 2] = [Self::Plain, Self::OpenTelemetry];

    fn tags(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::OpenTelemetry => "otel",
        }
    }
}

impl By {
    pub(super) fn build(self) -> Build {
        match self {
            Self::Nobody | Self::Skyprobe | Self::SkyprobeWithoutHeaders => Build::Plain,
            Self::OpenTelemetry => Build::OpenTelemetry,
        }
    }

    /// In the tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Skyprobe => "skyprobe",
            Self::SkyprobeWithoutHeaders => "skyprobe, `--propagate off`",
            Self::OpenTelemetry => "OpenTelemetry's SDK",
        }
    }
}

/// The programs of one build.
#[derive(Clone)]
pub(super) struct Programs {
    pub(super) hello: PathBuf,
    pub(super) echo_server: PathBuf,
    /// The same in another file: the kernel stops every process of a file at the hooks in it, also one that nobody
    /// traces.
    pub(super) echo_client: PathBuf,
}

impl Programs {
    /// Builds them into `directory`.
    pub(super) fn build(build: Build, directory: &Path) -> Result<Self> {
        let named = |name: &str| directory.join(format!("{name}-{build:?}").to_lowercase());
        let hello = go_build("hello", build.tags(), &named("hello"))?;
        let echo_server = go_build("echo", build.tags(), &named("echo"))?;
        let echo_client = named("echo-client");
        fs::copy(&echo_server, &echo_client).context("copy a program")?;
        Ok(Self {
            hello,
            echo_server,
            echo_client,
        })
    }
}

/// Gets the modules that the programs are made of.
pub(super) fn fetch() -> Result<()> {
    let mut command = Command::new(go::current()?);
    command.args(["mod", "download"]).current_dir(source());
    check(command.envs([("GOTOOLCHAIN", "local"), ("GOFLAGS", "-mod=readonly")]))
        .context("get the modules that the programs to be measured are made of")
}

/// Builds one of the programs in `tests/targets/go/bench`, all of whose modules are there.
pub(super) fn go_build(package: &str, tags: &str, program: &Path) -> Result<PathBuf> {
    step(format!("building {package} with the tags {tags:?} (go build)"));
    let mut command = Command::new(go::current()?);
    command
        .args(["build", "-tags", tags, "-o"])
        .arg(program)
        .arg(format!("./{package}"))
        .current_dir(source());
    command.envs([
        ("CGO_ENABLED", "0"),
        ("GOPROXY", "off"),
        ("GOTOOLCHAIN", "local"),
        ("GOFLAGS", "-buildvcs=false"),
    ]);
    check(&mut command).context("build a program to be measured")?;
    Ok(program.to_owned())
}

fn source() -> PathBuf {
    build::root().join("tests/targets/go/bench")
}
