//! `cargo xtask demo`: three Go services that nobody prepared for it, traced in front of the user.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    build, go, http,
    oap::{self, Oap, Ports},
    process::{Running, check, stopping},
    step::{step, wait_until},
    toolchain,
};

/// How long a service may take to listen, and the probe to attach.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// What is traced, and who asks the first of them in a container's world, where nobody else does.
pub const SERVICES: [&str; 3] = ["gateway", "user-service", "order-service"];
pub(crate) const PROGRAMS: [&str; 4] = ["gateway", "user-service", "order-service", "visitor"];

/// How the demo runs.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Report into a real OAP, started for this, with a page to look at it, instead of showing the traces here
    #[arg(long)]
    pub oap: bool,
    /// How many requests to send, one a second; 0: until Ctrl-C [default: 10, with --oap 0]
    #[arg(long)]
    pub requests: Option<u32>,
}

/// Builds, starts, attaches, sends requests; what runs and what was written is gone afterwards.
pub fn run(options: &Options) -> Result<()> {
    toolchain::need_root("trace other processes")?;
    let skyprobe = build::release()?;
    let oap = options
        .oap
        .then(|| Oap::start(oap::REFERENCE, Ports::CUSTOMARY))
        .transpose()?;
    let scratch = tempfile::tempdir().context("make a temporary directory")?;
    let shop = Shop::start(scratch.path())?;

    step("attaching skyprobe to the three of them");
    let mut command = Command::new(&skyprobe);
    command.arg("run");
    match &oap {
        None => command.args(["--export", "text"]),
        Some(oap) => command.args(["--oap", &oap.grpc.to_string()]),
    };
    for pid in shop.pids() {
        command.args(["--pid", &pid.to_string()]);
    }
    let probe = Probe::attach(&mut command)?;
    if let Some(Oap { ui: Some(ui), .. }) = &oap {
        step(format!(
            "traces and topology, some seconds from now: http://{ui}/"
        ));
    }
    let requests = options.requests.unwrap_or(if options.oap { 0 } else { 10 });
    send_requests(&shop, requests)?;
    // A trace is complete when its slowest part has come.
    std::thread::sleep(Duration::from_secs(1));
    step("detaching");
    let status = probe.detach()?;
    ensure!(status.success() || stopping(), "skyprobe ended with {status}");
    step("done");
    let skyprobe = skyprobe.display();
    eprintln!(
        "next, with programs of your own:\n  {skyprobe} doctor\n  {skyprobe} inspect PATH\n  {skyprobe} run --exe PATH"
    );
    if !options.oap {
        eprintln!("or see these traces in SkyWalking:\n  cargo xtask demo --oap");
    }
    Ok(())
}

fn send_requests(shop: &Shop, requests: u32) -> Result<()> {
    let howmany = if requests == 0 {
        "until Ctrl-C".to_owned()
    } else {
        format!("{requests} times")
    };
    step(format!(
        "GET http://{}/profile, {howmany}; each fifth asks for /recommendations instead and is meant to fail",
        shop.gateway
    ));
    let mut sent = 0;
    while !stopping() && (requests == 0 || sent < requests) {
        // Each fifth asks for what the order service has not: an error on its way back by gRPC and HTTP.
        let path = if sent % 5 == 4 {
            "/recommendations"
        } else {
            "/profile"
        };
        get(shop.gateway, path).with_context(|| format!("GET http://{}{path}", shop.gateway))?;
        sent += 1;
        wait_until(Duration::from_secs(1), || false);
    }
    Ok(())
}

/// The demo's services, running.
struct Shop {
    gateway: SocketAddr,
    services: Vec<Running>,
}

impl Shop {
    /// Builds the services as anybody would, and starts them; nothing in them knows of us.
    fn start(directory: &Path) -> Result<Self> {
        build(&go::current()?, directory, &SERVICES)?;
        let [gateway, users, orders, orders_rpc] = http::free_addresses()?;
        step(format!(
            "starting gateway {gateway} -> user-service {users} -> order-service {orders}, all by HTTP, and gateway -> \
             order-service {orders_rpc} by gRPC"
        ));
        let (users_url, orders_url) = (format!("http://{users}"), format!("http://{orders}"));
        let orders_rpc = orders_rpc.to_string();
        let services = vec![
            start_service(directory, "order-service", orders, &["-listen-rpc", &orders_rpc])?,
            start_service(directory, "user-service", users, &["-orders", &orders_url])?,
            start_service(
                directory,
                "gateway",
                gateway,
                &["-users", &users_url, "-orders", &orders_rpc],
            )?,
        ];
        Ok(Self { gateway, services })
    }

