//! Where finished segments go. All exporters share one bounded queue, so that a slow one never holds up the
//! stage that reads events.
//!
//! Bias: the traced programs before the traces. When the queue is full the newest segment is dropped and counted.

pub mod json;
pub mod output;
pub mod skywalking;
pub mod text;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};

use crate::telemetry::{Loss, Tally, Telemetry};
use crate::trace::segment::Segment;

/// Segments the queue holds unless told otherwise: what SkyWalking's Go agent holds. Filled, it takes some 10 MB.
pub const QUEUE_SEGMENTS: usize = 5_000;

/// How long a receiver that has emptied the queue leaves it alone. A drain of the ring is handed over one by one: who
/// waited for the next of it would be woken for each, and take the processor from the sender every time.
pub const PAUSE: Duration = Duration::from_millis(5);

/// A queue of at most `capacity` segments.
///
/// When the last sender is gone the receiver knows at once, even while it is busy: it is the signal to flush.
pub fn queue(capacity: usize, telemetry: Arc<Telemetry>) -> (SegmentSender, SegmentReceiver) {
    let (segments, receiver) = mpsc::channel(capacity.max(1));
    let (open, closed) = watch::channel(());
    let sender = SegmentSender {
        segments,
        telemetry,
        _open: Arc::new(open),
    };
    (
        sender,
        SegmentReceiver {
            segments: receiver,
            closed,
        },
    )
}

/// The end of the queue that belongs to the tracer.
#[derive(Clone, Debug)]
pub struct SegmentSender {
    segments: mpsc::Sender<Segment>,
    telemetry: Arc<Telemetry>,
    /// Dropped with the last sender; the receiver watches for that.
    _open: Arc<watch::Sender<()>>,
}

impl SegmentSender {
    /// How many segments the queue takes now.
    pub fn room(&self) -> usize {
        self.segments.capacity()
    }

    /// Looks at the queue without belonging to it.
    pub fn gauge(&self) -> Gauge {
        Gauge(self.segments.downgrade())
    }

    /// Hands over all of `segments` at once. Never waits: what finds no room is lost, and counted.
    pub fn send(&self, segments: &mut Vec<Segment>) {
        // To reserve no place wakes the receiver all the same.
        if segments.is_empty() {
            return;
        }
        self.telemetry.produced(tally_all(&*segments));
        let loss = loop {
            let room = self.segments.capacity().min(segments.len());
            match self.segments.try_reserve_many(room) {
                Ok(places) => {
                    for (place, segment) in places.zip(segments.drain(..room)) {
                        place.send(segment);
                    }
                    break Loss::QueueFull;
                }
                // Another sender has taken the room since.
                Err(TrySendError::Full(())) => {}
                // The exporter ended before the tracer: what it could not do any more, it cannot do for these.
                Err(TrySendError::Closed(())) => break Loss::ExportFailed,
            }
        };
        self.telemetry.lost(loss, tally_all(&*segments));
        segments.clear();
    }
}

/// How full the queue is, for whoever asks. The queue ends without it.
#[derive(Clone, Debug)]
pub struct Gauge(mpsc::WeakSender<Segment>);

impl Gauge {
    /// Segments that wait for the exporter.
    pub fn waiting(&self) -> usize {
        let segments = self.0.upgrade();
        segments.map_or(0, |segments| segments.max_capacity() - segments.capacity())
    }
}

/// The end of the queue that belongs to an exporter.
#[derive(Debug)]
pub struct SegmentReceiver {
    segments: mpsc::Receiver<Segment>,
    closed: watch::Receiver<()>,
}

impl SegmentReceiver {
    /// Adds what the queue holds to `batch`, at most `most`; waits for the first only. Says whether there was
    /// anything: there is not when the last sender is gone and the queue is empty. Broken off, it loses nothing.
    pub async fn recv(&mut self, batch: &mut Vec<Segment>, most: usize) -> bool {
        self.segments.recv_many(batch, most).await > 0
    }

    /// Up to `most` segments: waits for the first, then no longer than `wait` for the others.
    /// `None` when the last sender is gone and the queue is empty.
    pub async fn batch(&mut self, most: usize, wait: Duration) -> Option<Vec<Segment>> {
        let mut batch = Vec::new();
        if !self.recv(&mut batch, most).await {
            return None;
        }
        let full = async {
            while batch.len() < most {
                tokio::time::sleep(PAUSE).await;
                let room = most - batch.len();
                if !self.recv(&mut batch, room).await {
                    return;
                }
            }
        };
        // Either way the batch is what has come.
        let _ = tokio::time::timeout(wait, full).await;
        Some(batch)
    }

