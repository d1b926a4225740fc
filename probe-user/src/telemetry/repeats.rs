//! What is lost is said while it happens, and not too often.

use std::{sync::Arc, time::Duration};

use tracing::{info, warn};

use super::Telemetry;

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
    use std::sync::Mutex;

    use probe_common::loss::LossReason;

    use super::*;
    use crate::telemetry::{Loss, Tally};

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
