//! The pure heart: events in, segments out. Knows no clock, file, socket or kernel.
//!
//! A segment is one request with the calls that found it as their parent; a call without a parent is a segment
//! of its own. Records come when their work is done, calls mostly before their request, on some CPU first: spans
//! are held until the request's record says how many there are.
//!
//! Bias: a span is reported, in a segment of its own if need be, rather than dropped; and memory is bounded before
//! anything else.

mod context;
mod entry;
mod exit;
mod go_error;
mod held;
mod loss;
mod names;
mod parts;
mod rpc;
pub mod segment;
pub mod span;

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;
use probe_common::{
    event::go::net_http::{CALL_KEEP_PATH, ParentFound, REQUEST_KEEP_PATH, REQUEST_OPERATION_SENT},
    operation,
};

use self::{
    held::{Held, HeldRequest, Sent},
    names::Names,
    parts::{as_root, hex, request_segment_id, segment, stand_in, within_process},
    segment::{Identity, Segment},
};
use crate::event::{Call, Event, Request};

pub use self::{
    context::{Sw8, Sw8X},
    loss::TraceLoss,
};

const SECOND_NS: u64 = 1_000_000_000;
/// How long a finished request waits for calls that it began and that have not ended.
const CALLS_WAIT_NS: u64 = 30 * SECOND_NS;
/// How long a finished call waits for its request to end.
const REQUEST_WAIT_NS: u64 = 600 * SECOND_NS;
/// How long after a target's end its records may still come out of the ring.
const GRACE_NS: u64 = SECOND_NS;
/// How long a segment that was sent without some of its spans is remembered, from the last of them on: streams stay open
/// for hours, and a second segment with its id would take the first one's place in OAP.
const SENT_NS: u64 = 6 * 3_600 * SECOND_NS;
/// How often names of services that are gone are sought.
const NAMES_SWEEP_NS: u64 = 60 * SECOND_NS;

/// What the user can choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Spans say how their parent was found and what became of their header.
    pub debug_tags: bool,
    /// Distinct operation names that a service may have in ten minutes; above it they share one.
    pub names_max: usize,
    /// Spans held at once for the rest of their segment.
    pub held_spans_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        // OAP's own cap is 3,000 names. A held span takes about 1 KiB.
        Self {
            debug_tags: false,
            names_max: 2_000,
            held_spans_max: 10_000,
        }
    }
}

/// Names of a target's Go types.
pub trait TypeNames {
    /// The name of the type whose `runtime._type` is at `address` in the process, as Go's `reflect` spells it:
    /// `*net.OpError`.
    fn type_name(&self, tgid: u32, address: u64) -> Option<String>;
}

/// No names at all.
impl TypeNames for () {
    fn type_name(&self, _tgid: u32, _address: u64) -> Option<String> {
        None
    }
}

/// The distance between the kernel's clock and the wall's.
#[derive(Clone, Copy, Debug)]
struct Clock {
    offset_ns: i64,
}

impl Clock {
    fn wall_ns(self, boot_ns: u64) -> u64 {
        boot_ns.saturating_add_signed(self.offset_ns)
    }
}

/// A process whose events are turned into spans.
#[derive(Debug)]
struct Target {
    identity: Arc<Identity>,
    /// It has ended; its last records may still be on their way.
    gone_ns: Option<u64>,
}

type SegmentId = [u8; 16];
/// A map whose keys the kernel makes: nobody can choose them so that they collide, so a fast hash will do.
type KernelMap<K, V> = HashMap<K, V, RandomState>;

/// Turns events into segments.
#[derive(Debug)]
pub struct Tracer {
    settings: Settings,
    targets: KernelMap<u32, Target>,
    /// Names of Entry spans, which are OAP's endpoints, and those of Exit spans.
    served: Names,
    called: Names,
    names_swept_ns: u64,
    held: KernelMap<SegmentId, Held>,
    held_spans: usize,
    /// Segments sent without some of their calls.
    sent: KernelMap<SegmentId, Sent>,
    /// Counts what was ever held: the age of what is.
    ever_held: u64,
    losses: [u64; TraceLoss::ALL.len()],
}

// === impl Tracer ===

impl Tracer {
    pub fn new(settings: Settings) -> Self {
        Self {
            served: Names::new(settings.names_max),
            called: Names::new(settings.names_max),
            settings,
            names_swept_ns: 0,
            targets: KernelMap::default(),
            held: KernelMap::default(),
            held_spans: 0,
            sent: KernelMap::default(),
            ever_held: 0,
            losses: [0; TraceLoss::ALL.len()],
        }
    }

