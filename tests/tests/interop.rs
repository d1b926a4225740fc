//! One trace over several languages: services with SkyWalking's own Python and Node agents on both sides of a Go
//! program that has none, by HTTP and by gRPC.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test panics where it fails; clippy knows only test functions"
)]

use std::process::{Child, Command, Stdio};
use std::{fs::File, net::SocketAddr, path::Path, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use proto::v3::{SegmentObject, SpanObject, SpanType};
use serde_json::json;
use tests::{
    client,
    fake_oap::{FakeOap, Received},
    needs_probe, needs_rpc,
    probe::{Probe, binary},
    rpc,
    target::{Go, GoBuild, Service, Target},
};
use xtask::{http, peers};

const PYTHON: &str = "python-relay";
const GO: &str = "go-relay";
const NODE: &str = "node-relay";
const PYTHON_BACK: &str = "python-back";

/// The three services, each of which can ask any other, and the OAP that hears of it.
struct Relays {
    oap: FakeOap,
    python: SocketAddr,
    go: SocketAddr,
    node: SocketAddr,
    go_target: Target,
    _agents: [Agent; 2],
}

/// A service with an agent in it; ends with this value.
struct Agent {
    child: Child,
    log: tempfile::NamedTempFile,
}

impl Agent {
    fn start(command: &mut Command, oap: &FakeOap, name: &str, address: SocketAddr) -> Result<Self> {
        let log = tempfile::NamedTempFile::new()?;
        let output = File::create(log.path())?;
        let child = command
            .arg(address.to_string())
            .env("SW_AGENT_COLLECTOR_BACKEND_SERVICES", oap.address())
            .env("SW_AGENT_NAME", name)
            // The two agents read the instance from different variables.
            .env("SW_AGENT_INSTANCE", format!("{name}-1"))
            .env("SW_AGENT_INSTANCE_NAME", format!("{name}-1"))
            // Only the segments matter here; the fake knows no profiles, meters and logs.
            .env("SW_AGENT_PROFILE_ACTIVE", "false")
            .env("SW_AGENT_METER_REPORTER_ACTIVE", "false")
            .env("SW_AGENT_LOG_REPORTER_ACTIVE", "false")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let mut agent = Self { child, log };
        for _ in 0..600 {
            if http::get(address, "/relay?agent=warm-up").is_ok_and(|answer| answer.status == 200) {
                return Ok(agent);
            }
            ensure!(
                matches!(agent.child.try_wait(), Ok(None)),
                "{name} ended: {}",
                agent.output()
            );
            thread::sleep(Duration::from_millis(100));
        }
        anyhow::bail!("{name} does not listen on {address}: {}", agent.output())
    }

    fn output(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Relays {
    fn start() -> Result<Self> {
        let targets = Path::new(env!("CARGO_MANIFEST_DIR")).join("targets");
        let oap = FakeOap::start();
        let [python, node] = http::free_addresses()?;

        let program = GoBuild::new("relay").build(&Go::system()?)?;
        let mut command = Command::new(program);
        let go_target = Target::spawn(command.env("SW_AGENT_NAME", GO))?;
        let go = go_target
            .address()?
            .parse()
            .context("where the Go service listens")?;

        let mut command = Command::new("python3");
        command
            .arg(targets.join("python/relay.py"))
            .env("PYTHONPATH", peers::python_agent()?);
        let python_agent = Agent::start(&mut command, &oap, PYTHON, python)?;
        let mut command = Command::new("node");
        command
            .arg(targets.join("node/relay.js"))
            .env("NODE_PATH", peers::node_agent()?);
        let node_agent = Agent::start(&mut command, &oap, NODE, node)?;

        Ok(Self {
            oap,
            python,
            go,
            node,
            go_target,
            _agents: [python_agent, node_agent],
        })
    }

    /// Has the Go service traced.
    fn attach(&self) -> Result<Probe> {
        attach(&self.oap, &self.go_target)
    }

    /// `GET /relay` at the first, which asks the second, and so on; gives the segments of that trace in that order.
    fn chain(&self, hops: &[(&str, SocketAddr)]) -> Result<Vec<SegmentObject>> {
        let mut url = String::new();
        for (_, address) in hops.iter().rev() {
            let next = if url.is_empty() {
                url
            } else {
                format!("?next={}", escaped(&url))
            };
            url = format!("http://{address}/relay{next}");
        }
        let (_, first) = hops.first().context("a chain has a start")?;
        let path = url
            .split_once("/relay")
            .map(|(_, query)| format!("/relay{query}"))
            .context("a path")?;
        let names: Vec<&str> = hops.iter().map(|(name, _)| *name).collect();
        trace_over(&self.oap, &names, || client::get(&first.to_string(), &path))
    }
}

/// Has a Go program traced.
fn attach(oap: &FakeOap, target: &Target) -> Result<Probe> {
    let mut command = Command::new(binary()?);
    command.args(["run", "--oap", &oap.address(), "--pid", &target.pid().to_string()]);
    let probe = Probe::spawn(&mut command)?;
    probe.ready()?;
    Ok(probe)
}

/// The segments of these services, in this order, of the trace that a request begins at the first of them.
fn trace_over(
    oap: &FakeOap,
    names: &[&str],
    ask: impl FnOnce() -> Result<client::Response>,
) -> Result<Vec<SegmentObject>> {
    let before = oap.received().segments.len();
    let answer = ask()?;
    ensure!(answer.status == 200, "{answer:?}");
    let of_trace = |received: &Received| -> Option<Vec<SegmentObject>> {
        // The first asked another: its segment has a call, which those of warm-ups have not.
        let new = received.segments.get(before..)?;
        let first = names.first()?;
        let caller = new
            .iter()
            .find(|segment| segment.service == *first && has_exit(segment))?;
        let of = |name: &&str| {
            new.iter()
                .find(|segment| segment.service == *name && segment.trace_id == caller.trace_id)
                .cloned()
        };
        names.iter().map(of).collect()
    };
    oap.wait(&format!("one trace over {names:?}"), |received| {
        of_trace(received).is_some()
    });
    of_trace(&oap.received()).context("it was there a moment ago")
}

/// As it must stand in a query.
fn escaped(url: &str) -> String {
    url.replace('%', "%25")
        .replace(':', "%3A")
        .replace('/', "%2F")
        .replace('?', "%3F")
        .replace('=', "%3D")
}

fn has_exit(segment: &SegmentObject) -> bool {
    segment
        .spans
        .iter()
        .any(|span| span.span_type() == SpanType::Exit)
}

fn span(segment: &SegmentObject, span_type: SpanType) -> &SpanObject {
    let mut spans = segment.spans.iter().filter(|span| span.span_type() == span_type);
    let found = spans
        .next()
        .unwrap_or_else(|| panic!("no {span_type:?} span in {segment:#?}"));
    assert!(
        spans.next().is_none(),
        "more than one {span_type:?} span in {segment:#?}"
    );
    found
}

/// How much later than its client's span a server's may end, on a busy machine.
const ENDS_LATER_MS: i64 = 200;

/// Asserts that the callee's entry span says, in all its fields, that the caller's exit span caused it.
fn assert_joined(caller: &SegmentObject, callee: &SegmentObject, address: SocketAddr) {
    let (root, exit, entry) = (
        span(caller, SpanType::Entry),
        span(caller, SpanType::Exit),
        span(callee, SpanType::Entry),
    );
    let [reference] = entry.refs.as_slice() else {
        panic!("not one reference: {callee:#?}")
    };
    assert_eq!(callee.trace_id, caller.trace_id);
    assert_eq!(reference.trace_id, caller.trace_id);
    assert_eq!(reference.parent_trace_segment_id, caller.trace_segment_id);
    assert_eq!(reference.parent_span_id, exit.span_id);
    assert_eq!(reference.parent_service, caller.service);
    assert_eq!(reference.parent_service_instance, caller.service_instance);
    // Ours is the operation that the caller was serving. The two agents send the operation of the call itself, and
    // the Node agent never reports what it was sent.
    let endpoint = match (caller.service.as_str(), callee.service.as_str()) {
        (_, NODE) => "",
        (GO, _) => &root.operation_name,
        _ => &exit.operation_name,
    };
    assert_eq!(reference.parent_endpoint, endpoint);
    assert_eq!(reference.network_address_used_at_peer, exit.peer);
    assert_eq!(exit.peer, address.to_string());
    // A server may still be closing its span when the client has its answer.
    assert!(
        exit.start_time <= entry.start_time && entry.end_time <= exit.end_time + ENDS_LATER_MS,
        "{exit:?} {entry:?}"
    );
    assert_eq!(exit.parent_span_id, root.span_id);
}

/// Asserts that each segment was caused by the one before it.
fn assert_chain(segments: &[SegmentObject], hops: &[(&str, SocketAddr)]) {
    for (pair, hop) in segments.windows(2).zip(&hops[1..]) {
        assert_joined(&pair[0], &pair[1], hop.1);
    }
}

/// Without a probe: what we ask of ourselves below is what the two agents do with each other.
#[test]
fn the_agents_agree_with_each_other() {
    let relays = Relays::start().expect("three services");
    for hops in [
        [(PYTHON, relays.python), (NODE, relays.node)],
        [(NODE, relays.node), (PYTHON, relays.python)],
    ] {
        assert_chain(&relays.chain(&hops).expect("a trace"), &hops);
    }
}

#[test]
fn one_trace_from_python_over_go_to_node_and_back() {
    needs_probe!();
    let relays = Relays::start().expect("three services");
    let _probe = relays.attach().expect("a probe");
    let there = [(PYTHON, relays.python), (GO, relays.go), (NODE, relays.node)];
    assert_chain(&relays.chain(&there).expect("a trace"), &there);
    let back = [(NODE, relays.node), (GO, relays.go), (PYTHON, relays.python)];
    assert_chain(&relays.chain(&back).expect("a trace"), &back);
}

/// By gRPC: a service with the Python agent calls a Go service, which calls another one with the Python agent.
#[test]
fn one_trace_by_grpc_from_python_over_go_to_python() {
    needs_rpc!();
    let oap = FakeOap::start();
    let start = |name: &str| {
        let [rpc, http] = http::free_addresses().expect("free ports");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("targets/python/rpc.py");
        let mut command = Command::new("python3");
        command
            .arg(script)
            .arg(rpc.to_string())
            .env("PYTHONPATH", peers::python_agent().expect("the Python agent"));
        let agent = Agent::start(&mut command, &oap, name, http).expect("a service with the Python agent");
        (agent, rpc, http)
    };
    let (_front, _, front) = start(PYTHON);
    let (_back, back, _) = start(PYTHON_BACK);
    let next = json!({"rpc": back, "brief": back, "web": back, "unix": "/nowhere"}).to_string();
    let mut command = Command::new(rpc::program().expect("the Go service"));
    command
        .args(["serve", "-name", GO, "-next", &next])
        .env("SW_AGENT_NAME", GO);
    let go = Service::spawn(&mut command).expect("the Go service");
    let _probe = attach(&oap, &go.target).expect("a probe");

    let rpc: SocketAddr = go.addresses.rpc.parse().expect("where the Go service listens");
    // The second time the connection between the last two is there already.
    for _ in 0..2 {
        let segments = trace_over(&oap, &[PYTHON, GO, PYTHON_BACK], || {
            client::get(&front.to_string(), &format!("/relay?next={rpc}"))
        })
        .expect("a trace");
        assert_chain(&segments, &[(PYTHON, front), (GO, rpc), (PYTHON_BACK, back)]);
        let [_, middle, _] = segments.as_slice() else {
            panic!("not three segments: {segments:#?}")
        };
        for side in [SpanType::Entry, SpanType::Exit] {
            assert_eq!(span(middle, side).operation_name, "demo.Echo.Unary");
        }
    }
}
