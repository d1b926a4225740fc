//! Programs of Go modules, built in the cache as anybody would who has no more of them than the modules' names.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::{current, downloaded};
use crate::{cache, process::check, step::step};

/// Programs that are made of the same versions of everything, and so share what is compiled.
pub struct Programs {
    /// Modules and the versions that they must at least have. The first gives the others their name.
    pub modules: &'static [(&'static str, &'static str)],
    /// Under which version the modules are published that the first one keeps in folders of its own.
    pub parts: Option<&'static str>,
    /// Flags of `go build`.
    pub flags: &'static [&'static str],
    /// What each is to be called, and its package.
    pub programs: &'static [(&'static str, &'static str)],
}

impl Programs {
    /// The folder with them.
    pub fn built(&self) -> Result<PathBuf> {
        let first = self.modules.first().context("programs of no module")?.0;
        let place = cache::dir("go-programs")?.join(self.place());
        cache::filled(&place, |half| {
            let go = current()?;
            step(format_args!(
                "building programs of {} into the cache (go build)",
                self.named()
            ));
            let scratch = tempfile::tempdir().context("make a temporary directory")?;
            let manifest = self.manifest(&go)?;
            fs::write(scratch.path().join("go.mod"), manifest).context("write go.mod")?;
            self.programs
                .iter()
                .try_for_each(|(name, package)| self.build(&go, scratch.path(), &half.join(name), package))
        })
        .with_context(|| format!("get programs of {first}"))?;
        Ok(place)
    }

    fn named(&self) -> String {
        let named = self
            .modules
            .iter()
            .map(|(module, version)| format!("{module} {version}"));
        named.collect::<Vec<_>>().join(" and ")
    }

    fn place(&self) -> String {
        let places = self
            .modules
            .iter()
            .map(|(module, version)| format!("{}@{version}", module.replace('/', "-")));
        places.collect::<Vec<_>>().join("+")
    }

    fn manifest(&self, go: &Path) -> Result<String> {
        // With a version of Go, or Go would take the modules for older ones than they are.
        let mut manifest = "module programs\n\ngo 1.25.0\n\n".to_owned();
        for (module, version) in self.modules {
            manifest.push_str(&format!("require {module} {version}\n"));
        }
        if let (Some(version), Some((module, of))) = (self.parts, self.modules.first()) {
            let file = downloaded(go, &format!("{module}@{of}"))?
                .go_mod
                .context("go mod download names no go.mod")?;
            let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
            for part in parts(&text) {
                manifest.push_str(&format!("replace {part} => {part} {version}\n"));
            }
        }
        Ok(manifest)
    }

    fn build(&self, go: &Path, module: &Path, program: &Path, package: &str) -> Result<()> {
        check(
            Command::new(go)
                .arg("build")
                .args(self.flags)
                .arg("-o")
                .arg(program)
                .arg(package)
                .current_dir(module)
                .env("CGO_ENABLED", "0")
                .env("GOTOOLCHAIN", "local")
                // What it is made of is written into go.mod and go.sum on the way.
                .env("GOFLAGS", "-mod=mod -buildvcs=false")
                .stdin(Stdio::null()),
        )
    }
}

/// The modules that a `go.mod` takes from folders beside it, which nobody else has: only where it is the main module do
/// its `replace` lines hold.
fn parts(manifest: &str) -> impl Iterator<Item = &str> {
    manifest.lines().filter_map(|line| {
        let (module, place) = line.split_once(" => ")?;
        place
            .starts_with("./")
            .then(|| module.trim().trim_start_matches("replace "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_what_lies_in_folders() {
        let manifest = "module a\n\nreplace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n\tb => c v1.0.0\n)\n\
                        replace k8s.io/x => ./x\n";
        assert_eq!(parts(manifest).collect::<Vec<_>>(), ["k8s.io/api", "k8s.io/x"]);
    }
}
