//! Joins what the services say they did with what the probe says they did, and counts the difference.
//!
//! The services of `targets/go/net_http` and `targets/go/grpc` log every request served and every call made. The
//! number at the end of the path is the join: the probe keeps it in the tag `url`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

use serde::Deserialize;

use crate::segment::{Segment, Span};

/// Which side of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// A request served.
    Entry,
    /// A call made.
    Exit,
}

/// Whether a call's parent can be known from outside at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Expect {
    #[serde(rename = "must")]
    Must,
    /// An orphan is as good; a stranger as parent is not.
    #[serde(rename = "may")]
    May,
    /// Of a request, or a call made by nobody.
    #[default]
    #[serde(rename = "")]
    Nothing,
}

/// A line of a service's log.
#[derive(Clone, Debug, Deserialize)]
pub struct Record {
    pub id: u64,
    pub parent: u64,
    pub kind: Side,
    pub service: String,
    /// Of gRPC: which side streams, `unary` if none does. Empty for HTTP.
    #[serde(default)]
    pub rpc: String,
    pub method: String,
    pub path: String,
    pub peer: String,
    /// Of HTTP. 0: there is none, or it is not known.
    pub status: u16,
    /// Of gRPC: the name of its status code. Empty: not known.
    #[serde(default)]
    pub code: String,
    pub start_ns: i64,
    /// 0: not known.
    pub end_ns: i64,
    pub error: String,
    pub shape: String,
    pub expect: Expect,
    pub tls: bool,
    /// Of a call: its connection cannot carry a header, for another reason than TLS.
    #[serde(default)]
    pub bare: bool,
    /// Of a stream of gRPC, and of any of its calls that is served.
    #[serde(default)]
    pub messages: Option<BothWays>,
}

/// The messages of a stream that went one way.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Messages {
    pub count: u64,
    /// 0: there was none.
    pub first_ns: i64,
    pub last_ns: i64,
}

/// Both ways.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct BothWays {
    pub sent: Messages,
    pub received: Messages,
}

impl BothWays {
    /// With the beginning of the tags that tell them.
    fn ways(&self) -> [(&'static str, Messages); 2] {
        [
            ("rpc.messages.sent", self.sent),
            ("rpc.messages.received", self.received),
        ]
    }
}

/// Reads a service's log.
pub fn records(log: &str) -> anyhow::Result<Vec<Record>> {
    log.lines()
        .map(|line| serde_json::from_str(line).map_err(Into::into))
        .collect()
}

/// Three ways for a link to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Links {
    pub right: u64,
    /// There is none although there has to be.
    pub orphan: u64,
    /// There is none, and nobody could know.
    pub unknowable: u64,
    /// It leads to somebody else.
    pub wrong: u64,
}

impl Links {
    fn add(&mut self, other: Self) {
        self.right += other.right;
        self.orphan += other.orphan;
        self.unknowable += other.unknowable;
        self.wrong += other.wrong;
    }

    /// Those that are right, of those that have to be there.
    pub fn score(&self) -> String {
        format!("{} of {}", self.right, self.required())
    }

    /// Links that have to be there.
    pub fn required(&self) -> u64 {
        self.right + self.orphan + self.wrong
    }
}

/// One shape's count.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Count {
    pub made: u64,
    pub found: u64,
    /// From a call to the request on whose behalf it was made, in one process.
    pub parents: Links,
    /// From a request to the call that sent it, across processes.
    pub references: Links,
    /// Method, status, peer or error flag differ from the truth.
    pub wrong_facts: u64,
    /// How far start and end are off. The probe reports whole milliseconds, so this is the distance of the true
    /// time from the millisecond that was reported: what rounding does is no error.
    pub time_errors_ms: Vec<f64>,
}

impl Count {
    fn add(&mut self, other: &Self) {
        self.made += other.made;
        self.found += other.found;
        self.parents.add(other.parents);
        self.references.add(other.references);
        self.wrong_facts += other.wrong_facts;
        self.time_errors_ms.extend_from_slice(&other.time_errors_ms);
    }

