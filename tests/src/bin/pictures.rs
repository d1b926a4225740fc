//! `cargo xtask pictures`: the pictures of `docs/ui.md`, of a real OAP that is told of pods by the probe.
//!
//! The demo's services run in control groups as containerd names them, and a real Kubernetes API server has their pods.
#![expect(clippy::print_stdout, reason = "it says what it has made")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use tests::{
    client,
    graphql::GraphQl,
    kubernetes::Cluster,
    pods::{NODE, Running, Shop},
    probe::{Probe, binary},
};
use xtask::{
    debian, demo, go, http,
    oap::{Oap, Ports, REFERENCE},
    process,
    step::{step, wait_until},
};

/// Figures per minute are there when the minute is over.
const VISITS: u32 = 140;

fn main() -> Result<()> {
    let folder = std::env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .context("usage: pictures FOLDER")?;
    debian::ensure_program("chromium", "chromium", "a browser, to take pictures with")?;
    let ports = Ports {
        ui: Some(0),
        ..Ports::default()
    };
    let oap = Oap::start(REFERENCE, ports)?;
    let cluster = Cluster::start()?;
    let shop = Shop::open(&cluster, "shop")?;
    let services = Services::start(&shop)?;
    let _probe = trace(&oap, &cluster, services.folder.path())?;
    step(format_args!("visiting, {VISITS} times, once a second"));
    for visit in 0..VISITS {
        let path = if visit % 5 == 4 {
            "/recommendations"
        } else {
            "/profile"
        };
        let gateways = &services.gateways;
        let gateway = gateways
            .get(visit as usize % gateways.len())
            .context("a gateway")?;
        client::get(gateway, path)?;
        wait_until(Duration::from_secs(1), || false);
        ensure!(!process::stopping(), "interrupted");
    }

    let graphql = GraphQl::new(oap.http);
    let gateway = graphql.service_id("gateway|shop|")?;
    let trace = visit(&graphql, &gateway)?;
    let browser = Browser {
        page: oap.ui.context("a page")?.to_string(),
        folder: &folder,
        profile: tempfile::tempdir()?,
    };
    for (name, view, size) in [
        ("services", "services".to_owned(), (1280, 270)),
        ("instances", format!("service/{gateway}"), (1280, 840)),
        ("topology", "topology".to_owned(), (1280, 500)),
        ("trace", format!("trace/{trace}"), (1280, 520)),
    ] {
        browser.picture(name, &view, size)?;
    }
    Ok(())
}

/// Two gateways, which call one user service and one order service.
struct Services {
    folder: tempfile::TempDir,
    gateways: Vec<String>,
    _running: Vec<process::Running>,
    _pods: Vec<Running>,
}

impl Services {
    fn start(shop: &Shop<'_>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        demo::build(&go::current()?, folder.path(), &demo::SERVICES)?;
        let [first, second, users, orders, orders_rpc] =
            http::free_addresses()?.map(|address| address.to_string());
        let (users_url, orders_url) = (format!("http://{users}"), format!("http://{orders}"));
        let ways = |listen| ["-listen", listen, "-users", &users_url, "-orders", &orders_rpc];
        let (mut running, mut pods) = (Vec::new(), Vec::new());
        for (name, ends, arguments) in [
            (
                "order-service",
                vec!["7fb6d-q8wzl"],
                vec![vec!["-listen", &orders, "-listen-rpc", &orders_rpc]],
            ),
            (
                "user-service",
                vec!["59c4f-m2k7v"],
                vec![vec!["-listen", &users, "-orders", &orders_url]],
            ),
            (
                "gateway",
                vec!["6d5f8-hn4tc", "6d5f8-x7k2q"],
                vec![ways(&first).to_vec(), ways(&second).to_vec()],
            ),
        ] {
            let deployment = shop.workload("Deployment", name)?;
            for (end, arguments) in ends.iter().zip(arguments) {
                let set = end.split('-').next().unwrap_or_default();
                let replica_set = shop.cluster.replica_set(&deployment, &format!("{name}-{set}"))?;
                let pod = shop.pod(&format!("{name}-{end}"), Some(&replica_set), &[], true)?;
                let host = format!("{name}-{end}");
                let mut command = contained(&pod, &host, &folder.path().join(name));
                command
                    .args(arguments)
                    .stdout(Stdio::null())
                    .stderr(Stdio::null());
                running.push(process::Running::start(name, &mut command)?);
                pods.push(pod);
            }
        }
        let gateways = vec![first, second];
        for address in gateways.iter().chain([&users, &orders, &orders_rpc]) {
            let listens = || std::net::TcpStream::connect(address).is_ok();
            ensure!(
                wait_until(Duration::from_secs(20), listens),
                "nobody listens on {address}"
            );
        }
        Ok(Self {
            folder,
            gateways,
            _running: running,
            _pods: pods,
        })
    }
}

