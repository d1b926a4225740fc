//! The reader thread: from the ring to the queue of finished segments.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::Sender,
    },
    time::Duration,
};

use tracing::error;

use super::targets::{Notice, SharedTypes};
use crate::{
    clock::{self, WallClock},
    event::{self, Event},
    export::SegmentSender,
    kernel::ring::Ring,
    telemetry::{Loss, Tally, Telemetry},
    trace::{Tracer, segment::Segment},
};

/// The kernel side wakes nobody for a single record, since that costs the traced program; the ring is looked at
/// this often. It bounds how late a trace is seen.
const DRAIN_INTERVAL: Duration = Duration::from_millis(10);
/// Records taken before segments are handed on and the tracer's lock is let go.
const BATCH_RECORDS: usize = 512;
/// How often the wall clock's distance is read anew, and the tracer lets go of what is overdue.
const TICK_NS: u64 = 250_000_000;

/// What the reader thread works with.
pub(super) struct Reader {
    ring: Ring,
    tracer: Arc<Mutex<Tracer>>,
    types: SharedTypes,
    segments: SegmentSender,
    telemetry: Arc<Telemetry>,
    notices: Sender<Notice>,
    stop: Arc<AtomicBool>,
}

impl Reader {
    pub(super) fn new(
        ring: Ring,
        tracer: Arc<Mutex<Tracer>>,
        types: SharedTypes,
        segments: SegmentSender,
        telemetry: Arc<Telemetry>,
        notices: Sender<Notice>,
    ) -> Self {
        Self {
            ring,
            tracer,
            types,
            segments,
            telemetry,
            notices,
            stop: Arc::default(),
        }
    }

    /// Set, it has the reader drain what is there, flush and end.
    pub(super) fn stop(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    pub(super) fn run(mut self) {
        let mut wall = WallClock::read();
        let mut next_tick_ns = 0;
        let mut finished = Vec::new();
        loop {
            let last_round = self.stop.load(Ordering::Acquire);
            // In the last round, too: a program that was under way when its process was let go may still send.
            if let Err(error) = self.ring.wait(DRAIN_INTERVAL) {
                error!(%error, "Ring buffer cannot be waited for");
                return;
            }
            while self.drain(wall, &mut finished) == BATCH_RECORDS {}
            let now_ns = clock::now_boot_ns();
            if now_ns >= next_tick_ns {
                wall = WallClock::read();
                next_tick_ns = now_ns + TICK_NS;
                self.with_tracer(&mut finished, |tracer, out| tracer.tick(now_ns, out));
                self.tell_losses();
            }
            if last_round {
                self.with_tracer(&mut finished, |tracer, out| tracer.flush(out));
                self.tell_losses();
                return;
            }
        }
    }

    /// Takes a batch of records; how many there were.
    fn drain(&mut self, wall: WallClock, finished: &mut Vec<Segment>) -> usize {
        let count = self.take(wall, finished);
        self.segments.send(finished);
        count
    }

    fn take(&mut self, wall: WallClock, finished: &mut Vec<Segment>) -> usize {
        let Self {
            ring,
            tracer,
            types,
            telemetry,
            notices,
            ..
        } = self;
        let offset_ns = i64::try_from(wall.wall_ns(0)).unwrap_or(i64::MAX);
        let mut tracer = tracer.lock().unwrap_or_else(PoisonError::into_inner);
        let types = types.lock().unwrap_or_else(PoisonError::into_inner);
        ring.drain(BATCH_RECORDS, |record| match event::decode(record) {
            Ok(Event::ProcessExec(process)) => {
                let _ = notices.send(Notice::Exec {
                    pid: process.header.tgid,
                });
            }
            Ok(Event::ProcessExit(process)) => {
                let _ = notices.send(Notice::Exit {
                    pid: process.header.tgid,
                });
            }
            Ok(event) => tracer.on_event(&event, offset_ns, &*types, finished),
            Err(_) => telemetry.lost(
                Loss::RecordMalformed,
                Tally {
                    segments: 0,
                    spans: 1,
                },
            ),
        })
    }

    fn with_tracer(&self, finished: &mut Vec<Segment>, f: impl FnOnce(&mut Tracer, &mut Vec<Segment>)) {
        f(
            &mut self.tracer.lock().unwrap_or_else(PoisonError::into_inner),
            finished,
        );
        self.segments.send(finished);
    }

    fn tell_losses(&self) {
        let tracer = self.tracer.lock().unwrap_or_else(PoisonError::into_inner);
        for (loss, total) in tracer.losses() {
            self.telemetry.tracer_lost(loss.name(), loss.loses_span(), total);
        }
    }
}
