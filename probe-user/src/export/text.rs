//! A live trace tree in the terminal: one line per span, segments of all processes joined by their references.
//!
//! Segments come when they are finished, the callee's before the caller's. A trace is collected until nothing seems
//! to be missing and no news has come for a moment, and then printed as a whole; what comes later is printed as its
//! continuation.

mod tree;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    io::Write,
    sync::Arc,
};

use super::{output::OutputError, tally};
use crate::{
    telemetry::Tally,
    trace::segment::{Identity, Segment},
};

const MILLISECOND_NS: u64 = 1_000_000;
/// Silence after which a trace is printed that begins with a request from outside.
const QUIET_NS: u64 = 250 * MILLISECOND_NS;
/// The same, while the caller of its first span is none that we have heard of: probably it is not traced.
const QUIET_STRANGER_NS: u64 = 1_000 * MILLISECOND_NS;
/// The same, while the caller is a process that is traced: its segment comes when its request ends.
const QUIET_CALLER_NS: u64 = 30_000 * MILLISECOND_NS;
/// How often to look for traces that are due while segments keep coming.
const TICK_NS: u64 = 50 * MILLISECOND_NS;
/// Spans collected at once; above that the oldest trace is printed as it is.
const COLLECTED_SPANS_MAX: usize = 20_000;
/// Processes remembered as traced.
const IDENTITIES_MAX: usize = 4_096;
/// Printed traces remembered, to tell a continuation.
const PRINTED_MAX: usize = 1_000;

/// What the terminal can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextSettings {
    pub colour: bool,
    /// Columns of a line.
    pub width: usize,
}

impl Default for TextSettings {
    fn default() -> Self {
        Self {
            colour: false,
            width: 100,
        }
    }
}

/// Prints traces.
#[derive(Debug)]
pub struct Text<W> {
    out: W,
    settings: TextSettings,
    traces: HashMap<String, Collected>,
    /// The same by age.
    ages: BTreeMap<u64, String>,
    collected: Tally,
    /// Printed, but the call that printed it ended in an error.
    unreported: Tally,
    ticked_ns: u64,
    /// Counts traces: the age of those collected.
    ever_collected: u64,
    identities: HashSet<Arc<Identity>>,
    printed: HashSet<String>,
    printed_order: VecDeque<String>,
}

/// The segments of a trace that has not been printed.
#[derive(Debug)]
struct Collected {
    /// Smaller is older.
    number: u64,
    news_ns: u64,
    segments: Vec<Segment>,
}

impl<W: Write> Text<W> {
    pub fn new(out: W, settings: TextSettings) -> Self {
        Self {
            out,
            settings,
            traces: HashMap::new(),
            ages: BTreeMap::new(),
            collected: Tally::default(),
            unreported: Tally::default(),
            ticked_ns: 0,
            ever_collected: 0,
            identities: HashSet::new(),
            printed: HashSet::new(),
            printed_order: VecDeque::new(),
        }
    }

    /// Takes finished segments, and prints what is due; returns what was printed. `now_ns` is of any clock that only
    /// goes forward.
    pub fn export(&mut self, segments: Vec<Segment>, now_ns: u64) -> Result<Tally, OutputError> {
        for segment in segments {
            self.collected += tally(&segment);
            if self.identities.len() < IDENTITIES_MAX && !self.identities.contains(&segment.identity) {
                self.identities.insert(Arc::clone(&segment.identity));
            }
            if let Some(collected) = self.traces.get_mut(&segment.trace_id) {
                collected.news_ns = now_ns;
                collected.segments.push(segment);
                continue;
            }
            self.ever_collected += 1;
            let number = self.ever_collected;
            let trace_id = segment.trace_id.clone();
            self.ages.insert(number, trace_id.clone());
            self.traces.insert(
                trace_id,
                Collected {
                    number,
                    news_ns: now_ns,
                    segments: vec![segment],
                },
            );
        }
        // While segments keep coming nobody may find the time to call `tick`.
        let mut printed = Tally::default();
        if now_ns.saturating_sub(self.ticked_ns) >= TICK_NS {
            printed += self.tick(now_ns)?;
        }
        let mut spans = self.collected.spans;
        let too_old = self.ages.values().take_while(|trace_id| {
            let is_too_much = spans > COLLECTED_SPANS_MAX as u64;
            let segments = self
                .traces
                .get(*trace_id)
                .map(|collected| collected.segments.as_slice());
            spans -= segments
                .unwrap_or_default()
                .iter()
                .map(|segment| segment.spans.len() as u64)
                .sum::<u64>();
            is_too_much
        });
        let too_old = too_old.cloned().collect();
        match self.print_all(too_old) {
            Ok(tally) => printed += tally,
            Err(error) => {
                self.unreported += printed;
                return Err(error);
            }
        }
        Ok(printed)
    }

