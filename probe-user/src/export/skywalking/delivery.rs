//! Segments → collect streams, one a batch; the reply confirms it.
//!
//! | what happens | what becomes of the batch |
//! | --- | --- |
//! | no backend reachable, or it is not available | kept; the queue fills behind it |
//! | the connection breaks | unsent: kept; sent without a reply: sent once more, then lost as `unconfirmed` |
//! | no reply by the deadline | unsent: kept; sent: lost as `unconfirmed`, since OAP may still be at it |
//! | RESOURCE_EXHAUSTED | kept, after a pause; lost as `export_failed` after [`SPARED_MOST`] times |
//! | PERMISSION_DENIED, UNAUTHENTICATED | lost as `oap_refused`, and all others until the next try |
//! | UNIMPLEMENTED | likewise, as `oap_unimplemented` |
//! | any other answer | lost as `export_failed`: the same batch would fail again |

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::Instant;
use tonic::{Code, Request, Status};
use tracing::{error, warn};

use super::Settings;
use super::connection::{Answer, Connection, Live, told};
use super::wire::Taken;
use crate::export::{SegmentReceiver, tally_all};
use crate::telemetry::{Loss, Repeats, Tally, Telemetry};
use crate::trace::segment::Segment;

/// How often an OAP may ask in a row to be spared before a batch is given up: some two minutes.
const SPARED_MOST: u32 = 10;

/// Takes segments from the queue and brings them to OAP.
pub(super) struct Delivery {
    segments: SegmentReceiver,
    connection: Arc<Connection>,
    telemetry: Arc<Telemetry>,
    settings: Settings,
    /// Attempts in a row that came to nothing.
    failures: u32,
    denied: Option<Denied>,
    /// When the time to flush is over; known once the last sender is gone.
    flush_until: Option<Instant>,
    /// The probe stops, and every backend has failed since.
    last_round: bool,
    repeats: Repeats<&'static str>,
}

/// OAP does not want our segments.
#[derive(Clone, Copy)]
struct Denied {
    loss: Loss,
    /// None is tried before.
    until: Instant,
    /// The version of the token it was said to; another one is tried at once.
    token: u64,
}

/// What became of one attempt.
#[derive(Debug)]
enum Attempt {
    Delivered,
    /// The connection broke.
    Broken(Status),
    /// OAP answered, but not that it has the batch.
    Answered(Status),
    /// There was no reply within the deadline.
    Silent,
    /// The probe stops, and the time to flush is over.
    OutOfTime,
}

impl Delivery {
    pub(super) fn new(
        segments: SegmentReceiver,
        connection: Arc<Connection>,
        telemetry: Arc<Telemetry>,
        settings: Settings,
    ) -> Self {
        Self {
            segments,
            connection,
            telemetry,
            settings,
            failures: 0,
            denied: None,
            flush_until: None,
            last_round: false,
            repeats: Repeats::default(),
        }
    }

    /// Ends when the last sender is gone and every segment is delivered or counted as lost.
    pub(super) async fn run(mut self) {
        let mut given_up = None;
        let Settings {
            batch_segments,
            batch_interval,
            ..
        } = self.settings;
        while let Some(batch) = self.segments.batch(batch_segments.max(1), batch_interval).await {
            let denied = self
                .denied
                .filter(|denied| {
                    Instant::now() < denied.until
                        && !self.connection.credentials().is_renewed_since(denied.token)
                })
                .map(|denied| denied.loss);
            match given_up.or(denied) {
                Some(loss) => self.lose(loss, &batch),
                None => match self.deliver(batch).await {
                    ControlFlow::Continue(()) => {}
                    ControlFlow::Break(loss) => given_up = Some(loss),
                },
            }
        }
    }

