//! A pod's container without a cluster: from its manifest what a kubelet and a container runtime would make of it, run
//! by runc.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use xtask::{debian, image::Image, process::Running, toolchain};

use crate::deploy::run;

/// What runtimes hide of `/proc` and `/sys` from containers that are not privileged.
const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The default profile of system calls of Debian's container programs: that of Docker and containerd but for details.
const SECCOMP: &str = "/usr/share/containers/seccomp.json";
const SECCOMP_PACKAGE: &str = "golang-github-containers-common";

/// Where a pod finds what its account may show.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A folder that runc runs: our image's files and how they are to be run.
pub struct Bundle {
    pub folder: PathBuf,
    /// The image's files.
    pub files: PathBuf,
    config: Value,
}

/// What the cluster would fill in.
#[derive(Debug)]
pub struct Around<'a> {
    /// For each volume that is no folder of the host the folder with its content.
    pub volumes: BTreeMap<&'a str, &'a Path>,
    /// For pods that want one.
    pub account: Option<Account<'a>>,
    /// What the pod has for `/etc/hosts`.
    pub hosts: &'a Path,
    pub node: &'a str,
    /// A network namespace, the pod's.
    pub network: &'a str,
}

/// What a pod finds of its account.
#[derive(Clone, Copy, Debug)]
pub struct Account<'a> {
    /// With `token`, `ca.crt` and `namespace`.
    pub folder: &'a Path,
    /// Where it reaches the API server.
    pub server: SocketAddr,
}

impl Bundle {
    /// Builds an image and unpacks it below `folder`, as an implementation of OCI's that is not the one that built it
    /// reads it.
    pub fn of(image: Image, folder: &Path) -> Result<Self> {
        debian::ensure_program("runc", "runc", "runc, to run a container")?;
        debian::ensure_program("umoci", "umoci", "umoci, to unpack an image")?;
        let layout = folder.join("image");
        image.layout(&layout)?;
        let place = folder.join("bundle");
        let tag = format!("{}:image", layout.display());
        run(Command::new("umoci")
            .args(["unpack", "--image", &tag])
            .arg(&place))?;
        let config = fs::read(place.join("config.json")).context("read what umoci wrote")?;
        Ok(Self {
            files: place.join("rootfs"),
            folder: place,
            config: serde_json::from_slice(&config)?,
        })
    }

    /// Another way to run the same files, which are not written to, in a folder of its own beside.
    pub fn beside(&self, name: &str) -> Result<Self> {
        let folder = self.folder.with_file_name(name);
        fs::create_dir(&folder)?;
        Ok(Self {
            folder,
            files: self.files.clone(),
            config: self.config.clone(),
        })
    }

    /// Says how the one container of a pod is to run.
    pub fn configure(&mut self, pod: &Value, around: &Around<'_>) -> Result<()> {
        let container = pod.pointer("/containers/0").context("a pod without container")?;
        let security = container.get("securityContext").context("no securityContext")?;
        let is = |name: &str| security.get(name).and_then(Value::as_bool);
        let process = json!({
            "terminal": false,
            "cwd": "/",
            "user": { "uid": security.get("runAsUser"), "gid": security.get("runAsGroup") },
            "args": self.arguments(container, around)?,
            "env": self.environment(around)?,
            "capabilities": capabilities(security)?,
            "noNewPrivileges": is("allowPrivilegeEscalation") == Some(false),
        });
        let mut namespaces = vec![
            json!({ "type": "mount" }),
            json!({ "type": "ipc" }),
            json!({ "type": "uts" }),
            json!({ "type": "network", "path": format!("/run/netns/{}", around.network) }),
        ];
        if pod.get("hostPID") != Some(&json!(true)) {
            namespaces.push(json!({ "type": "pid" }));
        }
        let memory = container
            .pointer("/resources/limits/memory")
            .and_then(Value::as_str);
        let memory = memory
            .and_then(|limit| limit.strip_suffix("Mi")?.parse::<u64>().ok())
            .context("no limit of memory in Mi")?;
        self.config = json!({
            "ociVersion": "1.0.2",
            "hostname": "skyprobe-x7k2q",
            "root": { "path": self.files, "readonly": is("readOnlyRootFilesystem") == Some(true) },
            "process": process,
            "mounts": mounts(pod, container, around)?,
            "linux": {
                "namespaces": namespaces,
                "resources": {
                    "devices": [{ "allow": false, "access": "rwm" }],
                    "memory": { "limit": memory * 1024 * 1024 },
                },
                "seccomp": match security.pointer("/seccompProfile/type").and_then(Value::as_str) {
                    Some("RuntimeDefault") => seccomp(&added(security)?)?,
                    other => bail!("nothing here runs with the seccomp profile {other:?}"),
                },
                "maskedPaths": MASKED,
                "readonlyPaths": READ_ONLY,
            },
        });
        let text = serde_json::to_string_pretty(&self.config)?;
        fs::write(self.folder.join("config.json"), text).context("write the bundle's config.json")
    }