    /// The timing error that `part` of all times stay below.
    pub fn time_error_ms(&self, part: f64) -> f64 {
        let mut sorted = self.time_errors_ms.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index into a short list"
        )]
        let at = (part * last as f64).ceil() as usize;
        sorted.get(at.min(last)).copied().unwrap_or(0.0)
    }
}

/// The whole comparison.
#[derive(Clone, Debug, Default)]
pub struct Account {
    pub shapes: BTreeMap<(Side, String), Count>,
    /// Spans that no log knows of, or that take another one's place in their segment.
    pub invented: u64,
    /// The first few differences, in words.
    pub examples: Vec<String>,
}

/// Differences told in words.
const EXAMPLES_MAX: usize = 20;

/// What a link of a span is.
enum Link {
    Right,
    Missing,
    Wrong(String),
}

impl Account {
    /// All shapes together.
    pub fn total(&self) -> Count {
        let mut total = Count::default();
        for count in self.shapes.values() {
            total.add(count);
        }
        total
    }

    /// What was found of one side, of what there was.
    pub fn score(&self, side: Side) -> String {
        let of_side = || self.shapes.iter().filter(|((found, _), _)| *found == side);
        let sum = |what: fn(&Count) -> u64| of_side().map(|(_, count)| what(count)).sum::<u64>();
        format!("{} of {}", sum(|count| count.found), sum(|count| count.made))
    }

    /// All shapes together in one line.
    pub fn sum(&self) -> String {
        let total = self.total();
        let links = |Links {
                         right, orphan, wrong, ..
                     }: &Links| format!("{right} right {orphan} orphan {wrong} wrong");
        format!(
            "spans {} of {}, parents {}, references {}",
            total.found,
            total.made,
            links(&total.parents),
            links(&total.references)
        )
    }

    fn example(&mut self, text: String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(text);
        }
    }
}

/// A span and where it stands.
#[derive(Clone, Copy)]
struct Placed<'s> {
    segment: &'s Segment,
    span: &'s Span,
}

/// Where the spans of all segments are.
struct Map<'s> {
    by_place: HashMap<(&'s str, i32), Placed<'s>>,
}

impl<'s> Map<'s> {
    fn new(segments: &'s [Segment]) -> Self {
        let spans = segments
            .iter()
            .flat_map(|segment| segment.spans.iter().map(move |span| Placed { segment, span }));
        Self {
            by_place: spans
                .map(|at| ((at.segment.trace_segment_id.as_str(), at.span.span_id), at))
                .collect(),
        }
    }

    fn get(&self, segment_id: &str, span_id: i32) -> Option<Placed<'s>> {
        self.by_place.get(&(segment_id, span_id)).copied()
    }

    /// Whether the request that `at`, a call, belongs to is the one with the number `parent`.
    fn parent_of_call(&self, at: Placed<'s>, parent: u64) -> Link {
        let mut span = at.span;
        // Local spans may stand between.
        while span.parent_span_id >= 0 {
            let Some(up) = at.segment.span(span.parent_span_id) else {
                return Link::Wrong(format!(
                    "a span {} that is not in the segment",
                    span.parent_span_id
                ));
            };
            if up.is_entry() {
                return same(up, parent);
            }
            span = up;
        }
        let Some(reference) = span.refs.first() else {
            return Link::Missing;
        };
        match self.get(&reference.parent_trace_segment_id, reference.parent_span_id) {
            Some(up) if up.segment.trace_id != at.segment.trace_id => {
                Link::Wrong("a span of another trace".into())
            }
            Some(up) => same(up.span, parent),
            None => Link::Wrong(format!(
                "a segment {} that never came",
                reference.parent_trace_segment_id
            )),
        }
    }

    /// Whether the call that `at`, a request, refers to is the one that sent it.
    fn call_of_request(&self, at: Placed<'s>, id: u64) -> Link {
        let Some(reference) = at.span.refs.first() else {
            return Link::Missing;
        };
        match self.get(&reference.parent_trace_segment_id, reference.parent_span_id) {
            Some(up) if up.segment.trace_id != at.segment.trace_id => {
                Link::Wrong("a span of another trace".into())
            }
            Some(up) if !up.span.is_exit() => Link::Wrong("a span that is no call".into()),
            Some(up) => same(up.span, id),
            None => Link::Wrong(format!(
                "a segment {} that never came",
                reference.parent_trace_segment_id
            )),
        }
    }
}

