//! The figures of a run: medians, ratios, and how far they spread.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{
    aims,
    hits::Hits,
    load::{CONNECTIONS, Latency, Measured},
    rest::{Attach, Rest},
    rpc,
    sink::Reported,
    variant::By,
};

/// Where the tables stand in docs/performance.md.
const BEGIN: &str = "<!-- made by `cargo xtask bench --write`: begin -->";
const END: &str = "<!-- made by `cargo xtask bench --write`: end -->";

/// What one that traces costs in a round.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Turn {
    pub(super) saturated: Measured,
    pub(super) steady: Measured,
    /// Where it is another process that traces.
    pub(super) probe: Option<Cost>,
    /// In both.
    pub(super) reported: Reported,
    pub(super) sink_cpu_s: f64,
}

/// What the probe itself took.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Cost {
    /// Processor time while the programs were asked for all they bear.
    pub(super) saturated_cpu_s: f64,
    pub(super) steady_cpu_s: f64,
    /// At the end of the turn, and at most since it started.
    pub(super) rss_bytes: u64,
    pub(super) peak_rss_bytes: u64,
    /// With what else runs then.
    pub(super) attach_ms: f64,
    pub(super) detach_ms: f64,
    /// What the probe said at its end.
    pub(super) account: String,
}

/// One row's rounds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    pub(super) name: &'static str,
    /// Of a request.
    pub(super) spans: u32,
    pub(super) segments: u32,
    /// The fixed one, requests a second.
    pub(super) rate: f64,
    pub(super) rounds: Vec<BTreeMap<By, Turn>>,
    pub(super) hits: Hits,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub(super) figures: Vec<Figures>,
    pub(super) rest: Option<Rest>,
    pub(super) rounds: u32,
    pub(super) seconds: u32,
}

/// The middle, the lowest and the highest of some numbers.
pub(super) struct Spread {
    pub(super) median: f64,
    lowest: f64,
    highest: f64,
}

impl Spread {
    pub(super) fn of(numbers: impl Iterator<Item = f64>) -> Self {
        let mut numbers: Vec<f64> = numbers.collect();
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

    /// As a ratio with its spread.
    fn ratio(&self) -> String {
        format!(
            "**{:.2}** ({:.2} to {:.2})",
            self.median, self.lowest, self.highest
        )
    }
}

impl Turn {
    /// Of the programs and of the probe, µs a request at saturation.
    fn saturated_us(&self) -> f64 {
        self.saturated.cpu_us_per_request() + self.probe_us()
    }

    /// The same at the fixed rate.
    pub(super) fn steady_us(&self) -> f64 {
        let probe_s = self.probe.as_ref().map_or(0.0, |probe| probe.steady_cpu_s);
        self.steady.cpu_us_per_request() + probe_s * 1e6 / self.steady.requests.max(1) as f64
    }

    /// Of the probe alone, µs a request at saturation.
    pub(super) fn probe_us(&self) -> f64 {
        let probe_s = self.probe.as_ref().map_or(0.0, |probe| probe.saturated_cpu_s);
        probe_s * 1e6 / self.saturated.requests.max(1) as f64
    }

    pub(super) fn p99_ms(&self) -> f64 {
        self.latency(|latency| latency.p99_ms)
    }

    fn latency(&self, of: impl Fn(&Latency) -> f64) -> f64 {
        self.steady.latency.as_ref().map_or(f64::NAN, of)
    }
}

impl Figures {
    /// Whoever traces, in the order of their names here.
    fn by(&self) -> impl Iterator<Item = By> {
        self.rounds.first().into_iter().flat_map(BTreeMap::keys).copied()
    }

    pub(super) fn spread(&self, by: By, of: impl Fn(&Turn) -> f64) -> Spread {
        Spread::of(self.rounds.iter().filter_map(|round| round.get(&by)).map(of))
    }

    /// Of two that trace, round by round.
    pub(super) fn compared(&self, by: By, with: By, of: impl Fn(&Turn, &Turn) -> f64) -> Spread {
        let rounds = self.rounds.iter();
        Spread::of(rounds.filter_map(|round| Some(of(round.get(&by)?, round.get(&with)?))))
    }

    /// What it adds to the processor time of a request, µs at the fixed rate.
    pub(super) fn added_us(&self, by: By) -> f64 {
        self.compared(by, By::Nobody, |turn, untraced| {
            turn.steady_us() - untraced.steady_us()
        })
        .median
    }