    /// Events of this process will come. A known process keeps its open segments under the name they began with.
    pub fn add_target(&mut self, tgid: u32, identity: Arc<Identity>) {
        self.targets.insert(
            tgid,
            Target {
                identity,
                gone_ns: None,
            },
        );
    }

    /// The process has ended: what is open is sent by the [`tick`](Self::tick) after its last records have come.
    pub fn remove_target(&mut self, tgid: u32, now_boot_ns: u64) {
        if let Some(target) = self.targets.get_mut(&tgid) {
            target.gone_ns = Some(now_boot_ns);
        }
        for held in self.held.values_mut().filter(|held| held.tgid == tgid) {
            held.target_gone = true;
            held.until_ns = held.until_ns.min(now_boot_ns.saturating_add(GRACE_NS));
        }
    }

    /// Takes one event in; finished segments come out. `clock_offset_ns` leads from the kernel's clock to the wall's.
    pub fn on_event(
        &mut self,
        event: &Event<'_>,
        clock_offset_ns: i64,
        names: &dyn TypeNames,
        out: &mut Vec<Segment>,
    ) {
        let clock = Clock {
            offset_ns: clock_offset_ns,
        };
        match event {
            // Which processes are traced is not decided here.
            Event::ProcessExec(_) | Event::ProcessExit(_) => {}
            Event::GoNetHttpRequest(request)
            | Event::GoGrpcRequest(request)
            | Event::GoHttp2Request(request) => {
                self.on_request(request, clock, out);
            }
            Event::GoNetHttpCall(call) | Event::GoGrpcCall(call) | Event::GoHttp2Call(call) => {
                self.on_call(call, clock, names, out);
            }
        }
    }

