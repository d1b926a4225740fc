//! `cargo xtask bench`: what tracing costs a program, as ratios of one interleaved run.
//!
//! Untraced and traced turns alternate, so that a neighbour who takes the machine for a while takes it from both.
//! The load comes from `wrk` or, by gRPC, from a client of our own, on connections that stay open.

mod hits;
mod load;
mod report;
mod rpc;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use self::{
    hits::{Counting, Hits},
    load::{Load, Measured},
    report::{Attach, Figures, Report, Turn},
    rpc::Pair,
};
use crate::{
    build, debian, go,
    process::{Running, check},
    step::{step, wait_until},
    toolchain,
};

/// How long a program may take to listen, and the probe to attach.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the kernel counts hits.
const COUNTED_S: u32 = 1;

/// How the bench runs.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Pairs of an untraced and a traced turn per program
    #[arg(long, default_value_t = 5)]
    pub pairs: u32,
    /// Seconds per turn
    #[arg(long, default_value_t = 4)]
    pub seconds: u32,
    /// Write the table into docs/performance.md
    #[arg(long)]
    pub write: bool,
    /// Print the figures as JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Builds, runs the turns, prints the medians.
pub fn run(options: &Options) -> Result<()> {
    toolchain::need_root("trace other processes")?;
    debian::ensure_program("wrk", "wrk", "put the programs under load")?;
    let skyprobe = build::release()?;
    let scratch = tempfile::tempdir().context("make a temporary directory")?;
    let program = build_program(scratch.path(), "bench")?;
    let rpc_programs = rpc::build(scratch.path())?;
    let bench = Bench {
        skyprobe: &skyprobe,
        options,
    };

    let mut figures = Vec::new();
    for (name, length, path) in [("hello-world", 1, "/hello"), ("chain of three", 3, "/chain")] {
        let chain = Chain::start(&program, length)?;
        let url = format!("http://{}{path}", chain.front);
        let pids: Vec<u32> = chain.pids().collect();
        figures.push(bench.measure(name, &pids, &mut |seconds| {
            Load {
                url: url.clone(),
                seconds,
            }
            .run()
        })?);
    }
    let mut pair = Pair::start(&rpc_programs)?;
    let (server, client) = (pair.server(), pair.client());
    for (name, pids, work) in [
        ("gRPC echo, the server traced", &[server] as &[u32], rpc::UNARY),
        ("gRPC echo, the client traced", &[client], rpc::UNARY),
        ("gRPC echo, both traced", &[server, client], rpc::UNARY),
        (
            "1,000 streams at a time, both traced",
            &[server, client],
            rpc::STREAMS,
        ),
    ] {
        figures.push(bench.measure(name, pids, &mut |seconds| pair.run(work, seconds))?);
    }
    drop(pair);
    let attach = time_attaching(&skyprobe, &program)?;

    let report = Report {
        figures,
        attach,
        pairs: options.pairs,
        seconds: options.seconds,
    };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}", report.table());
    }
    if options.write {
        report.write(&build::root().join("docs/performance.md"))?;
    }
    Ok(())
}

