//! Programs that nobody here wrote, for the tests to meet: SkyWalking's own agents, Debian's services, examples of Go
//! modules.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::cache;
use crate::debian;
use crate::go::programs::Programs;
use crate::process::{check, read};
use crate::step::step;
use crate::toolchain;

/// SkyWalking's Python agent, from PyPI. The wheel of 1.3.0 lacks the generated package `skywalking.protocol` and
/// cannot be imported.
const PYTHON_AGENT: &str = "apache-skywalking==1.2.0";
/// SkyWalking's Node agent, from the npm registry.
const NODE_AGENT: &str = "skywalking-backend-js@0.9.0";

/// A reader of HTTP/2's frames, and one of its header blocks.
const PYTHON_HTTP2: [&str; 2] = ["hyperframe==6.1.0", "hpack==4.2.0"];

/// The examples that grpc-go comes with, and the release that they are built with: the module of the examples asks for
/// an older one.
const GRPC_EXAMPLES: Programs = Programs {
    modules: &[
        (
            "google.golang.org/grpc/examples",
            "v0.0.0-20260825154716-030ee8becb20",
        ),
        ("google.golang.org/grpc", "v1.85.0"),
    ],
    parts: None,
    flags: &[],
    programs: &[
        (
            "greeter_server",
            "google.golang.org/grpc/examples/helloworld/greeter_server",
        ),
        (
            "greeter_client",
            "google.golang.org/grpc/examples/helloworld/greeter_client",
        ),
        (
            "route_guide_server",
            "google.golang.org/grpc/examples/route_guide/server",
        ),
        (
            "route_guide_client",
            "google.golang.org/grpc/examples/route_guide/client",
        ),
        (
            "multiplex_server",
            "google.golang.org/grpc/examples/features/multiplex/server",
        ),
        (
            "multiplex_client",
            "google.golang.org/grpc/examples/features/multiplex/client",
        ),
        (
            "retry_server",
            "google.golang.org/grpc/examples/features/retry/server",
        ),
        (
            "retry_client",
            "google.golang.org/grpc/examples/features/retry/client",
        ),
        (
            "deadline_server",
            "google.golang.org/grpc/examples/features/deadline/server",
        ),
        (
            "deadline_client",
            "google.golang.org/grpc/examples/features/deadline/client",
        ),
        (
            "cancellation_server",
            "google.golang.org/grpc/examples/features/cancellation/server",
        ),
        (
            "cancellation_client",
            "google.golang.org/grpc/examples/features/cancellation/client",
        ),
    ],
};

/// The example of grpc-gateway: a program that answers HTTP by calling another by gRPC. Built with what its own module
/// asks for.
const GRPC_GATEWAY: Programs = Programs {
    modules: &[("github.com/grpc-ecosystem/grpc-gateway/v2", "v2.33.0")],
    parts: None,
    flags: &[],
    programs: &[
        (
            "example-gateway-server",
            "github.com/grpc-ecosystem/grpc-gateway/v2/examples/internal/cmd/example-gateway-server",
        ),
        (
            "example-grpc-server",
            "github.com/grpc-ecosystem/grpc-gateway/v2/examples/internal/cmd/example-grpc-server",
        ),
    ],
};

/// The folder with grpc-go's own examples: of `features/retry` the programs `retry_server` and `retry_client`.
pub fn grpc_examples() -> Result<PathBuf> {
    GRPC_EXAMPLES.built()
}

/// The folder with `example-gateway-server` and `example-grpc-server`.
pub fn grpc_gateway() -> Result<PathBuf> {
    GRPC_GATEWAY.built()
}

/// The folder that `PYTHONPATH` must name for SkyWalking's Python agent to be found.
pub fn python_agent() -> Result<PathBuf> {
    python(&[PYTHON_AGENT], "SkyWalking's Python agent")
}

/// The same for an implementation of HTTP/2 that is neither Go's nor ours.
pub fn python_http2() -> Result<PathBuf> {
    python(&PYTHON_HTTP2, "Python's readers of HTTP/2")
}

/// A folder with packages from PyPI.
///
/// No virtual environment: those hold absolute paths, and what is in the cache was moved there.
pub(crate) fn python(packages: &[&str], what: &str) -> Result<PathBuf> {
    debian::ensure_program("python3", "python3", &format!("Python, for {what}"))?;
    let version = "import sys; print('%d.%d' % sys.version_info[:2])";
    let version = read(Command::new("python3").args(["-c", version])).context("python3 tells no version")?;
    let version = version.trim();
    let name = packages.join("+");
    let place = cache::dir("python")?.join(format!("{name}-python{version}"));
    cache::filled(&place, |half| {
        let has_pip = read(
            Command::new("python3")
                .args(["-m", "pip", "--version"])
                .stderr(Stdio::null()),
        );
        if has_pip.is_none() {
            toolchain::apt_install(&["python3-pip"], &format!("pip, to get {what}"))?;
        }
        step(format_args!("getting {name} into the cache (pip)"));
        check(
            Command::new("python3")
                .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
                .args(["--no-warn-script-location", "--root-user-action=ignore"])
                .arg("--target")
                .arg(half)
                .args(packages)
                .stdin(Stdio::null()),
        )
    })
    .with_context(|| format!("get {what}"))?;
    Ok(place)
}

/// The folder that `NODE_PATH` must name for SkyWalking's Node agent to be found.
pub fn node_agent() -> Result<PathBuf> {
    debian::ensure_program("node", "nodejs", "Node, to run SkyWalking's Node agent")?;
    let place = cache::dir("node")?.join(NODE_AGENT);
    cache::filled(&place, |half| {
        debian::ensure_program("npm", "npm", "npm, to get SkyWalking's Node agent")?;
        step(format_args!("getting {NODE_AGENT} into the cache (npm)"));
        check(
            Command::new("npm")
                .args([
                    "install",
                    "--silent",
                    "--no-audit",
                    "--no-fund",
                    "--ignore-scripts",
                ])
                .arg("--prefix")
                .arg(half)
                .arg(NODE_AGENT)
                .stdin(Stdio::null()),
        )
    })
    .context("get SkyWalking's Node agent")?;
    Ok(place.join("node_modules"))
}

/// Debian's Prometheus server.
pub fn prometheus() -> Result<PathBuf> {
    program("prometheus", "usr/bin/prometheus")
}

/// Prometheus' checker of rules, of the same package.
pub fn promtool() -> Result<PathBuf> {
    program("prometheus", "usr/bin/promtool")
}

/// Debian's node exporter for Prometheus.
pub fn node_exporter() -> Result<PathBuf> {
    program("prometheus-node-exporter", "usr/bin/prometheus-node-exporter")
}

fn program(package: &str, path: &str) -> Result<PathBuf> {
    let program = debian::unpacked(package)?.join(path);
    ensure!(program.is_file(), "Debian's {package} has no {path}");
    Ok(program)
}
