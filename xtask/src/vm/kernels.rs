//! Kernels out of Debian's packages: found by the package lists of all suites, kept in the cache without their modules.
//!
//! The machine's own lists are left alone: apt works on lists of ours, in a folder of ours.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    cache,
    process::{check, read},
    step::step,
};

/// Instead of a version: the highest there is.
pub(super) const NEWEST: &str = "newest";

/// Where kernels are looked for. One that a mirror no longer has is passed over.
const SUITES: [&str; 5] = ["bullseye", "bookworm", "trixie", "trixie-backports", "sid"];
/// Suites whose newest kernels come as security updates only.
const SECURITY_SUITES: [&str; 1] = ["bullseye-security"];

/// A kernel that can be booted.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    /// As it was asked for: `6.1`.
    pub(super) asked_for: String,
    /// As it calls itself: `6.1.0-50-amd64`.
    pub(super) release: String,
    pub(super) image: PathBuf,
}

/// Gets the kernels whose versions begin so, into the cache where they are not there; `update`: anew.
pub(super) fn get(versions: &[&str], update: bool) -> Result<Vec<Kernel>> {
    let folder = cache::dir("kernels")?;
    let mut lists: Option<Lists> = None;
    let mut kernels = Vec::new();
    for version in versions {
        let place = folder.join(version);
        if update && place.exists() {
            fs::remove_dir_all(&place).with_context(|| format!("remove {}", place.display()))?;
        }
        cache::filled(&place, |half| {
            let lists = match &mut lists {
                Some(lists) => lists,
                none => none.insert(Lists::fetch()?),
            };
            lists.kernel(version, half)
        })
        .with_context(|| format!("get Debian's kernel {version}"))?;
        kernels.push(Kernel {
            asked_for: (*version).to_owned(),
            release: fs::read_to_string(place.join("release"))?.trim().to_owned(),
            image: place.join("vmlinuz"),
        });
    }
    Ok(kernels)
}

/// Package lists of our own, as long as they are needed.
struct Lists {
    folder: tempfile::TempDir,
}

impl Lists {
    fn fetch() -> Result<Self> {
        let folder = tempfile::tempdir().context("make a temporary directory")?;
        let lists = Self { folder };
        for part in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(lists.folder.path().join(part))?;
        }
        fs::write(lists.folder.path().join("status"), "")?;
        fs::write(lists.folder.path().join("sources.list"), sources()?)?;
        step("getting the package lists of Debian's suites (apt-get update)");
        // A suite that is not there any more is no reason to fail: what is missing in the end is said then.
        let _some_missing = check(
            lists
                .apt("apt-get")
                .arg("update")
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        );
        Ok(lists)
    }

    fn apt(&self, program: &str) -> Command {
        let folder = self.folder.path().display();
        let mut command = Command::new(program);
        for option in [
            format!("Dir::State={folder}/state"),
            format!("Dir::State::status={folder}/status"),
            format!("Dir::Cache={folder}/cache"),
            format!("Dir::Etc::SourceList={folder}/sources.list"),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            // The user that apt fetches as may not write here.
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command.env("LC_ALL", "C").stdin(Stdio::null());
        command
    }

    /// Puts the newest kernel whose version begins so into `place`.
    fn kernel(&self, version: &str, place: &Path) -> Result<()> {
        let names =
            read(self.apt("apt-cache").args(["pkgnames", "linux-image-"])).context("ask apt-cache")?;
        let release = newest(version, names.lines())
            .with_context(|| format!("no suite of Debian's has one: looked into {}", SUITES.join(", ")))?;
        step(format_args!(
            "getting Debian's kernel {release} into the cache (apt-get download)"
        ));
        let unpacked = place.join("unpacked");
        fs::create_dir_all(&unpacked)?;
        // Where the image is in a package of its own, the other one is small.
        for package in [
            format!("linux-image-{release}"),
            format!("linux-binary-{release}"),
        ] {
            let got = self.unpack(&package, place, &unpacked);
            let images = [
                format!("boot/vmlinuz-{release}"),
                format!("usr/lib/modules/{release}/vmlinuz"),
            ];
            if let Some(image) = images
                .iter()
                .map(|image| unpacked.join(image))
                .find(|image| image.exists())
            {
                fs::rename(image, place.join("vmlinuz"))?;
                fs::write(place.join("release"), &release)?;
                return Ok(fs::remove_dir_all(&unpacked)?);
            }
            got?;
        }
        anyhow::bail!("there is no vmlinuz in linux-image-{release}")
    }

    fn unpack(&self, package: &str, scratch: &Path, to: &Path) -> Result<()> {
        check(
            self.apt("apt-get")
                .args(["download", "-qq", package])
                .current_dir(scratch),
        )?;
        let deb = scratch
            .read_dir()?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .context("apt-get left no file")?;
        check(Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(to))?;
        Ok(fs::remove_file(deb)?)
    }
}

