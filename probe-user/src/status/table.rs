//! The status for people: what holds for all in lines, the processes as a table.

use std::fmt::Write as _;

use super::{Configuration, Export, Kubernetes, Status, Target, Tracing};
use crate::words::printable;

/// Longer words are cut in the middle: both ends of a path or a name tell more than its middle.
const COLUMN_MAX: usize = 40;

/// The status, and what has come since it was as it was `before`. `short`: for a terminal, where long words are cut.
pub(super) fn text(status: &Status, before: Option<&Status>, short: bool) -> String {
    let mut text = String::new();
    let mut line = |what: &str, words: &str| {
        let _infallible = writeln!(text, "{what:<9} {}", printable(words));
    };
    line(
        "skyprobe",
        &format!(
            "{} ({}), process {}, up {}",
            status.version,
            status.build,
            status.pid,
            duration(status.uptime_s)
        ),
    );
    let health = status.unwell.as_deref().unwrap_or("ok");
    line("health", health);
    line(
        "ready",
        &status
            .unready
            .as_ref()
            .map_or_else(|| "yes".to_owned(), |why| format!("no: {why}")),
    );
    line("takes", &takes(status, before));
    line("export", &export(&status.export));
    line("spans", &spans(status, before));
    for lost in &status.spans.losses {
        let kind = if lost.loses_span { "lost" } else { "degraded" };
        line(kind, &format!("{} {} ({})", lost.count, lost.reason, lost.side));
    }
    if let Some(sampling) = &status.sampling {
        line(
            "sampling",
            &format!(
                "{} of {} requests, {} more for their callers, {} kept; {} spans left out",
                sampling.sampled, sampling.decided, sampling.followed, sampling.kept, sampling.left_out_spans
            ),
        );
    }
    match &status.tracing {
        Some(tracing) => {
            line("headers", &headers(tracing));
            if let Some(words) = configuration(&tracing.configuration) {
                line("config", &words);
            }
            if let Some(kubernetes) = &tracing.kubernetes {
                line("pods", &pods(kubernetes));
            }
            text.push('\n');
            text.push_str(&processes(tracing, short));
        }
        None => line(
            "targets",
            "not known: the thread that knows them is busy; ask again",
        ),
    }
    text
}

fn takes(status: &Status, before: Option<&Status>) -> String {
    let share = match before {
        // In thousandths of a processor, over the time between the two.
        Some(before) if status.uptime_s > before.uptime_s => {
            let ms = status.cpu_ms.saturating_sub(before.cpu_ms);
            let percent_tenths = ms / (status.uptime_s - before.uptime_s);
            format!(" ({}.{}% now)", percent_tenths / 10, percent_tenths % 10)
        }
        Some(_) | None => String::new(),
    };
    format!(
        "{}.{:01} s of a processor{share}, {} of memory",
        status.cpu_ms / 1_000,
        status.cpu_ms % 1_000 / 100,
        bytes(status.memory_bytes)
    )
}

fn export(export: &Export) -> String {
    let Export {
        to,
        waiting_segments,
        queue_segments,
        oap,
    } = export;
    let mut words = to.clone();
    if let Some(oap) = oap {
        match (&oap.connected, oap.connected_s) {
            (Some(address), Some(seconds)) => {
                let _infallible = write!(words, ", connected to {address} for {}", duration(seconds));
            }
            _ => {
                let _infallible = write!(words, ", NOT connected to {}", oap.addresses.join(" or "));
            }
        }
    }
    let _infallible = write!(words, "; {waiting_segments} of {queue_segments} segments wait");
    if let Some((error, seconds)) = oap
        .as_ref()
        .and_then(|oap| Some((oap.error.as_ref()?, oap.error_s?)))
    {
        let _infallible = write!(words, "; {} ago: {error}", duration(seconds));
    }
    words
}

