//! Where an OAP comes from: its distribution where the Maven registry has it, else its jars.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::cache;
use crate::debian;
use crate::step::step;

/// Releases that not every Maven registry holds, and the one to take in their place: the nearest
/// that speaks the same protocol.
const SUBSTITUTES: [(&str, &str); 1] = [("9.7.0", "9.6.0")];

/// Our own settings for an OAP that comes as jars: upstream keeps its config folder out of them.
const CONFIG: [(&str, &str); 10] = [
    (
        "application.yml",
        include_str!("../../oap/config/application.yml"),
    ),
    (
        "alarm-settings.yml",
        include_str!("../../oap/config/alarm-settings.yml"),
    ),
    (
        "component-libraries.yml",
        include_str!("../../oap/config/component-libraries.yml"),
    ),
    (
        "endpoint-name-grouping.yml",
        include_str!("../../oap/config/endpoint-name-grouping.yml"),
    ),
    ("gateways.yml", include_str!("../../oap/config/gateways.yml")),
    ("log4j2.xml", include_str!("../../oap/config/log4j2.xml")),
    (
        "service-apdex-threshold.yml",
        include_str!("../../oap/config/service-apdex-threshold.yml"),
    ),
    (
        "trace-sampling-policy-settings.yml",
        include_str!("../../oap/config/trace-sampling-policy-settings.yml"),
    ),
    (
        "lal/default.yaml",
        include_str!("../../oap/config/lal/default.yaml"),
    ),
    ("oal/core.oal", include_str!("../../oap/config/oal/core.oal")),
];

/// Folders and files that OAP wants to find, though there is nothing to say in them.
const EMPTY_FOLDERS: [&str; 2] = ["log-mal-rules", "meter-analyzer-config"];
const NOTHING_DISABLED: (&str, &str) = ("oal/disable.oal", "// Nothing is switched off.\n");

/// An OAP in the cache.
pub(super) struct Distribution {
    pub(super) version: String,
    home: PathBuf,
}

impl Distribution {
    pub(super) fn libraries(&self) -> PathBuf {
        self.home.join("oap-libs")
    }

    /// The distribution's own settings, else ours, written into `folder`.
    pub(super) fn config(&self, folder: &Path) -> Result<PathBuf> {
        let own = self.home.join("config");
        if own.is_dir() {
            return Ok(own);
        }
        let config = folder.join("config");
        for empty in EMPTY_FOLDERS {
            fs::create_dir_all(config.join(empty)).context("make OAP's config folder")?;
        }
        for (name, text) in CONFIG.into_iter().chain([NOTHING_DISABLED]) {
            let file = config.join(name);
            if let Some(parent) = file.parent() {
                fs::create_dir_all(parent).context("make OAP's config folder")?;
            }
            fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        }
        Ok(config)
    }

    /// The folder of OAP's own UI, which only the full distribution has.
    pub(super) fn webapp(&self) -> Option<PathBuf> {
        let webapp = self.home.join("webapp");
        webapp.join("skywalking-webapp.jar").is_file().then_some(webapp)
    }
}

/// OAP `wanted`, or its substitute, from the cache or the Maven registry.
pub(super) fn fetch(wanted: &str) -> Result<Distribution> {
    let cache = cache::dir("oap")?;
    // A registry that lacks a release today lacks it tomorrow: ask once, and tell how to ask again.
    let verdict = cache.join(format!("{wanted}.substitute"));
    let substitute = SUBSTITUTES
        .iter()
        .find(|(lacking, _)| *lacking == wanted)
        .map(|(_, nearest)| *nearest);
    if let Some(nearest) = substitute.filter(|_| verdict.is_file()) {
        return fetch(nearest);
    }
    match get(wanted, &cache.join(wanted))? {
        Got::There(distribution) => Ok(distribution),
        Got::NotInRegistry(what) => {
            let Some(nearest) = substitute else {
                bail!("the Maven registry this machine reaches has no OAP {wanted}: {what}");
            };
            step(format_args!(
                "OAP {wanted} is not in the Maven registry this machine reaches; {nearest}, the nearest release there, takes its place"
            ));
            let note = format!("{nearest}\n\n{what}\n\nRemove this file to look for {wanted} again.\n");
            fs::write(&verdict, note).with_context(|| format!("write {}", verdict.display()))?;
            fetch(nearest)
        }
    }
}

enum Got {
    There(Distribution),
    /// With Maven's own word.
    NotInRegistry(String),
}

fn get(version: &str, home: &Path) -> Result<Got> {
    let mut missing = None;
    if !home.is_dir() {
        debian::ensure_program("mvn", "maven", "Maven, to get OAP with")?;
        step(format_args!(
            "getting OAP {version} from the Maven registry into the cache (about 130 MB)"
        ));
    }
    cache::filled(home, |half| {
        if tarball(version, half)? {
            return Ok(());
        }
        missing = jars(version, half)?;
        ensure!(missing.is_none(), "not in the registry");
        Ok(())
    })
    .or_else(|error| if missing.is_some() { Ok(()) } else { Err(error) })
    .with_context(|| format!("get OAP {version}"))?;
    Ok(match missing {
        Some(what) => Got::NotInRegistry(what),
        None => Got::There(Distribution {
            version: version.to_owned(),
            home: home.to_owned(),
        }),
    })
}