    /// A container of it, with a name of its own.
    pub fn container(&self) -> Container<'_> {
        let place = self.folder.components().rev().take(2);
        let place: Vec<_> = place.map(|part| part.as_os_str().to_string_lossy()).collect();
        Container {
            bundle: self,
            name: format!("skyprobe-{}", place.concat()),
        }
    }

    /// The image's own, and by what a pod finds the API server.
    fn environment(&self, around: &Around<'_>) -> Result<Vec<String>> {
        let images = self.config.pointer("/process/env").cloned();
        let mut all: Vec<String> = serde_json::from_value(images.unwrap_or(json!([])))?;
        if let Some(Account { server, .. }) = around.account {
            all.push(format!("KUBERNETES_SERVICE_HOST={}", server.ip()));
            all.push(format!("KUBERNETES_SERVICE_PORT={}", server.port()));
        }
        Ok(all)
    }

    /// The image's entry point and what the manifest has after it.
    fn arguments(&self, container: &Value, around: &Around<'_>) -> Result<Vec<String>> {
        let texts = |value: Option<&Value>| -> Result<Vec<String>> {
            Ok(serde_json::from_value(value.cloned().unwrap_or(json!([])))?)
        };
        let mut arguments = texts(container.get("command"))?;
        if arguments.is_empty() {
            let images = texts(self.config.pointer("/process/args"))?;
            arguments.push(images.into_iter().next().context("the image runs nothing")?);
        }
        for argument in texts(container.get("args"))? {
            arguments.push(argument.replace("$(NODE_NAME)", around.node));
        }
        Ok(arguments)
    }
}

/// A container. Dropped, it is gone, however it was run.
pub struct Container<'b> {
    bundle: &'b Bundle,
    name: String,
}

impl Container<'_> {
    /// The command that runs it, and ends with it.
    pub fn command(&self) -> Command {
        let mut runc = Command::new("runc");
        runc.arg("run")
            .arg("--bundle")
            .arg(&self.bundle.folder)
            .arg(&self.name);
        runc
    }

    /// Runs it, and tells nobody what it says.
    pub fn spawn(&self) -> Result<Running> {
        let mut command = self.command();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Running::start("runc", &mut command)
    }

    /// Its process, as the host counts them.
    pub fn pid(&self) -> Result<u64> {
        let state: Value = serde_json::from_str(&run(Command::new("runc").args(["state", &self.name]))?)?;
        let pid = state.get("pid").and_then(Value::as_u64);
        pid.context("a container without a process")
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let mut delete = Command::new("runc");
        delete
            .args(["delete", "--force", &self.name])
            .stderr(Stdio::null());
        let _already_gone = delete.status();
    }
}

/// What the kernel lets a process do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Capabilities that it can ever have.
    pub bounding: u64,
    pub new_privileges: bool,
    /// Whether its system calls go through a filter.
    pub filtered: bool,
    pub writes_root: bool,
}

impl Granted {
    /// What the probe is to have: `CAP_SYS_ADMIN`, `CAP_SYS_PTRACE`, `CAP_DAC_READ_SEARCH` and `CAP_LEASE`.
    pub const OF_THE_PROBE: Self = Self {
        bounding: 1 << 21 | 1 << 19 | 1 << 2 | 1 << 28,
        new_privileges: false,
        filtered: true,
        writes_root: false,
    };

    /// That of a process of the host.
    pub fn of(pid: u64) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| -> Result<&str> {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            Ok(line.with_context(|| format!("no {name}"))?.trim())
        };
        let mounts = fs::read_to_string(format!("/proc/{pid}/mounts"))?;
        let mut fields = mounts.lines().map(|line| line.split(' ').skip(1));
        let root = fields.find_map(|mut fields| (fields.next() == Some("/")).then(|| fields.nth(1))?);
        Ok(Self {
            bounding: u64::from_str_radix(field("CapBnd")?, 16)?,
            new_privileges: field("NoNewPrivs")? != "1",
            filtered: field("Seccomp")? == "2",
            writes_root: root.context("no root")?.split(',').all(|option| option != "ro"),
        })
    }
}

