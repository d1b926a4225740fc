//! Our own counters, and what may be lost: the one place where both sides meet.
//!
//! Everything that is lost is counted with a reason. After production the sum closes: segments produced =
//! segments exported + segments lost, each under one [`Loss`].

mod link;
mod sampled;
mod vitals;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use probe_common::loss::LossReason;
use tracing::{info, warn};

pub use link::{Link, LinkState};
pub use sampled::Sampled;
pub use vitals::{Alive, Stage, Unwell, Vitals};

/// Why something did not arrive, in user space. The kernel side has its own list, [`LossReason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// A record from the kernel was short, or of a kind nobody knows. What it told is unknown.
    RecordMalformed,
    /// The request or call was open when its process ended or the probe stopped: its end was not seen.
    OpenAtEnd,
    /// The queue before the exporter was full: it is slower than the traced programs. The newest is dropped.
    QueueFull,
    /// No OAP could be reached by the time the probe stopped.
    OapUnreachable,
    /// OAP refused the authentication token.
    OapRefused,
    /// What answers at the address does not take segments.
    OapUnimplemented,
    /// OAP answered with an error, or kept asking to be spared.
    ExportFailed,
    /// Sent, but never confirmed: it may have arrived or not.
    Unconfirmed,
    /// The probe stopped, and the time to send what was left was over.
    FlushDeadline,
    /// The output of `text` or `json` could not be written: disk full, pipe closed.
    OutputFailed,
}

impl Loss {
    /// All losses, in the order they are shown.
    pub const ALL: [Self; 10] = [
        Self::RecordMalformed,
        Self::OpenAtEnd,
        Self::QueueFull,
        Self::OapUnreachable,
        Self::OapRefused,
        Self::OapUnimplemented,
        Self::ExportFailed,
        Self::Unconfirmed,
        Self::FlushDeadline,
        Self::OutputFailed,
    ];

    /// The name under which it is reported.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RecordMalformed => "record_malformed",
            Self::OpenAtEnd => "open_at_end",
            Self::QueueFull => "queue_full",
            Self::OapUnreachable => "oap_unreachable",
            Self::OapRefused => "oap_refused",
            Self::OapUnimplemented => "oap_unimplemented",
            Self::ExportFailed => "export_failed",
            Self::Unconfirmed => "unconfirmed",
            Self::FlushDeadline => "flush_deadline",
            Self::OutputFailed => "output_failed",
        }
    }

    /// Whether it strikes finished segments. Only then does it belong to the sum that closes.
    pub const fn after_production(self) -> bool {
        match self {
            Self::RecordMalformed | Self::OpenAtEnd => false,
            Self::QueueFull
            | Self::OapUnreachable
            | Self::OapRefused
            | Self::OapUnimplemented
            | Self::ExportFailed
            | Self::Unconfirmed
            | Self::FlushDeadline
            | Self::OutputFailed => true,
        }
    }
}

/// How much: segments, and the spans in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub segments: u64,
    pub spans: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.segments += other.segments;
        self.spans += other.spans;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&counted(self.spans, SPANS))?;
        // What never became a segment is not in any.
        if self.segments > 0 {
            write!(f, " in {}", counted(self.segments, ["segment", "segments"]))?;
        }
        Ok(())
    }
}

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

/// The counters at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub produced: Tally,
    pub exported: Tally,
    /// Every loss of user space, those that never happened too.
    pub lost: Vec<(Loss, Tally)>,
    /// Every loss of the tracer, likewise, once it has told them.
    pub tracer: Vec<TracerLoss>,
    /// Every loss of the kernel side, likewise.
    pub kernel: Vec<(LossReason, u64)>,
    pub sampled: Sampled,
}

impl Account {
    /// How much was lost for `loss`.
    pub fn lost_to(&self, loss: Loss) -> Tally {
        self.lost
            .iter()
            .find(|(each, _)| *each == loss)
            .map(|(_, tally)| *tally)
            .unwrap_or_default()
    }

    /// What was produced and then lost.
    pub fn lost_after_production(&self) -> Tally {
        let mut sum = Tally::default();
        for (_, tally) in self.lost.iter().filter(|(loss, _)| loss.after_production()) {
            sum += *tally;
        }
        sum
    }

    /// What is still on its way to the exporter. 0 at the end: then the sum closes.
    pub fn pending_segments(&self) -> u64 {
        self.produced
            .segments
            .saturating_sub(self.exported.segments)
            .saturating_sub(self.lost_after_production().segments)
    }
}

