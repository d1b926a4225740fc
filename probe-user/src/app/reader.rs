//! The reader thread: from the ring to the queue of finished segments.

use std::{
    io::PipeReader,
    os::fd::AsFd as _,
    sync::{Arc, Mutex, PoisonError, mpsc::Sender},
    thread,
    time::Duration,
};

use probe_common::limits::RING_BYTES;
use tracing::error;

use super::targets::{Notice, SharedTypes};
use crate::{
    clock::{self, WallClock},
    event::{self, Event},
    export::SegmentSender,
    kernel::ring::Ring,
    requests::Requests,
    telemetry::{Loss, Stage, Tally, Telemetry},
    trace::{Tracer, segment::Segment},
};

/// From the first record that comes to the drain, for more of them to come: each wake-up costs the traced program.
/// It bounds how late a trace is seen.
const GATHER: Duration = Duration::from_millis(10);
/// Longer than this no round takes, unless the probe was stopped, or got no processor.
const STALL: Duration = Duration::from_secs(1);
/// How long it then takes to be as before, at most.
const CATCHING_UP: Duration = Duration::from_secs(5);
/// After so many pauses the exporter has shown that it takes nothing.
const LOOKS_IN_VAIN: u32 = 10;
/// Records taken before segments are handed on and the tracer's lock is let go.
const BATCH_RECORDS: usize = 512;
/// How often the wall clock's distance is read anew, the tracer lets go of what is overdue, and the ring is looked at
/// when nobody wakes us.
const TICK: Duration = Duration::from_millis(250);

/// How old records in the ring may be while there are always more.
const BEHIND: Duration = Duration::from_secs(5);

/// What the reader thread works with.
pub(super) struct Reader {
    pub(super) ring: Ring,
    pub(super) tracer: Arc<Mutex<Tracer>>,
    pub(super) types: SharedTypes,
    pub(super) segments: SegmentSender,
    /// Where they are counted by what they are, if somebody can ask for it.
    pub(super) requests: Option<Arc<Requests>>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) notices: Sender<Notice>,
    /// Once its other end is closed, the reader drains what is there, flushes and ends.
    pub(super) until: PipeReader,
}

impl Reader {
    pub(super) fn run(mut self) {
        let telemetry = Arc::clone(&self.telemetry);
        let _alive = telemetry.vitals().live(Stage::Reader);
        let mut wall = WallClock::read();
        let mut next_tick_ns = 0;
        let mut last_ns = clock::now_boot_ns();
        let mut finished = Vec::new();
        loop {
            let waited = match self.ring.wait(TICK, self.until.as_fd()) {
                Ok(waited) => waited,
                Err(error) => {
                    error!(%error, "Ring buffer cannot be waited for");
                    return;
                }
            };
            let last_round = waited.other;
            // In the last round, too: a program that was under way when its process was let go may still send.
            if waited.has_records || last_round {
                thread::sleep(GATHER);
            }
            let drained_ns = clock::now_boot_ns();
            let stalled = drained_ns > last_ns + STALL.as_nanos() as u64;
            if stalled {
                // The clock may have been set while we stood still, as it is after a suspend.
                wall = WallClock::read();
            }
            let mut now_ns;
            loop {
                let is_behind = self.drain(wall, &mut finished) == BATCH_RECORDS;
                now_ns = clock::now_boot_ns();
                // Also where the exporter keeps us behind for long: the clock may be set meanwhile.
                if now_ns >= next_tick_ns {
                    wall = WallClock::read();
                    next_tick_ns = now_ns + TICK.as_nanos() as u64;
                    // What would be waited for in vain may be in the ring still.
                    let behind_ns = if is_behind { BEHIND.as_nanos() as u64 } else { 0 };
                    let told_ns = now_ns.saturating_sub(behind_ns);
                    self.with_tracer(&mut finished, |tracer, out| tracer.tick(told_ns, out));
                    self.tell_losses();
                }
                if !is_behind {
                    break;
                }
                let stalled = stalled && now_ns < drained_ns + CATCHING_UP.as_nanos() as u64;
                self.wait_for_room(stalled);
            }
            last_ns = now_ns;
            if last_round {
                self.with_tracer(&mut finished, |tracer, out| tracer.flush(out));
                self.tell_losses();
                return;
            }
        }
    }

    /// What comes at once may be more than the exporter's queue holds. It gets time to empty it, as long as it does, and
    /// as long as the ring has room for what comes meanwhile: where the exporter is too slow for good, to lose whole
    /// segments is better than to lose parts of them. After a stall of ours the ring may be full, and is worth more
    /// than what does not get into it.
    fn wait_for_room(&self, stalled: bool) {
        let mut most = self.segments.room();
        let mut in_vain = 0;
        while most < BATCH_RECORDS
            && in_vain < LOOKS_IN_VAIN
            && (stalled || self.ring.waiting_bytes() < u64::from(RING_BYTES) / 2)
        {
            thread::sleep(GATHER);
            let room = self.segments.room();
            in_vain = if room > most { 0 } else { in_vain + 1 };
            most = most.max(room);
        }
    }

    /// Takes a batch of records; how many there were.
    fn drain(&mut self, wall: WallClock, finished: &mut Vec<Segment>) -> usize {
        let count = self.take(wall, finished);
        self.telemetry.vitals().beat(Stage::Reader);
        self.send(finished);
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
                    time_ns: process.time_ns,
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
        self.send(finished);
    }

    fn send(&self, finished: &mut Vec<Segment>) {
        if let Some(requests) = &self.requests {
            requests.count(finished);
        }
        self.segments.send(finished);
    }

    fn tell_losses(&self) {
        let tracer = self.tracer.lock().unwrap_or_else(PoisonError::into_inner);
        for (loss, total) in tracer.losses() {
            self.telemetry.tracer_lost(loss.name(), loss.loses_span(), total);
        }
    }
}
