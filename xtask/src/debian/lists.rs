//! Package lists of our own, for other suites or another processor than the machine's.
//!
//! The machine's own lists are left alone: apt works on lists in a folder of ours.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{
    process::{check, read},
    processor::Processor,
    step::step,
};

/// What this machine gets packages from.
#[derive(Clone, Debug)]
pub struct Source {
    pub mirror: String,
    pub suite: String,
}

impl Source {
    /// Every source of Debian's own that the machine has.
    pub fn own() -> Result<Vec<Self>> {
        let format = "$(ORIGIN) $(COMPONENT) $(SUITE) $(REPO_URI)";
        let targets = read(Command::new("apt-get").args(["indextargets", "--format", format]))
            .context("ask apt-get for the machine's mirrors")?;
        let mut sources: Vec<Self> = Vec::new();
        for line in targets.lines() {
            if let [origin, component, suite, mirror] = line.split(' ').collect::<Vec<_>>().as_slice()
                && (*origin, *component) == ("Debian", "main")
                && !sources
                    .iter()
                    .any(|known| known.suite == *suite && known.mirror == *mirror)
            {
                sources.push(Self {
                    mirror: (*mirror).to_owned(),
                    suite: (*suite).to_owned(),
                });
            }
        }
        Ok(sources)
    }

    /// Whether it has security updates.
    #[must_use]
    pub fn is_security(&self) -> bool {
        self.suite.ends_with("-security")
    }

    /// Another suite of the same mirror.
    #[must_use]
    pub fn with_suite(&self, suite: &str) -> Self {
        Self {
            mirror: self.mirror.clone(),
            suite: suite.to_owned(),
        }
    }
}

/// Lists that are there as long as they are needed.
pub struct Lists {
    folder: tempfile::TempDir,
    processor: Processor,
}

impl Lists {
    /// Those of these sources. One that is not there any more is passed over: what is missing in the end is said then.
    pub fn fetch(processor: Processor, sources: &[Source]) -> Result<Self> {
        let folder = tempfile::tempdir().context("make a temporary directory")?;
        let lists = Self { folder, processor };
        for part in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(lists.folder.path().join(part))?;
        }
        fs::write(lists.folder.path().join("status"), "")?;
        let lines: String = sources
            .iter()
            .map(|source| format!("deb {} {} main\n", source.mirror, source.suite))
            .collect();
        fs::write(lists.folder.path().join("sources.list"), lines)?;
        step(format_args!(
            "getting Debian's package lists for {} (apt-get update)",
            processor.short()
        ));
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
        let processor = self.processor.short();
        let mut command = Command::new(program);
        for option in [
            format!("Dir::State={folder}/state"),
            format!("Dir::State::status={folder}/status"),
            format!("Dir::Cache={folder}/cache"),
            format!("Dir::Etc::SourceList={folder}/sources.list"),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            format!("APT::Architecture={processor}"),
            format!("APT::Architectures={processor}"),
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

    /// The names of packages that begin so, one a line.
    pub fn names(&self, beginning: &str) -> Result<String> {
        read(self.apt("apt-cache").args(["pkgnames", beginning])).context("ask apt-cache")
    }

    /// Unpacks `package`, or one version of it (`name=version`), into `to`; the file is in `scratch` meanwhile.
    pub fn unpack(&self, package: &str, scratch: &Path, to: &Path) -> Result<()> {
        check(
            self.apt("apt-get")
                .args(["download", "-qq", package])
                .current_dir(scratch),
        )?;
        super::extract_only(scratch, to)
    }
}