fn spans(status: &Status, before: Option<&Status>) -> String {
    let spans = &status.spans;
    let on_their_way = spans
        .produced
        .saturating_sub(spans.exported)
        .saturating_sub(spans.lost);
    let rate = match before {
        Some(before) if status.uptime_s > before.uptime_s => {
            let more = spans.produced.saturating_sub(before.spans.produced);
            format!(" ({} a second)", more / (status.uptime_s - before.uptime_s))
        }
        Some(_) | None => String::new(),
    };
    format!(
        "{} made{rate}, {} exported, {} lost, {on_their_way} on their way",
        spans.produced, spans.exported, spans.lost
    )
}

fn headers(tracing: &Tracing) -> String {
    format!(
        "{}; connections that get them: {}",
        tracing.propagation, tracing.connections
    )
}

/// Nothing where no file was named.
fn configuration(configuration: &Configuration) -> Option<String> {
    let Configuration {
        file,
        read_s,
        error,
        error_s,
        waits_for_restart,
    } = configuration;
    let mut words = format!("{}, read {} ago", file.as_ref()?, duration(*read_s));
    if let (Some(error), Some(seconds)) = (error, error_s) {
        let _infallible = write!(words, "; NOT taken over {} ago: {error}", duration(*seconds));
    }
    if !waits_for_restart.is_empty() {
        let _infallible = write!(words, "; waits for a restart: {}", waits_for_restart.join(", "));
    }
    Some(words)
}

fn pods(kubernetes: &Kubernetes) -> String {
    let Kubernetes {
        address,
        node,
        pods,
        current,
        error,
        error_s,
    } = kubernetes;
    let mut words = format!("{pods} known on node {node}");
    if !current {
        let _infallible = write!(words, ", NOT told of new ones by {address}");
        if let (Some(error), Some(seconds)) = (error, error_s) {
            let _infallible = write!(words, "; {} ago: {error}", duration(*seconds));
        }
    }
    words
}

fn processes(tracing: &Tracing, short: bool) -> String {
    let mut text = String::new();
    let row = |target: &Target| {
        let Target {
            pid,
            exe,
            service,
            instance,
            version,
            traced_s,
            hooks,
            missing,
            ..
        } = target;
        [
            pid.to_string(),
            service.clone(),
            instance.clone(),
            version.clone(),
            place(target),
            duration(*traced_s),
            if missing.is_empty() {
                hooks.to_string()
            } else {
                format!("{hooks}, {} missing", missing.len())
            },
            target.parts.join(", "),
            exe.clone(),
        ]
    };
    if tracing.targets.is_empty() {
        text.push_str("No process is traced.\n");
    } else {
        let head = [
            "PID", "SERVICE", "INSTANCE", "GO", "WHERE", "TRACED", "HOOKS", "PARTS", "PROGRAM",
        ];
        let rows: Vec<_> = tracing.targets.iter().map(row).collect();
        text.push_str(&table(head, &rows, short));
    }
    for target in &tracing.targets {
        for missing in &target.missing {
            let _infallible = writeln!(
                text,
                "{} lacks {} at {}: {} -> {}",
                target.pid, missing.program, missing.symbol, missing.reason, missing.loss
            );
        }
        if let Some(count) = target.not_enrolled.filter(|count| *count > 0) {
            let _infallible = writeln!(
                text,
                "{} has connections that get no header, since another program has them: {count}",
                target.pid
            );
        }
    }
    if !tracing.refused.is_empty() {
        let rows: Vec<_> = tracing
            .refused
            .iter()
            .map(|refused| {
                [
                    refused.pid.to_string(),
                    refused.exe.clone(),
                    refused.reason.clone(),
                ]
            })
            .collect();
        text.push('\n');
        text.push_str(&table(["PID", "NOT TRACED", "WHY"], &rows, short));
    }
    text
}

/// What it runs in, as its operator knows it.
pub(super) fn place(target: &Target) -> String {
    match (&target.namespace, &target.pod, &target.container_id, &target.unit) {
        (Some(namespace), Some(pod), _, _) => {
            let container = target.container.as_ref();
            let container = container.map_or_else(String::new, |container| format!("/{container}"));
            format!("{namespace}/{pod}{container}")
        }
        // As `docker ps` and `crictl ps` have it.
        (_, _, Some(id), _) => format!("container {}", id.chars().take(12).collect::<String>()),
        (_, _, None, Some(unit)) => unit.clone(),
        (_, _, None, None) => "-".to_owned(),
    }
}

