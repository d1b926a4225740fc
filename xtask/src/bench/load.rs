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

/// What a turn brought.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Measured {
    pub(super) requests_per_s: f64,
    pub(super) requests: u64,
    /// Answers that were no success, and connections that failed.
    pub(super) errors: u64,
    /// How long requests took, at a fixed rate only: at saturation that tells how many were under way.
    pub(super) latency: Option<Latency>,
    /// Processor time of the programs that are measured.
    #[serde(default)]
    pub(super) cpu_s: f64,
}

/// How long requests took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Latency {
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) p999_ms: f64,
}

impl Latency {
    pub(super) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let last = times.len().saturating_sub(1) as f64;
        let at = |share: f64| {
            let time = times.get((share * last) as usize);
            time.map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
        };
        Self {
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
        }
    }
}

impl Measured {
    pub(super) fn cpu_us_per_request(&self) -> f64 {
        self.cpu_s * 1e6 / self.requests.max(1) as f64
    }
}

/// Has `wrk` ask for the URL as often as it can.
pub(super) fn saturate(url: &str, seconds: u32) -> Result<Measured> {
    let mut command = Command::new("wrk");
    command
        .args(["-t", &THREADS.to_string()])
        .args(["-c", &CONNECTIONS.to_string()])
        .args(["-d", &format!("{seconds}s"), url]);
    let said = read(&mut command).with_context(|| format!("run wrk against {url}"))?;
    let measured = parse(&said).with_context(|| format!("understand what wrk said: {said}"))?;
    ensure!(measured.requests > 0, "wrk got no answer from {url}");
    Ok(measured)
}

/// What `wrk` prints.
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
        requests,
        errors: not_ok + socket_errors,
        latency: None,
        cpu_s: 0.0,
    })
}

/// Processor time that the process has used, to the nanosecond: of a turn of seconds /proc's ticks would be a hundredth.
pub(super) fn cpu(pid: u32) -> Result<Duration> {
    let mut clock = 0;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let pid_t = libc::pid_t::try_from(pid).context("a process's number")?;
    // SAFETY: both write into a place of their own that lives meanwhile.
    let failed = unsafe {
        libc::clock_getcpuclockid(pid_t, &raw mut clock) != 0
            || libc::clock_gettime(clock, &raw mut time) != 0
    };
    ensure!(!failed, "the processor time of {pid} cannot be read");
    Ok(Duration::new(
        u64::try_from(time.tv_sec)?,
        u32::try_from(time.tv_nsec)?,
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
        assert_eq!(measured.errors, 7);
        assert!(parse("Running").is_none());
    }

    #[test]
    fn shares_of_times_are_told() {
        let times = (0..=1000).rev().map(Duration::from_millis).collect();
        let Latency {
            p50_ms,
            p99_ms,
            p999_ms,
        } = Latency::of(times);
        assert_eq!((p50_ms, p99_ms, p999_ms), (500.0, 990.0, 999.0));
    }

    #[test]
    fn processor_time_is_what_was_worked_and_not_what_was_waited() {
        let before = cpu(std::process::id()).expect("our own time");
        std::thread::sleep(Duration::from_millis(30));
        let waited = cpu(std::process::id()).expect("our own time") - before;
        assert!(waited < Duration::from_millis(30), "{waited:?}");
        let mut x = 1_u64;
        while cpu(std::process::id()).expect("our own time") - before < Duration::from_millis(10) {
            x = std::hint::black_box(x.wrapping_mul(31));
        }
    }
}
