//! The figures of a run: medians, ratios, and how far they spread.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{
    hits::Hits,
    load::{self, Measured},
    rpc,
};

/// Where the table stands in docs/performance.md.
const BEGIN: &str = "<!-- made by `cargo xtask bench --write`: begin -->";
const END: &str = "<!-- made by `cargo xtask bench --write`: end -->";

/// An untraced and a traced turn, one after the other.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Turn {
    pub(super) untraced: Measured,
    pub(super) traced: Measured,
    /// Processor time of the probe in the traced turn.
    pub(super) probe_cpu_s: f64,
    /// Memory of the probe at the traced turn's end, and its peak since it started.
    pub(super) probe_rss_bytes: (u64, u64),
    /// What the probe said at its end.
    pub(super) account: String,
}

/// One program's turns.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    pub(super) name: String,
    pub(super) turns: Vec<Turn>,
    pub(super) hits: Hits,
}

/// Attaching to a large program.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Attach {
    pub(super) program: String,
    pub(super) program_bytes: u64,
    /// From the start of the probe to its `ready`, and the same for a program that is small: the difference is the
    /// binary's.
    pub(super) large_ms: f64,
    pub(super) small_ms: f64,
    pub(super) peak_rss_bytes: u64,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub(super) figures: Vec<Figures>,
    pub(super) attach: Attach,
    pub(super) pairs: u32,
    pub(super) seconds: u32,
}

/// The middle, the lowest and the highest of some numbers.
struct Spread {
    median: f64,
    lowest: f64,
    highest: f64,
}

impl Spread {
    fn of(mut numbers: Vec<f64>) -> Self {
        numbers.sort_by(f64::total_cmp);
        let middle = numbers.len() / 2;
        let at = |index: usize| numbers.get(index).copied().unwrap_or(f64::NAN);
        let median = if numbers.len() % 2 == 1 {
            at(middle)
        } else {
            f64::midpoint(at(middle.saturating_sub(1)), at(middle))
        };
        Self {
            median,
            lowest: at(0),
            highest: at(numbers.len().saturating_sub(1)),
        }
    }
}

impl Figures {
    fn spread(&self, of: impl Fn(&Turn) -> f64) -> Spread {
        Spread::of(self.turns.iter().map(of).collect())
    }
}

fn per_request_us(cpu_s: f64, measured: &Measured) -> f64 {
    cpu_s * 1e6 / measured.requests.max(1) as f64
}

impl Report {
    pub(super) fn table(&self) -> String {
        let mut text = format!(
            "{} pairs of {} s each, medians (lowest to highest); throughput at saturation by wrk on {} connections, \
             the load's generator on the same two cores. By gRPC the load comes from a client of our own: {} calls at a \
             time on {} connections, or {} streams on {}, each of {} messages there and back. Hits were counted by the \
             kernel in a turn of their own.\n\n",
            self.pairs,
            self.seconds,
            load::CONNECTIONS,
            rpc::UNARY.callers,
            rpc::UNARY.connections,
            rpc::STREAMS.callers,
            rpc::STREAMS.connections,
            rpc::STREAM_MESSAGES,
        );
        text.push_str(
            "| program | untraced req/s | traced / untraced | p50 ms | p99 ms | hits a request (µs in them) | CPU of the \
             traced programs, µs a request | CPU of the probe, µs a request | probe RSS (peak) MB | failed requests |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        );
        for figures in &self.figures {
            let ratio = figures.spread(|turn| turn.traced.requests_per_s / turn.untraced.requests_per_s);
            let median = |of: fn(&Turn) -> f64| figures.spread(of).median;
            let failed: u64 = figures.turns.iter().map(|turn| turn.traced.errors).sum();
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "| {} | {:.0} | **{:.2}** ({:.2} to {:.2}) | {:.2} → {:.2} | {:.2} → {:.2} | {:.1} ({:.1}) | {:.1} → {:.1} | \
                 {:.2} | {:.1} ({:.1}) | {failed} |",
                figures.name,
                median(|turn| turn.untraced.requests_per_s),
                ratio.median,
                ratio.lowest,
                ratio.highest,
                median(|turn| turn.untraced.p50_ms),
                median(|turn| turn.traced.p50_ms),
                median(|turn| turn.untraced.p99_ms),
                median(|turn| turn.traced.p99_ms),
                figures.hits.per_request,
                figures.hits.ns_per_request / 1e3,
                median(|turn| per_request_us(turn.untraced.cpu_s, &turn.untraced)),
                median(|turn| per_request_us(turn.traced.cpu_s, &turn.traced)),
                median(|turn| per_request_us(turn.probe_cpu_s, &turn.traced)),
                median(|turn| turn.probe_rss_bytes.0 as f64 / 1e6),
                figures.spread(|turn| turn.probe_rss_bytes.1 as f64 / 1e6).highest,
            );
        }
        let attach = &self.attach;
        let _ = write!(
            text,
            "\nAttaching to {} ({:.0} MB): ready after {:.0} ms, against {:.0} ms for a small program; the probe's peak \
             was {:.1} MB.\n",
            attach.program,
            attach.program_bytes as f64 / 1e6,
            attach.large_ms,
            attach.small_ms,
            attach.peak_rss_bytes as f64 / 1e6
        );
        text
    }

    /// Puts the table between its marks.
    pub(super) fn write(&self, page: &Path) -> Result<()> {
        let text = fs::read_to_string(page).with_context(|| format!("read {}", page.display()))?;
        let (before, rest) = text
            .split_once(BEGIN)
            .context("the page has no mark for the table")?;
        let (_, after) = rest
            .split_once(END)
            .context("the page has no mark for the table's end")?;
        let text = format!("{before}{BEGIN}\n\n{}\n{END}{after}", self.table());
        fs::write(page, text).with_context(|| format!("write {}", page.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_the_middle() {
        let odd = Spread::of(vec![3.0, 1.0, 2.0]);
        assert_eq!((odd.lowest, odd.median, odd.highest), (1.0, 2.0, 3.0));
        assert_eq!(Spread::of(vec![4.0, 1.0, 2.0, 3.0]).median, 2.5);
    }
}