/// A list of sources with all suites, from the mirrors that this machine uses.
fn sources() -> Result<String> {
    let format = "$(ORIGIN) $(COMPONENT) $(SUITE) $(REPO_URI)";
    let targets = read(Command::new("apt-get").args(["indextargets", "--format", format]))
        .context("ask apt-get for the machine's mirrors")?;
    let mut sources = String::new();
    for (security, suites) in [(false, &SUITES as &[&str]), (true, &SECURITY_SUITES)] {
        let mirror = targets.lines().find_map(|line| {
            let [origin, component, suite, mirror] = line.split(' ').collect::<Vec<_>>().try_into().ok()?;
            let wanted =
                origin == "Debian" && component == "main" && suite.ends_with("-security") == security;
            wanted.then_some(mirror)
        });
        ensure!(mirror.is_some() || security, "this machine has no Debian mirror");
        for suite in suites {
            if let Some(mirror) = mirror {
                sources.push_str(&format!("deb {mirror} {suite} main\n"));
            }
        }
    }
    Ok(sources)
}

/// Of packages' names, the release of the newest kernel for any PC whose version begins with `version`.
fn newest<'n>(version: &str, names: impl Iterator<Item = &'n str>) -> Option<String> {
    let flavour = "-amd64";
    names
        .filter_map(|name| name.strip_prefix("linux-image-"))
        .filter(|release| {
            let rest = if version == NEWEST {
                Some("")
            } else {
                release.strip_prefix(version)
            };
            // Not `6.1` for `6.12`.
            rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
        })
        // Not those for clouds or real time, nor old ones' rebuilds for older suites.
        .filter(|release| release.strip_suffix(flavour).is_some_and(is_plain))
        .max_by_key(|release| numbers(release))
        .map(str::to_owned)
}

fn is_plain(version: &str) -> bool {
    // What has no third number, as `6.1`, is a package that only names another one.
    version.starts_with(|first: char| first.is_ascii_digit())
        && numbers(version).len() >= 3
        && !version.contains("deb11.")
        && !["cloud", "rt", "rc"].iter().any(|other| version.contains(other))
}

fn numbers(release: &str) -> Vec<u32> {
    release
        .split(|letter: char| !letter.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_a_line_is_taken() {
        let names = [
            "linux-image-amd64",
            "linux-image-6.1-amd64",
            "linux-image-5.10.0-32-amd64",
            "linux-image-5.10.0-46-amd64",
            "linux-image-5.10.0-46-amd64-dbg",
            "linux-image-6.1.0-50-amd64",
            "linux-image-6.1.0-0.deb11.52-amd64",
            "linux-image-6.1.0-51-cloud-amd64",
            "linux-image-6.1.0-51-amd64-unsigned",
            "linux-image-6.12.107+deb13-amd64",
            "linux-image-6.12.94+deb13-amd64",
            "linux-image-7.3-amd64",
            "linux-image-7.3.4+deb13-rt-amd64",
            "linux-image-7.3.3+deb13-amd64",
        ];
        let newest = |version| newest(version, names.into_iter());
        assert_eq!(newest("5.10").as_deref(), Some("5.10.0-46-amd64"));
        assert_eq!(newest("6.1").as_deref(), Some("6.1.0-50-amd64"));
        assert_eq!(newest("6.12").as_deref(), Some("6.12.107+deb13-amd64"));
        assert_eq!(newest(NEWEST).as_deref(), Some("7.3.3+deb13-amd64"));
        assert_eq!(newest("6.19"), None);
    }
}
