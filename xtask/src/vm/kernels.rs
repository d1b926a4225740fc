//! Kernels out of Debian's packages: found by the package lists of all suites, kept in the cache without their modules.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    cache,
    debian::lists::{Lists, Source},
    processor::Processor,
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
    pub(super) processor: Processor,
    /// As it was asked for: `6.1`.
    pub(super) asked_for: String,
    /// As it calls itself: `6.1.0-50-amd64`.
    pub(super) release: String,
    pub(super) image: PathBuf,
}

/// Gets the kernels whose versions begin so, into the cache where they are not there; `update`: anew.
pub(super) fn get(processor: Processor, versions: &[&str], update: bool) -> Result<Vec<Kernel>> {
    let folder = cache::dir("kernels")?;
    let mut lists: Option<Lists> = None;
    let mut kernels = Vec::new();
    for version in versions {
        let place = folder.join(match processor {
            Processor::X86_64 => (*version).to_owned(),
            Processor::Aarch64 => format!("{version}-{}", processor.short()),
        });
        if update && place.exists() {
            fs::remove_dir_all(&place).with_context(|| format!("remove {}", place.display()))?;
        }
        cache::filled(&place, |half| {
            let lists = match &mut lists {
                Some(lists) => lists,
                none => none.insert(Lists::fetch(processor, &sources()?)?),
            };
            kernel(lists, processor, version, half)
        })
        .with_context(|| format!("get Debian's kernel {version}"))?;
        kernels.push(Kernel {
            processor,
            asked_for: (*version).to_owned(),
            release: fs::read_to_string(place.join("release"))?.trim().to_owned(),
            image: place.join("vmlinuz"),
        });
    }
    Ok(kernels)
}

/// Puts the newest kernel whose version begins so into `place`.
fn kernel(lists: &Lists, processor: Processor, version: &str, place: &Path) -> Result<()> {
    let names = lists.names("linux-image-")?;
    let release = newest(processor, version, names.lines())
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
        let got = lists.unpack(&package, place, &unpacked);
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

/// All suites, from the mirrors that this machine uses.
fn sources() -> Result<Vec<Source>> {
    let own = Source::own()?;
    let mut sources = Vec::new();
    for (security, suites) in [(false, &SUITES as &[&str]), (true, &SECURITY_SUITES)] {
        let mirror = own.iter().find(|source| source.is_security() == security);
        ensure!(mirror.is_some() || security, "this machine has no Debian mirror");
        for suite in suites {
            sources.extend(mirror.map(|mirror| mirror.with_suite(suite)));
        }
    }
    Ok(sources)
}

/// Of packages' names, the release of the newest kernel for any machine whose version begins with `version`.
fn newest<'n>(processor: Processor, version: &str, names: impl Iterator<Item = &'n str>) -> Option<String> {
    let flavour = format!("-{}", processor.short());
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
        .filter(|release| release.strip_suffix(&flavour).is_some_and(is_plain))
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
        let newest = |version| newest(Processor::X86_64, version, names.into_iter());
        assert_eq!(newest("5.10").as_deref(), Some("5.10.0-46-amd64"));
        assert_eq!(newest("6.1").as_deref(), Some("6.1.0-50-amd64"));
        assert_eq!(newest("6.12").as_deref(), Some("6.12.107+deb13-amd64"));
        assert_eq!(newest(NEWEST).as_deref(), Some("7.3.3+deb13-amd64"));
        assert_eq!(newest("6.19"), None);
        let names = [
            "linux-image-6.12.107+deb13-arm64",
            "linux-image-6.12.107+deb13-arm64-16k",
        ];
        let newest = super::newest(Processor::Aarch64, "6.12", names.into_iter());
        assert_eq!(newest.as_deref(), Some("6.12.107+deb13-arm64"));
    }
}
