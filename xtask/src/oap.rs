//! A real OAP on the loopback address, with its data in memory.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::child::Tied;
use crate::debian;
use crate::http;
use crate::process;
use crate::scratch;
use crate::step::step;

mod distribution;
mod view;

use distribution::Distribution;
use view::View;

/// The reference server: what `demo --oap` and the tests ask for first.
pub const REFERENCE: &str = "9.7.0";

/// A boot takes 10 s on two idle cores; a loaded machine may take much longer.
const BOOT_PATIENCE: Duration = Duration::from_secs(240);

/// Which ports to use; 0 means a free one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ports {
    /// Where agents report to, 11800 by custom.
    pub grpc: u16,
    /// GraphQL, 12800 by custom.
    pub http: u16,
    /// OAP's own figures in Prometheus' text form, 1234 by custom.
    pub telemetry: u16,
    /// Something to look at in a browser; none if `None`.
    pub ui: Option<u16>,
}

impl Ports {
    /// The ports that SkyWalking's users know.
    pub const CUSTOMARY: Self = Self {
        grpc: 11800,
        http: 12800,
        telemetry: 1234,
        ui: Some(8080),
    };
}

/// A running OAP. It ends with this value.
pub struct Oap {
    /// What runs; not what was asked for, where that cannot be had.
    pub version: String,
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    pub telemetry: SocketAddr,
    pub ui: Option<SocketAddr>,
    /// How long the boot took.
    pub boot: Duration,
    server: Tied,
    _webapp: Option<Tied>,
    _view: Option<View>,
    folder: PathBuf,
}

impl Oap {
    /// Gets OAP `version`, or its nearest substitute, starts it and waits until it takes segments.
    pub fn start(version: &str, ports: Ports) -> Result<Self> {
        debian::ensure_program("java", "default-jre-headless", "Java, to run OAP")?;
        let distribution = distribution::fetch(version)?;
        let folder = scratch::folder("oap")?;
        let address = |port: u16| -> Result<SocketAddr> {
            let port = if port == 0 {
                http::free_address()?.port()
            } else {
                port
            };
            Ok((Ipv4Addr::LOCALHOST, port).into())
        };
        let (grpc, rest, telemetry) = (
            address(ports.grpc)?,
            address(ports.http)?,
            address(ports.telemetry)?,
        );
        for taken in [grpc, rest, telemetry] {
            ensure!(
                TcpStream::connect(taken).is_err(),
                "{taken} is in use: end what listens there or choose other ports"
            );
        }

        step(format_args!("starting OAP {}", distribution.version));
        let since = now();
        let server = start_server(&distribution, &folder, grpc, rest, telemetry)?;
        let mut oap = Self {
            version: distribution.version.clone(),
            grpc,
            http: rest,
            telemetry,
            ui: None,
            boot: Duration::ZERO,
            server,
            _webapp: None,
            _view: None,
            folder,
        };
        oap.wait_until_ready(since)?;
        oap.boot = since.elapsed();
        if let Some(port) = ports.ui {
            oap.start_ui(&distribution, address(port)?)?;
        }
        Ok(oap)
    }

    /// Sends a GraphQL request and gives the answer's text.
    pub fn graphql(&self, json: &str) -> Result<String> {
        let answer = http::post_json(self.http, "/graphql", json)?;
        ensure!(
            answer.status == 200,
            "OAP answered {} to a query: {}",
            answer.status,
            answer.body
        );
        Ok(answer.body)
    }

    /// One of OAP's own figures, summed over its labels that contain `label`; 0 where it has none.
    pub fn figure(&self, name: &str, label: &str) -> Result<f64> {
        let answer = http::get(self.telemetry, "/metrics")?;
        ensure!(
            answer.status == 200,
            "OAP answered {} when asked for its figures",
            answer.status
        );
        Ok(sum_figure(&answer.body, name, label))
    }

    /// What OAP has written to its log.
    pub fn log(&self) -> String {
        self.server.output()
    }

    fn wait_until_ready(&mut self, since: Instant) -> Result<()> {
        loop {
            if !self.server.running() {
                bail!(
                    "OAP {} ended while starting; its last words:\n{}",
                    self.version,
                    self.last_words()
                );
            }
            if TcpStream::connect(self.grpc).is_ok() && self.healthy() {
                return Ok(());
            }
            ensure!(!process::stopping(), "interrupted");
            if since.elapsed() > BOOT_PATIENCE {
                let seconds = BOOT_PATIENCE.as_secs();
                bail!(
                    "OAP {} was not ready after {seconds} s; its last words:\n{}",
                    self.version,
                    self.last_words()
                );
            }
            thread::sleep(Duration::from_millis(250));
        }
    }

    fn healthy(&self) -> bool {
        let asked = http::post_json(
            self.http,
            "/graphql",
            r#"{"query":"{checkHealth{score details}}"}"#,
        );
        let Ok(answer) = asked else { return false };
        serde_json::from_str::<serde_json::Value>(&answer.body).is_ok_and(|answer| {
            answer
                .pointer("/data/checkHealth/score")
                .is_some_and(|score| score == 0)
        })
    }

    fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines
            .get(lines.len().saturating_sub(25)..)
            .unwrap_or_default()
            .join("\n")
    }

    /// OAP's own UI where the distribution has it, else our page over the same GraphQL.
    fn start_ui(&mut self, distribution: &Distribution, address: SocketAddr) -> Result<()> {
        if let Some(webapp) = distribution.webapp() {
            let environment = [
                ("SW_SERVER_PORT", address.port().to_string()),
                ("SW_OAP_ADDRESS", format!("http://{}", self.http)),
            ];
            let folder = self.folder.display();
            let classpath = format!("{0}/skywalking-webapp.jar:{0}", webapp.display());
            let args = [
                "-Xmx256m".into(),
                format!("-Dwebapp.logDir={folder}"),
                "-classpath".into(),
                classpath,
                "org.apache.skywalking.oap.server.webapp.ApplicationStartUp".into(),
            ];
            self._webapp = Some(Tied::start(
                "java".as_ref(),
                &args,
                &environment,
                &self.folder.join("webapp.log"),
            )?);
            wait_for_port(address)?;
        } else {
            self._view = Some(View::start(address, self.http)?);
        }
        self.ui = Some(address);
        Ok(())
    }
}

impl Drop for Oap {
    fn drop(&mut self) {
        // The log is what one wants after a failure.
        if !thread::panicking() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// `cargo xtask oap`: runs an OAP in the foreground until it is interrupted.
pub fn run(version: &str, ports: Ports) -> Result<()> {
    let mut oap = Oap::start(version, ports)?;
    step(format_args!(
        "OAP {} is ready after {:.1} s; Ctrl-C ends it, nothing is kept",
        oap.version,
        oap.boot.as_secs_f64()
    ));
    println!("agents report to  {}", oap.grpc);
    println!("GraphQL           http://{}/graphql", oap.http);
    if let Some(ui) = oap.ui {
        println!("look at it        http://{ui}/");
    }
    while oap.server.running() {
        if process::stopping() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
    }
    // Ctrl-C reaches the server too, since it shares our terminal.
    if process::stopping() {
        return Ok(());
    }
    bail!("OAP ended by itself; its last words:\n{}", oap.last_words())
}

fn start_server(
    distribution: &Distribution,
    folder: &Path,
    grpc: SocketAddr,
    rest: SocketAddr,
    telemetry: SocketAddr,
) -> Result<Tied> {
    let environment = [
        ("SW_STORAGE", "h2".to_owned()),
        ("SW_CORE_GRPC_HOST", grpc.ip().to_string()),
        ("SW_CORE_GRPC_PORT", grpc.port().to_string()),
        ("SW_CORE_REST_HOST", rest.ip().to_string()),
        ("SW_CORE_REST_PORT", rest.port().to_string()),
        ("SW_TELEMETRY", "prometheus".to_owned()),
        ("SW_TELEMETRY_PROMETHEUS_HOST", telemetry.ip().to_string()),
        ("SW_TELEMETRY_PROMETHEUS_PORT", telemetry.port().to_string()),
        ("SW_HEALTH_CHECKER", "default".to_owned()),
        // Upstream waits 25 s before it stores anything; a person and a test want to see it sooner.
        ("SW_CORE_PERSISTENT_PERIOD", "3".to_owned()),
        // A full distribution would listen for these too.
        ("SW_PROMQL", "-".to_owned()),
        ("SW_LOGQL", "-".to_owned()),
        ("SW_OTEL_RECEIVER", "-".to_owned()),
        ("SW_RECEIVER_AWS_FIREHOSE", "-".to_owned()),
        ("SW_ENVOY_METRIC", "-".to_owned()),
    ];
    let config = distribution.config(folder)?;
    let args = [
        "-Xms128m".into(),
        "-Xmx768m".into(),
        // A short life on few cores: no second compiler, no collector threads.
        "-XX:TieredStopAtLevel=1".into(),
        "-XX:+UseSerialGC".into(),
        "-XX:-UsePerfData".into(),
        format!("-Djava.io.tmpdir={}", folder.display()),
        format!("-Doap.logDir={}", folder.display()),
        "-classpath".into(),
        format!("{}:{}/*", config.display(), distribution.libraries().display()),
        "org.apache.skywalking.oap.server.starter.OAPServerStartUp".into(),
    ];
    Tied::start("java".as_ref(), &args, &environment, &folder.join("oap.log"))
}

fn wait_for_port(address: SocketAddr) -> Result<()> {
    let since = now();
    while TcpStream::connect(address).is_err() {
        ensure!(since.elapsed() < BOOT_PATIENCE, "nothing listens on {address}");
        thread::sleep(Duration::from_millis(250));
    }
    Ok(())
}

/// Sums the lines of Prometheus' text form that belong to `name` and carry `label`.
fn sum_figure(text: &str, name: &str, label: &str) -> f64 {
    let lines = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        let own = labels.is_empty() || labels.starts_with('{');
        (own && labels.contains(label))
            .then(|| value.parse::<f64>().ok())
            .flatten()
    });
    lines.sum()
}

#[expect(
    clippy::disallowed_methods,
    reason = "xtask is no part of the probe: it may look at the clock"
)]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_summed_over_their_labels() {
        let text = "# TYPE trace_in_latency histogram\n\
                    trace_in_latency_count{protocol=\"grpc\",} 7.0\n\
                    trace_in_latency_count{protocol=\"http\",} 2.0\n\
                    trace_in_latency_count_created{protocol=\"grpc\",} 1.7e9\n\
                    up 1.0\n";
        assert_eq!(sum_figure(text, "trace_in_latency_count", ""), 9.0);
        assert_eq!(sum_figure(text, "trace_in_latency_count", "grpc"), 7.0);
        assert_eq!(sum_figure(text, "up", ""), 1.0);
        assert_eq!(sum_figure(text, "down", ""), 0.0);
    }
}