    /// Sends what has waited long enough.
    pub fn tick(&mut self, now_boot_ns: u64, out: &mut Vec<Segment>) {
        let due = self.held.iter().filter(|(_, held)| held.until_ns <= now_boot_ns);
        for id in due.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.give_up(id, now_boot_ns, out);
        }
        self.sent.retain(|_, sent| sent.until_ns > now_boot_ns);
        if now_boot_ns >= self.names_swept_ns.saturating_add(NAMES_SWEEP_NS) {
            self.names_swept_ns = now_boot_ns;
            self.served.sweep(now_boot_ns);
            self.called.sweep(now_boot_ns);
        }
        self.targets.retain(|_, target| {
            target
                .gone_ns
                .is_none_or(|gone_ns| gone_ns.saturating_add(GRACE_NS) > now_boot_ns)
        });
    }

    /// Sends all that is held: nothing more will come.
    pub fn flush(&mut self, out: &mut Vec<Segment>) {
        for held in self.held.values_mut() {
            held.target_gone = true;
        }
        for id in self.held.keys().copied().collect::<Vec<_>>() {
            self.give_up(id, 0, out);
        }
    }

    /// What did not go as it should, since the start.
    pub fn losses(&self) -> impl Iterator<Item = (TraceLoss, u64)> {
        TraceLoss::ALL.into_iter().zip(self.losses)
    }

    fn lose(&mut self, loss: TraceLoss, count: u64) {
        if let Some(counter) = self.losses.get_mut(loss as usize) {
            *counter += count;
        }
    }

    fn identity(&mut self, tgid: u32) -> Option<Arc<Identity>> {
        let identity = self.targets.get(&tgid).map(|target| Arc::clone(&target.identity));
        if identity.is_none() {
            self.lose(TraceLoss::TargetUnknown, 1);
        }
        identity
    }

    // === Requests ===

    fn on_request(&mut self, request: &Request<'_>, clock: Clock, out: &mut Vec<Segment>) {
        let fixed = &request.fixed;
        let Some(identity) = self.identity(fixed.header.tgid) else {
            return;
        };
        let sent = fixed.flags & REQUEST_OPERATION_SENT != 0 && names::is_operation(request.operation);
        let made;
        let operation = if sent {
            str::from_utf8(request.operation).unwrap_or_default()
        } else {
            made = if rpc::is_rpc(fixed.header.kind) {
                operation::rpc_name(request.path)
            } else {
                let keep_path = fixed.flags & REQUEST_KEEP_PATH != 0;
                operation::name(request.method, request.pattern, request.path, keep_path)
            };
            made.as_str()
        };
        let admitted = self
            .served
            .admit(&identity.service, operation, sent, fixed.end_ns);
        self.lose(TraceLoss::NameOverflow, u64::from(admitted.overflowed));
        let entry = entry::entry(request, admitted.name, clock, self.settings.debug_tags);
        self.lose(TraceLoss::Sw8Unreadable, u64::from(entry.sw8_unreadable));

        let expected = fixed.span_count.saturating_sub(1) as usize;
        let id = fixed.segment_id;
        let has_one = self.held.get(&id).is_some_and(|held| held.request.is_some());
        if has_one || self.sent.contains_key(&id) {
            // Its calls could not wait any longer and took the segment's id with them; or, which only a damaged
            // record brings about, another request has that id.
            out.push(Segment {
                trace_id: entry.trace_id,
                segment_id: request_segment_id(&id),
                identity,
                spans: vec![entry.span],
            });
            return;
        }
        if expected == 0 && !self.held.contains_key(&id) {
            let segment_id = hex(&id);
            out.push(Segment {
                trace_id: entry.trace_id,
                segment_id,
                identity,
                spans: vec![entry.span],
            });
            return;
        }
        let until_ns = fixed.end_ns.saturating_add(CALLS_WAIT_NS);
        let held = self.hold(id, fixed.header.tgid, identity);
        if !held.target_gone {
            held.until_ns = until_ns;
        }
        let request = HeldRequest {
            trace_id: entry.trace_id,
            span: entry.span,
            expected,
        };
        held.request = Some(request);
        let is_complete = held.is_complete();
        self.held_spans += 1;
        if is_complete {
            self.send(id, out);
        } else {
            self.make_room(fixed.end_ns, out);
        }
    }

    // === Calls ===

    fn on_call(&mut self, call: &Call<'_>, clock: Clock, names: &dyn TypeNames, out: &mut Vec<Segment>) {
        let fixed = &call.fixed;
        let tgid = fixed.header.tgid;
        let Some(identity) = self.identity(tgid) else {
            return;
        };
        let operation = if rpc::is_rpc(fixed.header.kind) {
            operation::rpc_name(call.path)
        } else {
            let keep_path = fixed.flags & CALL_KEEP_PATH != 0;
            operation::name(call.method, b"", call.path, keep_path)
        };
        // The header of a call without a parent names the call itself as the endpoint.
        let sent = fixed.parent == ParentFound::None && exit::went_out(fixed.propagation);
        let admitted = self
            .called
            .admit(&identity.service, operation.as_str(), sent, fixed.end_ns);
        self.lose(TraceLoss::NameOverflow, u64::from(admitted.overflowed));
        let span = exit::exit(call, admitted.name, clock, names, self.settings.debug_tags);
        let id = fixed.segment_id;
        let trace_id = (fixed.trace_id != [0; 16]).then(|| hex(&fixed.trace_id));

        if fixed.parent == ParentFound::None {
            let segment_id = hex(&id);
            let trace_id = trace_id.unwrap_or_else(|| segment_id.clone());
            out.push(Segment {
                trace_id,
                segment_id,
                identity,
                spans: vec![as_root(span)],
            });
            return;
        }
        if let Some(sent) = self.sent.get_mut(&id) {
            sent.until_ns = sent.until_ns.max(fixed.end_ns.saturating_add(SENT_NS));
            let trace_id = sent.trace_id.clone();
            let segment_id = format!("{}.{}", hex(&id), span.id);
            let mut root = as_root(span);
            root.skip_analysis = sent.skip_analysis;
            root.references
                .push(within_process(&trace_id, hex(&id), &identity));
            out.push(Segment {
                trace_id,
                segment_id,
                identity,
                spans: vec![root],
            });
            self.lose(TraceLoss::CallLate, 1);
            return;
        }
        let until_ns = fixed.end_ns.saturating_add(REQUEST_WAIT_NS);
        let held = self.hold(id, tgid, identity);
        if held.calls.is_empty() && held.request.is_none() {
            held.until_ns = held.until_ns.min(until_ns);
        }
        held.trace_id = held.trace_id.take().or(trace_id);
        held.calls.push(span);
        let is_complete = held.is_complete();
        self.held_spans += 1;
        if is_complete {
            self.send(id, out);
        } else {
            self.make_room(fixed.end_ns, out);
        }
    }

    // === What is held ===

    fn hold(&mut self, id: SegmentId, tgid: u32, identity: Arc<Identity>) -> &mut Held {
        let gone_ns = self.targets.get(&tgid).and_then(|target| target.gone_ns);
        self.held.entry(id).or_insert_with(|| {
            self.ever_held += 1;
            Held {
                number: self.ever_held,
                tgid,
                identity,
                trace_id: None,
                // Most requests make one call: it, and the request that will join it.
                calls: Vec::with_capacity(2),
                request: None,
                until_ns: gone_ns.map_or(u64::MAX, |gone_ns| gone_ns.saturating_add(GRACE_NS)),
                target_gone: gone_ns.is_some(),
            }
        })
    }

    fn take(&mut self, id: SegmentId) -> Option<Held> {
        let held = self.held.remove(&id)?;
        self.held_spans = self.held_spans.saturating_sub(held.spans());
        Some(held)
    }

    /// Sends a segment that is whole.
    fn send(&mut self, id: SegmentId, out: &mut Vec<Segment>) {
        let Some(Held {
            request: Some(request),
            calls,
            identity,
            ..
        }) = self.take(id)
        else {
            return;
        };
        out.push(segment(hex(&id), identity, request, calls));
    }

    /// Sends what there is of a segment.
    fn give_up(&mut self, id: SegmentId, now_ns: u64, out: &mut Vec<Segment>) {
        let Some(held) = self.take(id) else { return };
        let Held {
            tgid: _,
            identity,
            calls,
            request,
            target_gone,
            ..
        } = held;
        let segment_id = hex(&id);
        let until_ns = now_ns.saturating_add(SENT_NS);
        match request {
            Some(request) => {
                let missing = request.expected.saturating_sub(calls.len()) as u64;
                self.lose(TraceLoss::CallMissing, missing);
                if !target_gone {
                    let trace_id = request.trace_id.clone();
                    let skip_analysis = request.span.skip_analysis;
                    let sent = Sent {
                        trace_id,
                        skip_analysis,
                        until_ns,
                    };
                    self.remember(id, sent);
                }
                out.push(segment(segment_id, identity, request, calls));
            }
            None => {
                self.lose(TraceLoss::RequestMissing, calls.len() as u64);
                let mut root = stand_in(&calls);
                let trace_id = held.trace_id.clone().unwrap_or_else(|| segment_id.clone());
                if !target_gone {
                    // The request may yet end. Its calls have the ids that went out in headers, so it is the
                    // request that has to take another, and the calls refer to it.
                    if held.trace_id.is_some() {
                        root.references
                            .push(within_process(&trace_id, request_segment_id(&id), &identity));
                    }
                    let sent = Sent {
                        trace_id: trace_id.clone(),
                        // Its request's record would say.
                        skip_analysis: false,
                        until_ns,
                    };
                    self.remember(id, sent);
                }
                let mut spans = vec![root];
                spans.extend(calls);
                spans.sort_by_key(|span| span.id);
                out.push(Segment {
                    trace_id,
                    segment_id,
                    identity,
                    spans,
                });
            }
        }
    }

    fn remember(&mut self, id: SegmentId, sent: Sent) {
        // As many as there may be spans held; a tenth goes at a time, so that the search for the oldest is rare.
        let most = self.settings.held_spans_max;
        if self.sent.len() >= most {
            let mut ages: Vec<_> = self.sent.values().map(|sent| sent.until_ns).collect();
            ages.sort_unstable();
            let oldest_ns = ages.get(most / 10).copied().unwrap_or(u64::MAX);
            self.sent.retain(|_, sent| sent.until_ns > oldest_ns);
        }
        self.sent.insert(id, sent);
    }

    /// Sends the oldest of what is held while there is too much of it; a tenth at a time, so that the search for
    /// the oldest is rare.
    fn make_room(&mut self, now_ns: u64, out: &mut Vec<Segment>) {
        if self.held_spans <= self.settings.held_spans_max {
            return;
        }
        let mut ages = self
            .held
            .iter()
            .map(|(id, held)| (held.number, *id))
            .collect::<Vec<_>>();
        ages.sort_unstable();
        let enough = self.settings.held_spans_max - self.settings.held_spans_max / 10;
        for (_, id) in ages {
            if self.held_spans <= enough {
                break;
            }
            self.lose(TraceLoss::HeldFull, 1);
            self.give_up(id, now_ns, out);
        }
    }
}

#[cfg(test)]
mod tests;