/// Builds a program of `tests/targets/go`, all of whose modules are there.
fn build_program(directory: &Path, name: &str) -> Result<std::path::PathBuf> {
    let go = go::current()?;
    step(format!("building the program {name} (go build)"));
    let program = directory.join(name);
    let mut command = Command::new(go);
    command
        .args(["build", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(build::root().join("tests/targets/go").join(name));
    command.envs([
        ("CGO_ENABLED", "0"),
        ("GOPROXY", "off"),
        ("GOTOOLCHAIN", "local"),
        ("GOFLAGS", "-buildvcs=false"),
    ]);
    check(&mut command).context("build the program to be measured")?;
    Ok(program)
}

/// Programs that ask each other in a row; the first is the one under load.
struct Chain {
    front: SocketAddr,
    programs: Vec<Running>,
}

impl Chain {
    fn start(program: &Path, length: usize) -> Result<Self> {
        let mut programs = Vec::new();
        let mut next: Option<SocketAddr> = None;
        for _ in 0..length {
            let address = free_address()?;
            let mut command = Command::new(program);
            command.args(["-listen", &address.to_string()]);
            if let Some(next) = next {
                command.args(["-next", &format!("http://{next}/chain")]);
            }
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            programs.push(Running::start("bench", &mut command)?);
            ensure!(
                wait_until(START_TIMEOUT, || TcpStream::connect(address).is_ok()),
                "the program does not listen on {address}"
            );
            next = Some(address);
        }
        Ok(Self {
            front: next.context("a chain has a front")?,
            programs,
        })
    }

    fn pids(&self) -> impl Iterator<Item = u32> {
        self.programs.iter().map(Running::pid)
    }
}

fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    listener.local_addr().context("find a free port")
}

/// What all programs are measured with.
struct Bench<'a> {
    skyprobe: &'a Path,
    options: &'a Options,
}

/// Puts the programs under load for some seconds.
type Press<'a> = dyn FnMut(u32) -> Result<Measured> + 'a;

impl Bench<'_> {
    /// The turns of the programs `pids`, which are traced every second time.
    fn measure(&self, name: &str, pids: &[u32], press: &mut Press<'_>) -> Result<Figures> {
        let Options { pairs, seconds, .. } = *self.options;
        step(format!(
            "{name}: {pairs} pairs of {seconds} s untraced and traced"
        ));
        // Connections, caches and the Go scheduler settle first.
        press(seconds)?;
        let mut turns = Vec::new();
        for _ in 0..pairs {
            let untraced = turn(pids, seconds, press)?;
            let probe = Probe::attach(self.skyprobe, pids.iter().copied())?;
            let before = probe.cpu()?;
            let traced = turn(pids, seconds, press)?;
            let probe_cpu = probe.cpu()?.saturating_sub(before);
            let probe_rss_bytes = probe.rss_bytes()?;
            let account = probe.stop()?;
            turns.push(Turn {
                untraced,
                traced,
                probe_cpu_s: probe_cpu.as_secs_f64(),
                probe_rss_bytes,
                account,
            });
        }
        Ok(Figures {
            name: name.to_owned(),
            turns,
            hits: self.count_hits(pids, press)?,
        })
    }

    fn count_hits(&self, pids: &[u32], press: &mut Press<'_>) -> Result<Hits> {
        let probe = Probe::attach(self.skyprobe, pids.iter().copied())?;
        let counting = Counting::begin()?;
        let (runs, ns) = hits::runs(probe.running.pid())?;
        let requests = press(COUNTED_S)?.requests as f64;
        let (runs_after, ns_after) = hits::runs(probe.running.pid())?;
        drop(counting);
        probe.stop()?;
        Ok(Hits {
            per_request: (runs_after - runs) as f64 / requests,
            ns_per_request: (ns_after - ns) as f64 / requests,
        })
    }
}

fn turn(pids: &[u32], seconds: u32, press: &mut Press<'_>) -> Result<Measured> {
    let cpu = || -> Duration { pids.iter().filter_map(|pid| load::cpu(*pid).ok()).sum() };
    let before = cpu();
    let mut measured = press(seconds)?;
    measured.cpu_s = cpu().saturating_sub(before).as_secs_f64();
    Ok(measured)
}

/// skyprobe, attached and reporting to nowhere: segments are made and written, to /dev/null.
struct Probe {
    running: Running,
    stderr: std::path::PathBuf,
    _scratch: tempfile::TempDir,
    ready_in: Duration,
}

