//! The build id: of which source the program was built.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// What names the build where whoever builds knows better: a tarball, an image, a package.
const GIVEN: &str = "SKYPROBE_BUILD";

/// Sets `SKYPROBE_BUILD` for the crate: as it was given, else by the commit of the checkout, else the version. Nothing
/// in it depends on when or where it was built.
///
/// Only optimised builds ask for the commit, since they would all be made anew with each one; others are `debug`.
pub(crate) fn tell(root: &Path) {
    println!("cargo::rerun-if-env-changed={GIVEN}");
    let given = env::var(GIVEN).ok().filter(|given| !given.trim().is_empty());
    let is_optimised = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let build = match given {
        Some(given) => given.trim().to_owned(),
        None if !is_optimised => "debug".to_owned(),
        None => commit(root).unwrap_or_else(|| env::var("CARGO_PKG_VERSION").unwrap_or_default()),
    };
    println!("cargo::rustc-env={GIVEN}={build}");
}

/// The commit that is checked out, by its tag where it has one; nothing if this is no checkout of ours.
fn commit(root: &Path) -> Option<String> {
    // A source tree that was unpacked within some other repository is not that one's.
    let top = PathBuf::from(git(root, &["rev-parse", "--show-toplevel"])?);
    if top.canonicalize().ok()? != root.canonicalize().ok()? {
        return None;
    }
    let branch = git(root, &["rev-parse", "--symbolic-full-name", "HEAD"]);
    for name in ["HEAD", "logs/HEAD", "packed-refs"]
        .into_iter()
        .chain(branch.as_deref())
    {
        let path = root.join(git(root, &["rev-parse", "--git-path", name])?);
        // What is not there would have the crate built anew each time.
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    // What is built of them may differ from the commit.
    for sources in ["src", "../proto", "../Cargo.lock"] {
        println!("cargo::rerun-if-changed={sources}");
    }
    git(
        root,
        &["describe", "--always", "--dirty", "--abbrev=12", "--match=v*"],
    )
}

fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        // Whoever builds may be another than the one who has cloned; and the index is left as it is.
        .args(["-c", "safe.directory=*", "--no-optional-locks", "-C"])
        .arg(root)
        .args(arguments)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
