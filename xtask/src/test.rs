//! `cargo xtask test`: every test there is, and at the end one line of counts.
//!
//! Test binaries are built once and run by us, not by `cargo test`: so the crates that need root run the binaries that
//! were built with the rest, and skips are counted with their reasons.

mod counts;
mod other;

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::{
    build::{self, cargo},
    go,
    process::{Running, check, stopping},
    processor::Processor,
    step::{step, wait_until},
    toolchain,
};
use counts::{Counts, Output};

/// The package whose tests need root and load programs into the kernel.
const SYSTEM_TESTS: &str = "tests";

/// No test binary may take longer, with and without `--full`.
const LIMIT: Duration = Duration::from_secs(20 * 60);
const LIMIT_FULL: Duration = Duration::from_secs(2 * 3600);

/// What to run.
#[derive(clap::Args, Debug, Default)]
pub struct Options {
    /// The whole matrix of Go versions and builds, and everything else that takes long
    #[arg(long)]
    pub full: bool,
    /// The unit tests alone, built for another processor and emulated
    #[arg(long)]
    pub processor: Option<Processor>,
    /// Only tests whose name, or whose binary's (`tests/truth`), contains this; no format check, no lints
    pub filter: Option<String>,
}

/// Runs everything and prints the counts, whatever happens; fails when one thing failed.
pub fn run(options: &Options) -> ExitCode {
    let mut counts = Counts::default();
    if let Err(error) = run_all(options, &mut counts) {
        counts.check("cargo xtask test", Err(error));
    }
    for failure in &counts.failures {
        println!("failed: {failure}");
    }
    for flaky in &counts.flaky {
        println!("flaky: {flaky}: failed, and passed when it was run again");
    }
    for skip in &counts.skips {
        println!("skipped: {skip}");
    }
    step("done");
    println!("{counts}");
    if counts.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run_all(options: &Options, counts: &mut Counts) -> Result<()> {
    let own = Processor::own()?;
    if let Some(processor) = options.processor.filter(|processor| *processor != own) {
        return other::run(processor, options, counts);
    }
    toolchain::install()?;
    if options.filter.is_none() {
        toolchain::lints()?;
        step("checking the format");
        counts.check(
            "cargo fmt --check",
            check(cargo().args(["fmt", "--all", "--check"])),
        );
        step("linting (clippy)");
        let clippy = [
            "clippy",
            "--quiet",
            "--locked",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ];
        counts.check("cargo clippy", check(cargo().args(clippy)));
    }

    let skyprobe = build::release()?;
    step("building the tests");
    let mut command = cargo();
    command.args(["test", "--locked", "--workspace"]);
    let mut binaries = build_tests(&mut command)?;
    // First what is quick and needs nothing.
    binaries.sort_by_key(|binary| {
        (
            binary.package == SYSTEM_TESTS,
            binary.package.clone(),
            binary.target.clone(),
        )
    });
    let mut ran = false;
    for binary in &binaries {
        let Some(filter) = binary.filter(options)? else {
            continue;
        };
        ran = true;
        run_binary(binary, filter, options, &skyprobe, counts)?;
        if stopping() {
            bail!("interrupted");
        }
    }
    match &options.filter {
        Some(filter) if !ran => bail!("no test and no test binary has {filter:?} in its name"),
        Some(_) => {}
        None => {
            step("running the examples in the documentation");
            run_documentation(counts)?;
        }
    }
    Ok(())
}

/// One built test binary.
#[derive(Debug)]
struct TestBinary {
    package: String,
    target: String,
    directory: PathBuf,
    executable: PathBuf,
}

/// What Cargo says of each thing it built, as far as we listen.
#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Builds the tests of all crates at once: built one by one, their dependencies would get other features each time and
/// be built as often.
fn build_tests(command: &mut Command) -> Result<Vec<TestBinary>> {
    command.args(["--no-run", "--message-format=json-render-diagnostics"]);
    command.stdout(Stdio::piped());
    let mut running = Running::start("cargo test --no-run", command)?;
    let stdout = running.child().stdout.take().context("the pipe to cargo")?;
    let mut binaries = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("read what cargo says")?;
        let Ok(message) = serde_json::from_str::<Message>(&line) else {
            continue;
        };
        binaries.extend(message.test_binary());
    }
    let mut status = None;
    wait_until(Duration::from_secs(60), || {
        status = running.ended().ok().flatten();
        status.is_some()
    });
    match status {
        Some(status) if status.success() => Ok(binaries),
        _ => bail!("the tests did not compile"),
    }
}

impl Message {
    fn test_binary(self) -> Option<TestBinary> {
        if self.reason != "compiler-artifact" || !self.profile?.test {
            return None;
        }
        let directory = self.manifest_path?.parent()?.to_path_buf();
        let package = directory.file_name()?.to_string_lossy().into_owned();
        Some(TestBinary {
            package,
            target: self.target?.name,
            directory,
            executable: self.executable?,
        })
    }
}

