//! One turn of load, and what it tells.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::process::read;

/// Connections held open: with 16 of them, and one thread to drive them, a sixth of two cores lay idle, and what was
/// measured was how long a wake-up takes.
pub(super) const CONNECTIONS: u32 = 64;
/// Threads of the load's generator, so that it is not the one core that bounds the load.
const THREADS: u32 = 2;

/// A load by `wrk`.
pub(super) struct Load {
    pub(super) url: String,
    pub(super) seconds: u32,
}

/// What a turn brought.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Measured {
    pub(super) requests_per_s: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) requests: u64,
    /// Answers that were no success, and connections that failed.
    pub(super) errors: u64,
    /// Processor time of the programs that are measured.
    #[serde(skip_deserializing)]
    pub(super) cpu_s: f64,
}

impl Load {
    pub(super) fn run(&self) -> Result<Measured> {
        let mut command = Command::new("wrk");
        command.args([
            "-t",
            &THREADS.to_string(),
            "-c",
            &CONNECTIONS.to_string(),
            "-d",
            &format!("{}s", self.seconds),
        ]);
        command.args(["--latency", &self.url]);
        let said = read(&mut command).with_context(|| format!("run wrk against {}", self.url))?;
        let measured = parse(&said).with_context(|| format!("understand what wrk said: {said}"))?;
        ensure!(measured.requests > 0, "wrk got no answer from {}", self.url);
        Ok(measured)
    }
}

/// What `wrk --latency` prints.
fn parse(said: &str) -> Option<Measured> {
    let after = |label: &str| {
        let line = said.lines().find(|line| line.trim_start().starts_with(label))?;
        line.trim_start().strip_prefix(label)?.split_whitespace().next()
    };
    let requests = said
        .lines()
        .find(|line| line.contains(" requests in "))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()?;
    let not_ok = after("Non-2xx or 3xx responses:")
        .and_then(|number| number.parse().ok())
        .unwrap_or(0);
    let socket_errors = said
        .lines()
        .find(|line| line.trim_start().starts_with("Socket errors:"))
        .map_or(0, |line| {
            line.split(|c: char| !c.is_ascii_digit())
                .filter_map(|number| number.parse::<u64>().ok())
                .sum()
        });
    Some(Measured {
        requests_per_s: after("Requests/sec:")?.parse().ok()?,
        p50_ms: milliseconds(after("50%")?)?,
        p99_ms: milliseconds(after("99%")?)?,
        requests,
        errors: not_ok + socket_errors,
        cpu_s: 0.0,
    })
}

fn milliseconds(text: &str) -> Option<f64> {
    for (unit, factor) in [("us", 0.001), ("ms", 1.0), ("s", 1000.0)] {
        if let Some(number) = text.strip_suffix(unit) {
            return number.parse::<f64>().ok().map(|number| number * factor);
        }
    }
    None
}

/// Processor time that the process has used.
pub(super) fn cpu(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("read the times of {pid}"))?;
    // The name may hold anything but ends with the last parenthesis.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |index: usize| {
        fields
            .get(index)
            .and_then(|field| field.parse::<u64>().ok())
            .unwrap_or(0)
    };
    // SAFETY: a plain library call.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    let per_second = u64::try_from(per_second).unwrap_or(100).max(1);
    Ok(Duration::from_nanos(
        (ticks(11) + ticks(12)) * (1_000_000_000 / per_second),
    ))
}

/// Memory of the process that is in use, and the most there ever was.
pub(super) fn rss_bytes(pid: u32) -> Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("read the memory of {pid}"))?;
    let kilobytes = |label: &str| {
        let line = status.lines().find(|line| line.starts_with(label));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .unwrap_or(0)
    };
    Ok((kilobytes("VmRSS:") * 1024, kilobytes("VmHWM:") * 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "Running 2s test @ http://127.0.0.1:9090/hello
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   310.11us  213.05us   5.20ms   86.19%
    Req/Sec    52.13k     3.01k   57.85k    65.00%
  Latency Distribution
     50%  268.00us
     75%  374.00us
     90%  530.00us
     99%    1.09ms
  103745 requests in 2.00s, 12.66MB read
  Socket errors: connect 0, read 1, write 0, timeout 2
  Non-2xx or 3xx responses: 4
Requests/sec:  51857.27
Transfer/sec:      6.33MB
";

    #[test]
    fn what_wrk_says_is_understood() {
        let measured = parse(SAID).expect("understood");
        assert_eq!(measured.requests, 103_745);
        assert!((measured.requests_per_s - 51857.27).abs() < 1e-6);
        assert!((measured.p50_ms - 0.268).abs() < 1e-9);
        assert!((measured.p99_ms - 1.09).abs() < 1e-9);
        assert_eq!(measured.errors, 7);
        assert!(parse("Running").is_none());
    }
}
