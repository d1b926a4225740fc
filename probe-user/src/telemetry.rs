//! Our own counters, and what may be lost: the one place where both sides meet.
//!
//! Everything that is lost is counted with a reason. After production the sum closes: segments produced =
//! segments exported + segments lost, each under one [`Loss`].

mod account;
mod link;
mod loss;
mod repeats;
mod sampled;
mod vitals;

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use probe_common::loss::LossReason;

pub use self::{
    account::Account,
    link::{Link, LinkState},
    loss::{Loss, Tally},
    repeats::{Repeats, watch},
    sampled::Sampled,
    vitals::{Alive, Stage, Unwell, Vitals},
};

/// A [`Tally`] many threads add to.
#[derive(Debug, Default)]
struct Counter {
    segments: AtomicU64,
    spans: AtomicU64,
}

impl Counter {
    // Relaxed: the counters order nothing, they are only added up.
    fn add(&self, tally: Tally) {
        self.segments.fetch_add(tally.segments, Ordering::Relaxed);
        self.spans.fetch_add(tally.spans, Ordering::Relaxed);
    }

    fn read(&self) -> Tally {
        Tally {
            segments: self.segments.load(Ordering::Relaxed),
            spans: self.spans.load(Ordering::Relaxed),
        }
    }
}

/// The counters of one run, shared by all stages.
#[derive(Debug, Default)]
pub struct Telemetry {
    produced: Counter,
    exported: Counter,
    lost: [Counter; Loss::ALL.len()],
    kernel: [AtomicU64; LossReason::ALL.len()],
    sampled: Mutex<Sampled>,
    /// The tracer's own list, by name: it is pure, and hands its sums over now and then.
    tracer: Mutex<Vec<TracerLoss>>,
    vitals: Vitals,
    link: Link,
}

/// What the tracer could not do as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracerLoss {
    pub name: &'static str,
    /// Whether a span is missing because of it; otherwise it is only reported differently.
    pub loses_span: bool,
    pub count: u64,
}

impl Telemetry {
    /// Finished segments were handed to the exporter's queue.
    pub fn produced(&self, tally: Tally) {
        self.produced.add(tally);
    }

    /// Segments arrived where they should: OAP confirmed them, or they were written.
    pub fn exported(&self, tally: Tally) {
        self.exported.add(tally);
    }

    /// Something was lost. What never became a segment counts as one span.
    pub fn lost(&self, loss: Loss, tally: Tally) {
        if let Some(counter) = self.lost.get(loss as usize) {
            counter.add(tally);
        }
    }

    /// What became of requests that were up for sampling, since the last time.
    pub fn sampled(&self, more: Sampled) {
        *self.sampled.lock().unwrap_or_else(PoisonError::into_inner) += more;
    }

    /// What the kernel side has lost since the start, summed over its CPUs.
    pub fn kernel_lost(&self, reason: LossReason, total: u64) {
        if let Some(counter) = self.kernel.get(reason as usize) {
            // The sum never shrinks; a late, older reading must not make it.
            counter.fetch_max(total, Ordering::Relaxed);
        }
    }

    /// What the tracer has lost since the start, under the name it gives it.
    pub fn tracer_lost(&self, name: &'static str, loses_span: bool, total: u64) {
        let mut losses = self.tracer();
        match losses.iter_mut().find(|loss| loss.name == name) {
            Some(loss) => loss.count = loss.count.max(total),
            None => losses.push(TracerLoss {
                name,
                loses_span,
                count: total,
            }),
        }
    }

    /// That the threads live, and how far the probe has come.
    pub fn vitals(&self) -> &Vitals {
        &self.vitals
    }

    /// How OAP is reached.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Whether it traces, and what it has to tell arrives; else why not, in a sentence.
    pub fn readiness(&self) -> Result<(), String> {
        let idle = self.vitals.idle().map(str::to_owned);
        let fault = || self.link.state()?.fault();
        idle.or_else(fault).map_or(Ok(()), Err)
    }

    fn tracer(&self) -> MutexGuard<'_, Vec<TracerLoss>> {
        // Nobody panics while holding it, and if so the numbers are still numbers.
        self.tracer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All counters, as they stand.
    pub fn account(&self) -> Account {
        let lost = Loss::ALL
            .into_iter()
            .zip(&self.lost)
            .map(|(loss, counter)| (loss, counter.read()));
        let kernel = LossReason::ALL
            .into_iter()
            .zip(&self.kernel)
            .map(|(reason, counter)| (reason, counter.load(Ordering::Relaxed)));
        Account {
            produced: self.produced.read(),
            exported: self.exported.read(),
            lost: lost.collect(),
            tracer: self.tracer().clone(),
            kernel: kernel.collect(),
            sampled: *self.sampled.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}