    /// Takes nothing any more; what the queue still held is let go, and how much that was is returned.
    pub fn close(&mut self) -> Tally {
        self.segments.close();
        let mut left = Tally::default();
        while let Ok(segment) = self.segments.try_recv() {
            left += tally(&segment);
        }
        left
    }

    /// Ends when the last sender is gone, whatever still lies in the queue.
    pub fn closing(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut closed = self.closed.clone();
        async move { while closed.changed().await.is_ok() {} }
    }
}

/// How much a segment counts.
pub fn tally(segment: &Segment) -> Tally {
    Tally {
        segments: 1,
        spans: segment.spans.len() as u64,
    }
}

/// How much several do.
pub fn tally_all<'a>(segments: impl IntoIterator<Item = &'a Segment>) -> Tally {
    let mut sum = Tally::default();
    for segment in segments {
        sum += tally(segment);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::segment::Identity;

    fn segment(number: usize) -> Segment {
        Segment {
            trace_id: "trace".into(),
            segment_id: number.to_string(),
            identity: Arc::new(Identity {
                service: "service".into(),
                instance: "instance".into(),
            }),
            spans: Vec::new(),
        }
    }

    fn ids(batch: Option<Vec<Segment>>) -> Option<Vec<String>> {
        batch.map(|batch| batch.into_iter().map(|segment| segment.segment_id).collect())
    }

    #[tokio::test]
    async fn the_newest_are_dropped_and_counted() {
        let telemetry = Arc::new(Telemetry::default());
        let (sender, mut receiver) = queue(2, Arc::clone(&telemetry));
        let gauge = sender.gauge();
        sender.send(&mut vec![segment(0)]);
        assert_eq!(gauge.waiting(), 1);
        sender.send(&mut (1..5).map(segment).collect());
        assert_eq!(gauge.waiting(), 2);
        drop(sender);
        let batch = receiver.batch(10, Duration::from_secs(1)).await;
        assert_eq!(ids(batch), Some(vec!["0".into(), "1".into()]));
        assert_eq!(ids(receiver.batch(10, Duration::from_secs(1)).await), None);
        assert_eq!(telemetry.account().produced.segments, 5);
        assert_eq!(telemetry.account().lost_to(Loss::QueueFull).segments, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_ends_by_size_or_by_time() {
        let (sender, mut receiver) = queue(10, Arc::new(Telemetry::default()));
        sender.send(&mut (0..3).map(segment).collect());
        let start = tokio::time::Instant::now();
        let batch = receiver.batch(2, Duration::from_millis(500)).await;
        assert_eq!(ids(batch), Some(vec!["0".into(), "1".into()]));
        assert_eq!(start.elapsed(), Duration::ZERO);
        let batch = receiver.batch(2, Duration::from_millis(500)).await;
        assert_eq!(ids(batch), Some(vec!["2".into()]));
        assert_eq!(start.elapsed(), Duration::from_millis(500));
    }

    #[tokio::test]
    async fn closing_is_known_before_the_queue_is_empty() {
        let (sender, receiver) = queue(10, Arc::new(Telemetry::default()));
        let other = sender.clone();
        sender.send(&mut vec![segment(0)]);
        drop(sender);
        let early = tokio::time::timeout(Duration::from_millis(10), receiver.closing()).await;
        assert!(early.is_err(), "one sender is left");
        drop(other);
        receiver.closing().await;
    }

    #[tokio::test]
    async fn what_the_queue_held_when_it_was_closed_is_told() {
        let telemetry = Arc::new(Telemetry::default());
        let (sender, mut receiver) = queue(10, Arc::clone(&telemetry));
        sender.send(&mut (0..3).map(segment).collect());
        assert_eq!(receiver.close().segments, 3);
        sender.send(&mut vec![segment(3)]);
        assert_eq!(telemetry.account().lost_to(Loss::ExportFailed).segments, 1);
    }

    #[tokio::test]
    async fn what_comes_after_the_exporter_ended_is_counted_too() {
        let telemetry = Arc::new(Telemetry::default());
        let (sender, receiver) = queue(10, Arc::clone(&telemetry));
        drop(receiver);
        sender.send(&mut vec![segment(0)]);
        assert_eq!(telemetry.account().lost_to(Loss::ExportFailed).segments, 1);
        assert_eq!(telemetry.account().pending_segments(), 0);
    }
}