impl Probe {
    #[expect(clippy::disallowed_methods, reason = "a tool that measures reads a clock")]
    fn attach(skyprobe: &Path, pids: impl Iterator<Item = u32>) -> Result<Self> {
        let scratch = tempfile::tempdir().context("make a temporary directory")?;
        let stderr = scratch.path().join("stderr");
        let mut command = Command::new(skyprobe);
        command.args(["run", "--export", "json", "--output", "/dev/null"]);
        for pid in pids {
            command.args(["--pid", &pid.to_string()]);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&stderr)?);
        let begin = Instant::now();
        let mut running = Running::start("skyprobe", &mut command)?;
        let mut ended;
        let is_ready = || {
            fs::read_to_string(&stderr).is_ok_and(|text| text.lines().any(|line| line.starts_with("ready")))
        };
        let ready = loop {
            ended = running.ended()?;
            if ended.is_some() || is_ready() {
                break ended.is_none();
            }
            if begin.elapsed() > START_TIMEOUT {
                break false;
            }
            // Finer than `wait_until`: this is one of the figures.
            std::thread::sleep(Duration::from_millis(1));
        };
        let ready_in = begin.elapsed();
        if let Some(status) = ended {
            bail!(
                "skyprobe ended before it was ready: {status}: {}",
                fs::read_to_string(&stderr)?
            );
        }
        ensure!(
            ready,
            "skyprobe was not ready within {} s",
            START_TIMEOUT.as_secs()
        );
        Ok(Self {
            running,
            stderr,
            _scratch: scratch,
            ready_in,
        })
    }

    fn cpu(&self) -> Result<Duration> {
        load::cpu(self.running.pid())
    }

    /// Now, and at most.
    fn rss_bytes(&self) -> Result<(u64, u64)> {
        load::rss_bytes(self.running.pid())
    }

    /// What it said at its end.
    fn stop(self) -> Result<String> {
        self.running.stop()?;
        Ok(fs::read_to_string(&self.stderr)?)
    }
}

/// How long attaching takes: to Debian's Prometheus, a large and stripped program that nobody here built, and to a
/// small one.
fn time_attaching(skyprobe: &Path, small: &Path) -> Result<Attach> {
    step("attaching to a large binary and to a small one");
    let large = debian::unpacked("prometheus")?.join("usr/bin/prometheus");
    let program_bytes = fs::metadata(&large)
        .with_context(|| format!("look at {}", large.display()))?
        .len();
    let scratch = tempfile::tempdir().context("make a temporary directory")?;
    let config = scratch.path().join("prometheus.yml");
    fs::write(&config, "scrape_configs: []\n")?;
    let address = free_address()?;
    let mut command = Command::new(&large);
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            scratch.path().join("data").display()
        ))
        .arg(format!("--web.listen-address={address}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let prometheus = Running::start("prometheus", &mut command)?;
    ensure!(
        wait_until(START_TIMEOUT, || TcpStream::connect(address).is_ok()),
        "prometheus does not listen"
    );
    let (large_ms, peak_rss_bytes) = attach_often(skyprobe, prometheus.pid())?;
    drop(prometheus);
    let chain = Chain::start(small, 1)?;
    let pid = chain.pids().next().context("a chain has a program")?;
    let (small_ms, _) = attach_often(skyprobe, pid)?;
    Ok(Attach {
        program: "Debian's prometheus".to_owned(),
        program_bytes,
        large_ms,
        small_ms,
        peak_rss_bytes,
    })
}

/// Median milliseconds to `ready`, and the highest peak of memory.
fn attach_often(skyprobe: &Path, pid: u32) -> Result<(f64, u64)> {
    let mut times_ms = Vec::new();
    let mut peak_bytes = 0;
    for _ in 0..5 {
        let probe = Probe::attach(skyprobe, [pid].into_iter())?;
        times_ms.push(probe.ready_in.as_secs_f64() * 1e3);
        peak_bytes = peak_bytes.max(probe.rss_bytes()?.1);
        probe.stop()?;
    }
    times_ms.sort_by(f64::total_cmp);
    Ok((
        times_ms.get(times_ms.len() / 2).copied().unwrap_or(f64::NAN),
        peak_bytes,
    ))
}
