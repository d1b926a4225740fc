//! The programs to be traced: builds them, starts them, talks to them.

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{self, BufRead as _, BufReader, Read as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use tempfile::TempDir;

use crate::{
    client,
    truth::{self, Record},
};

/// How long a program may take to say where it listens.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Where downloads and built targets are kept between runs.
#[expect(clippy::disallowed_methods, reason = "the harness has no config module")]
pub fn cache_dir() -> PathBuf {
    let chosen = std::env::var_os("SKYPROBE_CACHE").map(PathBuf::from);
    chosen.unwrap_or_else(|| {
        PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache/skyprobe")
    })
}

/// A folder of programs that were built before, where there is nothing to build with: in a virtual machine.
#[expect(clippy::disallowed_methods, reason = "the harness has no config module")]
fn ready_made() -> Option<PathBuf> {
    std::env::var_os("SKYPROBE_PROGRAMS").map(PathBuf::from)
}

/// A Go toolchain.
#[derive(Clone, Debug)]
pub struct Go {
    command: PathBuf,
    /// As `go env GOVERSION` has it: `go1.26.8`.
    pub version: String,
}

impl Go {
    /// The one that `SKYPROBE_GO` names, or `go` on the path.
    #[expect(clippy::disallowed_methods, reason = "the harness has no config module")]
    pub fn system() -> Result<Self> {
        if ready_made().is_some() {
            return Ok(Self {
                command: PathBuf::new(),
                version: String::new(),
            });
        }
        Self::at(std::env::var_os("SKYPROBE_GO").map_or_else(|| "go".into(), PathBuf::from))
    }

    /// The one whose `go` is `command`.
    pub fn at(command: PathBuf) -> Result<Self> {
        let output = Command::new(&command)
            .args(["env", "GOVERSION"])
            .env("GOTOOLCHAIN", "local")
            .output()
            .with_context(|| format!("run {} env GOVERSION", command.display()))?;
        let version = String::from_utf8(output.stdout)?.trim().to_owned();
        ensure!(
            output.status.success() && version.starts_with("go"),
            "{} tells no version",
            command.display()
        );
        Ok(Self { command, version })
    }

    /// `go` with these arguments in this folder; the error has what it says.
    fn run(&self, folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
        let output = Command::new(&self.command)
            .args(arguments)
            .current_dir(folder)
            .env("GOTOOLCHAIN", "local")
            .envs(environment.iter().copied())
            .output()
            .with_context(|| format!("run {}", self.command.display()))?;
        let says = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "go {arguments:?}: {}", says.trim());
        Ok(())
    }
}

/// A Go program of `tests/targets/go` and how to build it.
#[derive(Clone, Debug)]
pub struct GoBuild {
    package: String,
    flags: Vec<String>,
    cgo: bool,
    /// As Go calls it; `None`: the one we run on.
    architecture: Option<String>,
}

impl GoBuild {
    /// `package` is a folder below `tests/targets/go`: `net_http`, `demo/gateway`.
    pub fn new(package: &str) -> Self {
        Self {
            package: package.to_owned(),
            flags: Vec::new(),
            cgo: false,
            architecture: None,
        }
    }

    /// For another processor, as Go calls it: `arm64`.
    #[must_use]
    pub fn architecture(mut self, architecture: &str) -> Self {
        self.architecture = Some(architecture.to_owned());
        self
    }

    /// A flag of `go build`, as `-ldflags=-s -w` or `-buildmode=pie`.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// Lets the C compiler in, as a program that uses cgo needs.
    #[must_use]
    pub fn cgo(mut self) -> Self {
        self.cgo = true;
        self
    }