fn same(span: &Span, id: u64) -> Link {
    match span_number(span) {
        Some(found) if found == id => Link::Right,
        Some(found) => Link::Wrong(format!("{found}")),
        None => Link::Wrong(format!("{} without a number", span.operation_name)),
    }
}

/// The number at the end of the span's URL.
pub fn span_number(span: &Span) -> Option<u64> {
    span.tag("url")?.rsplit('/').next()?.parse().ok()
}

/// Compares. `propagated` says whether headers went out; without, no request can refer to a call.
pub fn join(truth: &[Record], segments: &[Segment], propagated: bool) -> Account {
    let map = Map::new(segments);
    let mut spans: HashMap<(Side, u64), Vec<Placed<'_>>> = HashMap::new();
    let mut account = Account::default();
    for at in segments
        .iter()
        .flat_map(|segment| segment.spans.iter().map(move |span| Placed { segment, span }))
    {
        let side = if at.span.is_entry() {
            Side::Entry
        } else {
            Side::Exit
        };
        if let Some(id) = span_number(at.span) {
            spans.entry((side, id)).or_default().push(at);
        }
    }
    for segment in segments {
        let mut places = HashSet::new();
        for span in segment.spans.iter().filter(|span| !places.insert(span.span_id)) {
            account.invented += 1;
            let (id, segment) = (span.span_id, &segment.trace_segment_id);
            account.example(format!(
                "a second span {id} in segment {segment}: {}",
                span.operation_name
            ));
        }
    }
    let calls: HashMap<u64, &Record> = truth
        .iter()
        .filter(|record| record.kind == Side::Exit)
        .map(|record| (record.id, record))
        .collect();

    for record in truth {
        // A call that is sent again is served twice under one number, one after the other, and so are they written down.
        let span = spans.get_mut(&(record.kind, record.id)).and_then(|same| {
            let first =
                (0..same.len()).min_by_key(|&at| same.get(at).map_or(i64::MAX, |at| at.span.start_time))?;
            Some(same.swap_remove(first))
        });
        let mut count = Count {
            made: 1,
            ..Count::default()
        };
        match span {
            Some(at) => compare(record, at, &map, &calls, propagated, &mut count, &mut account),
            None => account.example(format!("not found: {record:?}")),
        }
        account
            .shapes
            .entry((record.kind, record.shape.clone()))
            .or_default()
            .add(&count);
    }
    let known: HashSet<u64> = truth.iter().map(|record| record.id).collect();
    for ((side, id), left) in spans {
        account.invented += left.len() as u64;
        for at in left {
            let known = if known.contains(&id) {
                "once too often"
            } else {
                "a number nobody used"
            };
            account.example(format!("invented: {side:?} {}, {known}", at.span.operation_name));
        }
    }
    account
}

fn compare(
    record: &Record,
    at: Placed<'_>,
    map: &Map<'_>,
    calls: &HashMap<u64, &Record>,
    propagated: bool,
    count: &mut Count,
    account: &mut Account,
) {
    count.found = 1;
    if let Some(difference) = wrong_fact(record, at.span) {
        count.wrong_facts = 1;
        account.example(format!("{difference}: {record:?} {:?}", at.span));
    }
    count
        .time_errors_ms
        .push(time_error_ms(at.span.start_time, record.start_ns));
    if record.end_ns != 0 {
        count
            .time_errors_ms
            .push(time_error_ms(at.span.end_time, record.end_ns));
    }
    for (tag, messages) in record.messages.iter().flat_map(BothWays::ways) {
        for (end, true_ns) in [("first", messages.first_ns), ("last", messages.last_ns)] {
            let reported = at.span.tag(&format!("{tag}.{end}"));
            if let Some(reported_ms) = reported.and_then(|value| value.parse().ok()) {
                count.time_errors_ms.push(time_error_ms(reported_ms, true_ns));
            }
        }
    }
    match record.kind {
        Side::Exit => {
            let link = map.parent_of_call(at, record.parent);
            book(&mut count.parents, link, record.expect, record, "parent", account);
        }
        Side::Entry => {
            let expect = match calls.get(&record.id) {
                Some(call) if propagated && !call.bare => Expect::Must,
                Some(_) => Expect::May,
                None => Expect::Nothing,
            };
            let link = map.call_of_request(at, record.id);
            book(&mut count.references, link, expect, record, "reference", account);
        }
    }
}

