//! `cargo xtask fuzz`: the parsers of foreign bytes on made-up ones, each for some seconds, from the inputs that are kept.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    process::{check, read, stopping},
    step::step,
    toolchain,
};

const CARGO_FUZZ_VERSION: &str = "0.13.2";

/// What is kept of the inputs that were found: few bytes in one file, as they are thousands.
const KEPT: &str = "kept.tar.gz";

/// Kept inputs are no longer than this; longer ones are made of them soon enough.
const KEPT_MAX_BYTES: &str = "1024";

/// What to run.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Only this target of probe-user/fuzz
    pub target: Option<String>,
    /// How long each runs
    #[arg(long, default_value_t = 60)]
    pub seconds: u32,
    /// Keep the inputs that reach all that was reached, in probe-user/fuzz/kept.tar.gz
    #[arg(long)]
    pub keep: bool,
}

/// Runs the targets, one after the other.
pub fn run(options: &Options) -> Result<()> {
    ensure!(
        read(Command::new("rustup").args(["run", "nightly", "cargo", "--version"])).is_some(),
        "fuzzing wants a nightly compiler: `rustup toolchain install nightly`"
    );
    let fuzz = Fuzz {
        program: toolchain::cargo_program("cargo-fuzz", CARGO_FUZZ_VERSION, &[])?,
        package: Path::new(env!("CARGO_MANIFEST_DIR")).join("../probe-user"),
    };
    let folder = fuzz.folder();
    if folder.join(KEPT).exists() {
        check(
            Command::new("tar")
                .args(["--extract", "--skip-old-files", "--file", KEPT])
                .current_dir(&folder),
        )?;
    }
    let all = read(&mut fuzz.command(&["list"])).context("list the targets")?;
    let targets: Vec<&str> = all
        .lines()
        .filter(|name| options.target.as_deref().is_none_or(|wanted| wanted == *name))
        .collect();
    if targets.is_empty() {
        bail!("there is no such target; there are {}", all.replace('\n', " "));
    }
    step("building the targets with AddressSanitizer");
    check(&mut fuzz.command(&["build"]))?;
    for target in &targets {
        fuzz.run(target, options.seconds)?;
    }
    if options.keep {
        for target in &targets {
            step(format!("choosing among the inputs of {target}"));
            check(&mut fuzz.command(&["cmin", target, "--", &format!("-max_len={KEPT_MAX_BYTES}")]))?;
        }
        check(
            Command::new("tar")
                .args([
                    "--create",
                    "--gzip",
                    "--sort=name",
                    "--owner=0",
                    "--group=0",
                    "--mtime=@0",
                ])
                .args(["--mode=644", "--file", KEPT, "corpus"])
                .current_dir(&folder),
        )?;
    }
    Ok(())
}

struct Fuzz {
    program: PathBuf,
    package: PathBuf,
}

impl Fuzz {
    fn folder(&self) -> PathBuf {
        self.package.join("fuzz")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("fuzz")
            .args(arguments)
            .current_dir(&self.package)
            .env("RUSTUP_TOOLCHAIN", "nightly")
            // The kernel object would not build with the sanitizer's flags, and no target needs it.
            .env("SKYPROBE_BPF_SKIP", "1");
        command
    }

    /// Prints one line of what was done; what was found is the error.
    fn run(&self, target: &str, seconds: u32) -> Result<()> {
        let time = format!("-max_total_time={seconds}");
        let output = self
            .command(&["run", target, "--", &time, "-timeout=20", "-rss_limit_mb=1024"])
            .output()
            .context("run cargo-fuzz")?;
        if stopping() {
            bail!("interrupted");
        }
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!("{target} has found something:\n{said}");
        }
        let done = said
            .lines()
            .rfind(|line| line.starts_with("Done "))
            .unwrap_or_default();
        let reached = said
            .lines()
            .rfind(|line| line.contains(" cov: "))
            .unwrap_or_default();
        let reached = reached.split_once(" cov: ").map_or("?", |(_, rest)| rest);
        let edges = reached.split(' ').next().unwrap_or_default();
        println!("{target}: {done}, {edges} edges reached");
        Ok(())
    }
}
