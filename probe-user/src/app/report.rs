//! The status of the running probe, put together for whoever asks.

use std::{
    sync::{Arc, mpsc::Sender},
    time::Duration,
};

use tokio::sync::oneshot;

use super::targets::Notice;
use crate::{
    config::{Config, Export},
    export::Gauge,
    status::{self, FORMAT, Lost, Oap, Own, Question, Spans, Status, Tracing},
    telemetry::{Account, LinkState, Sampled, Telemetry},
    version::{BUILD, VERSION},
};

/// How long the targets thread may take to answer. It may be attaching to something large.
const WAIT: Duration = Duration::from_secs(3);

/// Knows whom to ask.
pub(super) struct Reporter {
    export: Export,
    queue_segments: usize,
    gauge: Gauge,
    notices: Sender<Notice>,
    telemetry: Arc<Telemetry>,
}

impl Reporter {
    pub(super) fn new(
        config: &Config,
        gauge: Gauge,
        notices: Sender<Notice>,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        Self {
            export: config.export,
            queue_segments: config.oap.queue_segments,
            gauge,
            notices,
            telemetry,
        }
    }

    /// What the targets thread knows, if it answers in time.
    async fn tracing(&self, question: Question) -> Option<Tracing> {
        let (answer, answered) = oneshot::channel();
        self.notices.send(Notice::Tell(question, answer)).ok()?;
        tokio::time::timeout(WAIT, answered).await.ok()?.ok()
    }

    pub(super) async fn status(self: Arc<Self>, question: Question) -> Status {
        // First: it counts anew what the kernel has lost.
        let tracing = self.tracing(question).await;
        let own = Own::read();
        let vitals = self.telemetry.vitals();
        let account = self.telemetry.account();
        Status {
            format: FORMAT,
            version: VERSION.to_owned(),
            build: BUILD.to_owned(),
            pid: std::process::id(),
            uptime_s: vitals.uptime().as_secs(),
            cpu_ms: own.cpu_ns / 1_000_000,
            memory_bytes: own.resident_bytes,
            unwell: vitals.health().err().map(|unwell| unwell.to_string()),
            unready: self.telemetry.readiness().err(),
            export: status::Export {
                to: match self.export {
                    Export::Text => "text",
                    Export::Json => "json",
                    Export::SkyWalking => "skywalking",
                }
                .to_owned(),
                waiting_segments: self.gauge.waiting(),
                queue_segments: self.queue_segments,
                oap: self.telemetry.link().state().map(oap),
            },
            sampling: (account.sampled != Sampled::default()).then(|| sampling(account.sampled)),
            spans: spans(&account),
            tracing,
        }
    }
}

fn oap(link: LinkState) -> Oap {
    let LinkState {
        addresses,
        connected,
        was_reached: _,
        refused: _,
        error,
    } = link;
    let (connected, connected_s) = connected
        .map(|(address, since)| (address.to_string(), since.elapsed().as_secs()))
        .unzip();
    let (error, error_s) = error.map(|(error, at)| (error, at.elapsed().as_secs())).unzip();
    Oap {
        addresses,
        connected,
        connected_s,
        error,
        error_s,
    }
}

fn spans(account: &Account) -> Spans {
    let lost = |side: &str, reason: &str, count, loses_span| Lost {
        side: side.to_owned(),
        reason: reason.to_owned(),
        count,
        loses_span,
    };
    let user = account.lost.iter();
    let tracer = account.tracer.iter();
    let kernel = account.kernel.iter();
    let losses = user
        .map(|(loss, tally)| lost("user", loss.name(), tally.spans, true))
        .chain(tracer.map(|loss| lost("tracer", loss.name, loss.count, loss.loses_span)))
        .chain(kernel.map(|(reason, count)| lost("kernel", reason.name(), *count, reason.loses_span())))
        .filter(|lost| lost.count > 0);
    Spans {
        produced: account.produced.spans,
        exported: account.exported.spans,
        lost: account.lost_after_production().spans,
        losses: losses.collect(),
    }
}

fn sampling(sampled: Sampled) -> status::Sampling {
    let Sampled {
        decided,
        sampled,
        followed,
        kept,
        left_out,
    } = sampled;
    status::Sampling {
        decided,
        sampled,
        followed,
        kept,
        left_out_spans: left_out,
    }
}