    /// Gets the modules that it is made of, through the Go module proxy, into Go's own cache. The error says why they
    /// cannot be had.
    pub fn fetch(&self, go: &Go) -> Result<()> {
        if ready_made().is_some() {
            return Ok(());
        }
        let output = Command::new(&go.command)
            .args(["mod", "download"])
            .args(self.flags.iter().filter(|flag| flag.starts_with("-modfile=")))
            .current_dir(self.source())
            .env("GOTOOLCHAIN", "local")
            .env("GOFLAGS", "-mod=readonly")
            .output()
            .with_context(|| format!("run {}", go.command.display()))?;
        ensure!(
            output.status.success(),
            "{} cannot get the modules of {}: {}",
            go.version,
            self.package,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// Builds it below `tree` as before there were modules, with a copy of all that it is made of in its own folder.
    pub fn build_vendored(&self, go: &Go, tree: &Path) -> Result<PathBuf> {
        let folder = tree.join("src/shop");
        fs::create_dir_all(&folder)?;
        for entry in fs::read_dir(self.source())? {
            let entry = entry?;
            fs::copy(entry.path(), folder.join(entry.file_name()))?;
        }
        go.run(
            &folder,
            &["mod", "vendor"],
            &[("GOFLAGS", "-mod=mod"), ("GOPROXY", "off")],
        )?;
        fs::remove_file(folder.join("go.mod"))?;
        let mut arguments = vec!["build", "-o", "program"];
        arguments.extend(self.flags.iter().map(String::as_str));
        let tree = tree.to_str().context("a path that is no text")?;
        go.run(
            &folder,
            &arguments,
            &[("GO111MODULE", "off"), ("GOPATH", tree), ("GOFLAGS", "")],
        )?;
        Ok(folder.join("program"))
    }

    fn source(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("targets/go")
            .join(&self.package)
    }

    /// What the program is called in a folder of programs that were built before.
    pub fn name(&self) -> String {
        let mut name = self.package.clone();
        for flag in &self.flags {
            name.push_str(flag);
        }
        name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_")
    }

    /// Builds it, or takes the program of an earlier run if nothing has changed since.
    pub fn build(&self, go: &Go) -> Result<PathBuf> {
        if let Some(folder) = ready_made() {
            let program = folder.join(self.name());
            ensure!(program.exists(), "there is no program {}", program.display());
            return Ok(program);
        }
        let source = self.source();
        let mut hasher = DefaultHasher::new();
        (&go.version, &self.flags, self.cgo, &self.architecture).hash(&mut hasher);
        hash_sources(&source, &mut hasher)?;
        // The module may be the folder above.
        for file in ["../go.mod", "../go.sum"] {
            if let Ok(module) = fs::read(source.join(file)) {
                module.hash(&mut hasher);
            }
        }
        let folder = cache_dir().join("targets");
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let name = self.package.rsplit('/').next().unwrap_or("target");
        let folder = folder.join(format!("{}-{:016x}", go.version, hasher.finish()));
        let program = folder.join(name);
        if program.exists() {
            return Ok(program);
        }
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        // Two tests may build the same program at once: each writes its own file, the last rename stays.
        let unfinished = tempfile::Builder::new()
            .prefix(name)
            .tempfile_in(&folder)?
            .into_temp_path();
        let output = Command::new(&go.command)
            .arg("build")
            .args(&self.flags)
            .arg("-o")
            .arg(&unfinished)
            .arg(".")
            .current_dir(&source)
            .env("GOTOOLCHAIN", "local")
            .env("GOFLAGS", "-buildvcs=false")
            // What a program needs from elsewhere is fetched before, or not at all.
            .env("GOPROXY", "off")
            .env("CGO_ENABLED", if self.cgo { "1" } else { "0" })
            .envs(self.architecture.iter().map(|name| ("GOARCH", name)))
            .output()
            .with_context(|| format!("run {}", go.command.display()))?;
        ensure!(
            output.status.success(),
            "{} does not build {} {:?}:\n{}",
            go.version,
            self.package,
            self.flags,
            String::from_utf8_lossy(&output.stderr)
        );
        fs::rename(&unfinished, &program).with_context(|| format!("create {}", program.display()))?;
        Ok(program)
    }
}

fn hash_sources(folder: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.sort();
    for path in &paths {
        path.file_name().hash(hasher);
        if path.is_dir() {
            hash_sources(path, hasher)?;
        } else {
            fs::read(path)?.hash(hasher);
        }
    }
    Ok(())
}

/// A running program.
#[derive(Debug)]
pub struct Target {
    child: Child,
    lines: mpsc::Receiver<String>,
}

/// Starts the command. A program that was written just now may be open for writing still, in a child that another
/// test's thread has forked and that has not reached its own program.
fn spawn_when_written(command: &mut Command) -> io::Result<Child> {
    for _ in 0..100 {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                thread::sleep(Duration::from_millis(20));
            }
            outcome => return outcome,
        }
    }
    command.spawn()
}

impl Target {
    /// Starts it.
    pub fn start(program: &Path, arguments: &[&str]) -> Result<Self> {
        Self::spawn(Command::new(program).args(arguments))
    }

    /// Starts a prepared command.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = spawn_when_written(command)
            .with_context(|| format!("start {}", command.get_program().display()))?;
        let stdout = child.stdout.take().context("standard output is piped")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// Starts it and stops it before its first instruction, so that nothing it does can be missed.
    pub fn start_stopped(program: &Path, arguments: &[&str]) -> Result<Self> {
        Self::spawn_stopped(Command::new(program).args(arguments))
    }

