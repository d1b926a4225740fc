//! Finds what can compile the kernel object: a Rust compiler with `core` for BPF, and bpf-linker.
//!
//! Used by the build script, which needs an answer, and by `cargo xtask toolchain`, which installs what this
//! search does not find: one search, so that they cannot disagree.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

/// The compiler's name for BPF, in the byte order of every host we run on.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// The oldest compiler the kernel crates accept (`rust-version` in the root manifest), as minor of 1.x.
const OLDEST_MINOR: u32 = 95;

/// What compiles and links the kernel object.
#[derive(Debug)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: PathBuf,
}

/// A Rust compiler that has `core` for BPF.
#[derive(Debug)]
pub(crate) struct Compiler {
    pub(crate) rustc: PathBuf,
    /// `None`: any cargo will do. Building `core` takes the cargo that came with the sources.
    pub(crate) cargo: Option<PathBuf>,
    pub(crate) core: Core,
}

/// Where `core` for the BPF target comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Core {
    /// It lies compiled in the compiler's library directory, as Debian packages it.
    Prebuilt,
    /// Its source is there (`rust-src`) and is compiled with ours.
    Source,
}

/// What the search did not find.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    Compiler,
    Linker,
    /// The variable points to a compiler without `core` for BPF, or to none.
    NamedCompiler(PathBuf),
    /// The variable points to no file.
    NamedLinker(PathBuf),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compiler => write!(
                f,
                "no Rust compiler (1.{OLDEST_MINOR} or newer) with `core` for {TARGET} was found, and the kernel \
                 programs need one: run `cargo xtask toolchain` to get it"
            ),
            Self::Linker => f.write_str(
                "bpf-linker was not found, and it links the kernel programs: run `cargo xtask toolchain` to get it",
            ),
            Self::NamedCompiler(path) => write!(
                f,
                "SKYPROBE_BPF_RUSTC names {}, which is no Rust compiler (1.{OLDEST_MINOR} or newer) with `core` for \
                 {TARGET}: unset it, or name one that is",
                path.display()
            ),
            Self::NamedLinker(path) => write!(
                f,
                "SKYPROBE_BPF_LINKER names {}, which is not there: unset it, or name a bpf-linker",
                path.display()
            ),
        }
    }
}

/// Where to look.
#[derive(Debug)]
pub(crate) struct Search {
    /// `SKYPROBE_BPF_RUSTC`: this compiler and no other.
    named_rustc: Option<PathBuf>,
    /// `SKYPROBE_BPF_LINKER`: this linker and no other.
    named_linker: Option<PathBuf>,
    /// The compiler that compiles the rest, where Cargo says it.
    current_rustc: Option<PathBuf>,
    /// Directories of `PATH`, then Cargo's own for installed binaries.
    directories: Vec<PathBuf>,
}

impl Search {
    #[expect(
        clippy::disallowed_methods,
        reason = "where tools lie is said by the environment"
    )]
    pub(crate) fn from_environment() -> Self {
        let mut directories: Vec<PathBuf> = env::var_os("PATH")
            .map(|path| env::split_paths(&path).collect())
            .unwrap_or_default();
        let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
        let cargo_home = cargo_home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
        directories.extend(cargo_home.map(|home| home.join("bin")));
        Self {
            named_rustc: env::var_os("SKYPROBE_BPF_RUSTC").map(PathBuf::from),
            named_linker: env::var_os("SKYPROBE_BPF_LINKER").map(PathBuf::from),
            current_rustc: env::var_os("RUSTC").map(PathBuf::from),
            directories,
        }
    }

    /// The first pair that can build the object.
    pub(crate) fn run(&self) -> Result<Toolchain, Missing> {
        Ok(Toolchain {
            compiler: self.compiler()?,
            linker: self.linker()?,
        })
    }

    /// A compiler, and where its `core` for BPF comes from.
    pub(crate) fn compiler(&self) -> Result<Compiler, Missing> {
        if let Some(named) = &self.named_rustc {
            return examine(named).ok_or_else(|| Missing::NamedCompiler(named.clone()));
        }
        let current = self.current_rustc.clone().into_iter();
        let on_path = self.directories.iter().map(|directory| directory.join("rustc"));
        let system = std::iter::once(PathBuf::from("/usr/bin/rustc"));
        // The same compiler may be met several times; looking twice costs milliseconds.
        let mut candidates = current.chain(rustup_compilers()).chain(on_path).chain(system);
        candidates
            .find_map(|rustc| examine(&rustc))
            .ok_or(Missing::Compiler)
    }

    /// The linker.
    pub(crate) fn linker(&self) -> Result<PathBuf, Missing> {
        if let Some(named) = &self.named_linker {
            return if named.is_file() {
                Ok(named.clone())
            } else {
                Err(Missing::NamedLinker(named.clone()))
            };
        }
        let mut candidates = self
            .directories
            .iter()
            .map(|directory| directory.join("bpf-linker"));
        candidates.find(|path| path.is_file()).ok_or(Missing::Linker)
    }
}

/// The compilers rustup has, by their real paths; none where there is no rustup.
fn rustup_compilers() -> Vec<PathBuf> {
    let Some(home) = output(Command::new("rustup").args(["show", "home"])) else {
        return Vec::new();
    };
    let Some(list) = output(Command::new("rustup").args(["toolchain", "list"])) else {
        return Vec::new();
    };
    let toolchains = Path::new(home.trim()).join("toolchains");
    list.lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(|name| toolchains.join(name).join("bin/rustc"))
        .collect()
}

/// What this compiler offers for the BPF target, if anything.
fn examine(rustc: &Path) -> Option<Compiler> {
    let version = output(Command::new(rustc).arg("--version"))?;
    if minor_version(&version)? < OLDEST_MINOR {
        return None;
    }
    let sysroot = PathBuf::from(output(Command::new(rustc).args(["--print", "sysroot"]))?.trim());
    let libraries = sysroot.join("lib/rustlib");
    if holds_core(&libraries.join(TARGET).join("lib")) {
        return Some(Compiler {
            rustc: rustc.to_path_buf(),
            cargo: None,
            core: Core::Prebuilt,
        });
    }
    if libraries.join("src/rust/library/core/Cargo.toml").is_file() {
        let cargo = Some(sysroot.join("bin/cargo")).filter(|cargo| cargo.is_file());
        return Some(Compiler {
            rustc: rustc.to_path_buf(),
            cargo,
            core: Core::Source,
        });
    }
    None
}

fn holds_core(directory: &Path) -> bool {
    let Ok(entries) = directory.read_dir() else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}

/// `rustc 1.96.0 (…)` → 96. A major above 1 has never been; it would count as new.
fn minor_version(version: &str) -> Option<u32> {
    let mut numbers = version.split_whitespace().nth(1)?.split('.');
    let major: u32 = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?.parse().ok()?;
    Some(if major > 1 { u32::MAX } else { minor })
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    if !output.status.success() {
        return None;
    }
    String::from_utf8(output.stdout).ok()
}