    /// Which share of what the requests have to tell has come to the sink.
    fn reported(&self, by: By) -> f64 {
        self.spread(by, |turn| {
            let requests = (turn.saturated.requests + turn.steady.requests) as f64;
            let spans = turn.reported.spans as f64 / f64::from(self.spans);
            let segments = turn.reported.segments as f64 / f64::from(self.segments);
            spans.max(segments) / requests
        })
        .median
    }
}

impl Report {
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "{} rounds, turns of {} s, medians (lowest to highest of the ratios, which are taken round by round).\n\n",
            self.rounds, self.seconds
        );
        self.write_saturated(&mut text);
        self.write_steady(&mut text);
        self.write_probe(&mut text);
        if let Some(rest) = &self.rest {
            write_rest(rest, &mut text);
        }
        aims::write(self, &mut text);
        text.trim_end().to_owned()
    }

    // Writing to a string cannot fail.

    fn write_saturated(&self, text: &mut String) {
        let _ = write!(
            text,
            "As many requests as the programs bear: by `wrk` on {CONNECTIONS} connections; by gRPC {} calls at a time \
             on {} connections, or {} streams on {}, each of {} messages there and back. The load's generator, the \
             programs, the probe and the sink share the machine's cores. Reported is what came to the sink of what the \
             requests had to tell, at saturation and at the fixed rate together.\n\n\
             | program | traced by | requests a second | of untraced | CPU of the programs, µs a request | CPU of the \
             probe, µs a request | added, µs a request | reported |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- |\n",
            rpc::UNARY.callers,
            rpc::UNARY.connections,
            rpc::STREAMS.callers,
            rpc::STREAMS.connections,
            rpc::STREAM_MESSAGES,
        );
        for (figures, by) in self.lines() {
            let median = |of: fn(&Turn) -> f64| figures.spread(by, of).median;
            let rate = |turn: &Turn| turn.saturated.requests_per_s;
            let programs = median(|turn| turn.saturated.cpu_us_per_request());
            let _ = write!(text, "| {} | {} | {:.0} ", figures.name, by.name(), median(rate));
            if by == By::Nobody {
                let _ = writeln!(text, "| | {programs:.1} | | | |");
                continue;
            }
            let ratio = figures.compared(by, By::Nobody, |turn, untraced| rate(turn) / rate(untraced));
            let added = figures.compared(by, By::Nobody, |turn, untraced| {
                turn.saturated_us() - untraced.saturated_us()
            });
            let probe = figures
                .has_probe(by)
                .then(|| format!("{:.2}", median(Turn::probe_us)));
            let _ = writeln!(
                text,
                "| {} | {programs:.1} | {} | {:.1} | {:.0} % |",
                ratio.ratio(),
                probe.unwrap_or_default(),
                added.median,
                figures.reported(by) * 100.0
            );
        }
        text.push('\n');
    }

    fn write_steady(&self, text: &mut String) {
        text.push_str(
            "At a fixed rate, half of what the untraced programs bore before the first round. A request's time begins \
             when it was due.\n\n\
             | program | traced by | p50 ms | p99 ms | p99 of untraced | p99.9 ms | CPU of programs and probe, µs a \
             request | added, µs a request | failed |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        );
        for (figures, by) in self.lines() {
            let median = |of: fn(&Turn) -> f64| figures.spread(by, of).median;
            let (ratio, added) = if by == By::Nobody {
                Default::default()
            } else {
                let p99 =
                    figures.compared(by, By::Nobody, |turn, untraced| turn.p99_ms() / untraced.p99_ms());
                (p99.ratio(), format!("{:.1}", figures.added_us(by)))
            };
            let failed = |turn: &Turn| turn.steady.errors + turn.saturated.errors;
            let turns = figures.rounds.iter().filter_map(|round| round.get(&by));
            let _ = writeln!(
                text,
                "| {}, {:.0}/s | {} | {:.2} | {:.2} | {ratio} | {:.2} | {:.1} | {added} | {} |",
                figures.name,
                figures.rate,
                by.name(),
                median(|turn| turn.latency(|latency| latency.p50_ms)),
                median(Turn::p99_ms),
                median(|turn| turn.latency(|latency| latency.p999_ms)),
                median(Turn::steady_us),
                turns.map(failed).sum::<u64>(),
            );
        }
        text.push('\n');
    }

    fn write_probe(&self, text: &mut String) {
        text.push_str(
            "The probe itself. Hits were counted by the kernel in a turn of their own.\n\n\
             | program | hits a request (µs in them) | CPU, µs a span | RSS (peak) MB |\n\
             | --- | --- | --- | --- |\n",
        );
        for figures in &self.figures {
            let _ = writeln!(
                text,
                "| {} | {:.1} ({:.1}) | {:.2} | {:.1} ({:.1}) |",
                figures.name,
                figures.hits.per_request,
                figures.hits.ns_per_request / 1e3,
                figures.probe_us_per_span(),
                megabytes(figures.highest(|cost| cost.rss_bytes)),
                megabytes(figures.highest(|cost| cost.peak_rss_bytes)),
            );
        }
        text.push('\n');
    }

    fn lines(&self) -> impl Iterator<Item = (&Figures, By)> {
        self.figures
            .iter()
            .flat_map(|figures| figures.by().map(move |by| (figures, by)))
    }

    /// Puts the tables between their marks.
    pub(super) fn write(&self, page: &Path) -> Result<()> {
        let text = fs::read_to_string(page).with_context(|| format!("read {}", page.display()))?;
        let (before, rest) = text
            .split_once(BEGIN)
            .context("the page has no mark for the tables")?;
        let (_, after) = rest
            .split_once(END)
            .context("the page has no mark for the tables' end")?;
        let text = format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", self.text());
        fs::write(page, text).with_context(|| format!("write {}", page.display()))
    }
}