/// The full distribution, with upstream's settings and UI. Not every registry has it.
fn tarball(version: &str, half: &Path) -> Result<bool> {
    let mut maven = Command::new("mvn");
    maven
        .args(["-B", "-q", "dependency:copy"])
        .arg(format!(
            "-Dartifact=org.apache.skywalking:apache-skywalking-apm:{version}:tar.gz"
        ))
        .arg(format!("-DoutputDirectory={}", half.display()))
        .current_dir(half);
    if absent(maven)?.is_some() {
        return Ok(false);
    }
    let archive = half.join(format!("apache-skywalking-apm-{version}.tar.gz"));
    let unpacked = Command::new("tar")
        .arg("--extract")
        .arg("--strip-components=1")
        .arg("--file")
        .arg(&archive)
        .arg("--directory")
        .arg(half)
        .status()
        .context("run tar")?;
    ensure!(unpacked.success(), "{} could not be unpacked", archive.display());
    fs::remove_file(&archive).context("remove the archive")?;
    Ok(true)
}

/// The server's jars and all they need. Gives Maven's word if the registry lacks one.
fn jars(version: &str, half: &Path) -> Result<Option<String>> {
    let pom = half.join("pom.xml");
    fs::write(&pom, pom_for(version)).context("write the list of jars")?;
    let mut maven = Command::new("mvn");
    maven
        .args([
            "-B",
            "-q",
            "dependency:copy-dependencies",
            "-DincludeScope=runtime",
        ])
        .arg(format!("-DoutputDirectory={}", half.join("oap-libs").display()))
        .current_dir(half);
    absent(maven)
}

/// Runs Maven; gives its word if it did not find something, an error if anything else went wrong.
fn absent(mut maven: Command) -> Result<Option<String>> {
    let output = maven.output().context("run mvn")?;
    if output.status.success() {
        return Ok(None);
    }
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let mut errors = said.lines().filter(|line| line.contains("ERROR"));
    let not_found = [
        "Could not find artifact",
        "was not found in",
        "No versions available",
    ];
    if let Some(line) = said
        .lines()
        .find(|line| not_found.iter().any(|word| line.contains(word)))
    {
        let line = line.trim_start_matches("[ERROR]").trim();
        return Ok(Some(line.split(" in ").next().unwrap_or(line).to_owned()));
    }
    bail!("Maven failed: {}", errors.next().unwrap_or("it did not say why"))
}

/// The server's starter brings all else. The parser runtime must be the one OAP was built with.
fn pom_for(version: &str) -> String {
    format!(
        r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>skyprobe</groupId>
  <artifactId>oap</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <repositories>
    <!-- Some library of OAP's names this repository; a release needs no snapshots. -->
    <repository>
      <id>apache.snapshots</id>
      <url>file:///dev/null</url>
      <releases><enabled>false</enabled></releases>
      <snapshots><enabled>false</enabled></snapshots>
    </repository>
  </repositories>
  <dependencyManagement>
    <dependencies>
      <dependency>
        <groupId>org.antlr</groupId>
        <artifactId>antlr4-runtime</artifactId>
        <version>4.11.1</version>
      </dependency>
      <dependency>
        <groupId>org.apache.skywalking</groupId>
        <artifactId>oap-server-bom</artifactId>
        <version>{version}</version>
        <type>pom</type>
        <scope>import</scope>
      </dependency>
    </dependencies>
  </dependencyManagement>
  <dependencies>
    <dependency>
      <groupId>org.apache.skywalking</groupId>
      <artifactId>server-starter</artifactId>
      <version>{version}</version>
    </dependency>
  </dependencies>
</project>
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jars_get_our_settings_and_a_full_distribution_keeps_its_own() {
        let scratch = std::env::temp_dir().join(format!("skyprobe-distribution-{}", std::process::id()));
        let home = scratch.join("home");
        fs::create_dir_all(home.join("webapp")).expect("make");
        let distribution = Distribution {
            version: "0".into(),
            home: home.clone(),
        };

        let config = distribution.config(&scratch).expect("write");
        assert!(config.join("oal/core.oal").is_file() && config.join("log-mal-rules").is_dir());
        assert!(distribution.webapp().is_none());

        fs::create_dir_all(home.join("config")).expect("make");
        fs::write(home.join("webapp/skywalking-webapp.jar"), "").expect("make");
        assert_eq!(distribution.config(&scratch).expect("own"), home.join("config"));
        assert_eq!(distribution.webapp(), Some(home.join("webapp")));
        fs::remove_dir_all(scratch).expect("clean");
    }

    #[test]
    fn every_setting_file_of_the_tree_is_shipped() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("oap/config");
        let mut found = Vec::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in folder.read_dir().expect("read").filter_map(Result::ok) {
                if entry.path().is_dir() {
                    folders.push(entry.path());
                } else {
                    found.push(
                        entry
                            .path()
                            .strip_prefix(&root)
                            .expect("below")
                            .display()
                            .to_string(),
                    );
                }
            }
        }
        found.sort();
        let mut shipped = CONFIG.map(|(name, _)| name.to_owned());
        shipped.sort();
        assert_eq!(found, shipped);
    }
}
