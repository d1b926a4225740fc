//! What there is to measure, in the order in which it is told.

use super::text::{Form, Kind, Seconds, Text, escaped};
use crate::{
    requests::{BOUNDS_NS, Table},
    status::{Own, Status, Tracing},
    telemetry::Account,
    version::{BUILD, VERSION},
};

pub(super) fn text(form: Form, account: &Account, own: Own, status: &Status, requests: &Table) -> String {
    let mut text = Text::new(form);
    counters(&mut text, account);
    probe(&mut text, own, status);
    if let Some(tracing) = &status.tracing {
        traced(&mut text, tracing);
    }
    durations(&mut text, requests);
    text.finish()
}

/// What became of segments and spans.
fn counters(text: &mut Text, account: &Account) {
    let gone = account.lost_after_production();
    let name = "skyprobe_segments_total";
    text.metric(name, Kind::Counter, "Segments finished, and what became of them.");
    text.line(name, r#"outcome="produced""#, account.produced.segments);
    text.line(name, r#"outcome="exported""#, account.exported.segments);
    text.line(name, r#"outcome="lost""#, gone.segments);
    let name = "skyprobe_spans_total";
    text.metric(
        name,
        Kind::Counter,
        "Spans in finished segments, and what became of them.",
    );
    text.line(name, r#"outcome="produced""#, account.produced.spans);
    text.line(name, r#"outcome="exported""#, account.exported.spans);
    text.line(name, r#"outcome="lost""#, gone.spans);
    let name = "skyprobe_pending_segments";
    text.metric(name, Kind::Gauge, "Segments on their way to the exporter's end.");
    text.line(name, "", account.pending_segments());

    let name = "skyprobe_lost_spans_total";
    text.metric(
        name,
        Kind::Counter,
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
        Kind::Counter,
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
        Kind::Counter,
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
    text.metric(name, Kind::Counter, "Spans that were not sampled.");
    text.line(name, "", sampled.left_out);
}

/// The probe itself, and its way to the exporter.
fn probe(text: &mut Text, own: Own, status: &Status) {
    let name = "process_cpu_seconds_total";
    text.metric(name, Kind::Counter, "Processor time of the probe, in seconds.");
    text.line(name, "", Seconds(own.cpu_ns));
    let name = "process_resident_memory_bytes";
    text.metric(
        name,
        Kind::Gauge,
        "Memory of the probe that is resident, in bytes.",
    );
    text.line(name, "", own.resident_bytes);
    let name = "skyprobe_build_info";
    text.metric(
        name,
        Kind::Gauge,
        "1, with the probe's version and the source that it was built of.",
    );
    let labels = format!(r#"version="{}",build="{}""#, escaped(VERSION), escaped(BUILD));
    text.line(name, &labels, 1);
    let name = "skyprobe_queue_segments";
    text.metric(name, Kind::Gauge, "Segments that wait for the exporter.");
    text.line(name, "", status.export.waiting_segments);
    let name = "skyprobe_queue_capacity_segments";
    text.metric(name, Kind::Gauge, "How many may wait; more are lost.");
    text.line(name, "", status.export.queue_segments);
    if let Some(oap) = &status.export.oap {
        let name = "skyprobe_oap_connected";
        text.metric(
            name,
            Kind::Gauge,
            "1 while there is a connection to an OAP, as far as was seen when something was last sent, else 0.",
        );
        text.line(name, "", u8::from(oap.connected.is_some()));
    }
}

/// What is traced. Absent while the thread that knows is busy.
fn traced(text: &mut Text, tracing: &Tracing) {
    let name = "skyprobe_targets";
    text.metric(
        name,
        Kind::Gauge,
        "Processes that are meant: traced, or refused, for which `skyprobe status` has the reasons.",
    );
    text.line(name, r#"state="traced""#, tracing.targets.len());
    text.line(name, r#"state="refused""#, tracing.refused.len());
    let name = "skyprobe_enrolled_connections";
    text.metric(name, Kind::Gauge, "Connections whose requests get headers.");
    text.line(name, "", tracing.connections);
    if tracing.configuration.file.is_some() {
        let name = "skyprobe_config_last_reload_successful";
        text.metric(
            name,
            Kind::Gauge,
            "1 if what the configuration file says now was taken over, else 0.",
        );
        text.line(name, "", u8::from(tracing.configuration.error.is_none()));
        let name = "skyprobe_config_keys_waiting_for_restart";
        text.metric(
            name,
            Kind::Gauge,
            "Keys that have changed in the file and count from the next start on.",
        );
        text.line(name, "", tracing.configuration.waits_for_restart.len());
    }
    if let Some(kubernetes) = &tracing.kubernetes {
        let name = "skyprobe_kubernetes_current";
        text.metric(name, Kind::Gauge, "1 while Kubernetes tells of new pods, else 0.");
        text.line(name, "", u8::from(kubernetes.current));
        let name = "skyprobe_kubernetes_pods";
        text.metric(name, Kind::Gauge, "Pods that are known on this node.");
        text.line(name, "", kubernetes.pods);
    }
    // Else nothing is known, and 0 would be a lie.
    if tracing.programs.iter().all(|program| program.runs == 0) {
        return;
    }
    let name = "skyprobe_program_runs_total";
    text.metric(
        name,
        Kind::Counter,
        "How often each program of the kernel side ran, while kernel.bpf_stats_enabled was on.",
    );
    for program in &tracing.programs {
        text.line(name, &format!(r#"program="{}""#, program.name), program.runs);
    }
    let name = "skyprobe_program_run_seconds_total";
    text.metric(name, Kind::Counter, "How long it ran in all, in seconds.");
    for program in &tracing.programs {
        let labels = format!(r#"program="{}""#, program.name);
        text.line(name, &labels, Seconds(program.run_ns));
    }
}

/// Requests and calls, by what they are.
fn durations(text: &mut Text, requests: &Table) {
    let series: Vec<_> = requests
        .series()
        .map(|(kind, of, series)| {
            let labels = match of {
                Some((identity, operation)) => format!(
                    r#"service="{}",instance="{}",kind="{}",operation="{}""#,
                    escaped(&identity.service),
                    escaped(&identity.instance),
                    kind.name(),
                    escaped(operation)
                ),
                None => format!(r#"kind="{}",overflow="true""#, kind.name()),
            };
            (labels, series)
        })
        .collect();
    let name = "skyprobe_requests_total";
    text.metric(
        name,
        Kind::Counter,
        "Requests served (entry) and calls made (exit), of those that are reported: what was not sampled is in \
         skyprobe_sampling_requests_total only.",
    );
    for (labels, series) in &series {
        let errors = series.errors;
        text.line(
            name,
            &format!(r#"{labels},outcome="ok""#),
            series.count().saturating_sub(errors),
        );
        text.line(name, &format!(r#"{labels},outcome="error""#), errors);
    }
    let name = "skyprobe_request_duration_seconds";
    text.metric(
        name,
        Kind::Histogram,
        "How long they took, in seconds, of those that are reported.",
    );
    for (labels, series) in &series {
        let mut count = 0;
        let bounds = BOUNDS_NS.iter().map(|bound| Seconds(*bound).to_string());
        let bounds = bounds.chain(["+Inf".to_owned()]);
        for (bound, bucket) in bounds.zip(&series.buckets) {
            count += bucket.count;
            text.line_with(
                "skyprobe_request_duration_seconds_bucket",
                &format!(r#"{labels},le="{bound}""#),
                count,
                bucket.example.as_deref(),
            );
        }
        let sum = Seconds(series.sum_ns);
        text.line("skyprobe_request_duration_seconds_sum", labels, sum);
        text.line("skyprobe_request_duration_seconds_count", labels, count);
    }
    let name = "skyprobe_request_overflow_total";
    text.metric(
        name,
        Kind::Counter,
        "Requests and calls counted under overflow=\"true\", for there were too many series.",
    );
    text.line(name, "", requests.overflown());
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use probe_common::loss::LossReason;

    use super::*;
    use crate::{
        requests::Requests,
        status::Program,
        telemetry::{Loss, Tally, Telemetry},
        trace::{
            segment::{Identity, Segment},
            span::{Component, Span, SpanKind},
        },
    };

    const SECOND_NS: u64 = 1_000_000_000;

    fn status() -> Status {
        let program = Program {
            name: "process_exec".into(),
            runs: 3,
            run_ns: 1_500_000_000,
        };
        Status {
            tracing: Some(Tracing {
                programs: vec![program],
                ..Tracing::default()
            }),
            ..Status::default()
        }
    }

    fn request(operation: &str, is_error: bool) -> Segment {
        let span = Span {
            id: 0,
            parent_id: -1,
            start_ns: 9 * SECOND_NS,
            end_ns: 9 * SECOND_NS + 20_000_000,
            kind: SpanKind::Entry,
            component: Component::GoHttpServer,
            operation: operation.into(),
            peer: String::new(),
            is_error,
            references: Vec::new(),
            tags: Vec::new(),
            logs: Vec::new(),
            skip_analysis: false,
        };
        let identity = Identity {
            service: "shop".into(),
            instance: "shop-1".into(),
        };
        Segment {
            trace_id: "abc".into(),
            segment_id: "segment".into(),
            identity: std::sync::Arc::new(identity),
            spans: vec![span],
        }
    }

    #[test]
    fn durations_with_an_example() {
        let requests = Requests::default();
        requests.count(&[request("GET:/\"x\"", true), request("GET:/\"x\"", false)]);
        let account = Telemetry::default().account();
        let text = |form| text(form, &account, Own::default(), &status(), &requests.table());
        let plain = text(Form::Prometheus);
        let of = r#"service="shop",instance="shop-1",kind="entry",operation="GET:/\"x\"""#;
        for line in [
            format!(r#"skyprobe_requests_total{{{of},outcome="ok"}} 1"#),
            format!(r#"skyprobe_requests_total{{{of},outcome="error"}} 1"#),
            format!(r#"skyprobe_request_duration_seconds_bucket{{{of},le="0.01"}} 0"#),
            format!(r#"skyprobe_request_duration_seconds_bucket{{{of},le="0.025"}} 2"#),
            format!(r#"skyprobe_request_duration_seconds_bucket{{{of},le="+Inf"}} 2"#),
            format!("skyprobe_request_duration_seconds_sum{{{of}}} 0.04"),
            format!("skyprobe_request_duration_seconds_count{{{of}}} 2"),
            r#"skyprobe_program_runs_total{program="process_exec"} 3"#.to_owned(),
            r#"skyprobe_program_run_seconds_total{program="process_exec"} 1.5"#.to_owned(),
            "skyprobe_request_overflow_total 0".to_owned(),
        ] {
            assert!(
                plain.lines().any(|other| other == line),
                "{line} is not in\n{plain}"
            );
        }
        let open = text(Form::OpenMetrics);
        let line = format!(
            r#"skyprobe_request_duration_seconds_bucket{{{of},le="0.025"}} 2 # {{trace_id="abc"}} 0.02 9.02"#
        );
        assert!(
            open.lines().any(|other| other == line),
            "{line} is not in\n{open}"
        );
        assert!(
            open.contains("# TYPE skyprobe_requests counter\n") && open.ends_with("\n# EOF\n"),
            "{open}"
        );
    }

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
        let requests = Requests::default();
        let text = text(
            Form::Prometheus,
            &telemetry.account(),
            own,
            &status(),
            &requests.table(),
        );
        for line in [
            r#"skyprobe_spans_total{outcome="produced"} 9"#,
            r#"skyprobe_segments_total{outcome="lost"} 1"#,
            "skyprobe_pending_segments 1",
            r#"skyprobe_lost_spans_total{side="user",reason="queue_full"} 2"#,
            r#"skyprobe_lost_spans_total{side="kernel",reason="ring_full"} 7"#,
            r#"skyprobe_degraded_total{side="tracer",reason="call_late"} 4"#,
            "process_cpu_seconds_total 1.5",
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
