//! The first process of the virtual machines of `cargo xtask vm`: makes the place habitable, does the checks, tells on
//! the console how they went, and switches off.
//!
//! On the host, `vm-guest stage FOLDER GOARCH` builds the programs that are traced there.
#![expect(clippy::print_stdout, reason = "the console is what it has to say it on")]

mod checks;
mod clock;
mod machine;
mod text;

use std::{panic, path::Path, process::ExitCode, sync::Mutex, time::Instant};

use anyhow::{Context as _, Result, bail};
use tests::{
    go_http2::Package,
    rpc,
    target::{Go, GoBuild},
};
use xtask::vm::said::{Checked, Outcome, Said};

use checks::{Check, Finding};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["stage", folder, architecture] => stage(Path::new(folder), architecture),
        _ if std::process::id() == 1 => guest(),
        _ => Err(anyhow::anyhow!("usage: vm-guest stage FOLDER GOARCH")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Builds the programs that are traced into the folder, for this processor.
fn stage(folder: &Path, architecture: &str) -> Result<()> {
    let go = Go::system()?;
    for build in [
        GoBuild::new("net_http"),
        GoBuild::new("wire"),
        Package::Standard.build(),
        Package::XNet.build(),
        rpc::build(),
    ] {
        build.fetch(&go)?;
        let build = build.architecture(architecture);
        let program = build.build(&go)?;
        let to = folder.join(build.name());
        std::fs::copy(&program, &to).with_context(|| format!("copy {}", program.display()))?;
    }
    Ok(())
}

/// Does everything; returns only if the machine will not stop.
fn guest() -> Result<()> {
    let parameters = machine::Parameters::read_from_kernel()?;
    let machine = machine::settle(&parameters)?;
    println!("{}", Said::Machine(machine).line());
    note_panics();
    for (name, check) in checks::ALL {
        if !parameters.wants(name) || (name != "doctor" && checks::obstacle().is_some()) {
            continue;
        }
        println!("{}", Said::Begins(name.to_owned()).line());
        println!("{}", Said::Checked(run(name, check)).line());
    }
    println!("{}", Said::Over.line());
    machine::stop()?;
    bail!("the machine does not stop")
}

/// What the last panic said: the harness asserts.
static PANICKED: Mutex<String> = Mutex::new(String::new());

fn note_panics() {
    panic::set_hook(Box::new(|panic| {
        if let Ok(mut panicked) = PANICKED.lock() {
            *panicked = panic.to_string();
        }
    }));
}

#[expect(clippy::disallowed_methods, reason = "how long a check took")]
fn run(name: &str, check: Check) -> Checked {
    let begin = Instant::now();
    let finding = match panic::catch_unwind(check) {
        Ok(Ok(finding)) => finding,
        Ok(Err(error)) => Finding::failed(format!("{error:#}")),
        Err(_) => Finding::failed(PANICKED.lock().map(|text| text.clone()).unwrap_or_default()),
    };
    let finding = match machine::complaints_of_the_kernel() {
        complaints if complaints.is_empty() => finding,
        complaints => Finding {
            outcome: Outcome::Failed,
            says: format!("the kernel complains; {}", finding.says),
            detail: format!("{complaints}\n{}", finding.detail),
        },
    };
    Checked {
        check: name.to_owned(),
        outcome: finding.outcome,
        says: finding.says,
        detail: finding.detail,
        seconds: begin.elapsed().as_secs(),
    }
}
