//! Finds what the project is built with, installs what is missing, and says so.
//!
//! Bias: what is there is used; a distribution's package goes before a download; what we cannot get is one sentence.

// One search for the build script and for us, so that we install exactly what it does not find.
#[expect(dead_code, reason = "the build script reads the rest")]
#[path = "../../probe-user/build/toolchain.rs"]
mod search;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::cargo,
    cache,
    process::{check, read},
    step::step,
};
use search::{Compiler, Core, Missing, Search};

/// The version of bpf-linker we build.
const LINKER_VERSION: &str = "0.13.0";

/// The LLVM versions that bpf-linker can be built against, in the order in which we try them.
const LINKER_LLVM: [u32; 2] = [22, 23];

/// Gets whatever the kernel object needs and this machine lacks.
pub fn install() -> Result<()> {
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.load(Ordering::Relaxed) {
        return Ok(());
    }
    let compiler = match Search::from_environment().compiler() {
        Ok(compiler) => compiler,
        Err(Missing::Compiler) => install_compiler()?,
        Err(missing) => bail!("{missing}"),
    };
    let linker = match Search::from_environment().linker() {
        Ok(linker) => linker,
        Err(Missing::Linker) => install_linker(&compiler)?,
        Err(missing) => bail!("{missing}"),
    };
    DONE.store(true, Ordering::Relaxed);
    let core = match compiler.core {
        Core::Prebuilt => "its own core",
        Core::Source => "core from source",
    };
    step(format!(
        "kernel toolchain: {} ({core}), {}",
        compiler.rustc.display(),
        linker.display()
    ));
    Ok(())
}

/// Debian's compiler has `core` for BPF ready; where it is not packaged, rustup has the source.
fn install_compiler() -> Result<Compiler> {
    let packages = ["rustc-web", "libstd-rust-web-dev-bpf"];
    let mut tried = Vec::new();
    if apt_has(&packages) {
        match apt_install(&packages, "a Rust compiler with `core` for BPF") {
            Ok(()) => match Search::from_environment().compiler() {
                Ok(compiler) => return Ok(compiler),
                Err(_) => tried.push("the packaged rustc-web is too old".to_owned()),
            },
            Err(error) => tried.push(format!("{error:#}")),
        }
    } else {
        tried.push("this system's package lists have no rustc-web with libstd-rust-web-dev-bpf".to_owned());
    }
    if read(Command::new("rustup").arg("--version").stderr(Stdio::null())).is_some() {
        step("installing the Rust component rust-src (rustup)");
        match check(Command::new("rustup").args(["component", "add", "rust-src"])) {
            Ok(()) => match Search::from_environment().compiler() {
                Ok(compiler) => return Ok(compiler),
                Err(_) => tried.push("the toolchain rustup uses here is older than Rust 1.95".to_owned()),
            },
            Err(error) => tried.push(format!("{error:#}")),
        }
    } else {
        tried.push("there is no rustup to get rust-src with".to_owned());
    }
    bail!("{}; {}", Missing::Compiler, tried.join("; "))
}

/// bpf-linker is compiled against the distribution's LLVM, which must not be older than the compiler's.
fn install_linker(compiler: &Compiler) -> Result<PathBuf> {
    let oldest = compiler_llvm(compiler)?;
    let llvm = LINKER_LLVM
        .into_iter()
        .filter(|llvm| *llvm >= oldest)
        .find(|llvm| {
            Path::new(&format!("/usr/lib/llvm-{llvm}/bin/llvm-config")).exists()
                || apt_has(&linker_packages(*llvm))
        });
    let Some(llvm) = llvm else {
        bail!(
            "bpf-linker {LINKER_VERSION} has to be compiled against LLVM {oldest} or newer (llvm-{oldest}-dev), which \
             this system's package lists do not have: add a package source that has it, or put a ready bpf-linker on \
             the PATH"
        );
    };
    let packages = linker_packages(llvm);
    if !packages.iter().all(installed) {
        apt_install(&packages, "what bpf-linker is compiled against")?;
    }
    step(format!(
        "installing bpf-linker {LINKER_VERSION} with LLVM {llvm} (cargo install)"
    ));
    let prefix = format!("/usr/lib/llvm-{llvm}");
    let mut command = cargo();
    command.args([
        "install",
        "bpf-linker",
        "--version",
        LINKER_VERSION,
        "--locked",
        "--no-default-features",
    ]);
    command
        .args(["--features", &format!("llvm-{llvm}")])
        .env("LLVM_PREFIX", &prefix);
    check(&mut command).context("install bpf-linker, which links the kernel programs")?;
    Search::from_environment()
        .linker()
        .map_err(|missing| anyhow::anyhow!("{missing}"))
}

fn linker_packages(llvm: u32) -> [String; 5] {
    [
        format!("llvm-{llvm}-dev"),
        format!("libpolly-{llvm}-dev"),
        "libzstd-dev".to_owned(),
        "zlib1g-dev".to_owned(),
        "g++".to_owned(),
    ]
}

