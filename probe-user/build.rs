//! Builds the kernel object and leaves it in `OUT_DIR` under the name `probe`; with the feature `kernel-log` a second
//! one that logs lies beside it, `probe-kernel-log`.
//!
//! Our own and not `aya-build`: that one asks rustup for a toolchain by name, and the object may as well be built
//! by a distribution's compiler that has `core` for BPF ready.
#![expect(
    clippy::disallowed_methods,
    reason = "Cargo speaks to a build script through the environment"
)]

#[path = "build/identity.rs"]
mod identity;
#[path = "build/strip.rs"]
mod strip;
#[path = "build/toolchain.rs"]
mod toolchain;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use toolchain::{Core, Search, TARGET, Toolchain};

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    for variable in ["SKYPROBE_BPF_RUSTC", "SKYPROBE_BPF_LINKER", "SKYPROBE_BPF_SKIP"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    // A stale object reads records of another layout: everything it is made of is watched.
    for path in ["build.rs", "build", "../Cargo.toml", "../Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    for package in ["../probe-ebpf", "../probe-common"] {
        for path in ["Cargo.toml", "src"] {
            println!("cargo::rerun-if-changed={package}/{path}");
        }
    }
    println!("cargo::rerun-if-changed=../probe-ebpf/build.rs");

    identity::tell(&path_of("CARGO_MANIFEST_DIR")?.join(".."));

    let out_dir = path_of("OUT_DIR")?;
    let mut objects = vec![(out_dir.join("probe"), KernelLog::Off)];
    if env::var_os("CARGO_FEATURE_KERNEL_LOG").is_some() {
        objects.push((out_dir.join("probe-kernel-log"), KernelLog::On));
    }
    if env::var_os("SKYPROBE_BPF_SKIP").is_some_and(|value| value == "1") {
        println!(
            "cargo::warning=SKYPROBE_BPF_SKIP=1: the kernel object is an empty stub, and nothing can be traced"
        );
        for (object, _) in &objects {
            fs::write(object, []).map_err(|error| format!("write {}: {error}", object.display()))?;
        }
        return Ok(());
    }

    let toolchain = Search::from_environment()
        .run()
        .map_err(|missing| missing.to_string())?;
    println!("cargo::rerun-if-changed={}", toolchain.compiler.rustc.display());
    println!("cargo::rerun-if-changed={}", toolchain.linker.display());
    for (object, kernel_log) in &objects {
        let built = compile(&toolchain, *kernel_log, &shared_directory(&out_dir))?;
        let bytes = fs::read(&built).map_err(|error| format!("read {}: {error}", built.display()))?;
        let bytes = strip::without_dwarf(&bytes)
            .map_err(|error| format!("leave the DWARF out of {}: {error}", built.display()))?;
        fs::write(object, bytes).map_err(|error| format!("write {}: {error}", object.display()))?;
    }
    Ok(())
}

/// Whether the object's programs speak through aya-log.
#[derive(Clone, Copy)]
enum KernelLog {
    Off,
    On,
}

/// Compiles the package `probe-ebpf` and says where the object lies.
fn compile(toolchain: &Toolchain, kernel_log: KernelLog, directory: &Path) -> Result<PathBuf, String> {
    let Toolchain { compiler, linker } = toolchain;
    let target_dir = directory.join(match kernel_log {
        KernelLog::Off => "plain",
        KernelLog::On => "kernel-log",
    });
    let cargo = compiler.cargo.clone().map_or_else(|| path_of("CARGO"), Ok)?;
    let workspace = path_of("CARGO_MANIFEST_DIR")?.join("..");

    let mut command = Command::new(&cargo);
    // Quiet: what is left on stderr are warnings and errors.
    command.args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "probe-ebpf",
        "--bin",
        "probe",
        "--target",
        TARGET,
    ]);
    command
        .arg("--target-dir")
        .arg(&target_dir)
        .current_dir(workspace);
    match kernel_log {
        KernelLog::Off => {}
        KernelLog::On => {
            command.args(["--features", "kernel-log"]);
        }
    }
    // aya-ebpf turns on an unstable feature, and `-Z` is one: a stable compiler knows both, and with this admits it.
    command.env("RUSTC_BOOTSTRAP", "1");
    match compiler.core {
        Core::Prebuilt => {}
        Core::Source => {
            command.args(["-Z", "build-std=core"]);
        }
    }

    let arch =
        env::var("CARGO_CFG_TARGET_ARCH").map_err(|error| format!("CARGO_CFG_TARGET_ARCH: {error}"))?;
    let flags = [
        // For aya: whose registers the programs read.
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        format!("-Clinker={}", linker.display()),
        // v3 (kernel 5.12) has atomic operations that return the old value.
        "-Ctarget-cpu=v3".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ];
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    // So that its build script watches the linker.
    command.env("SKYPROBE_BPF_LINKER", linker);
    command.env("RUSTC", &compiler.rustc);
    // Whatever wraps the host's compiler (clippy does) has no business here; nor has the host's profile or target.
    for variable in [
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "CARGO_BUILD_TARGET",
        "CARGO_BUILD_RUSTFLAGS",
        "CLIPPY_ARGS",
        "CLIPPY_CONF_DIR",
    ] {
        command.env_remove(variable);
    }

    let output = command
        .output()
        .map_err(|error| format!("run {}: {error}", cargo.display()))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    for line in stderr.lines() {
        println!("cargo::warning={line}");
    }
    if !output.status.success() {
        return Err(format!(
            "the kernel programs (package probe-ebpf) did not compile with {}: see the warnings above",
            compiler.rustc.display()
        ));
    }
    Ok(target_dir.join(TARGET).join("release/probe"))
}

/// One directory for all profiles: the object is the same in each, and its compiler's work is kept once.
fn shared_directory(out_dir: &Path) -> PathBuf {
    // target/PROFILE/build/PACKAGE-HASH/out
    out_dir.ancestors().nth(4).unwrap_or(out_dir).join("bpf")
}

fn path_of(variable: &str) -> Result<PathBuf, String> {
    env::var_os(variable)
        .map(PathBuf::from)
        .ok_or_else(|| format!("{variable} is not set: Cargo sets it"))
}
