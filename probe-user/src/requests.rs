//! Requests and calls by service, instance, kind and operation: how many there were, how many failed, how long they
//! took. Counted from finished segments, before anything can be lost on the way to an exporter.
//!
//! What was not sampled has no segment, and is counted by the kernel only.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use foldhash::fast::RandomState;

use crate::trace::{
    segment::{Identity, Segment},
    span::{Span, SpanKind},
};

/// Upper bounds of the durations that are told apart, in nanoseconds: those that Prometheus' clients have, and two
/// below them, for services that answer from memory. What takes longer has no bound.
pub const BOUNDS_NS: [u64; 13] = [
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];
const BUCKETS: usize = BOUNDS_NS.len() + 1;

/// Combinations of service, instance, kind and operation. Each is 18 lines of `/metrics`, and a kilobyte here.
const SERIES_MAX: usize = 1_000;
const SECOND_NS: u64 = 1_000_000_000;
/// Where there are too many, those go that nothing came for in this time: of instances that are gone, mostly.
const IDLE_NS: u64 = 600 * SECOND_NS;
/// How often it is looked for such.
const SWEEP_NS: u64 = 60 * SECOND_NS;
/// How long an example stands for its bucket before the next may.
const EXAMPLE_NS: u64 = SECOND_NS;
/// OpenMetrics allows 128 characters, the label's name included.
const TRACE_ID_MAX: usize = 120;

/// The kinds that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Requests that were served.
    Entry,
    /// Calls that were made.
    Exit,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Entry, Self::Exit];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Entry => "entry",
            Self::Exit => "exit",
        }
    }

    fn of(span: &Span) -> Option<Self> {
        match span.kind {
            SpanKind::Entry => Some(Self::Entry),
            SpanKind::Exit => Some(Self::Exit),
            SpanKind::Local => None,
        }
    }
}

/// A trace that stands for the others of its bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    pub trace_id: String,
    pub duration_ns: u64,
    /// Wall clock, nanoseconds since 1970.
    pub at_ns: u64,
}

/// What is known of one kind of request.
#[derive(Debug, Default)]
pub struct Series {
    pub errors: u64,
    pub sum_ns: u64,
    /// Each by itself, not summed up.
    pub buckets: [Bucket; BUCKETS],
    last_ns: u64,
}

#[derive(Debug, Default)]
pub struct Bucket {
    pub count: u64,
    pub example: Option<Box<Example>>,
}

impl Series {
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.count).sum()
    }

    fn add(&mut self, span: &Span, trace_id: &str) {
        let duration_ns = span.end_ns.saturating_sub(span.start_ns);
        self.last_ns = self.last_ns.max(span.end_ns);
        self.errors += u64::from(span.is_error);
        self.sum_ns = self.sum_ns.saturating_add(duration_ns);
        // A bound belongs to the bucket below it.
        let place = BOUNDS_NS.partition_point(|bound| *bound < duration_ns);
        let Some(bucket) = self.buckets.get_mut(place) else {
            return;
        };
        bucket.count += 1;
        let is_due = match &bucket.example {
            Some(example) => example.at_ns.saturating_add(EXAMPLE_NS) <= span.end_ns,
            None => true,
        };
        if is_due && trace_id.len() <= TRACE_ID_MAX {
            bucket.example = Some(Box::new(Example {
                trace_id: trace_id.to_owned(),
                duration_ns,
                at_ns: span.end_ns,
            }));
        }
    }
}

type Operations = HashMap<Arc<str>, Series, RandomState>;

/// What one instance did, by kind and operation.
#[derive(Debug, Default)]
struct Instance {
    entry: Operations,
    exit: Operations,
}

impl Instance {
    fn of(&self, kind: Kind) -> &Operations {
        match kind {
            Kind::Entry => &self.entry,
            Kind::Exit => &self.exit,
        }
    }

