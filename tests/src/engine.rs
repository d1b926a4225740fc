//! Podman, as an engine for a Compose file: with a storage, a network and settings of its own, so that nothing of it is
//! the machine's.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use xtask::{checkers, image::Image, toolchain};

use crate::network::{Host, Networks};

/// What it takes beside Podman: networks, and a run time that knows mixed control groups.
const PACKAGES: [&str; 4] = ["podman", "netavark", "iptables", "runc"];

/// A limit beyond the machine's own is what Podman gives containers otherwise; no systemd is asked for anything.
const SETTINGS: &str = r#"[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"
"#;

/// Why there can be none here, if so.
pub fn obstacle() -> Option<String> {
    let there = toolchain::apt_install(&PACKAGES, "Podman, to run a Compose file")
        .and_then(|()| checkers::podman_compose());
    there.err().map(|error| format!("needs Podman: {error:#}"))
}

/// A Compose file's services, running. All of it is gone when dropped.
pub struct Engine {
    folder: TempDir,
    networks: Networks,
    project: String,
    services: usize,
}

impl Engine {
    /// Runs a project as Compose has normalized it, with these images.
    pub fn up(project: &Value, images: &[Image]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let place = |name: &str| folder.path().join(name).display().to_string();
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
            place("root"),
            place("run")
        );
        fs::create_dir(folder.path().join("networks"))?;
        let settings = format!(
            "{SETTINGS}tmp_dir = \"{}\"\n[network]\nnetwork_backend = \"netavark\"\nnetwork_config_dir = \"{}\"\n",
            place("libpod"),
            place("networks")
        );
        fs::write(folder.path().join("containers.conf"), settings)?;
        fs::write(folder.path().join("storage.conf"), storage)?;
        fs::write(folder.path().join("compose.json"), project.to_string())?;
        let name = project
            .get("name")
            .and_then(Value::as_str)
            .context("a project has a name")?;
        let engine = Self {
            folder,
            networks: Networks::new()?,
            project: name.to_owned(),
            services: project
                .get("services")
                .and_then(Value::as_object)
                .context("no services")?
                .len(),
        };
        for image in images {
            let archive = engine.file("image.tar");
            image.write(&archive)?;
            engine.run(
                Command::new("podman")
                    .args(["load", "--quiet", "--input"])
                    .arg(&archive),
            )?;
            fs::remove_file(archive)?;
        }
        let mut up = Command::new("python3");
        up.env("PYTHONPATH", checkers::podman_compose()?)
            .args(["-m", "podman_compose", "--in-pod=false", "-f"])
            .arg(engine.file("compose.json"))
            .args(["up", "--detach", "--no-build"]);
        engine.run(&mut up)?;
        Ok(engine)
    }

    /// What Podman says.
    pub fn podman(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run(Command::new("podman").args(arguments))?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// What a service has said lately.
    pub fn log(&self, service: &str) -> Result<String> {
        let container = self.container(service);
        let output = self.run(Command::new("podman").args(["logs", "--tail", "20", &container]))?;
        Ok(String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout))
    }

    /// What the container of a service is called.
    pub fn container(&self, service: &str) -> String {
        format!("{}_{service}_1", self.project)
    }

    /// Its process, as the host counts them.
    pub fn pid(&self, service: &str) -> Result<u64> {
        let pid = self.podman(&["inspect", "--format", "{{.State.Pid}}", &self.container(service)])?;
        pid.parse()
            .with_context(|| format!("the process of {service}: {pid}"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, command: &mut Command) -> Result<Output> {
        command
            .env("CONTAINERS_CONF", self.file("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", self.file("storage.conf"));
        let output = self.networks.within(Host::Client, || Ok(command.output()?))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command:?}: {said}");
        Ok(output)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Some wait for others to be gone, as the file has them depend on each other.
        for _ in 0..self.services {
            if self.podman(&["rm", "--all", "--force", "--time", "0"]).is_ok() {
                break;
            }
        }
        // Who answers for names goes with the last network.
        let _none_was_made = self.podman(&["network", "prune", "--force"]);
    }
}
