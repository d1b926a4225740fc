//! The account in Prometheus' text format.

use std::fmt::{Display, Write as _};

use crate::{
    status::Own,
    telemetry::Account,
    version::{BUILD, VERSION},
};

/// Metrics in the order in which they are told.
struct Text(String);

impl Text {
    /// Begins a metric.
    fn metric(&mut self, name: &str, kind: &str, help: &str) {
        let _infallible = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// A line of it. Labels are our own words, in which nothing has to be escaped.
    fn line(&mut self, name: &str, labels: &str, value: impl Display) {
        let _infallible = if labels.is_empty() {
            writeln!(self.0, "{name} {value}")
        } else {
            writeln!(self.0, "{name}{{{labels}}} {value}")
        };
    }
}

pub(super) fn text(account: &Account, own: Own) -> String {
    let mut text = Text(String::with_capacity(8 * 1024));
    let gone = account.lost_after_production();
    let name = "skyprobe_segments_total";
    text.metric(name, "counter", "Segments finished, and what became of them.");
    text.line(name, r#"outcome="produced""#, account.produced.segments);
    text.line(name, r#"outcome="exported""#, account.exported.segments);
    text.line(name, r#"outcome="lost""#, gone.segments);
    let name = "skyprobe_spans_total";
    text.metric(
        name,
        "counter",
        "Spans in finished segments, and what became of them.",
    );
    text.line(name, r#"outcome="produced""#, account.produced.spans);
    text.line(name, r#"outcome="exported""#, account.exported.spans);
    text.line(name, r#"outcome="lost""#, gone.spans);
    let name = "skyprobe_pending_segments";
    text.metric(name, "gauge", "Segments on their way to the exporter's end.");
    text.line(name, "", account.pending_segments());

    let name = "skyprobe_lost_spans_total";
    text.metric(
        name,
        "counter",
        "Spans lost, by the side that lost them and the reason.",
    );
    let label = |side: &str, reason: &str| format!(r#"side="{side}",reason="{reason}""#);
    for (loss, tally) in &account.lost {
        text.line(name, &label("user", loss.name()), tally.spans);
    }
    for loss in account.tracer.iter().filter(|loss| loss.loses_span) {
        text.line(name, &label("tracer", loss.name), loss.count);
    }
    for (reason, count) in account.kernel.iter().filter(|(reason, _)| reason.loses_span()) {
        text.line(name, &label("kernel", reason.name()), count);
    }
    let name = "skyprobe_degraded_total";
    text.metric(
        name,
        "counter",
        "What cost no span, but a link, a name or time, by side and reason.",
    );
    for loss in account.tracer.iter().filter(|loss| !loss.loses_span) {
        text.line(name, &label("tracer", loss.name), loss.count);
    }
    for (reason, count) in account.kernel.iter().filter(|(reason, _)| !reason.loses_span()) {
        text.line(name, &label("kernel", reason.name()), count);
    }

    let sampled = account.sampled;
    let name = "skyprobe_sampling_requests_total";
    text.metric(
        name,
        "counter",
        "Requests, and calls without one: decided here, sampled of these, sampled because their callers were, kept for an \
         error or for being slow.",
    );
    for (outcome, count) in [
        ("decided", sampled.decided),
        ("sampled", sampled.sampled),
        ("followed", sampled.followed),
        ("kept", sampled.kept),
    ] {
        text.line(name, &format!(r#"outcome="{outcome}""#), count);
    }
    let name = "skyprobe_sampling_left_out_spans_total";
    text.metric(name, "counter", "Spans that were not sampled.");
    text.line(name, "", sampled.left_out);

    let name = "process_cpu_seconds_total";
    text.metric(name, "counter", "Processor time of the probe, in seconds.");
    let (seconds, ns) = (own.cpu_ns / 1_000_000_000, own.cpu_ns % 1_000_000_000);
    text.line(name, "", format_args!("{seconds}.{ns:09}"));
    let name = "process_resident_memory_bytes";
    text.metric(name, "gauge", "Memory of the probe that is resident, in bytes.");
    text.line(name, "", own.resident_bytes);
    let name = "skyprobe_build_info";
    text.metric(
        name,
        "gauge",
        "1, with the probe's version and the source that it was built of.",
    );
    let labels = format!(r#"version="{VERSION}",build="{BUILD}""#);
    text.line(name, &labels, 1);
    text.0
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use probe_common::loss::LossReason;

    use super::*;
    use crate::telemetry::{Loss, Tally, Telemetry};

    #[test]
    fn each_reason_has_a_line_and_no_line_comes_twice() {
        let telemetry = Telemetry::default();
        telemetry.produced(Tally {
            segments: 5,
            spans: 9,
        });
        telemetry.exported(Tally {
            segments: 3,
            spans: 6,
        });
        telemetry.lost(
            Loss::QueueFull,
            Tally {
                segments: 1,
                spans: 2,
            },
        );
        telemetry.kernel_lost(LossReason::RingFull, 7);
        telemetry.tracer_lost("call_late", false, 4);
        let own = Own {
            cpu_ns: 1_500_000_000,
            resident_bytes: 4_096,
        };
        let text = text(&telemetry.account(), own);
        for line in [
            r#"skyprobe_spans_total{outcome="produced"} 9"#,
            r#"skyprobe_segments_total{outcome="lost"} 1"#,
            "skyprobe_pending_segments 1",
            r#"skyprobe_lost_spans_total{side="user",reason="queue_full"} 2"#,
            r#"skyprobe_lost_spans_total{side="kernel",reason="ring_full"} 7"#,
            r#"skyprobe_degraded_total{side="tracer",reason="call_late"} 4"#,
            "process_cpu_seconds_total 1.500000000",
        ] {
            assert!(
                text.lines().any(|other| other == line),
                "{line} is not in\n{text}"
            );
        }
        let series: Vec<&str> = text
            .lines()
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(it, _)| it)
            .collect();
        let values = series.iter().filter(|line| !line.starts_with('#'));
        assert_eq!(values.clone().collect::<HashSet<_>>().len(), values.count());
        for reason in LossReason::ALL {
            assert!(
                text.contains(&format!("reason=\"{}\"", reason.name())),
                "{reason:?}"
            );
        }
    }
}