/// The account as it is shown at the end: one line for what went well, one for each reason that struck.
impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            produced,
            exported,
            lost,
            tracer,
            kernel,
            sampled,
        } = self;
        let gone = self.lost_after_production();
        match (produced.segments, exported == produced) {
            (0, _) => write!(f, "no spans")?,
            (_, true) => write!(f, "{produced}, all exported")?,
            (_, false) => write!(f, "{produced}: {exported} exported, {gone} lost")?,
        }
        if *sampled != Sampled::default() {
            write!(f, "\n{sampled}")?;
        }
        for (loss, tally) in lost.iter().filter(|(_, tally)| *tally != Tally::default()) {
            write!(f, "\nlost in user space: {} {tally}", loss.name())?;
        }
        for &TracerLoss {
            name,
            loses_span,
            count,
        } in tracer.iter().filter(|loss| loss.count > 0)
        {
            let what = if loses_span { SPANS } else { ["time", "times"] };
            write!(f, "\nlost in the tracer: {name} {}", counted(count, what))?;
        }
        for (reason, count) in kernel.iter().filter(|(_, count)| *count > 0) {
            let what = if reason.loses_span() {
                SPANS
            } else if *reason == LossReason::ProcessUnnoticed {
                ["time", "times"]
            } else {
                ["link", "links"]
            };
            write!(
                f,
                "\nlost in the kernel: {} {}",
                reason.name(),
                counted(*count, what)
            )?;
        }
        let any = lost.iter().any(|(_, tally)| *tally != Tally::default())
            || tracer.iter().any(|loss| loss.count > 0)
            || kernel.iter().any(|(_, count)| *count > 0);
        if any {
            write!(f, "\n(docs/hooks.md, \"Losses\", says what each reason means)")?;
        }
        Ok(())
    }
}

const SPANS: [&str; 2] = ["span", "spans"];

/// A number of things, by their name for one and for many.
pub fn counted(number: u64, [one, many]: [&str; 2]) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// A part of all, as one reads it.
pub fn percent(part: u64, all: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    let percent = part as f64 * 100.0 / all.max(1) as f64;
    format!("{percent:.1}%")
}

/// Logs each reason that struck: at once, then at most once a minute, with what came in between.
///
/// Never ends; to be dropped when the probe stops, since the account says the rest.
pub async fn watch(telemetry: Arc<Telemetry>) {
    const LOOK: Duration = Duration::from_secs(1);
    let mut quiet = Repeats::default();
    let mut seen = telemetry.account();
    loop {
        tokio::time::sleep(LOOK).await;
        let now = tokio::time::Instant::now();
        let account = telemetry.account();
        let user = account
            .lost
            .iter()
            .zip(&seen.lost)
            .map(|((loss, tally), (_, before))| {
                (
                    "user",
                    loss.name(),
                    true,
                    tally.spans.saturating_sub(before.spans),
                )
            });
        let tracer = account.tracer.iter().map(|loss| {
            let before = seen.tracer.iter().find(|before| before.name == loss.name);
            let before = before.map_or(0, |before| before.count);
            (
                "tracer",
                loss.name,
                loss.loses_span,
                loss.count.saturating_sub(before),
            )
        });
        let kernel = account
            .kernel
            .iter()
            .zip(&seen.kernel)
            .map(|((reason, count), (_, before))| {
                (
                    "kernel",
                    reason.name(),
                    reason.loses_span(),
                    count.saturating_sub(*before),
                )
            });
        for (side, reason, loses_span, grown) in user.chain(tracer).chain(kernel) {
            let Some(count) = quiet.admit_many((side, reason), grown, now) else {
                continue;
            };
            if loses_span {
                warn!(side, reason, count, "Spans lost");
            } else {
                info!(side, reason, count, "Spans not linked or named as they should be");
            }
        }
        seen = account;
    }
}

/// Keeps a repeated message down to once a minute, and knows how often it was held back.
#[derive(Debug)]
pub struct Repeats<Key> {
    messages: Vec<(Key, Option<tokio::time::Instant>, u64)>,
}

impl<Key> Default for Repeats<Key> {
    fn default() -> Self {
        Self { messages: Vec::new() }
    }
}

impl<Key: PartialEq> Repeats<Key> {
    /// The pause between two messages of one reason.
    pub const PAUSE: Duration = Duration::from_secs(60);

    /// It happened once more. If it is to be said now: how often it happened since it was said last.
    pub fn admit(&mut self, key: Key, now: tokio::time::Instant) -> Option<u64> {
        self.admit_many(key, 1, now)
    }

