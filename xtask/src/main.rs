//! `cargo xtask`: reads the command and calls it.
#![expect(clippy::print_stderr, reason = "the one place that reports an error")]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::{
    bench, build, demo, fuzz, image, kubernetes, oap, offsets, package, pictures, process, test, toolchain,
    vm,
};

/// The project's tools
#[derive(Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Get what the kernel programs are built with, where it is missing
    Toolchain,
    /// Build the release binary, target/release/skyprobe
    Build(build::Options),
    /// Build the container image, without a container daemon
    Image(image::Options),
    /// Build the Debian package
    Package(package::Options),
    /// Run every test there is
    Test(test::Options),
    /// Trace three small Go services and show the traces
    Demo(demo::Options),
    /// Measure the offsets of struct fields in every release of Go and of traced libraries, and write offsets.json
    Offsets(offsets::Options),
    /// Measure what tracing costs
    Bench(bench::Options),
    /// Give the parsers of foreign bytes made-up ones, for some seconds each
    Fuzz(fuzz::Options),
    /// Boot Debian's kernels in software and trace Go programs on them
    Vm(vm::Options),
    /// Take the pictures of docs/ui.md anew
    Pictures,
    /// Run a real Kubernetes API server on the loopback address until Ctrl-C
    Kubernetes,
    /// Run a real SkyWalking OAP on the loopback address until Ctrl-C
    Oap {
        /// The release; the nearest one where the Maven registry lacks it
        #[arg(long, default_value = oap::REFERENCE)]
        version: String,
    },
}

fn main() -> ExitCode {
    process::stop_on_signals();
    let outcome = match Arguments::parse().command {
        Command::Toolchain => toolchain::install().map(|()| ExitCode::SUCCESS),
        Command::Build(options) => build::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Image(options) => image::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Package(options) => package::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Test(options) => Ok(test::run(&options)),
        Command::Demo(options) => demo::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Offsets(options) => offsets::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Bench(options) => bench::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Fuzz(options) => fuzz::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Vm(options) => vm::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Pictures => pictures::run().map(|()| ExitCode::SUCCESS),
        Command::Kubernetes => kubernetes::run().map(|()| ExitCode::SUCCESS),
        Command::Oap { version } => oap::run(&version, oap::Ports::CUSTOMARY).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