    /// The same with a prepared command.
    pub fn spawn_stopped(command: &mut Command) -> Result<Self> {
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe {
            command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        let program = Path::new(command.get_program()).to_owned();
        let target = Self::spawn(command)?;
        let pid = target.pid_t();
        let mut status = 0;
        // SAFETY: `status` outlives the call; the process is our child and its exec stops it.
        let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
        ensure!(
            waited == pid && libc::WIFSTOPPED(status),
            "{} did not stop at its exec",
            program.display()
        );
        // SAFETY: we trace the process since its exec. It goes on under a stop signal, which is what is wanted.
        let detached = unsafe { libc::ptrace(libc::PTRACE_DETACH, pid, 0, libc::SIGSTOP) };
        ensure!(
            detached == 0,
            "detach from {}: {}",
            program.display(),
            io::Error::last_os_error()
        );
        Ok(target)
    }

    /// Lets a stopped program go.
    pub fn resume(&self) {
        self.signal(libc::SIGCONT);
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn pid_t(&self) -> libc::pid_t {
        libc::pid_t::try_from(self.child.id()).unwrap_or(libc::pid_t::MAX)
    }

    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: the child has not been waited for, so its pid is still its own.
        unsafe { libc::kill(self.pid_t(), signal) };
    }

    /// The next line it prints.
    pub fn line(&self) -> Result<String> {
        self.lines
            .recv_timeout(START_TIMEOUT)
            .context("the program printed no line")
    }

    /// The address at the end of the next line, as `… listens on http://127.0.0.1:1234`.
    pub fn address(&self) -> Result<String> {
        let line = self.line()?;
        let address = line.rsplit("http://").next().unwrap_or_default();
        ensure!(address.contains(':'), "no address in {line:?}");
        Ok(address.to_owned())
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait()?)
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end and waits.
    pub fn terminate(mut self) -> Result<ExitStatus> {
        self.signal(libc::SIGTERM);
        self.wait()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a service listens. Those of `targets/go/net_http` have the first four, each a base URL; those of
/// `targets/go/grpc` the first and the last.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Addresses {
    pub main: String,
    pub tls: String,
    pub hasty: String,
    pub late: String,
    /// `host:port`.
    pub rpc: String,
}

/// A service of `targets/go/net_http` or `targets/go/grpc`.
#[derive(Debug)]
pub struct Service {
    pub target: Target,
    pub addresses: Addresses,
    /// What it printed about its addresses: what the next service wants to know.
    pub printed: String,
    log: PathBuf,
    _folder: TempDir,
}

impl Service {
    /// Starts the service `name`, which calls `next`, or itself. Its calls are numbered from `first_id` on.
    pub fn start(program: &Path, name: &str, first_id: u64, next: Option<&Self>) -> Result<Self> {
        Self::start_with(program, name, first_id, next, &[])
    }

    /// The same with variables in its environment.
    pub fn start_with(
        program: &Path,
        name: &str,
        first_id: u64,
        next: Option<&Self>,
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        Self::launch(program, name, first_id, next, environment, &[])
    }

    /// A service of `targets/go/net_http` at an address that is not loopback's; its other ports have the same host.
    pub fn start_at(listen: &str, program: &Path, name: &str, first_id: u64) -> Result<Self> {
        Self::launch(program, name, first_id, None, &[], &["-listen", listen])
    }

    fn launch(
        program: &Path,
        name: &str,
        first_id: u64,
        next: Option<&Self>,
        environment: &[(&str, &str)],
        arguments: &[&str],
    ) -> Result<Self> {
        let next: Vec<&str> = next.iter().flat_map(|next| ["-next", &next.printed]).collect();
        Self::spawn(
            Command::new(program)
                .args(["serve", "-name", name, "-first-id", &first_id.to_string()])
                .args(next)
                .args(arguments)
                // What the probe takes for its name unless it is told otherwise.
                .env("SW_AGENT_NAME", name)
                .envs(environment.iter().copied()),
        )
    }

    /// Starts a prepared command, which lacks only the file for its log.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let log = folder.path().join("truth.log");
        command.arg("-log").arg(&log);
        let target = Target::spawn(command)?;
        let printed = target.line()?;
        let addresses =
            serde_json::from_str(&printed).with_context(|| format!("addresses in {printed:?}"))?;
        Ok(Self {
            target,
            addresses,
            printed,
            log,
            _folder: folder,
        })
    }

    /// `host:port` of the main port.
    pub fn host(&self) -> &str {
        host(&self.addresses.main)
    }

    /// `GET path` at the main port; the connection is closed afterwards.
    pub fn get(&self, path: &str) -> Result<client::Response> {
        client::get(self.host(), path)
    }

    /// Everything it has done so far, once the goroutines are done that its requests have left behind.
    pub fn records(&self) -> Result<Vec<Record>> {
        let response = self.get("/flush")?;
        ensure!(response.status == 200, "flush: {response:?}");
        truth::records(&fs::read_to_string(&self.log)?)
    }
}

/// Gives the command `unshare` what has it run a program in mount, process and host name namespaces of its own, whose
/// file, `/mnt/NAME`, nobody else can see: it lies in memory that is mounted there. The program's arguments follow.
pub fn unshared(unshare: &mut Command, program: &Path, name: &str) {
    let script = format!(
        "mount -t tmpfs tmpfs /mnt && cp \"$0\" /mnt/{name} && hostname contained && exec /mnt/{name} \"$@\""
    );
    unshare
        .args([
            "--mount",
            "--pid",
            "--uts",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .args(["sh", "-c", &script])
        .arg(program)
        .env("HOSTNAME", "contained");
}

/// `host:port` of a base URL.
pub fn host(url: &str) -> &str {
    url.split("://").nth(1).unwrap_or(url)
}

/// What the load says of itself.
#[derive(Clone, Debug, Deserialize)]
pub struct LoadSummary {
    pub sent: u64,
    pub failed: u64,
    pub first_error: String,
    pub seconds: f64,
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Of gRPC: how many calls ended with each code.
    #[serde(default)]
    pub codes: BTreeMap<String, u64>,
}

/// A client that asks a service for much: that of `targets/go/net_http` for a mix of everything.
#[derive(Debug)]
pub struct Load {
    child: Child,
}

impl Load {
    /// `shapes` empty: the whole mix.
    pub fn start(program: &Path, on: &Service, rate: u32, seconds: f64, shapes: &str) -> Result<Self> {
        let what = [
            "load",
            "-target",
            &on.printed,
            "-first-id",
            "1",
            "-shapes",
            shapes,
        ];
        Self::spawn(program, &what, rate, seconds)
    }

    /// The client of `targets/go/grpc` that opens a connection for each of its calls.
    pub fn swarm(program: &Path, on: &Service, rate: u32, seconds: f64) -> Result<Self> {
        Self::swarm_at(program, &on.addresses.rpc, rate, seconds)
    }

    /// The same on any server.
    pub fn swarm_at(program: &Path, host: &str, rate: u32, seconds: f64) -> Result<Self> {
        Self::spawn(program, &["swarm", "-target", host], rate, seconds)
    }

    /// The same, stopped before its first call: see [`resume`](Self::resume).
    pub fn stopped_swarm_at(program: &Path, host: &str, rate: u32, seconds: f64) -> Result<Self> {
        let load = Self::spawn(program, &["swarm", "-stopped", "-target", host], rate, seconds)?;
        let pid = libc::pid_t::try_from(load.pid())?;
        let mut status = 0;
        // SAFETY: `status` outlives the call; the process is our child.
        let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::WUNTRACED) };
        ensure!(waited == pid && libc::WIFSTOPPED(status), "it did not stop");
        Ok(load)
    }

    /// Lets a stopped one go.
    pub fn resume(&self) -> Result<()> {
        // SAFETY: the child has not been waited for, so its pid is still its own.
        unsafe { libc::kill(libc::pid_t::try_from(self.pid())?, libc::SIGCONT) };
        Ok(())
    }

    fn spawn(program: &Path, what: &[&str], rate: u32, seconds: f64) -> Result<Self> {
        let child = Command::new(program)
            .args(what)
            .args(["-rate", &rate.to_string(), "-seconds", &seconds.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        Ok(Self { child })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it send no more and waits for the answers.
    pub fn enough(self) -> Result<LoadSummary> {
        // SAFETY: the child has not been waited for, so its pid is still its own.
        unsafe { libc::kill(libc::pid_t::try_from(self.child.id())?, libc::SIGTERM) };
        self.finish()
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Result<LoadSummary> {
        let mut printed = String::new();
        if let Some(mut stdout) = self.child.stdout.take() {
            stdout.read_to_string(&mut printed)?;
        }
        if !self.child.wait()?.success() {
            bail!("the load failed: {printed:?}");
        }
        serde_json::from_str(&printed).with_context(|| format!("summary in {printed:?}"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_program_has_run_nothing() {
        let target = Target::start_stopped(Path::new("/bin/echo"), &["hello"]).unwrap();
        assert_eq!(
            fs::read_link(format!("/proc/{}/exe", target.pid())).unwrap(),
            fs::canonicalize("/bin/echo").unwrap()
        );
        let state = || fs::read_to_string(format!("/proc/{}/stat", target.pid())).unwrap();
        while !state().contains(") T ") {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(target.lines.try_recv().is_err());
        target.resume();
        assert_eq!(target.line().unwrap(), "hello");
    }
}
