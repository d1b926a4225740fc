//! What the project aims at, each with what this run has measured.

use std::fmt::Write as _;

use super::{
    report::{Figures, Report, megabytes},
    variant::By,
};

/// One aim.
struct Aim {
    what: String,
    bound: Bound,
    digits: usize,
    measured: f64,
}

enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn is_met(&self, measured: f64) -> bool {
        match self {
            Self::AtLeast(bound) => measured >= *bound,
            Self::AtMost(bound) => measured <= *bound,
        }
    }
}

/// The calls that a request of the chain makes, each of which gets a header.
const CALLS_OF_THE_CHAIN: f64 = 2.0;

/// Writes those of which the run has measured something.
pub(super) fn write(report: &Report, text: &mut String) {
    let aims = aims(report);
    if aims.is_empty() {
        return;
    }
    text.push_str("| aim | | measured | |\n| --- | --- | --- | --- |\n");
    for aim in aims {
        let Aim {
            what,
            bound,
            digits,
            measured,
        } = aim;
        let (sign, number) = match bound {
            Bound::AtLeast(number) => ("≥", number),
            Bound::AtMost(number) => ("≤", number),
        };
        let met = if bound.is_met(measured) {
            "met"
        } else {
            "**missed**"
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {what} | {sign} {number} | {measured:.digits$} | {met} |");
    }
}

fn aims(report: &Report) -> Vec<Aim> {
    let row = |name: &str| report.figures.iter().find(|figures| figures.name == name);
    let mut aims = Vec::new();
    let mut add = |what: &str, bound, digits, measured| {
        aims.push(Aim {
            what: what.to_owned(),
            bound,
            digits,
            measured,
        });
    };
    if let Some(hello) = row("hello-world") {
        let rate = hello.compared(By::Skyprobe, By::Nobody, |turn, untraced| {
            turn.saturated.requests_per_s / untraced.saturated.requests_per_s
        });
        let p99 = hello.compared(By::Skyprobe, By::Nobody, |turn, untraced| {
            turn.p99_ms() / untraced.p99_ms()
        });
        add(
            "requests of hello-world at saturation, of untraced",
            Bound::AtLeast(0.90),
            2,
            rate.median,
        );
        add(
            "p99 of hello-world at half load, of untraced",
            Bound::AtMost(1.05),
            2,
            p99.median,
        );
    }
    for figures in &report.figures {
        if figures
            .rounds
            .iter()
            .any(|round| round.contains_key(&By::OpenTelemetry))
        {
            let share = figures.added_us(By::Skyprobe) / figures.added_us(By::OpenTelemetry);
            let what = format!(
                "CPU that is added to a request at half load, of what OpenTelemetry's SDK adds: {}",
                figures.name
            );
            add(&what, Bound::AtMost(0.5), 2, share);
        }
    }
    let highest = |of: fn(&Figures) -> f64| report.figures.iter().map(of).max_by(f64::total_cmp);
    if let Some(us) = highest(Figures::probe_us_per_span) {
        add("CPU of the probe, µs a span", Bound::AtMost(2.0), 2, us);
        add(
            "spans a second that the probe takes on one core, by that",
            Bound::AtLeast(100_000.0),
            0,
            1e6 / us,
        );
    }
    if let Some(bytes) = report
        .figures
        .iter()
        .map(|f| f.highest(|cost| cost.rss_bytes))
        .max()
    {
        add("RSS under load, MB", Bound::AtMost(24.0), 1, megabytes(bytes));
    }
    if let Some(chain) = row("chain of three") {
        let headers = chain.compared(By::Skyprobe, By::SkyprobeWithoutHeaders, |with, without| {
            (with.steady_us() - without.steady_us()) / CALLS_OF_THE_CHAIN
        });
        add(
            "propagation by `socket`, µs of CPU a request that gets a header",
            Bound::AtMost(2.0),
            1,
            headers.median,
        );
    }
    if let Some(rest) = &report.rest {
        add(
            "RSS at the peak of attaching a 50 MB binary, MB",
            Bound::AtMost(64.0),
            1,
            megabytes(rest.large.peak_rss_bytes),
        );
        add(
            "ready after, ms: hello-world",
            Bound::AtMost(200.0),
            0,
            rest.small.attach_ms,
        );
        add(
            "ready after, ms: the 50 MB binary",
            Bound::AtMost(200.0),
            0,
            rest.large.attach_ms,
        );
        add(
            "CPU among 1,000 processes of which none is meant, ms a second",
            Bound::AtMost(1.0),
            1,
            rest.idle_cpu_ms_per_s,
        );
    }
    aims
}