/// What the manifest adds, as OCI calls it.
fn added(security: &Value) -> Result<Vec<String>> {
    ensure!(
        security.pointer("/capabilities/drop") == Some(&json!(["ALL"])),
        "the manifest keeps a runtime's own capabilities"
    );
    let added = security.pointer("/capabilities/add").cloned();
    let added: Vec<String> = serde_json::from_value(added.unwrap_or(json!([])))?;
    Ok(added.iter().map(|name| format!("CAP_{name}")).collect())
}

fn capabilities(security: &Value) -> Result<Value> {
    let added = added(security)?;
    Ok(json!({ "bounding": added, "effective": added, "permitted": added }))
}

/// Those of every container, and the manifest's, each of which takes the place of one at the same path.
fn mounts(pod: &Value, container: &Value, around: &Around<'_>) -> Result<Vec<Value>> {
    let mut mounts = vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc" }),
        json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] }),
        json!({ "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777"] }),
        json!({ "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
            "options": ["nosuid", "noexec", "nodev"] }),
        json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"] }),
        json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] }),
    ];
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let volumes = list(pod.get("volumes"));
    for wanted in list(container.get("volumeMounts")) {
        let text = |name: &str| wanted.get(name).and_then(Value::as_str);
        let (name, place) = (
            text("name").context("no name")?,
            text("mountPath").context("no path")?,
        );
        let volume = volumes
            .iter()
            .find(|volume| volume.get("name").is_some_and(|found| found == name))
            .with_context(|| format!("no volume {name}"))?;
        let mode = if wanted.get("readOnly") == Some(&json!(true)) {
            "ro"
        } else {
            "rw"
        };
        let of_host = volume.pointer("/hostPath/path").and_then(Value::as_str);
        let mount = if volume.get("emptyDir").is_some() {
            json!({ "destination": place, "type": "tmpfs", "source": "tmpfs", "options": ["mode=777", mode] })
        } else {
            let source = match (of_host, around.volumes.get(name)) {
                (Some(path), _) => Path::new(path),
                (None, Some(path)) => path,
                (None, None) => bail!("nothing to mount for the volume {name}"),
            };
            json!({ "destination": place, "type": "bind", "source": source,
                "options": ["rbind", "rprivate", mode] })
        };
        mounts.retain(|mount| mount.get("destination").is_none_or(|found| found != place));
        mounts.push(mount);
    }
    let mut mount = |place: &str, source: &Path| {
        mounts.push(
            json!({ "destination": place, "type": "bind", "source": source, "options": ["rbind", "rprivate", "ro"] }),
        );
    };
    mount("/etc/hosts", around.hosts);
    if pod.get("automountServiceAccountToken") == Some(&json!(true)) {
        mount(
            ACCOUNT,
            around.account.context("the pod wants its account")?.folder,
        );
    }
    Ok(mounts)
}

/// The default profile for a container with these capabilities.
fn seccomp(capabilities: &[String]) -> Result<Value> {
    toolchain::apt_install(&[SECCOMP_PACKAGE], "the usual profile of system calls")?;
    let text = fs::read(SECCOMP).with_context(|| format!("read {SECCOMP}"))?;
    let profile: Value = serde_json::from_slice(&text)?;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => ("amd64", "SCMP_ARCH_X86_64"),
        _ => ("arm64", "SCMP_ARCH_AARCH64"),
    };
    let rules = profile
        .get("syscalls")
        .and_then(Value::as_array)
        .context("no rules")?;
    let mut kept = Vec::new();
    for rule in rules {
        let named = |list: &str| -> Vec<String> {
            let list = rule.pointer(list).cloned().unwrap_or_default();
            serde_json::from_value(list).unwrap_or_default()
        };
        let has = |name: &String| capabilities.contains(name);
        let arches = named("/includes/arches");
        let for_us = arches.is_empty() || arches.iter().any(|name| name == architecture.0);
        if for_us && named("/includes/caps").iter().all(has) && !named("/excludes/caps").iter().any(has) {
            let mut rule = rule.clone();
            if let Some(fields) = rule.as_object_mut() {
                fields.retain(|name, value| {
                    let known = ["names", "action", "args", "errnoRet"].contains(&name.as_str());
                    known && !value.is_null()
                });
            }
            kept.push(rule);
        }
    }
    Ok(json!({
        "defaultAction": profile.get("defaultAction"),
        "architectures": [architecture.1],
        "syscalls": kept,
    }))
}