    fn of_mut(&mut self, kind: Kind) -> &mut Operations {
        match kind {
            Kind::Entry => &mut self.entry,
            Kind::Exit => &mut self.exit,
        }
    }
}

/// What all did, shared by who counts and who tells.
#[derive(Debug, Default)]
pub struct Requests(Mutex<Table>);

/// All series.
#[derive(Debug, Default)]
pub struct Table {
    instances: HashMap<Arc<Identity>, Instance, RandomState>,
    series: usize,
    /// What found no place among them.
    others: [Series; Kind::ALL.len()],
    swept_ns: u64,
}

impl Requests {
    /// Counts what a drain of the ring has brought.
    pub fn count(&self, segments: &[Segment]) {
        if segments.is_empty() {
            return;
        }
        let mut table = self.table();
        for segment in segments {
            for span in &segment.spans {
                table.add(segment, span);
            }
        }
    }

    /// Nobody counts while this is held: to be read quickly.
    pub fn table(&self) -> MutexGuard<'_, Table> {
        // Nobody panics while holding it, and if so the numbers are still numbers.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn add(&mut self, segment: &Segment, span: &Span) {
        let Some(kind) = Kind::of(span) else { return };
        let known = self.instances.get_mut(&segment.identity);
        let series = known.and_then(|instance| instance.of_mut(kind).get_mut(&span.operation));
        if let Some(series) = series {
            series.add(span, &segment.trace_id);
            return;
        }
        if self.series >= SERIES_MAX {
            self.sweep(span.end_ns);
        }
        if self.series >= SERIES_MAX {
            let [entry, exit] = &mut self.others;
            let others = match kind {
                Kind::Entry => entry,
                Kind::Exit => exit,
            };
            others.add(span, &segment.trace_id);
            return;
        }
        let instance = self.instances.entry(Arc::clone(&segment.identity)).or_default();
        let series = instance
            .of_mut(kind)
            .entry(Arc::clone(&span.operation))
            .or_default();
        series.add(span, &segment.trace_id);
        self.series += 1;
    }

    /// Makes room.
    fn sweep(&mut self, now_ns: u64) {
        if now_ns < self.swept_ns.saturating_add(SWEEP_NS) {
            return;
        }
        self.swept_ns = now_ns;
        let oldest_ns = now_ns.saturating_sub(IDLE_NS);
        self.series = 0;
        for instance in self.instances.values_mut() {
            for kind in Kind::ALL {
                let operations = instance.of_mut(kind);
                operations.retain(|_, series| series.last_ns >= oldest_ns);
                self.series += operations.len();
            }
        }
        let is_used = |instance: &Instance| !instance.entry.is_empty() || !instance.exit.is_empty();
        self.instances.retain(|_, instance| is_used(instance));
    }

    /// Each with what it is of; without, for all others of the kind.
    pub fn series(&self) -> impl Iterator<Item = (Kind, Option<(&Identity, &str)>, &Series)> {
        let known = self.instances.iter().flat_map(|(identity, instance)| {
            Kind::ALL.into_iter().flat_map(move |kind| {
                let of = move |(operation, series)| {
                    let (operation, series): (&Arc<str>, &Series) = (operation, series);
                    (kind, Some((&**identity, &**operation)), series)
                };
                instance.of(kind).iter().map(of)
            })
        });
        let others = Kind::ALL.into_iter().zip(&self.others);
        let others = others.filter(|(_, series)| series.count() > 0);
        known.chain(others.map(|(kind, series)| (kind, None, series)))
    }

    /// Requests and calls that found no place among the series.
    pub fn overflown(&self) -> u64 {
        self.others.iter().map(Series::count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::span::Component;

    const MS: u64 = 1_000_000;

    fn segment(instance: &str, operation: &str, kind: SpanKind, end_ns: u64, duration_ns: u64) -> Segment {
        let span = Span {
            id: 0,
            parent_id: -1,
            start_ns: end_ns - duration_ns,
            end_ns,
            kind,
            component: Component::GoHttpServer,
            operation: operation.into(),
            peer: String::new(),
            is_error: operation.contains("bad"),
            references: Vec::new(),
            tags: Vec::new(),
            logs: Vec::new(),
            skip_analysis: false,
        };
        Segment {
            trace_id: format!("trace-{end_ns}"),
            segment_id: "segment".into(),
            identity: Arc::new(Identity {
                service: "service".into(),
                instance: instance.into(),
            }),
            spans: vec![span],
        }
    }

    #[test]
    fn durations_fall_into_their_buckets() {
        let requests = Requests::default();
        let at = |end_ns, duration_ns| segment("a", "GET:/bad", SpanKind::Entry, end_ns, duration_ns);
        let end_ns = 100 * SECOND_NS;
        requests.count(&[
            at(end_ns, 0),
            at(end_ns, MS),
            at(end_ns + 1, MS + 1),
            at(end_ns + 2, 11 * SECOND_NS),
            segment("a", "GET:/bad", SpanKind::Local, end_ns, MS),
        ]);
        let table = requests.table();
        let all: Vec<_> = table.series().collect();
        assert_eq!(all.len(), 1, "a local span is no request");
        let (kind, of, series) = &all[0];
        assert_eq!(*kind, Kind::Entry);
        let (identity, operation) = of.unwrap();
        assert_eq!((identity.instance.as_str(), operation), ("a", "GET:/bad"));
        let counts = series.buckets.each_ref().map(|bucket| bucket.count);
        assert_eq!(counts, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!((series.count(), series.errors), (4, 4));
        assert_eq!(series.sum_ns, 11 * SECOND_NS + 2 * MS + 1);
        let example = series.buckets[13].example.as_ref().unwrap();
        assert_eq!(example.trace_id, format!("trace-{}", end_ns + 2));
        assert_eq!(example.duration_ns, 11 * SECOND_NS);
    }

    #[test]
    fn an_example_stays_for_a_second() {
        let requests = Requests::default();
        let trace_id = || {
            let table = requests.table();
            let (.., series) = table.series().next().unwrap();
            series.buckets[0].example.as_ref().unwrap().trace_id.clone()
        };
        let count = |end_ns| requests.count(&[segment("a", "x", SpanKind::Exit, end_ns, 5)]);
        count(SECOND_NS);
        count(2 * SECOND_NS - 1);
        assert_eq!(trace_id(), "trace-1000000000");
        count(2 * SECOND_NS);
        assert_eq!(trace_id(), "trace-2000000000");
    }

    #[test]
    fn above_the_bound_one_stands_for_all_and_the_idle_make_room() {
        let requests = Requests::default();
        let count = |instance: &str, operation: usize, end_ns| {
            requests.count(&[segment(
                instance,
                &operation.to_string(),
                SpanKind::Entry,
                end_ns,
                MS,
            )]);
        };
        let start_ns = 1_000 * SECOND_NS;
        for operation in 0..SERIES_MAX {
            count("old", operation, start_ns);
        }
        count("new", 1, start_ns);
        count("new", 1, start_ns);
        count("old", 1, start_ns);
        assert_eq!(requests.table().overflown(), 2);
        assert_eq!(requests.table().series().count(), SERIES_MAX + 1);
        // One of the old lives on.
        count("old", 7, start_ns + IDLE_NS);
        count("new", 1, start_ns + IDLE_NS + SECOND_NS);
        assert_eq!(requests.table().overflown(), 2);
        let table = requests.table();
        let left: Vec<_> = table.series().filter_map(|(_, of, _)| of).collect();
        let mut left: Vec<_> = left
            .iter()
            .map(|(identity, operation)| (identity.instance.as_str(), *operation))
            .collect();
        left.sort_unstable();
        assert_eq!(left, [("new", "1"), ("old", "7")]);
    }
}