fn book(links: &mut Links, link: Link, expect: Expect, record: &Record, what: &str, account: &mut Account) {
    match (link, expect) {
        (Link::Right, Expect::Must | Expect::May) => links.right += 1,
        (Link::Missing, Expect::Must) => {
            links.orphan += 1;
            account.example(format!("no {what}: {record:?}"));
        }
        (Link::Missing, Expect::May) => links.unknowable += 1,
        (Link::Missing, Expect::Nothing) => {}
        (Link::Right, Expect::Nothing) => {
            links.wrong += 1;
            account.example(format!("a {what} where there is none: {record:?}"));
        }
        (Link::Wrong(found), Expect::Must | Expect::May | Expect::Nothing) => {
            links.wrong += 1;
            account.example(format!("wrong {what}, {found}: {record:?}"));
        }
    }
}

/// What the span says differently.
fn wrong_fact(record: &Record, span: &Span) -> Option<&'static str> {
    if record.kind == Side::Exit && span.peer != record.peer {
        return Some("wrong peer");
    }
    if record.rpc.is_empty() {
        wrong_http_fact(record, span)
    } else {
        wrong_rpc_fact(record, span)
    }
}

fn wrong_http_fact(record: &Record, span: &Span) -> Option<&'static str> {
    let status = span
        .tag("http.status_code")
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    if span.tag("http.method") != Some(record.method.as_str()) {
        return Some("wrong method");
    }
    let route = record.path.rsplit_once('/').map_or("", |(route, _)| route);
    if !span
        .operation_name
        .starts_with(&format!("{}:{route}/", record.method))
    {
        return Some("wrong operation");
    }
    if record.status != 0 && status != record.status {
        return Some("wrong status");
    }
    let known = record.status != 0 || !record.error.is_empty();
    if known && span.is_error != (record.status >= 400 || !record.error.is_empty()) {
        return Some("wrong error flag");
    }
    None
}

/// SkyWalking's number for gRPC, on both sides.
pub const GRPC: i32 = 23;

/// What a service is called for once it has more names than the probe keeps apart.
const OVERFLOW: &str = "/{other}";

/// Codes by which a server says that it has failed, rather than its client.
const SERVER_ERRORS: [&str; 6] = [
    "UNKNOWN",
    "DEADLINE_EXCEEDED",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
];

fn wrong_rpc_fact(record: &Record, span: &Span) -> Option<&'static str> {
    if (span.component_id, span.span_layer.as_str()) != (GRPC, "RPCFramework") {
        return Some("wrong component");
    }
    // Each call's method has a name of its own, for the number in it.
    let operation = record.path.trim_start_matches('/').replace('/', ".");
    if span.operation_name != operation && !span.operation_name.ends_with(OVERFLOW) {
        return Some("wrong operation");
    }
    if span.tag("url") != Some(record.path.as_str()) {
        return Some("wrong url");
    }
    let rpc_type = match (record.kind, record.rpc.as_str()) {
        // A server's span does not know.
        (Side::Entry, _) => None,
        (Side::Exit, "unary") => Some("Unary"),
        (Side::Exit, _) => Some("Streaming"),
    };
    if span.tag("rpc.type") != rpc_type {
        return Some("wrong type");
    }
    if wrong_messages(record, span) {
        return Some("wrong messages");
    }
    if record.code.is_empty() {
        return None;
    }
    if span.tag("rpc.status_code") != Some(record.code.as_str()) {
        return Some("wrong code");
    }
    let is_error = match record.kind {
        Side::Entry => SERVER_ERRORS.contains(&record.code.as_str()),
        Side::Exit => record.code != "OK",
    };
    if span.is_error != is_error {
        return Some("wrong error flag");
    }
    if record.kind == Side::Exit && is_error {
        let message = span.log("message").unwrap_or_default();
        // A stream whose context ends is ended by two goroutines, each in words of its own.
        let either =
            record.rpc != "unary" && ["CANCELLED", "DEADLINE_EXCEEDED"].contains(&record.code.as_str());
        let same = either || record.error.contains(message);
        if span.log("event") != Some("error") || message.is_empty() || !same {
            return Some("wrong message");
        }
    }
    None
}