    /// Breaks when the probe stops and nothing more can be delivered: with what the rest is lost for.
    async fn deliver(&mut self, batch: Vec<Segment>) -> ControlFlow<Loss> {
        let mut batch = Batch::new(batch);
        let mut spared = 0;
        let mut attempts = 0_u32;
        self.denied = None;
        while !batch.is_empty() {
            let Some(live) = self.live().await else {
                return self.give_up(&batch);
            };
            let token = self.connection.credentials().version();
            let attempt = self.attempt(&live, &batch).await;
            match attempt {
                Attempt::Delivered => {
                    self.connection.pleased().await;
                    self.telemetry.exported(tally_all(batch.rest()));
                    self.failures = 0;
                    self.denied = None;
                    return ControlFlow::Continue(());
                }
                Attempt::OutOfTime => {
                    self.lose(Loss::FlushDeadline, batch.rest());
                    return ControlFlow::Break(Loss::FlushDeadline);
                }
                Attempt::Broken(status) => {
                    self.connection.broke(&live, &status).await;
                    self.lose(Loss::Unconfirmed, batch.broke());
                }
                Attempt::Silent => {
                    self.connection.abandon(&live).await;
                    self.say_silent(&live);
                    self.lose(Loss::Unconfirmed, batch.drop_sent());
                }
                Attempt::Answered(status) => {
                    self.connection.displeased(&live).await;
                    match Answer::of(status.code()) {
                        Answer::TryAgain => self.say_failed(&live, &status),
                        Answer::Spare => {
                            self.say_failed(&live, &status);
                            spared += 1;
                            if spared > SPARED_MOST {
                                self.lose(Loss::ExportFailed, batch.take_rest());
                            }
                        }
                        // Its file was written anew since.
                        Answer::Refused if self.connection.credentials().is_renewed_since(token) => {}
                        Answer::Refused => {
                            self.connection.refused(&live).await;
                            self.deny(Loss::OapRefused, token);
                        }
                        Answer::Unimplemented => {
                            self.say_unimplemented(&live, &status);
                            self.deny(Loss::OapUnimplemented, token);
                        }
                        Answer::Failed => {
                            self.say_failed(&live, &status);
                            self.lose(Loss::ExportFailed, batch.drop_sent());
                        }
                    }
                }
            }
            attempts = attempts.saturating_add(1);
            self.failures = self.failures.saturating_add(1);
            if attempts.is_multiple_of(self.connection.backends()) {
                // Every backend had its turn. If one of them denied us, waiting does not help.
                if let Some(Denied { loss, .. }) = self.denied {
                    self.lose(loss, batch.take_rest());
                } else if self.pause().await.is_break() {
                    // One more round, since this one may have met a connection that was long dead.
                    if std::mem::replace(&mut self.last_round, true) {
                        return self.give_up(&batch);
                    }
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn give_up(&self, batch: &Batch) -> ControlFlow<Loss> {
        self.lose(Loss::OapUnreachable, batch.rest());
        ControlFlow::Break(Loss::OapUnreachable)
    }

    /// A connection, however long it takes; once the probe stops, only if there is one now.
    async fn live(&mut self) -> Option<Live> {
        if self.flush_until.is_none() {
            tokio::select! {
                live = self.connection.live() => return Some(live),
                () = self.segments.closing() => {}
            }
        }
        let until = self.flush_until();
        tokio::time::timeout_at(until, self.connection.live_now())
            .await
            .ok()
            .flatten()
    }

    /// When the time to flush is over. The last sender is gone.
    fn flush_until(&mut self) -> Instant {
        *self
            .flush_until
            .get_or_insert_with(|| Instant::now() + self.settings.flush)
    }

    /// Ends when the time to flush is over; runs on while a sender is there.
    async fn out_of_time(&mut self) {
        self.segments.closing().await;
        let until = self.flush_until();
        tokio::time::sleep_until(until).await;
    }

    /// Breaks, and is cut short, if the probe stops.
    async fn pause(&mut self) -> ControlFlow<()> {
        let pause = self
            .settings
            .backoff
            .pause(self.failures / self.connection.backends());
        tokio::select! {
            () = tokio::time::sleep(pause) => ControlFlow::Continue(()),
            () = self.segments.closing() => ControlFlow::Break(()),
        }
    }

    /// Sends the batch on a stream of its own and waits for the reply.
    async fn attempt(&mut self, live: &Live, batch: &Batch) -> Attempt {
        let deadline = self.settings.deadline;
        let mut request = Request::new(tokio_stream::iter(batch.stream()));
        // OAP is told too, so that it does not go on with what nobody waits for.
        request.set_timeout(deadline);
        let reply = tokio::select! {
            reply = tokio::time::timeout(deadline, live.collect(request)) => reply,
            () = self.out_of_time() => return Attempt::OutOfTime,
        };
        match reply {
            // The commands in the reply are for agents that can be told something; we take none.
            Ok(Ok(_commands)) => Attempt::Delivered,
            Ok(Err(status)) if status.code() == Code::Cancelled && timed_out(&status) => Attempt::Silent,
            // Only an error that was made here has an error under it: a status from the wire stands alone.
            Ok(Err(status)) if std::error::Error::source(&status).is_some() => Attempt::Broken(status),
            Ok(Err(status)) => Attempt::Answered(status),
            Err(_elapsed) => Attempt::Silent,
        }
    }

    /// No segment is tried for a while.
    fn deny(&mut self, loss: Loss, token: u64) {
        self.denied = Some(Denied {
            loss,
            until: Instant::now() + self.settings.refused_pause,
            token,
        });
    }

    fn lose<'a>(&self, loss: Loss, segments: impl IntoIterator<Item = &'a Segment>) {
        let sum = tally_all(segments);
        if sum != Tally::default() {
            self.telemetry.lost(loss, sum);
        }
    }

    fn say_silent(&mut self, live: &Live) {
        if let Some(count) = self.repeats.admit("silent", Instant::now()) {
            let deadline_ms = self.settings.deadline.as_millis();
            warn!(server.addr = %live.address, deadline_ms, count, "OAP did not confirm a batch in time");
        }
    }

    fn say_failed(&mut self, live: &Live, status: &Status) {
        let reason = status.code().description();
        if let Some(count) = self.repeats.admit(reason, Instant::now()) {
            let error = told(status);
            warn!(server.addr = %live.address, reason, error, count, "OAP did not take a batch");
        }
    }

    fn say_unimplemented(&mut self, live: &Live, status: &Status) {
        if let Some(count) = self.repeats.admit("unimplemented", Instant::now()) {
            let error = told(status);
            error!(
                server.addr = %live.address,
                error,
                count,
                "What answers at this address takes no segments: is it an OAP with its trace receiver on?"
            );
        }
    }
}

/// tonic enforces the deadline as well, and may be first.
fn timed_out(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::TimeoutExpired>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Segments on their way, in order; knows which of them OAP may have seen.
#[derive(Debug)]
struct Batch {
    segments: Arc<Vec<Segment>>,
    /// Those before are settled.
    start: usize,
    /// Those from `start` up to here have been sent once, on a connection that broke.
    once: usize,
    /// How many the last attempt took from us.
    taken: Arc<AtomicUsize>,
}

impl Batch {
    fn new(segments: Vec<Segment>) -> Self {
        Self {
            segments: Arc::new(segments),
            start: 0,
            once: 0,
            taken: Arc::default(),
        }
    }

    fn rest(&self) -> &[Segment] {
        self.segments.get(self.start..).unwrap_or_default()
    }

    fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    /// The messages of one attempt. What the transport takes from here counts as sent, even if it then lies in a
    /// buffer: rather one too many than one told twice.
    fn stream(&self) -> impl Iterator<Item = Taken> + Send + 'static {
        self.taken.store(0, Ordering::Relaxed);
        let (batch, taken) = (Arc::clone(&self.segments), Arc::clone(&self.taken));
        (self.start..self.segments.len()).map(move |position| {
            taken.fetch_add(1, Ordering::Relaxed);
            Taken {
                batch: Arc::clone(&batch),
                position,
            }
        })
    }

    /// What the last attempt has sent is settled.
    fn drop_sent(&mut self) -> &[Segment] {
        self.settle(self.taken.load(Ordering::Relaxed))
    }

    fn take_rest(&mut self) -> &[Segment] {
        self.settle(usize::MAX)
    }

    /// The connection broke: what was sent for the second time is settled, the other stays.
    fn broke(&mut self) -> &[Segment] {
        let sent = self.start + self.taken.load(Ordering::Relaxed);
        let twice = sent.min(self.once).saturating_sub(self.start);
        self.once = self.once.max(sent);
        self.settle(twice)
    }

    fn settle(&mut self, count: usize) -> &[Segment] {
        let from = self.start;
        self.start = from.saturating_add(count).min(self.segments.len());
        self.once = self.once.max(self.start);
        self.segments.get(from..self.start).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::segment::Identity;

    fn batch(count: usize) -> Batch {
        let identity = Arc::new(Identity {
            service: "service".into(),
            instance: "instance".into(),
        });
        let segment = |number: usize| Segment {
            trace_id: "trace".into(),
            segment_id: number.to_string(),
            identity: Arc::clone(&identity),
            spans: Vec::new(),
        };
        Batch::new((0..count).map(segment).collect())
    }

    fn ids(segments: &[Segment]) -> String {
        segments
            .iter()
            .map(|segment| segment.segment_id.as_str())
            .collect()
    }

    fn send(batch: &Batch, count: usize) -> String {
        batch
            .stream()
            .take(count)
            .map(|taken| taken.segment().unwrap().segment_id.clone())
            .collect()
    }

    #[test]
    fn what_was_never_sent_is_kept() {
        let mut batch = batch(5);
        assert_eq!(send(&batch, 0), "");
        assert_eq!(ids(batch.broke()), "");
        assert_eq!(ids(batch.drop_sent()), "");
        assert_eq!(ids(batch.rest()), "01234");
    }

    #[test]
    fn a_broken_connection_is_forgiven_once() {
        let mut batch = batch(5);
        assert_eq!(send(&batch, 3), "012");
        assert_eq!(ids(batch.broke()), "", "they may be sent once more");
        assert_eq!(send(&batch, 4), "0123");
        assert_eq!(ids(batch.broke()), "012", "but not twice");
        assert_eq!(send(&batch, 9), "34");
        assert_eq!(ids(batch.broke()), "3");
        assert_eq!(ids(batch.rest()), "4");
        assert_eq!(send(&batch, 9), "4");
        assert_eq!(ids(batch.broke()), "4");
        assert!(batch.is_empty());
    }

    #[test]
    fn a_break_before_anything_was_sent_again_costs_nothing() {
        let mut batch = batch(3);
        send(&batch, 3);
        assert_eq!(ids(batch.broke()), "");
        send(&batch, 0);
        assert_eq!(ids(batch.broke()), "");
        send(&batch, 2);
        assert_eq!(ids(batch.broke()), "01");
        send(&batch, 1);
        assert_eq!(ids(batch.broke()), "2", "it had been sent with the first attempt");
    }

    #[test]
    fn what_a_deadline_catches_is_not_sent_again() {
        let mut batch = batch(4);
        send(&batch, 3);
        assert_eq!(ids(batch.drop_sent()), "012");
        assert_eq!(send(&batch, 9), "3");
        assert_eq!(ids(batch.take_rest()), "3");
        assert!(batch.is_empty());
    }
}