/// The major version of the LLVM inside this compiler.
fn compiler_llvm(compiler: &Compiler) -> Result<u32> {
    let rustc = compiler.rustc.display();
    let verbose =
        read(Command::new(&compiler.rustc).arg("-vV")).with_context(|| format!("run {rustc} -vV"))?;
    let version = verbose
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "));
    let major = version
        .and_then(|version| version.split('.').next())
        .and_then(|major| major.trim().parse().ok());
    major.with_context(|| format!("{rustc} -vV names no LLVM version"))
}

/// The formatter and the linter, which minimal toolchains lack.
pub fn lints() -> Result<()> {
    for (subcommand, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if read(cargo().args([subcommand, "--version"]).stderr(Stdio::null())).is_some() {
            continue;
        }
        if read(Command::new("rustup").arg("--version").stderr(Stdio::null())).is_none() {
            bail!(
                "`cargo {subcommand}` is missing, and there is no rustup to get it with: install {component}"
            );
        }
        step(format!("installing the Rust component {component} (rustup)"));
        check(Command::new("rustup").args(["component", "add", component]))?;
    }
    Ok(())
}

/// The machine's Go compiler, any version from 1.19 on, which can fetch others.
pub fn go() -> Result<PathBuf> {
    if let Some(go) = find_go() {
        return Ok(go);
    }
    apt_install(&["golang-go"], "a Go compiler")?;
    find_go().context("golang-go is installed, and yet there is no `go` on the PATH")
}

fn find_go() -> Option<PathBuf> {
    let candidates = [
        Path::new("go"),
        Path::new("/usr/local/go/bin/go"),
        Path::new("/usr/bin/go"),
    ];
    let found = candidates
        .into_iter()
        .find(|go| read(Command::new(go).arg("version")).is_some())?;
    Some(found.to_path_buf())
}

/// A crate's program of the same name, built once into the cache.
pub fn cargo_program(name: &str, version: &str, features: &[&str]) -> Result<PathBuf> {
    let place = cache::dir(name)?.join(version);
    cache::filled(&place, |half| {
        step(format!("installing {name} {version} (cargo install)"));
        let mut install = cargo();
        install.args(["install", name, "--version", version, "--locked", "--root"]);
        check(install.arg(half).args(features))
    })?;
    Ok(place.join("bin").join(name))
}

/// Whether the package is installed.
#[must_use]
pub fn installed(package: impl AsRef<str>) -> bool {
    let mut query = Command::new("dpkg-query");
    query
        .args(["--show", "--showformat=${db:Status-Status}", package.as_ref()])
        .stderr(Stdio::null());
    read(&mut query).is_some_and(|status| status == "installed")
}

/// Whether the package lists offer all of these; the lists are fetched when one is not in them.
pub fn apt_has<P: AsRef<str>>(packages: &[P]) -> bool {
    let offered = || packages.iter().all(|package| has_candidate(package.as_ref()));
    offered() || (update_lists().is_ok() && offered())
}

fn has_candidate(package: &str) -> bool {
    let policy = read(
        Command::new("apt-cache")
            .args(["policy", package])
            .env("LC_ALL", "C"),
    );
    let policy = policy.unwrap_or_default();
    let candidate = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "));
    candidate.is_some_and(|version| version != "(none)")
}

/// Fetches the package lists, once in our life.
fn update_lists() -> Result<()> {
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    need_root("fetch the package lists")?;
    step("fetching the package lists (apt-get update)");
    check(apt_get().arg("update").stdout(Stdio::null()))
}

/// Installs distribution packages, saying which and what for.
pub fn apt_install<P: AsRef<str>>(packages: &[P], what_for: &str) -> Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .map(AsRef::as_ref)
        .filter(|package| !installed(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    need_root(&format!("install {names}"))?;
    if !apt_has(&missing) {
        bail!("{what_for} is needed, and this system's package lists do not have {names}");
    }
    step(format!("installing {what_for}: {names} (apt-get)"));
    let install = |names: &[&str]| {
        check(
            apt_get()
                .args(["install", "--yes", "--no-install-recommends"])
                .args(names)
                .stdout(Stdio::null()),
        )
    };
    // Old lists name packages that the mirror no longer has: fetch them and try once more.
    install(&missing).or_else(|_| update_lists().and_then(|()| install(&missing)))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.args([
        "--quiet",
        "--quiet",
        "-o",
        "DPkg::Lock::Timeout=300",
        "-o",
        "Dpkg::Use-Pty=0",
    ]);
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null());
    command
}

/// Fails, saying what for, when we are not root.
pub fn need_root(what: &str) -> Result<()> {
    // SAFETY: geteuid cannot fail and touches no memory. The standard library has no user ids.
    if unsafe { libc::geteuid() } != 0 {
        bail!("to {what} takes root: run this command as root");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_and_what_is_offered_are_told_apart() {
        assert!(installed("dpkg"));
        assert!(!installed("skyprobe-no-such-package"));
        assert!(has_candidate("dpkg"));
        assert!(!has_candidate("skyprobe-no-such-package"));
    }

    #[test]
    fn the_compiler_of_the_object_says_its_llvm() {
        let compiler = Search::from_environment()
            .compiler()
            .expect("the workspace was built with one");
        assert!(compiler_llvm(&compiler).expect("rustc says it") >= 20);
    }
}