/// Columns as wide as what stands in them. `short`: all but the last are cut.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]], short: bool) -> String {
    let cells = |row: [&str; N]| {
        let mut column = 0;
        row.map(|cell| {
            column += 1;
            let cell = printable(cell);
            if column == N || !short { cell } else { cut(&cell) }
        })
    };
    let mut all = vec![cells(head)];
    all.extend(rows.iter().map(|row| cells(row.each_ref().map(String::as_str))));
    let mut widths = [0; N];
    for row in &all {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in &all {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _infallible = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn cut(cell: &str) -> String {
    let count = cell.chars().count();
    if count <= COLUMN_MAX {
        return cell.to_owned();
    }
    let half = COLUMN_MAX / 2;
    let begin = cell.chars().take(half - 1);
    let end = cell.chars().skip(count - half);
    begin.chain(['…']).chain(end).collect()
}

/// The two units that matter.
fn duration(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match seconds {
        0..MINUTE => format!("{seconds} s"),
        MINUTE..HOUR => format!("{} min {} s", seconds / MINUTE, seconds % MINUTE),
        HOUR..DAY => format!("{} h {} min", seconds / HOUR, seconds % HOUR / MINUTE),
        DAY.. => format!("{} d {} h", seconds / DAY, seconds % DAY / HOUR),
    }
}

fn bytes(bytes: u64) -> String {
    let tenths = bytes / 100_000;
    format!("{}.{} MB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{FORMAT, Lost, Missing, Oap, Refused, Spans};

    fn status() -> Status {
        Status {
            format: FORMAT,
            version: "0.1.0".into(),
            build: "0123456789ab".into(),
            pid: 4711,
            uptime_s: 7_260,
            cpu_ms: 12_340,
            memory_bytes: 24_150_000,
            unwell: None,
            unready: None,
            export: Export {
                to: "skywalking".into(),
                waiting_segments: 12,
                queue_segments: 5_000,
                oap: Some(Oap {
                    addresses: vec!["oap-1:11800".into(), "oap-2:11800".into()],
                    connected: Some("oap-2:11800".into()),
                    connected_s: Some(90),
                    error: Some("oap-1:11800: connection refused".into()),
                    error_s: Some(91),
                }),
            },
            spans: Spans {
                produced: 1_000,
                exported: 990,
                lost: 3,
                losses: vec![Lost {
                    side: "user".into(),
                    reason: "queue_full".into(),
                    count: 3,
                    loses_span: true,
                }],
            },
            sampling: None,
            tracing: Some(Tracing {
                targets: vec![Target {
                    pid: 12,
                    exe: format!("/srv/{}/gateway", "x".repeat(60)),
                    service: "gateway".into(),
                    instance: "gateway-6d4c".into(),
                    language: "go".into(),
                    version: "1.24.3".into(),
                    traced_s: 61,
                    unit: None,
                    container_id: Some("0123456789abcdef".into()),
                    namespace: Some("shop".into()),
                    pod: Some("gateway-6d4c".into()),
                    container: Some("main".into()),
                    workload: Some("Deployment/gateway".into()),
                    parts: vec!["HTTP server".into()],
                    hooks: 40,
                    missing: vec![Missing {
                        program: "p".into(),
                        symbol: "net/http.f".into(),
                        reason: "not in the binary".into(),
                        loss: "the HTTP client is not traced".into(),
                    }],
                    enrolled: Some(2),
                    not_enrolled: Some(1),
                }],
                refused: vec![Refused {
                    pid: 13,
                    exe: "/bin/sh".into(),
                    reason: "it is not a Go program".into(),
                }],
                propagation: "sw8".into(),
                connections: 14,
                programs: Vec::new(),
                configuration: Configuration {
                    file: Some("/etc/skyprobe/skyprobe.yaml".into()),
                    read_s: 60,
                    error: Some("unknown key".into()),
                    error_s: Some(3),
                    waits_for_restart: vec!["oap".into(), "http".into()],
                },
                kubernetes: Some(Kubernetes {
                    address: "https://127.0.0.1/".into(),
                    node: "n1".into(),
                    pods: 30,
                    current: false,
                    error: Some("forbidden".into()),
                    error_s: Some(4),
                }),
                asked: None,
            }),
        }
    }

    #[test]
    fn all_of_it_as_people_read_it() {
        let exe = format!("/srv/{}/gateway", "x".repeat(60));
        assert_eq!(
            text(&status(), None, true),
            format!(
                "skyprobe  0.1.0 (0123456789ab), process 4711, up 2 h 1 min\n\
                 health    ok\n\
                 ready     yes\n\
                 takes     12.3 s of a processor, 24.1 MB of memory\n\
                 export    skywalking, connected to oap-2:11800 for 1 min 30 s; 12 of 5000 segments wait; 1 min 31 s \
                 ago: oap-1:11800: connection refused\n\
                 spans     1000 made, 990 exported, 3 lost, 7 on their way\n\
                 lost      3 queue_full (user)\n\
                 headers   sw8; connections that get them: 14\n\
                 config    /etc/skyprobe/skyprobe.yaml, read 1 min 0 s ago; NOT taken over 3 s ago: unknown key; waits \
                 for a restart: oap, http\n\
                 pods      30 known on node n1, NOT told of new ones by https://127.0.0.1/; 4 s ago: forbidden\n\
                 \n\
                 PID  SERVICE  INSTANCE      GO      WHERE                   TRACED     HOOKS          PARTS        PROGRAM\n\
                 12   gateway  gateway-6d4c  1.24.3  shop/gateway-6d4c/main  1 min 1 s  40, 1 missing  HTTP server  {exe}\n\
                 12 lacks p at net/http.f: not in the binary -> the HTTP client is not traced\n\
                 12 has connections that get no header, since another program has them: 1\n\
                 \n\
                 PID  NOT TRACED  WHY\n\
                 13   /bin/sh     it is not a Go program\n"
            )
        );
    }

    #[test]
    fn what_has_come_since_and_what_is_wrong() {
        let before = status();
        let mut now = status();
        now.uptime_s += 2;
        now.cpu_ms += 50;
        now.spans.produced += 500;
        now.unwell = Some("the reader thread has ended".into());
        now.unready = Some("it is stopping".into());
        now.tracing = None;
        if let Some(oap) = &mut now.export.oap {
            oap.connected = None;
        }
        let text = text(&now, Some(&before), true);
        for words in [
            "health    the reader thread has ended\n",
            "ready     no: it is stopping\n",
            "(2.5% now)",
            "1500 made (250 a second)",
            "NOT connected to oap-1:11800 or oap-2:11800",
            "targets   not known",
        ] {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
    }

    #[test]
    fn where_it_runs() {
        let mut target = Target::default();
        assert_eq!(place(&target), "-");
        target.unit = Some("gateway.service".into());
        assert_eq!(place(&target), "gateway.service");
        target.container_id = Some("0123456789abcdef".into());
        assert_eq!(place(&target), "container 0123456789ab");
        target.namespace = Some("shop".into());
        target.pod = Some("gateway-6d4c".into());
        assert_eq!(place(&target), "shop/gateway-6d4c");
        target.container = Some("main".into());
        assert_eq!(place(&target), "shop/gateway-6d4c/main");
    }

    #[test]
    fn long_words_lose_their_middle() {
        assert_eq!(cut(&"é".repeat(40)), "é".repeat(40));
        let long = format!("{}{}", "a".repeat(30), "b".repeat(30));
        let short = cut(&long);
        assert_eq!(short.chars().count(), COLUMN_MAX);
        assert!(short.starts_with("aaa") && short.ends_with("bbb") && short.contains('…'));
    }

    #[test]
    fn times_in_two_units() {
        let texts = [0, 59, 60, 3_599, 3_600, 86_399, 90_000].map(duration);
        assert_eq!(
            texts,
            [
                "0 s",
                "59 s",
                "1 min 0 s",
                "59 min 59 s",
                "1 h 0 min",
                "23 h 59 min",
                "1 d 1 h"
            ]
        );
    }
}
