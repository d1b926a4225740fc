//! All counters at one moment: what the probe answers for.

use std::fmt;

use probe_common::loss::LossReason;

use super::{Loss, Sampled, Tally, TracerLoss};
use crate::words::{SPANS, counted};

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
        self.pending().segments
    }

    /// The same with its spans.
    pub fn pending(&self) -> Tally {
        let lost = self.lost_after_production();
        let left =
            |produced: u64, exported: u64, lost: u64| produced.saturating_sub(exported).saturating_sub(lost);
        Tally {
            segments: left(self.produced.segments, self.exported.segments, lost.segments),
            spans: left(self.produced.spans, self.exported.spans, lost.spans),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Telemetry;

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
}
