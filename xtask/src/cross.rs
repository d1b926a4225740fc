//! Building for a processor: the machine's own as ever, another one with a standard library and a C compiler for it.
//!
//! Rustup's compiler is taken if it has that target. Else Debian's is, which can compile for every processor and has
//! each one's standard library in a package of that processor; it is only unpacked into the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{
    build::{self, cargo},
    cache,
    debian::lists::{Lists, Source},
    process::{check, read},
    processor::Processor,
    step::step,
    toolchain,
};

/// Debian's compiler, and the package with a standard library for it.
const COMPILER: &str = "rustc-web";
const LIBRARY: &str = "libstd-rust-web-dev";

/// How to build for a processor, and where the results lie.
#[derive(Debug)]
pub struct Builder {
    pub processor: Processor,
    /// `None`: we run on it.
    other: Option<Other>,
}

#[derive(Debug)]
struct Other {
    /// `None`: the compiler in use has the target.
    debian: Option<Debian>,
}

#[derive(Debug)]
struct Debian {
    rustc: PathBuf,
    /// What has `lib/rustlib/TRIPLE` in it.
    sysroot: PathBuf,
}

// === impl Builder ===

impl Builder {
    /// Gets what it takes to build for the processor.
    pub fn new(processor: Processor) -> Result<Self> {
        toolchain::install()?;
        let other = if processor == Processor::own()? {
            None
        } else {
            let gnu = processor.gnu();
            let compiler = [
                format!("gcc-{}", gnu.replace('_', "-")),
                format!("libc6-dev-{}-cross", processor.short()),
            ];
            toolchain::apt_install(&compiler, &format!("a C compiler for {}", processor.name()))?;
            Some(Other {
                debian: standard_library(processor)
                    .with_context(|| format!("get Rust's standard library for {}", processor.name()))?,
            })
        };
        Ok(Self { processor, other })
    }

    /// `cargo COMMAND` with everything that decides for whom it builds.
    #[must_use]
    pub fn cargo(&self, command: &str) -> Command {
        let mut cargo = cargo();
        cargo.args([command, "--locked"]);
        let Some(other) = &self.other else {
            return cargo;
        };
        let triple = self.processor.triple();
        let variable = |what: &str| {
            let triple = triple.to_uppercase().replace('-', "_");
            format!("CARGO_TARGET_{triple}_{what}")
        };
        cargo.args(["--target", triple]);
        cargo.env(variable("LINKER"), self.tool("gcc"));
        if let Some(Debian { rustc, sysroot }) = &other.debian {
            cargo.env("RUSTC", rustc);
            // For the target alone: what runs during the build has its own.
            cargo.env(variable("RUSTFLAGS"), format!("--sysroot={}", sysroot.display()));
        }
        cargo
    }

    /// Where `name` lies that was built with this profile, `debug` or `release`.
    #[must_use]
    pub fn built(&self, profile: &str, name: &str) -> PathBuf {
        let mut folder = build::target_directory();
        if self.other.is_some() {
            folder.push(self.processor.triple());
        }
        folder.join(profile).join(name)
    }

    /// The processor's `gcc`, `strip`, `readelf`.
    #[must_use]
    pub fn tool(&self, name: &str) -> String {
        match self.other {
            None => name.to_owned(),
            Some(_) => format!("{}-{name}", self.processor.gnu()),
        }
    }

    /// Where the processor's shared libraries are, as below `/`; `None`: where this machine's own are.
    #[must_use]
    pub fn libraries(&self) -> Option<PathBuf> {
        self.other
            .is_some()
            .then(|| Path::new("/usr").join(self.processor.gnu()))
    }

    /// Builds the release of `skyprobe` and says where it lies.
    pub fn release(&self) -> Result<PathBuf> {
        step(format_args!(
            "building skyprobe (release) for {}",
            self.processor.name()
        ));
        check(
            self.cargo("build")
                .args(["--release", "--package", "probe-user", "--bin", "skyprobe"]),
        )?;
        let binary = self.built("release", "skyprobe");
        step(format!("built {}", binary.display()));
        Ok(binary)
    }

    /// Builds it with the C library linked in and without symbols, for an image that has nothing else, and says where it
    /// lies.
    ///
    /// Not for hosts: a static glibc that finds other name services than DNS configured loads the host's, which may be
    /// of another version.
    pub fn release_static(&self) -> Result<PathBuf> {
        // Only the last step differs from the release. Cargo puts both at one place, so the usual one comes back after.
        self.release()?;
        step("linking it statically");
        check(
            self.cargo("rustc")
                .args(["--release", "--package", "probe-user", "--bin", "skyprobe", "--"])
                .args(["-C", "target-feature=+crt-static", "-C", "strip=symbols"]),
        )?;
        let usual = self.built("release", "skyprobe");
        let folder = self.built("static", "");
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let binary = folder.join("skyprobe");
        fs::copy(&usual, &binary).with_context(|| format!("copy {}", usual.display()))?;
        self.release()?;
        Ok(binary)
    }
}

/// The compiler that has one where the one in use has none.
fn standard_library(processor: Processor) -> Result<Option<Debian>> {
    let triple = processor.triple();
    let libraries = |sysroot: &Path| sysroot.join("lib/rustlib").join(triple).join("lib");
    let in_use = read(Command::new("rustc").args(["--print", "sysroot"]));
    if in_use.is_some_and(|sysroot| libraries(Path::new(sysroot.trim())).is_dir()) {
        return Ok(None);
    }
    if !toolchain::installed(COMPILER) {
        step(format_args!("installing the Rust target {triple} (rustup)"));
        check(Command::new("rustup").args(["target", "add", triple]))?;
        return Ok(None);
    }
    // Compiler and library must be of one version.
    let version = read(Command::new("dpkg-query").args(["--show", "--showformat=${Version}", COMPILER]))
        .context("ask dpkg-query for the compiler's version")?;
    let version = version.trim();
    let place = cache::dir("rust")?.join(format!("{version}-{}", processor.short()));
    cache::filled(&place, |half| {
        let lists = Lists::fetch(processor, &Source::own()?)?;
        step(format_args!(
            "getting Debian's {LIBRARY} {version} for {} into the cache (apt-get download)",
            processor.short()
        ));
        lists.unpack(&format!("{LIBRARY}={version}"), half, half)
    })?;
    let sysroot = place.join("usr");
    ensure!(
        libraries(&sysroot).is_dir(),
        "Debian's {LIBRARY} has nothing for {triple}"
    );
    Ok(Some(Debian {
        rustc: PathBuf::from("/usr/bin/rustc"),
        sysroot,
    }))
}