/// Whether the messages are told wrongly, or told of a call that has one each way.
fn wrong_messages(record: &Record, span: &Span) -> bool {
    let told = |tag: &str| -> Option<u64> { span.tag(tag).map(|count| count.parse().unwrap_or(u64::MAX)) };
    // The handler of last resort takes all calls for streams.
    let Some(messages) = &record.messages else {
        return told("rpc.messages.sent").is_some();
    };
    messages.ways().into_iter().any(|(tag, messages)| {
        // A server without any does not know that it has a stream.
        let silent = record.kind == Side::Entry && messages.count == 0;
        let count = told(tag).or(silent.then_some(0));
        let timed = told(&format!("{tag}.first")).is_some() && told(&format!("{tag}.last")).is_some();
        count != Some(messages.count) || timed != (messages.count != 0)
    })
}

/// How far `true_ns` is from the millisecond `reported_ms`.
#[expect(clippy::cast_precision_loss, reason = "differences are small")]
fn time_error_ms(reported_ms: i64, true_ns: i64) -> f64 {
    let after_start_ns = true_ns - reported_ms * 1_000_000;
    let distance_ns = if after_start_ns < 0 {
        -after_start_ns
    } else {
        (after_start_ns - 999_999).max(0)
    };
    distance_ns as f64 / 1e6
}

