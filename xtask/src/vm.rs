//! `cargo xtask vm`: boots Debian's kernels under qemu's software emulation and has the probe trace Go programs there.
//!
//! Each boot is a kernel out of Debian's package lists, an initramfs of our own, and a guest that is its first process
//! (`tests/src/bin/vm-guest`): it does the checks and tells on the console how they went, in lines that we read.

mod image;
mod kernels;
mod machine;
mod report;
pub mod said;

use anyhow::{Result, bail, ensure};
use clap::ValueEnum as _;
use tempfile::NamedTempFile;

use self::{
    kernels::Kernel,
    machine::Boot,
    report::{Report, Row},
};
use crate::{build, cross::Builder, debian, process::stopping, processor::Processor, step::step};

/// The kernels of the matrix, by the beginning of their version. What comes last is the newest there is.
const KERNELS: [&str; 4] = ["5.10", "6.1", "6.12", kernels::NEWEST];
/// Those of a processor that is not ours. One that is too old is so everywhere.
const KERNELS_OF_OTHERS: [&str; 3] = ["6.1", "6.12", kernels::NEWEST];

/// What to boot.
#[derive(clap::Args, Debug, Default)]
pub struct Options {
    /// Beginnings of versions, as `6.1`, or `newest` [default: 5.10 6.1 6.12 newest]
    pub kernels: Vec<String>,
    /// Only for these processors, with commas between [default: the one we run on, and for `--write` all]
    #[arg(long, value_delimiter = ',')]
    pub processor: Vec<Processor>,
    /// Only these checks, with commas between
    #[arg(long, default_value = "")]
    pub checks: String,
    /// Only these modes of lockdown, with commas between [default: none, and for the newest kernel all three]
    #[arg(long, value_delimiter = ',')]
    pub lockdown: Vec<String>,
    /// Only with these cgroups, `v2` or `hybrid` [default: v2, and for the newest kernel both]
    #[arg(long, value_delimiter = ',')]
    pub cgroups: Vec<String>,
    /// Get the kernels anew, in case there are newer ones
    #[arg(long)]
    pub update: bool,
    /// Write the table into docs/compatibility.md
    #[arg(long)]
    pub write: bool,
}

/// Boots each, prints the table; fails when a check failed.
pub fn run(options: &Options) -> Result<()> {
    let report = boot_all(options)?;
    println!("{}", report.table());
    if options.write {
        ensure!(
            options.kernels.is_empty()
                && options.processor.is_empty()
                && options.checks.is_empty()
                && options.lockdown.is_empty()
                && options.cgroups.is_empty(),
            "--write wants the whole matrix"
        );
        report.write(&build::root().join("docs/compatibility.md"))?;
    }
    let failures = report.failures();
    if !failures.is_empty() {
        bail!("{} failed:\n{}", failures.len(), failures.join("\n"));
    }
    Ok(())
}

fn boot_all(options: &Options) -> Result<Report> {
    debian::ensure_program("cpio", "cpio", "pack what a kernel boots into")?;
    let own = Processor::own()?;
    let processors = match options.processor.as_slice() {
        [] if options.write => Processor::value_variants(),
        [] => &[own],
        chosen => chosen,
    };
    // Ours first. And all that is built before the first boot: boots take long, and the sources are wanted meanwhile.
    let mut stages = Vec::new();
    for is_own in [true, false] {
        for processor in processors.iter().filter(|one| (**one == own) == is_own) {
            stages.push(Stage::prepare(*processor, options)?);
        }
    }
    let mut report = Report::default();
    for stage in &stages {
        stage.boot(options, &mut report)?;
    }
    Ok(report)
}

/// All that is booted of one processor.
struct Stage {
    is_own: bool,
    kernels: Vec<Kernel>,
    image: NamedTempFile,
}

impl Stage {
    fn prepare(processor: Processor, options: &Options) -> Result<Self> {
        let hardware = machine::Hardware::of(processor);
        debian::ensure_program(hardware.qemu, hardware.package, "boot kernels in software")?;
        let is_own = processor == Processor::own()?;
        let versions: Vec<&str> = if options.kernels.is_empty() {
            let all: &[&str] = if is_own { &KERNELS } else { &KERNELS_OF_OTHERS };
            all.to_vec()
        } else {
            options.kernels.iter().map(String::as_str).collect()
        };
        Ok(Self {
            is_own,
            kernels: kernels::get(processor, &versions, options.update)?,
            image: image::make(&Builder::new(processor)?)?,
        })
    }

    fn boot(&self, options: &Options, report: &mut Report) -> Result<()> {
        for kernel in &self.kernels {
            for boot in boots(kernel, self.is_own, options) {
                if stopping() {
                    bail!("interrupted");
                }
                step(format_args!("booting {boot}"));
                let outcome = machine::boot(kernel, self.image.path(), &boot);
                let row = Row::of(kernel, boot, outcome);
                println!("{row}");
                report.rows.push(row);
            }
        }
        Ok(())
    }
}

/// The ways to boot a kernel: as Debian does and, if it is the newest for our processor, all others too.
fn boots(kernel: &Kernel, is_own: bool, options: &Options) -> Vec<Boot> {
    let whole = is_own && kernel.asked_for == kernels::NEWEST;
    let chosen = |asked: &[String], usual: &[&str], all: &[&str]| -> Vec<String> {
        if asked.is_empty() {
            let of = if whole { all } else { usual };
            return of.iter().map(ToString::to_string).collect();
        }
        asked.to_vec()
    };
    let lockdowns = chosen(
        &options.lockdown,
        &["none"],
        &["none", "integrity", "confidentiality"],
    );
    let cgroups = chosen(&options.cgroups, &["v2"], &["v2", "hybrid"]);
    let mut boots = Vec::new();
    for (first, lockdown) in lockdowns.iter().enumerate() {
        // One thing is changed at a time.
        for cgroups in cgroups.iter().take(if first == 0 { usize::MAX } else { 1 }) {
            boots.push(Boot {
                release: kernel.release.clone(),
                lockdown: lockdown.clone(),
                cgroups: cgroups.clone(),
                checks: options.checks.clone(),
            });
        }
    }
    boots
}
