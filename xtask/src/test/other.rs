//! The unit tests on another processor: qemu emulates the program, and this machine's kernel serves it.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::{LIMIT, Options, build_tests, counts::Counts, counts::Output, run_and_read};
use crate::{cross::Builder, debian, go, processor::Processor, step::step};

/// What runs without a kernel's help.
const PACKAGES: [&str; 3] = ["probe-common", "probe-user", "proto"];
/// Tests that read of the process itself in `/proc`, where the emulator stands.
const ABOUT_ITSELF: [&str; 3] = ["discover::network::", "discover::process::", "naming::"];

pub(super) fn run(processor: Processor, options: &Options, counts: &mut Counts) -> Result<()> {
    let emulator = format!("qemu-{}", processor.name());
    debian::ensure_program(&emulator, "qemu-user", "emulate programs for another processor")?;
    let builder = Builder::new(processor)?;
    step(format_args!("building the unit tests for {}", processor.name()));
    let mut command = builder.cargo("test");
    for package in PACKAGES {
        command.args(["--package", package]);
    }
    command.args(["--lib", "--tests"]);
    let libraries = builder
        .libraries()
        .context("it is this machine's own processor")?;
    let go = go::current()?;
    for binary in build_tests(&mut command)? {
        let name = format!("{} on {}", binary.name(), processor.name());
        step(format_args!("testing {name}"));
        let mut command = Command::new(&emulator);
        command
            .arg("-L")
            .arg(&libraries)
            .arg(&binary.executable)
            .args(&options.filter)
            .arg("--show-output")
            .current_dir(&binary.directory)
            .env("CARGO_MANIFEST_DIR", &binary.directory)
            .env("SKYPROBE_GO", &go)
            .stdin(Stdio::null());
        if binary.target == "probe_user" {
            for module in ABOUT_ITSELF {
                command.args(["--skip", module]);
                counts.skip(format!("{name} {module}*: in /proc it would find the emulator"));
            }
        }
        let (text, status) = run_and_read(&name, &mut command, LIMIT, false)?;
        let output = Output::parse(&text);
        if output.failed > 0 {
            print!("{text}");
        }
        counts.add(&name, &output, &status);
    }
    Ok(())
}