/// A program in its pod's group, as `/mnt/NAME` of a host of its own.
fn contained(pod: &Running, host: &str, program: &Path) -> Command {
    let script = "mount -t tmpfs tmpfs /mnt && cp \"$1\" /mnt && hostname \"$0\" && name=${1##*/} && shift && exec /mnt/$name \"$@\"";
    let mut command = pod.container.command(Path::new("unshare"));
    command
        .args(["--mount", "--uts", "sh", "-c", script, host])
        .arg(program);
    command
}

/// The probe, with rules as the ConfigMap has them.
fn trace(oap: &Oap, cluster: &Cluster, programs: &Path) -> Result<Probe> {
    let config = programs.join("skyprobe.yaml");
    fs::write(&config, "rules:\n - include: {namespace: shop, language: go}\n")?;
    let mut command = Command::new(binary()?);
    command
        .args(["run", "--status-socket", "off", "--property-labels", "tier"])
        .args(["--oap", &oap.grpc.to_string(), "--node", NODE])
        .arg("--config")
        .arg(&config)
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig());
    let probe = Probe::spawn(&mut command)?;
    probe.ready()?;
    // Who is meant by a namespace is known when the pods are.
    let traced = || probe.stderr().matches("Process traced").count() >= 4;
    ensure!(
        wait_until(Duration::from_secs(30), traced),
        "not all are traced:\n{}",
        probe.stderr()
    );
    Ok(probe)
}

/// A visit that went well, through all three services by HTTP and gRPC.
fn visit(graphql: &GraphQl, gateway: &str) -> Result<String> {
    for brief in graphql.traces(gateway, &[])? {
        let id = brief.trace_ids.first().context("a trace has an id")?;
        let spans = graphql.trace(id)?;
        if spans.len() == 7 && !spans.iter().any(|span| span.is_error) {
            return Ok(id.clone());
        }
    }
    bail!("no visit is complete")
}

/// Headless Chromium before the page that stands for SkyWalking's UI.
struct Browser<'a> {
    page: String,
    folder: &'a Path,
    profile: tempfile::TempDir,
}

impl Browser<'_> {
    fn picture(&self, name: &str, view: &str, (width, height): (u32, u32)) -> Result<()> {
        let file = std::path::absolute(self.folder.join(format!("{name}.png")))?;
        let mut chromium = Command::new("chromium");
        chromium
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ])
            .args(["--no-first-run", "--disable-quic", "--virtual-time-budget=8000"])
            .arg(format!("--user-data-dir={}", self.profile.path().display()))
            .arg(format!("--window-size={width},{height}"))
            .arg(format!("--screenshot={}", file.display()))
            .arg(format!("http://{}/#{view}", self.page));
        let output = chromium.stdin(Stdio::null()).output().context("run chromium")?;
        ensure!(
            output.status.success() && file.is_file(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        println!(
            "{} ({} KB)",
            file.display(),
            file.metadata()?.len().div_ceil(1000)
        );
        Ok(())
    }
}