impl fmt::Display for Account {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "{:<18} {:>13}  {:>24}  {:>24}  {:>5}  {:>15}",
            "shape",
            "found/made",
            "parent right/none/wrong",
            "ref right/none/wrong",
            "facts",
            "p50/p99 ms off"
        )?;
        let mut row = |name: &str, count: &Count| {
            let links = |links: &Links| {
                let unknowable = if links.unknowable == 0 {
                    String::new()
                } else {
                    format!("(+{})", links.unknowable)
                };
                format!("{}/{}{unknowable}/{}", links.right, links.orphan, links.wrong)
            };
            writeln!(
                out,
                "{name:<18} {:>13}  {:>24}  {:>24}  {:>5}  {:>7.3}/{:<7.3}",
                format!("{}/{}", count.found, count.made),
                links(&count.parents),
                links(&count.references),
                count.wrong_facts,
                count.time_error_ms(0.50),
                count.time_error_ms(0.99),
            )
        };
        for ((side, shape), count) in &self.shapes {
            let arrow = match side {
                Side::Entry => "in ",
                Side::Exit => "out",
            };
            row(&format!("{arrow} {shape}"), count)?;
        }
        row("all", &self.total())?;
        writeln!(
            out,
            "invented spans: {}; (+n): no link, and none could be known",
            self.invented
        )?;
        for example in &self.examples {
            writeln!(out, "  {example}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::{Log, Pair, Reference};

    const START_NS: i64 = 1_700_000_000_123_400_000;

    fn record(kind: Side, id: u64, parent: u64, expect: Expect) -> Record {
        Record {
            id,
            parent,
            kind,
            service: "front".into(),
            rpc: String::new(),
            method: "GET".into(),
            path: format!("/leaf/{id}"),
            peer: if kind == Side::Exit {
                "127.0.0.1:80".into()
            } else {
                String::new()
            },
            status: 200,
            code: String::new(),
            start_ns: START_NS,
            end_ns: START_NS + 2_000_000,
            error: String::new(),
            shape: "sync".into(),
            expect,
            tls: false,
            bare: false,
            messages: None,
        }
    }

    fn span(kind: Side, id: u64, span_id: i32, parent_span_id: i32) -> Span {
        let pair = |key: &str, value: &str| Pair {
            key: key.into(),
            value: value.into(),
        };
        Span {
            span_id,
            parent_span_id,
            start_time: START_NS / 1_000_000,
            end_time: START_NS / 1_000_000 + 2,
            operation_name: "GET:/leaf/{id}".into(),
            peer: if kind == Side::Exit {
                "127.0.0.1:80".into()
            } else {
                String::new()
            },
            span_type: format!("{kind:?}"),
            tags: vec![
                pair("http.method", "GET"),
                pair("url", &format!("127.0.0.1:80/leaf/{id}")),
                pair("http.status_code", "200"),
            ],
            ..Span::default()
        }
    }

    fn segment(trace: &str, id: &str, spans: Vec<Span>) -> Segment {
        Segment {
            trace_id: trace.into(),
            trace_segment_id: id.into(),
            spans,
            ..Segment::default()
        }
    }

    fn reference(segment: &str, span_id: i32) -> Vec<Reference> {
        vec![Reference {
            parent_trace_segment_id: segment.into(),
            parent_span_id: span_id,
            ..Reference::default()
        }]
    }

    /// Request 1, its call 2, and the request that call 2 became elsewhere.
    fn truth() -> Vec<Record> {
        vec![
            record(Side::Entry, 1, 0, Expect::Nothing),
            record(Side::Exit, 2, 1, Expect::Must),
            record(Side::Entry, 2, 0, Expect::Nothing),
        ]
    }

    fn seen() -> Vec<Segment> {
        let mut served = span(Side::Entry, 2, 0, -1);
        served.refs = reference("front", 1);
        vec![
            segment(
                "t",
                "front",
                vec![span(Side::Entry, 1, 0, -1), span(Side::Exit, 2, 1, 0)],
            ),
            segment("t", "back", vec![served]),
        ]
    }

    #[test]
    fn all_right() {
        let account = join(&truth(), &seen(), true);
        let total = account.total();
        assert_eq!((total.made, total.found, account.invented), (3, 3, 0));
        assert_eq!(
            total.parents,
            Links {
                right: 1,
                ..Links::default()
            }
        );
        assert_eq!(
            total.references,
            Links {
                right: 1,
                ..Links::default()
            }
        );
        assert_eq!(total.wrong_facts, 0, "{:?}", account.examples);
        assert_eq!(total.time_error_ms(0.99), 0.0);
        assert!(account.to_string().contains("3/3"));
    }

    #[test]
    fn a_stranger_as_parent_is_wrong_whatever_was_expected() {
        for expect in [Expect::Must, Expect::May] {
            let truth = [
                record(Side::Entry, 1, 0, Expect::Nothing),
                record(Side::Entry, 9, 0, Expect::Nothing),
                record(Side::Exit, 2, 1, expect),
            ];
            let seen = [
                segment("t", "a", vec![span(Side::Entry, 1, 0, -1)]),
                segment(
                    "u",
                    "b",
                    vec![span(Side::Entry, 9, 0, -1), span(Side::Exit, 2, 1, 0)],
                ),
            ];
            let account = join(&truth, &seen, true);
            assert_eq!(
                account.total().parents,
                Links {
                    wrong: 1,
                    ..Links::default()
                }
            );
            assert!(
                account
                    .examples
                    .iter()
                    .any(|text| text.starts_with("wrong parent, 9")),
                "{:?}",
                account.examples
            );
        }
    }

    #[test]
    fn a_parent_in_another_segment_is_followed_by_its_reference() {
        let mut call = span(Side::Exit, 2, 0, -1);
        call.refs = reference("a", 0);
        let truth = [
            record(Side::Entry, 1, 0, Expect::Nothing),
            record(Side::Exit, 2, 1, Expect::Must),
        ];
        let seen = [
            segment("t", "a", vec![span(Side::Entry, 1, 0, -1)]),
            segment("t", "b", vec![call.clone()]),
        ];
        assert_eq!(
            join(&truth, &seen, true).total().parents,
            Links {
                right: 1,
                ..Links::default()
            }
        );

        let other_trace = [
            segment("t", "a", vec![span(Side::Entry, 1, 0, -1)]),
            segment("u", "b", vec![call.clone()]),
        ];
        assert_eq!(join(&truth, &other_trace, true).total().parents.wrong, 1);

        let parent_missing = [segment("t", "b", vec![call])];
        let account = join(&truth, &parent_missing, true);
        assert_eq!((account.total().parents.wrong, account.total().found), (1, 1));
    }

    #[test]
    fn an_orphan_is_counted_only_where_a_parent_could_be_known() {
        let seen = [
            segment("t", "a", vec![span(Side::Entry, 1, 0, -1)]),
            segment("u", "b", vec![span(Side::Exit, 2, 0, -1)]),
        ];
        let entry = record(Side::Entry, 1, 0, Expect::Nothing);
        let must = join(
            &[entry.clone(), record(Side::Exit, 2, 1, Expect::Must)],
            &seen,
            true,
        );
        assert_eq!(
            must.total().parents,
            Links {
                orphan: 1,
                ..Links::default()
            }
        );
        let may = join(&[entry, record(Side::Exit, 2, 1, Expect::May)], &seen, true);
        assert_eq!(
            may.total().parents,
            Links {
                unknowable: 1,
                ..Links::default()
            }
        );
    }

    #[test]
    fn references_between_processes() {
        let mut lost = seen();
        lost[1].spans[0].refs.clear();
        assert_eq!(
            join(&truth(), &lost, true).total().references,
            Links {
                orphan: 1,
                ..Links::default()
            }
        );
        assert_eq!(
            join(&truth(), &lost, false).total().references,
            Links {
                unknowable: 1,
                ..Links::default()
            }
        );

        let mut to_the_entry = seen();
        to_the_entry[1].spans[0].refs = reference("front", 0);
        assert_eq!(
            join(&truth(), &to_the_entry, true).total().references,
            Links {
                wrong: 1,
                ..Links::default()
            }
        );

        let mut other_trace = seen();
        other_trace[1].trace_id = "u".into();
        assert_eq!(join(&truth(), &other_trace, true).total().references.wrong, 1);

        // Request 1 came from nobody who is traced.
        let mut from_nowhere = seen();
        from_nowhere[0].spans[0].refs = reference("front", 1);
        assert_eq!(join(&truth(), &from_nowhere, true).total().references.wrong, 1);
    }

    #[test]
    fn missing_and_invented_spans() {
        let mut seen = seen();
        seen[0].spans.pop();
        seen[1].spans[0].refs.clear();
        seen[1].spans.push(span(Side::Exit, 77, 1, 0));
        seen[1].spans.push(span(Side::Entry, 1, 2, -1));
        let account = join(&truth(), &seen, true);
        let total = account.total();
        assert_eq!((total.made, total.found, account.invented), (3, 2, 2));
        assert!(account.examples.iter().any(|text| text.starts_with("not found")));
        assert!(account.examples.iter().any(|text| text.contains("nobody used")));
        assert!(
            account
                .examples
                .iter()
                .any(|text| text.contains("once too often"))
        );
    }

    #[test]
    fn two_spans_in_one_place() {
        let mut seen = seen();
        seen[0].spans.push(span(Side::Exit, 3, 1, 0));
        let truth = [truth(), vec![record(Side::Exit, 3, 1, Expect::Must)]].concat();
        let account = join(&truth, &seen, true);
        assert_eq!((account.total().found, account.invented), (4, 1));
    }

    #[test]
    fn facts() {
        let change = |change: fn(&mut Span)| {
            let mut seen = seen();
            change(&mut seen[0].spans[1]);
            join(&truth(), &seen, true).total().wrong_facts
        };
        assert_eq!(change(|_| {}), 0);
        assert_eq!(change(|span| span.peer = "localhost:80".into()), 1);
        assert_eq!(change(|span| span.is_error = true), 1);
        assert_eq!(change(|span| span.tags[0].value = "POST".into()), 1);
        assert_eq!(change(|span| span.tags[2].value = "201".into()), 1);
        assert_eq!(change(|span| span.operation_name = "GET:/twig/{id}".into()), 1);
    }

    #[test]
    fn facts_of_grpc() {
        let path = "/truth.unary.fail/2";
        let call = Record {
            rpc: "unary".into(),
            method: String::new(),
            path: path.into(),
            status: 0,
            code: "NOT_FOUND".into(),
            error: "rpc error: code = NotFound desc = no such thing".into(),
            ..record(Side::Exit, 2, 1, Expect::Must)
        };
        let pair = |key: &str, value: &str| Pair {
            key: key.into(),
            value: value.into(),
        };
        let span = Span {
            operation_name: "truth.unary.fail.2".into(),
            span_layer: "RPCFramework".into(),
            component_id: GRPC,
            is_error: true,
            tags: vec![
                pair("url", path),
                pair("rpc.type", "Unary"),
                pair("rpc.status_code", "NOT_FOUND"),
            ],
            logs: vec![Log {
                time: 0,
                data: vec![pair("event", "error"), pair("message", "no such thing")],
            }],
            ..span(Side::Exit, 2, 1, 0)
        };
        let change = |change: fn(&mut Span)| {
            let mut span = span.clone();
            change(&mut span);
            wrong_fact(&call, &span)
        };
        assert_eq!(change(|_| {}), None);
        assert_eq!(change(|span| span.operation_name = "OTHER:/{other}".into()), None);
        assert_eq!(change(|span| span.peer.clear()), Some("wrong peer"));
        assert_eq!(change(|span| span.component_id = 5005), Some("wrong component"));
        assert_eq!(
            change(|span| span.operation_name = "truth.unary.fail.3".into()),
            Some("wrong operation")
        );
        assert_eq!(
            change(|span| span.tags[1].value = "Streaming".into()),
            Some("wrong type")
        );
        assert_eq!(
            change(|span| span.tags[2].value = "OK".into()),
            Some("wrong code")
        );
        assert_eq!(change(|span| span.is_error = false), Some("wrong error flag"));
        assert_eq!(change(|span| span.logs.clear()), Some("wrong message"));

        // What the client did wrong is no error of the server, and the server does not know which side streams.
        let request = Record {
            kind: Side::Entry,
            ..call.clone()
        };
        let mut served = span.clone();
        served.tags.remove(1);
        assert_eq!(wrong_fact(&request, &served), Some("wrong error flag"));
        served.is_error = false;
        assert_eq!(wrong_fact(&request, &served), None);
    }

    #[test]
    fn the_millisecond_reported_is_a_span_of_time() {
        assert_eq!(time_error_ms(123, 123_000_000), 0.0);
        assert_eq!(time_error_ms(123, 123_999_999), 0.0);
        assert_eq!(time_error_ms(123, 122_500_000), 0.5);
        assert_eq!(time_error_ms(123, 125_499_999), 1.5);
    }

    #[test]
    fn a_request_served_twice_takes_the_span_next_in_time() {
        let first = record(Side::Entry, 1, 0, Expect::Nothing);
        let second = Record {
            start_ns: START_NS + 50_000_000,
            end_ns: START_NS + 52_000_000,
            ..first.clone()
        };
        let mut later = span(Side::Entry, 1, 0, -1);
        later.start_time += 50;
        later.end_time += 50;
        let seen = [
            segment("t", "b", vec![later]),
            segment("t", "a", vec![span(Side::Entry, 1, 0, -1)]),
        ];
        let total = join(&[first, second], &seen, true).total();
        assert_eq!((total.found, total.time_error_ms(1.0)), (2, 0.0));
    }
}
