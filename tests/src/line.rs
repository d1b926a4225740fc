//! A client that sends the same each time, and what the probe makes of it: what goes over the wire is compared byte by
//! byte with what the client sends untraced.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test's assertions"
)]

use std::{collections::BTreeMap, path::PathBuf};

use crate::{
    probe::{Ended, Probe},
    scene::truth_program,
    segment::{Segment, Span},
    target::{Go, GoBuild, Service, Target},
    wire::{Exchange, Recorder, Request, Sw8, requests},
};

fn wire_program() -> PathBuf {
    GoBuild::new("wire").build(&Go::system().unwrap()).unwrap()
}

/// The client, a recorder, and a server that nobody traces.
#[derive(Debug)]
pub struct Line {
    program: PathBuf,
    pub recorder: Recorder,
    pub server: Service,
}

impl Line {
    /// Starts the recorder and the server.
    #[track_caller]
    pub fn start() -> Self {
        let server = Service::start(&truth_program().unwrap(), "server", 0, None).unwrap();
        let recorder = Recorder::start(server.host()).unwrap();
        Self {
            program: wire_program(),
            recorder,
            server,
        }
    }

    fn arguments(&self, what: &[&str]) -> Vec<String> {
        let target = format!("http://{}", self.recorder.host());
        ["-target", &target, "-what"]
            .into_iter()
            .chain(what.iter().copied())
            .map(str::to_owned)
            .collect()
    }

    /// Runs the client by itself.
    #[track_caller]
    pub fn untraced(&self, what: &[&str]) -> Vec<Exchange> {
        let arguments = self.arguments(what);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut client = Target::start(&self.program, &arguments).unwrap();
        finish(&mut client);
        self.recorder.take()
    }

    /// Runs the client under the probe, which is there before its first instruction.
    #[track_caller]
    pub fn traced(&self, what: &[&str], probe_arguments: &[&str]) -> (Vec<Exchange>, Ended) {
        let arguments = self.arguments(what);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut client = Target::start_stopped(&self.program, &arguments).unwrap();
        let probe = Probe::of_pids(&[client.pid()], probe_arguments).unwrap();
        client.resume();
        finish(&mut client);
        let ended = probe.stop().unwrap();
        assert!(ended.status.success(), "{}", ended.stderr);
        (self.recorder.take(), ended)
    }
}

#[track_caller]
fn finish(client: &mut Target) {
    let line = client.line().unwrap();
    assert!(line.starts_with("done "), "{line}");
    client.wait().unwrap();
}

/// A header that was put in, and into which request.
#[derive(Clone, Debug)]
pub struct Carried {
    pub request: Request,
    pub value: String,
}

/// Takes the headers `name` out of the traced run's requests and compares the rest with the untraced run's.
#[track_caller]
pub fn compare(untraced: &[Exchange], traced: &[Exchange], names: &[&str]) -> BTreeMap<String, Vec<Carried>> {
    let by_target = |exchanges: &[Exchange]| -> BTreeMap<String, Request> {
        let all = exchanges
            .iter()
            .flat_map(|exchange| requests(&exchange.sent).unwrap());
        all.map(|request| (request.target(), request)).collect()
    };
    let (before, after) = (by_target(untraced), by_target(traced));
    assert!(!before.is_empty());
    assert!(
        before.keys().eq(after.keys()),
        "other requests: {:?} {:?}",
        before.keys(),
        after.keys()
    );
    let mut carried: BTreeMap<String, Vec<Carried>> = BTreeMap::new();
    for (target, plain) in &before {
        let mut request = after[target].clone();
        let whole = request.clone();
        for name in names {
            // A header of the program's own stays alone.
            if !plain.values(name).is_empty() {
                continue;
            }
            let mut values = request.take(name);
            assert!(values.len() <= 1, "{target} has {name} twice: {values:?}");
            if let Some(value) = values.pop() {
                carried.entry((*name).to_owned()).or_default().push(Carried {
                    request: whole.clone(),
                    value,
                });
            }
        }
        let (plain, rest) = (plain.bytes(), request.bytes());
        if plain != rest {
            let at = plain.iter().zip(&rest).take_while(|(a, b)| a == b).count();
            let around = |bytes: &[u8]| {
                bytes[at.saturating_sub(40)..(at + 80).min(bytes.len())]
                    .escape_ascii()
                    .to_string()
            };
            panic!(
                "{target} differs at byte {at}: {:?} became {:?}",
                around(&plain),
                around(&rest)
            );
        }
    }
    carried
}

/// Finds the call that an `sw8` names among what was reported, and compares all eight fields with it.
#[track_caller]
pub fn check_sw8(carried: &Carried, peer: &str, segments: &[Segment]) {
    let sw8 = Sw8::parse(&carried.value).unwrap();
    let (segment, span) = named(&sw8, segments);
    assert!(span.is_exit());
    assert_eq!(segment.trace_id, sw8.trace_id);
    assert_eq!(segment.service, sw8.service);
    assert_eq!(segment.service_instance, sw8.instance);
    assert_eq!((span.peer.as_str(), sw8.peer.as_str()), (peer, peer));
    let root = segment.entry().unwrap_or(span);
    assert_eq!(root.operation_name, sw8.endpoint);
    assert_eq!(
        span.path(),
        Some(carried.request.path().as_str()),
        "of another request"
    );
}

/// The span that an `sw8` names.
#[track_caller]
pub fn named<'s>(sw8: &Sw8, segments: &'s [Segment]) -> (&'s Segment, &'s Span) {
    let segment = segments
        .iter()
        .find(|segment| segment.trace_segment_id == sw8.segment_id);
    let segment = segment.unwrap_or_else(|| panic!("no segment was reported for {sw8:?}"));
    let span = segment
        .span(sw8.span_id)
        .unwrap_or_else(|| panic!("no span for {sw8:?} in {segment:#?}"));
    (segment, span)
}

/// Request lines up to this length must get their header; a longer one may go without, unharmed.
const TARGET_LEN_SURE: usize = 400;

/// Each request has its header, and is else what it was.
#[track_caller]
pub fn check_plain(what: &[&str]) {
    let line = Line::start();
    let untraced = line.untraced(what);
    let (traced, ended) = line.traced(what, &[]);
    let carried = compare(&untraced, &traced, &["sw8"])
        .remove("sw8")
        .unwrap_or_default();
    for one in &carried {
        check_sw8(one, line.recorder.host(), &ended.segments);
    }
    let all: Vec<Request> = traced
        .iter()
        .flat_map(|exchange| requests(&exchange.sent).unwrap())
        .collect();
    let without: Vec<String> = all
        .iter()
        .filter(|request| request.target().len() <= TARGET_LEN_SURE && request.values("sw8").is_empty())
        .map(Request::target)
        .collect();
    assert!(
        without.is_empty(),
        "no header on {} of {}: {without:?}\n{}",
        without.len(),
        all.len(),
        ended.stderr
    );
    let exits = ended.segments.iter().flat_map(Segment::exits).count();
    assert_eq!(exits, all.len(), "one span a request\n{}", ended.stderr);
}