    /// It happened `count` more times, or not at all.
    pub fn admit_many(&mut self, key: Key, count: u64, now: tokio::time::Instant) -> Option<u64> {
        let position = self.messages.iter().position(|(each, ..)| *each == key);
        let (_, said, held) = match position.and_then(|position| self.messages.get_mut(position)) {
            Some(message) => message,
            None if count == 0 => return None,
            None => {
                self.messages.push((key, None, 0));
                self.messages.last_mut()?
            }
        };
        *held += count;
        let due = said.is_none_or(|said| now.duration_since(said) >= Self::PAUSE);
        if *held == 0 || !due {
            return None;
        }
        *said = Some(now);
        Some(std::mem::take(held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_positions_and_names_differ() {
        for (position, loss) in Loss::ALL.into_iter().enumerate() {
            assert_eq!(loss as usize, position, "{}", loss.name());
        }
        let mut names: Vec<_> = Loss::ALL.into_iter().map(Loss::name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Loss::ALL.len());
    }

    #[test]
    fn the_sum_closes() {
        let telemetry = Telemetry::default();
        let one = Tally {
            segments: 1,
            spans: 3,
        };
        for _ in 0..5 {
            telemetry.produced(one);
        }
        telemetry.exported(one);
        telemetry.lost(Loss::QueueFull, one);
        telemetry.lost(Loss::QueueFull, one);
        telemetry.lost(
            Loss::RecordMalformed,
            Tally {
                segments: 0,
                spans: 7,
            },
        );
        let account = telemetry.account();
        assert_eq!(
            account.lost_to(Loss::QueueFull),
            Tally {
                segments: 2,
                spans: 6
            }
        );
        assert_eq!(
            account.lost_after_production(),
            Tally {
                segments: 2,
                spans: 6
            }
        );
        assert_eq!(account.pending_segments(), 2);
    }

    #[test]
    fn the_account_names_only_what_happened() {
        let telemetry = Telemetry::default();
        telemetry.produced(Tally {
            segments: 3,
            spans: 9,
        });
        telemetry.exported(Tally {
            segments: 2,
            spans: 6,
        });
        telemetry.lost(
            Loss::OapRefused,
            Tally {
                segments: 1,
                spans: 3,
            },
        );
        telemetry.lost(
            Loss::OpenAtEnd,
            Tally {
                segments: 0,
                spans: 1,
            },
        );
        telemetry.tracer_lost("call_late", false, 1);
        telemetry.tracer_lost("call_late", false, 2);
        telemetry.tracer_lost("name_overflow", false, 0);
        telemetry.kernel_lost(LossReason::RingFull, 4);
        telemetry.kernel_lost(LossReason::RingFull, 2);
        telemetry.kernel_lost(LossReason::PropagationEncrypted, 1);
        assert_eq!(
            telemetry.account().to_string(),
            "9 spans in 3 segments: 6 spans in 2 segments exported, 3 spans in 1 segment lost\n\
             lost in user space: open_at_end 1 span\n\
             lost in user space: oap_refused 3 spans in 1 segment\n\
             lost in the tracer: call_late 2 times\n\
             lost in the kernel: ring_full 4 spans\n\
             lost in the kernel: propagation_encrypted 1 link\n\
             (docs/hooks.md, \"Losses\", says what each reason means)"
        );
    }

    #[test]
    fn without_losses_the_account_says_it_once() {
        let telemetry = Telemetry::default();
        assert_eq!(telemetry.account().to_string(), "no spans");
        let all = Tally {
            segments: 28,
            spans: 46,
        };
        telemetry.produced(all);
        telemetry.exported(all);
        assert_eq!(
            telemetry.account().to_string(),
            "46 spans in 28 segments, all exported"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_is_said_once_a_minute_with_its_count() {
        let mut repeats = Repeats::default();
        let start = tokio::time::Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(repeats.admit("a", start), Some(1));
        assert_eq!(repeats.admit("a", start + second), None);
        assert_eq!(repeats.admit("b", start + second), Some(1));
        assert_eq!(repeats.admit("a", start + 59 * second), None);
        assert_eq!(repeats.admit("a", start + 60 * second), Some(3));
        assert_eq!(repeats.admit_many("a", 0, start + 200 * second), None);
        assert_eq!(repeats.admit_many("c", 0, start), None);
        assert_eq!(repeats.admit_many("a", 5, start + 201 * second), Some(5));
    }

    #[tokio::test(start_paused = true)]
    async fn losses_are_logged_at_once_then_once_a_minute() {
        #[derive(Clone, Default)]
        struct Log(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Log {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().expect("nobody panics with it").write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .without_time()
            .with_target(false)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let _default = tracing::subscriber::set_default(subscriber);

        let telemetry = Arc::new(Telemetry::default());
        // What was lost before somebody watched is in the account only.
        telemetry.lost(
            Loss::ExportFailed,
            Tally {
                segments: 1,
                spans: 1,
            },
        );
        let lose = async {
            for second in 0..70_u64 {
                telemetry.lost(
                    Loss::QueueFull,
                    Tally {
                        segments: 1,
                        spans: 2,
                    },
                );
                telemetry.kernel_lost(LossReason::RingFull, 7 + second / 100);
                telemetry.tracer_lost("call_late", false, 3);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            // The watch is there before the first loss.
            biased;
            () = watch(Arc::clone(&telemetry)) => {}
            () = lose => {}
        }
        let text =
            String::from_utf8(log.0.lock().expect("nobody panics with it").clone()).expect("it is text");
        let queue_full: Vec<_> = text.lines().filter(|line| line.contains("queue_full")).collect();
        assert_eq!(queue_full.len(), 2, "{text}");
        assert_eq!(
            text.lines().filter(|line| line.contains("ring_full")).count(),
            1,
            "{text}"
        );
        assert_eq!(
            text.lines().filter(|line| line.contains("call_late")).count(),
            1,
            "{text}"
        );
        assert!(!text.contains("export_failed"), "{text}");
        // Two spans a second for a minute.
        let count = queue_full[1]
            .split_once("count=")
            .map(|(_, count)| count.trim().parse::<u64>());
        assert!(matches!(count, Some(Ok(118..=122))), "{text}");
    }
}