    fn pids(&self) -> impl Iterator<Item = u32> {
        self.services.iter().map(Running::pid)
    }
}

/// Gets grpc-go, of which two of them are made, through the Go module proxy into Go's own cache; nothing where it is
/// there already.
fn fetch_modules(go: &Path) -> Result<()> {
    let mut command = Command::new(go);
    command
        .args(["mod", "download"])
        .current_dir(source())
        .envs([("GOTOOLCHAIN", "local"), ("GOFLAGS", "-mod=readonly")]);
    check(&mut command).context("get the modules that the demo's services are made of (grpc-go)")
}

fn source() -> PathBuf {
    build::root().join("tests/targets/go/demo")
}

/// Builds these of the demo's programs as anybody would.
pub fn build(go: &Path, directory: &Path, programs: &[&str]) -> Result<()> {
    fetch_modules(go)?;
    step(format_args!(
        "building Go programs (go build): {}",
        programs.join(", ")
    ));
    let mut command = Command::new(go);
    command.args(["build", "-o"]).arg(directory);
    for program in programs {
        command.arg(format!("./{program}"));
    }
    command.current_dir(source());
    // All is there: no network, no C compiler.
    command.envs([
        ("CGO_ENABLED", "0"),
        ("GOPROXY", "off"),
        ("GOTOOLCHAIN", "local"),
        ("GOFLAGS", "-buildvcs=false"),
    ]);
    check(&mut command).context("build the demo's services")
}

fn start_service(directory: &Path, name: &str, address: SocketAddr, arguments: &[&str]) -> Result<Running> {
    let mut command = Command::new(directory.join(name));
    command.arg("-listen").arg(address.to_string()).args(arguments);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut service = Running::start(name, &mut command)?;
    let mut ended = None;
    let listens = wait_until(START_TIMEOUT, || {
        ended = service.ended().ok().flatten();
        ended.is_some() || TcpStream::connect(address).is_ok()
    });
    match ended {
        Some(status) => bail!("{name} ended at once: {status}"),
        None => ensure!(listens, "{name} does not listen on {address}"),
    }
    Ok(service)
}

/// skyprobe, attached.
struct Probe(Running);

impl Probe {
    /// Starts it and waits for the line that begins with `ready`; what it writes is shown as it comes.
    fn attach(command: &mut Command) -> Result<Self> {
        let mut running = Running::start("skyprobe", command.stdin(Stdio::null()).stderr(Stdio::piped()))?;
        let stderr = running.child().stderr.take().context("the pipe to skyprobe")?;
        let (sender, ready) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                eprintln!("{line}");
                if line.starts_with("ready") {
                    // Nobody listens any more when attaching took too long.
                    let _ = sender.send(());
                }
            }
        });
        let mut ended = None;
        let attached = wait_until(START_TIMEOUT, || {
            ended = running.ended().ok().flatten();
            ended.is_some() || ready.try_recv().is_ok()
        });
        match ended {
            Some(status) => bail!("skyprobe ended before it was ready: {status}"),
            None if stopping() => bail!("interrupted"),
            None => ensure!(
                attached,
                "skyprobe was not ready within {} s",
                START_TIMEOUT.as_secs()
            ),
        }
        Ok(Self(running))
    }

    fn detach(self) -> Result<ExitStatus> {
        self.0.stop()
    }
}

/// A request as simple as they come; the answer's status line.
fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    // In one piece, as clients do: `write!` would send the head in several, and the probe would count that it had not
    // seen it whole.
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.lines().next().filter(|line| line.starts_with("HTTP/1.1 "));
    Ok(status.context("the answer is no HTTP")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_services_answer_and_end_with_the_shop() {
        let go = go::current().expect("a Go toolchain");
        if let Err(error) = fetch_modules(&go) {
            println!("SKIP {error:#}");
            return;
        }
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let shop = Shop::start(scratch.path()).expect("start the services");
        assert_eq!(
            get(shop.gateway, "/profile").expect("an answer"),
            "HTTP/1.1 200 OK"
        );
        assert_eq!(
            get(shop.gateway, "/recommendations").expect("an answer"),
            "HTTP/1.1 502 Bad Gateway"
        );
        let directories: Vec<PathBuf> = shop.pids().map(|pid| format!("/proc/{pid}").into()).collect();
        assert!(directories.iter().all(|directory| directory.exists()));
        drop(shop);
        assert!(!directories.iter().any(|directory| directory.exists()));
    }
}
