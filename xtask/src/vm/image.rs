//! The initramfs: the guest, the probe, the programs to be traced, and the libraries they want.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use tempfile::{NamedTempFile, TempDir};

use crate::{
    build::{self, cargo},
    go,
    process::{check, read},
    step::step,
};

/// Builds and packs everything.
pub(super) fn make(skyprobe: &Path) -> Result<NamedTempFile> {
    step("building what runs in the virtual machine");
    check(cargo().args(["build", "--locked", "--package", "tests", "--bin", "vm-guest"]))?;
    let guest = build::target_directory().join("debug/vm-guest");
    let tree = tempfile::tempdir().context("make a temporary directory")?;
    for folder in ["bin", "programs", "proc", "sys", "dev", "tmp", "etc"] {
        fs::create_dir(tree.path().join(folder))?;
    }
    fs::write(
        tree.path().join("etc/hosts"),
        "127.0.0.1 localhost\n::1 localhost\n",
    )?;
    let mut libraries = Vec::new();
    for (binary, at) in [(guest.as_path(), "init"), (skyprobe, "bin/skyprobe")] {
        // Most of a binary is for debuggers, and all of it would lie in the machine's memory.
        check(
            Command::new("strip")
                .arg("-o")
                .arg(tree.path().join(at))
                .arg(binary),
        )?;
        libraries.extend(libraries_of(binary)?);
    }
    libraries.sort();
    libraries.dedup();
    for library in &libraries {
        copy_to_same_place(library, tree.path())?;
    }
    check(
        Command::new(&guest)
            .arg("stage")
            .arg(tree.path().join("programs"))
            .env("SKYPROBE_GO", go::current()?),
    )
    .context("build the programs to be traced")?;
    pack(&tree)
}

/// The shared libraries of a binary and its loader, as the loader itself tells.
fn libraries_of(binary: &Path) -> Result<Vec<PathBuf>> {
    let told = read(Command::new("ldd").arg(binary)).with_context(|| format!("ldd {}", binary.display()))?;
    let libraries: Vec<PathBuf> = told
        .lines()
        .filter_map(|line| {
            let path = line.split_once("=> ").map_or(line, |(_, path)| path).trim();
            path.starts_with('/')
                .then(|| PathBuf::from(path.split(' ').next().unwrap_or(path)))
        })
        .collect();
    ensure!(!libraries.is_empty(), "{} names no libraries", binary.display());
    Ok(libraries)
}

fn copy_to_same_place(file: &Path, tree: &Path) -> Result<()> {
    let to = tree.join(file.strip_prefix("/").unwrap_or(file));
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(file, &to).with_context(|| format!("copy {}", file.display()))?;
    Ok(())
}

/// In the only format that a kernel unpacks.
fn pack(tree: &TempDir) -> Result<NamedTempFile> {
    let archive = NamedTempFile::new().context("make a temporary file")?;
    let find = Command::new("find")
        .arg(".")
        .current_dir(tree.path())
        .stdout(Stdio::piped())
        .spawn()
        .context("run find")?;
    let names = find.stdout.context("the pipe of find")?;
    check(
        Command::new("cpio")
            .args(["--quiet", "--create", "--format=newc"])
            .current_dir(tree.path())
            .stdin(names)
            .stdout(File::create(archive.path())?),
    )?;
    Ok(archive)
}
