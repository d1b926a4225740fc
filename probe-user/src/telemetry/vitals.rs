//! Signs of life: when each thread came round last, and how far the probe has come. A thread leaves its mark where it
//! comes by anyway; nobody is woken for it.

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// A thread without which nothing is traced. Who asks how they are is answered by the third, which lives then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Empties the ring.
    Reader,
    /// Looks at processes, attaches and lets go.
    Targets,
}

impl Stage {
    pub const ALL: [Self; 2] = [Self::Reader, Self::Targets];

    /// The thread's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Targets => "targets",
        }
    }

    /// How long it may take to come round. The reader does so four times a second, and between the batches of what it
    /// takes; the targets thread every two seconds, and for each process that it looks at: to load and attach all
    /// programs for one takes a second, and several where the kernel is emulated.
    const fn longest(self) -> Duration {
        match self {
            Self::Reader => Duration::from_secs(10),
            Self::Targets => Duration::from_secs(30),
        }
    }

    /// What does not happen while it is stuck.
    const fn duty(self) -> &'static str {
        match self {
            Self::Reader => "the kernel's records are not read",
            Self::Targets => "processes that come are not traced",
        }
    }
}

/// How far the probe has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    Starting,
    Tracing,
    Stopping,
}

/// A thread that does not come round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unwell {
    /// For this long.
    Late {
        stage: Stage,
        since: Duration,
    },
    Ended(Stage),
}

impl fmt::Display for Unwell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late { stage, since } => write!(
                f,
                "the {} thread has not come round for {} s: {}",
                stage.name(),
                since.as_secs(),
                stage.duty()
            ),
            Self::Ended(stage) => write!(f, "the {} thread has ended: {}", stage.name(), stage.duty()),
        }
    }
}

#[derive(Debug, Default)]
struct Pulse {
    /// Milliseconds from the begin of all to the last beat.
    beat_ms: AtomicU64,
    ended: AtomicBool,
}

/// What the threads leave behind as they come by.
#[derive(Debug)]
pub struct Vitals {
    begun: Instant,
    phase: AtomicU8,
    pulses: [Pulse; Stage::ALL.len()],
}

impl Default for Vitals {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            phase: AtomicU8::new(Phase::Starting as u8),
            pulses: Default::default(),
        }
    }
}

/// A thread that lives. Dropped, even by a panic, it does not.
#[derive(Debug)]
pub struct Alive<'a> {
    vitals: &'a Vitals,
    stage: Stage,
}

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        self.vitals.pulse(self.stage).ended.store(true, Ordering::Relaxed);
    }
}

impl Vitals {
    /// This thread is the stage from here on.
    pub fn live(&self, stage: Stage) -> Alive<'_> {
        self.beat(stage);
        Alive { vitals: self, stage }
    }

    /// It has come round.
    pub fn beat(&self, stage: Stage) {
        let ms = u64::try_from(self.uptime().as_millis()).unwrap_or(u64::MAX);
        // Relaxed: it orders nothing.
        self.pulse(stage).beat_ms.store(ms, Ordering::Relaxed);
    }

    /// How long the probe has run.
    pub fn uptime(&self) -> Duration {
        self.begun.elapsed()
    }

    /// How long ago it came round.
    pub fn since_beat(&self, stage: Stage) -> Duration {
        let beat = Duration::from_millis(self.pulse(stage).beat_ms.load(Ordering::Relaxed));
        self.uptime().saturating_sub(beat)
    }

    /// Whether all threads come round.
    pub fn health(&self) -> Result<(), Unwell> {
        for stage in Stage::ALL {
            if self.pulse(stage).ended.load(Ordering::Relaxed) {
                return Err(Unwell::Ended(stage));
            }
            let since = self.since_beat(stage);
            if since > stage.longest() {
                return Err(Unwell::Late { stage, since });
            }
        }
        Ok(())
    }

    /// All that was there has been attached to.
    pub fn tracing(&self) {
        self.phase.store(Phase::Tracing as u8, Ordering::Relaxed);
    }

    /// Nothing new is traced any more.
    pub fn stopping(&self) {
        self.phase.store(Phase::Stopping as u8, Ordering::Relaxed);
    }

    /// Why nothing is traced at the moment.
    pub fn idle(&self) -> Option<&'static str> {
        let phase = self.phase.load(Ordering::Relaxed);
        if phase == Phase::Starting as u8 {
            Some("it is attaching to what runs already")
        } else if phase == Phase::Stopping as u8 {
            Some("it is stopping")
        } else {
            None
        }
    }

    fn pulse(&self, stage: Stage) -> &Pulse {
        let [reader, targets] = &self.pulses;
        match stage {
            Stage::Reader => reader,
            Stage::Targets => targets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_does_not_come_round_is_named() {
        let vitals = Vitals::default();
        let reader = vitals.live(Stage::Reader);
        let _targets = vitals.live(Stage::Targets);
        assert_eq!(vitals.health(), Ok(()));
        tokio::time::advance(Duration::from_secs(12)).await;
        let unwell = vitals.health().unwrap_err();
        assert_eq!(
            unwell.to_string(),
            "the reader thread has not come round for 12 s: the kernel's records are not read"
        );
        vitals.beat(Stage::Reader);
        assert_eq!(vitals.health(), Ok(()), "the others have longer");
        tokio::time::advance(Duration::from_secs(9)).await;
        vitals.beat(Stage::Reader);
        tokio::time::advance(Duration::from_millis(10_500)).await;
        vitals.beat(Stage::Reader);
        let late = Unwell::Late {
            stage: Stage::Targets,
            since: Duration::from_millis(31_500),
        };
        assert_eq!(vitals.health(), Err(late.clone()));
        assert!(late.to_string().contains("targets"), "{late}");
        vitals.beat(Stage::Targets);
        drop(reader);
        assert_eq!(vitals.health(), Err(Unwell::Ended(Stage::Reader)));
    }

    #[test]
    fn it_traces_between_its_start_and_its_stop() {
        let vitals = Vitals::default();
        assert!(vitals.idle().is_some_and(|why| why.contains("attaching")));
        vitals.tracing();
        assert_eq!(vitals.idle(), None);
        vitals.stopping();
        assert!(vitals.idle().is_some_and(|why| why.contains("stopping")));
    }
}