impl Figures {
    fn has_probe(&self, by: By) -> bool {
        let mut turns = self.rounds.iter().filter_map(|round| round.get(&by));
        turns.any(|turn| turn.probe.is_some())
    }

    pub(super) fn probe_us_per_span(&self) -> f64 {
        self.spread(By::Skyprobe, Turn::probe_us).median / f64::from(self.spans)
    }

    pub(super) fn highest(&self, of: impl Fn(&Cost) -> u64) -> u64 {
        let turns = self.rounds.iter().filter_map(|round| round.get(&By::Skyprobe));
        turns
            .filter_map(|turn| turn.probe.as_ref())
            .map(of)
            .max()
            .unwrap_or(0)
    }
}

fn write_rest(rest: &Rest, text: &mut String) {
    text.push_str(
        "Without load, medians of five; memory after the start, and at most.\n\n\
         | attached to | ready after ms | detached after ms | RSS (peak) MB |\n| --- | --- | --- | --- |\n",
    );
    let large = format!(
        "{} ({:.0} MB)",
        rest.large_program,
        megabytes(rest.large_program_bytes)
    );
    for (name, attach) in [("hello-world", &rest.small), (large.as_str(), &rest.large)] {
        let Attach {
            attach_ms,
            detach_ms,
            rss_bytes,
            peak_rss_bytes,
        } = *attach;
        let _ = writeln!(
            text,
            "| {name} | {attach_ms:.0} | {detach_ms:.0} | {:.1} ({:.1}) |",
            megabytes(rss_bytes),
            megabytes(peak_rss_bytes)
        );
    }
    let _ = writeln!(
        text,
        "\nWaiting for a program that does not come, among {} processes: {:.1} ms of processor time a second.\n",
        rest.idle_processes, rest.idle_cpu_ms_per_s
    );
}

pub(super) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_the_middle() {
        let odd = Spread::of([3.0, 1.0, 2.0].into_iter());
        assert_eq!((odd.lowest, odd.median, odd.highest), (1.0, 2.0, 3.0));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0].into_iter()).median, 2.5);
    }

    fn turn(requests: u64, cpu_s: f64, reported: Reported, probe_cpu_s: Option<f64>) -> Turn {
        let measured = Measured {
            requests_per_s: requests as f64,
            requests,
            cpu_s,
            ..Measured::default()
        };
        let cost = |cpu_s| Cost {
            saturated_cpu_s: cpu_s,
            steady_cpu_s: cpu_s,
            rss_bytes: 0,
            peak_rss_bytes: 0,
            attach_ms: 0.0,
            detach_ms: 0.0,
            account: String::new(),
        };
        Turn {
            saturated: measured,
            steady: measured,
            probe: probe_cpu_s.map(cost),
            reported,
            sink_cpu_s: 0.0,
        }
    }

    #[test]
    fn what_the_probe_takes_is_added_and_what_does_not_arrive_is_seen() {
        let segments = Reported {
            segments: 500,
            spans: 0,
        };
        let round = BTreeMap::from([
            (By::Nobody, turn(1000, 0.010, Reported::default(), None)),
            (By::Skyprobe, turn(1000, 0.013, segments, Some(0.002))),
        ]);
        let figures = Figures {
            name: "a row",
            spans: 1,
            segments: 1,
            rate: 1000.0,
            rounds: vec![round],
            hits: Hits {
                per_request: 2.0,
                ns_per_request: 0.0,
            },
        };
        assert!((figures.added_us(By::Skyprobe) - 5.0).abs() < 1e-9);
        assert!((figures.probe_us_per_span() - 2.0).abs() < 1e-9);
        assert!((figures.reported(By::Skyprobe) - 0.25).abs() < 1e-9);
    }
}
