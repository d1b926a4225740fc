//! The initramfs: the guest, the probe, the programs to be traced, and the libraries they want.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use tempfile::{NamedTempFile, TempDir};

use crate::{
    cross::Builder,
    go,
    process::{check, read},
    processor::Processor,
    step::step,
};

/// Builds and packs everything.
pub(super) fn make(builder: &Builder) -> Result<NamedTempFile> {
    let skyprobe = builder.release()?;
    step("building what runs in the virtual machine");
    let build_guest = |builder: &Builder| {
        check(
            builder
                .cargo("build")
                .args(["--package", "tests", "--bin", "vm-guest"]),
        )
    };
    build_guest(builder)?;
    let guest = builder.built("debug", "vm-guest");
    let tree = tempfile::tempdir().context("make a temporary directory")?;
    for folder in ["bin", "programs", "proc", "sys", "dev", "tmp", "etc"] {
        fs::create_dir(tree.path().join(folder))?;
    }
    fs::write(
        tree.path().join("etc/hosts"),
        "127.0.0.1 localhost\n::1 localhost\n",
    )?;
    let mut libraries = Vec::new();
    for (binary, at) in [(&guest, "init"), (&skyprobe, "bin/skyprobe")] {
        // Most of a binary is for debuggers, and all of it would lie in the machine's memory.
        check(
            Command::new(builder.tool("strip"))
                .arg("-o")
                .arg(tree.path().join(at))
                .arg(binary),
        )?;
        match builder.libraries() {
            None => libraries.extend(libraries_of(binary)?),
            Some(root) => libraries_within(&root, binary, &builder.tool("readelf"), &mut libraries)?,
        }
    }
    libraries.sort();
    libraries.dedup();
    for library in &libraries {
        let root = builder.libraries();
        copy_to_same_place(library, root.as_deref().unwrap_or(Path::new("/")), tree.path())?;
    }
    // What builds the programs runs here.
    let own = Builder::new(Processor::own()?)?;
    build_guest(&own)?;
    check(
        Command::new(own.built("debug", "vm-guest"))
            .arg("stage")
            .arg(tree.path().join("programs"))
            .arg(builder.processor.short())
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

/// The same for another processor, whose loader does not run here: what the file asks for and what that asks for, below
/// `root`. The loader is among them, since the C library asks for it.
fn libraries_within(root: &Path, file: &Path, readelf: &str, found: &mut Vec<PathBuf>) -> Result<()> {
    let told = read(Command::new(readelf).arg("--dynamic").arg(file))
        .with_context(|| format!("{readelf} {}", file.display()))?;
    let names = told.lines().filter(|line| line.contains("(NEEDED)"));
    for name in names.filter_map(|line| line.split_once('[')?.1.strip_suffix(']')) {
        let library = root.join("lib").join(name);
        if !found.contains(&library) {
            found.push(library.clone());
            libraries_within(root, &library, readelf, found)?;
        }
    }
    Ok(())
}

fn copy_to_same_place(file: &Path, root: &Path, tree: &Path) -> Result<()> {
    let to = tree.join(file.strip_prefix(root).unwrap_or(file));
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