    /// Prints the traces that are due; to be called a few times a second.
    pub fn tick(&mut self, now_ns: u64) -> Result<Tally, OutputError> {
        self.ticked_ns = now_ns;
        let is_due = |trace_id: &&String| {
            self.traces.get(*trace_id).is_some_and(|collected| {
                now_ns.saturating_sub(collected.news_ns) >= self.patience_ns(collected)
            })
        };
        let due = self.ages.values().filter(is_due).cloned().collect();
        self.print_all(due)
    }

    /// Prints all there is.
    pub fn flush(&mut self) -> Result<Tally, OutputError> {
        let all = self.ages.values().cloned().collect();
        self.print_all(all)
    }

    /// What has been taken and not been reported as printed.
    pub fn pending(&self) -> Tally {
        let mut pending = self.collected;
        pending += self.unreported;
        pending
    }

    fn print_all(&mut self, traces: Vec<String>) -> Result<Tally, OutputError> {
        let mut printed = Tally::default();
        for trace_id in traces {
            match self.print(&trace_id) {
                Ok(tally) => printed += tally,
                Err(error) => {
                    self.unreported += printed;
                    return Err(error);
                }
            }
        }
        Ok(printed)
    }

    fn print(&mut self, trace_id: &str) -> Result<Tally, OutputError> {
        let Some(collected) = self.traces.get(trace_id) else {
            return Ok(Tally::default());
        };
        let is_continued = self.printed.contains(trace_id);
        let text = tree::draw(&collected.segments, is_continued, self.settings);
        self.out.write_all(text.as_bytes())?;
        self.out.flush()?;
        // Only now: what could not be written is still pending, and can be accounted for.
        let mut printed = Tally::default();
        if let Some(collected) = self.traces.remove(trace_id) {
            self.ages.remove(&collected.number);
            for segment in &collected.segments {
                printed += tally(segment);
            }
        }
        self.collected.segments = self.collected.segments.saturating_sub(printed.segments);
        self.collected.spans = self.collected.spans.saturating_sub(printed.spans);
        if !is_continued {
            self.remember(trace_id);
        }
        Ok(printed)
    }

    fn remember(&mut self, trace_id: &str) {
        if self.printed_order.len() >= PRINTED_MAX
            && let Some(oldest) = self.printed_order.pop_front()
        {
            self.printed.remove(&oldest);
        }
        self.printed.insert(trace_id.to_owned());
        self.printed_order.push_back(trace_id.to_owned());
    }

    /// How long to wait for more of a trace.
    fn patience_ns(&self, collected: &Collected) -> u64 {
        let here: HashSet<&str> = collected
            .segments
            .iter()
            .map(|segment| segment.segment_id.as_str())
            .collect();
        let references = collected
            .segments
            .iter()
            .flat_map(|segment| &segment.spans)
            .flat_map(|span| &span.references);
        let mut patience_ns = QUIET_NS;
        for reference in references.filter(|reference| !here.contains(reference.parent_segment_id.as_str())) {
            let caller = Identity {
                service: reference.parent_service.clone(),
                instance: reference.parent_instance.clone(),
            };
            let is_traced = self.identities.contains(&caller);
            patience_ns = patience_ns.max(if is_traced {
                QUIET_CALLER_NS
            } else {
                QUIET_STRANGER_NS
            });
        }
        patience_ns
    }
}

#[cfg(test)]
mod tests;