impl TestBinary {
    fn name(&self) -> String {
        format!("{}/{}", self.package, self.target)
    }

    /// The filter for the tests within, if there is one; nothing at all if none of them is wanted.
    fn filter(&self, options: &Options) -> Result<Option<Option<String>>> {
        let name = self.name();
        let Some(filter) = options.filter.as_ref().filter(|filter| !name.contains(*filter)) else {
            return Ok(Some(None));
        };
        let listed = start_command(self)
            .args(["--list", filter])
            .output()
            .with_context(|| format!("run {name}"))?;
        let any = String::from_utf8_lossy(&listed.stdout)
            .lines()
            .any(|line| line.ends_with(": test"));
        Ok(any.then(|| Some(filter.clone())))
    }
}

fn start_command(binary: &TestBinary) -> Command {
    let mut command = Command::new(&binary.executable);
    command
        .current_dir(&binary.directory)
        .env("CARGO_MANIFEST_DIR", &binary.directory)
        .stdin(Stdio::null());
    command
}

fn run_binary(
    binary: &TestBinary,
    filter: Option<String>,
    options: &Options,
    skyprobe: &Path,
    counts: &mut Counts,
) -> Result<()> {
    let name = binary.name();
    let system = binary.package == SYSTEM_TESTS;
    let mut command = start_command(binary);
    command.args(filter);
    // SAFETY: geteuid cannot fail and touches no memory. The standard library has no user ids.
    if system && unsafe { libc::geteuid() } != 0 {
        let listed = command
            .arg("--list")
            .output()
            .with_context(|| format!("run {name}"))?;
        for test in String::from_utf8_lossy(&listed.stdout)
            .lines()
            .filter_map(|line| line.strip_suffix(": test"))
        {
            counts.skip(format!(
                "{name} {test}: needs root, to load programs into the kernel"
            ));
        }
        return Ok(());
    }

    let go = go::current()?;
    step(format!("testing {name}"));
    let limit = if options.full { LIMIT_FULL } else { LIMIT };
    let run = |command: &mut Command| -> Result<(String, Output, String)> {
        command
            .arg("--show-output")
            .env("SKYPROBE_BIN", skyprobe)
            .env("SKYPROBE_GO", &go);
        if options.full {
            command.env("SKYPROBE_TEST_FULL", "1");
        }
        let (text, status) = run_and_read(&name, command, limit, system)?;
        let output = Output::parse(&text);
        Ok((text, output, status))
    };
    let (text, mut output, status) = run(&mut command)?;
    if system && !output.failures.is_empty() {
        // Real programs under load on a shared machine: a failure that does not come back is reported as such, not
        // as a pass like any other.
        step(format!("running what failed of {name} again, one at a time"));
        let mut again = start_command(binary);
        again.args(["--exact", "--test-threads=1"]).args(&output.failures);
        let (_, second, _) = run(&mut again)?;
        for test in output.forgive(&second) {
            counts.flaky.push(format!("{name} {test}"));
        }
    }
    if output.failed > 0 && !system {
        print!("{text}");
    }
    counts.add(&name, &output, &status);
    Ok(())
}

/// Runs the command and gives its stdout and what it ended with; `show`: the output is also passed on as it comes.
fn run_and_read(name: &str, command: &mut Command, limit: Duration, show: bool) -> Result<(String, String)> {
    let mut running = Running::start(name, command.stdout(Stdio::piped()))?;
    let stdout = running
        .child()
        .stdout
        .take()
        .with_context(|| format!("the pipe to {name}"))?;
    let (sender, lines) = mpsc::channel();
    // Reading ends with the pipe, and a process that a test left behind may hold that open for ever: the thread is not
    // waited for.
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    let mut text = String::new();
    let mut collect = || {
        while let Ok(line) = lines.recv_timeout(Duration::from_millis(50)) {
            if show {
                println!("{line}");
            }
            text.push_str(&line);
            text.push('\n');
        }
    };
    let mut status = None;
    wait_until(limit, || {
        collect();
        status = running.ended().ok().flatten();
        status.is_some()
    });
    let status = match status {
        Some(status) => status.to_string(),
        None if stopping() => "interrupted".to_owned(),
        None => format!("still running after {} s", limit.as_secs()),
    };
    drop(running);
    collect();
    Ok((text, status))
}

fn run_documentation(counts: &mut Counts) -> Result<()> {
    let mut command = cargo();
    command.args([
        "test",
        "--quiet",
        "--doc",
        "--locked",
        "--workspace",
        "--no-fail-fast",
    ]);
    let output = command.output().context("run cargo test --doc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        print!("{text}{}", String::from_utf8_lossy(&output.stderr));
    }
    let parsed = Output::parse(&text);
    if parsed.results == 0 && !output.status.success() {
        counts.check("cargo test --doc", Err(anyhow::anyhow!("{}", output.status)));
    } else if parsed.results > 0 {
        counts.add("documentation", &parsed, &output.status.to_string());
    }
    Ok(())
}
