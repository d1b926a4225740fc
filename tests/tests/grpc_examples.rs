//! gRPC programs that nobody here wrote, built as they are and started before the probe: grpc-go's own examples, and a
//! gateway from HTTP to gRPC. What a real OAP shows of them.

use std::{
    collections::BTreeSet,
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tests::{
    client,
    graphql::{GraphQl, Span},
    needs_probe,
    network::{Host, Networks},
    oap::{attach, attach_to, both_sides, eventually},
    probe::Probe,
    skip,
    target::Target,
};
use xtask::{
    http,
    oap::{Oap, Ports, REFERENCE},
    peers,
};

/// How long the probe may take to see a new process, and a program to listen.
const START_TIMEOUT: Duration = Duration::from_secs(20);

const ECHO: &str = "grpc.examples.echo.Echo.UnaryEcho";
const BIDI: &str = "grpc.examples.echo.Echo.BidirectionalStreamingEcho";

/// A call that a client makes: its method, how it ends, and how its server's side does, once for each attempt.
struct Call(&'static str, &'static str, &'static [Codes]);

/// The codes that something may end with.
type Codes = &'static [&'static str];

/// An example: a server and a client that makes these calls and ends.
struct Example {
    name: &'static str,
    calls: &'static [Call],
}

const OK: &[Codes] = &[&["OK"]];

/// The client cancels and ends at once: if the server has something to send just then, it finds the connection closed,
/// and gRPC ends the stream with that before the server's own code does.
const GONE: &[Codes] = &[&["CANCELLED", "UNAVAILABLE"]];

/// The server knows the deadline as well as the client does: whichever comes first at the server, its own clock or the
/// client's order to stop, decides.
const LATE: &[Codes] = &[&["DEADLINE_EXCEEDED", "CANCELLED"]];

const EXAMPLES: [Example; 6] = [
    Example {
        name: "greeter",
        calls: &[Call("helloworld.Greeter.SayHello", "OK", OK)],
    },
    Example {
        name: "route_guide",
        calls: &[
            Call("routeguide.RouteGuide.GetFeature", "OK", OK),
            Call("routeguide.RouteGuide.GetFeature", "OK", OK),
            Call("routeguide.RouteGuide.ListFeatures", "OK", OK),
            Call("routeguide.RouteGuide.RecordRoute", "OK", OK),
            Call("routeguide.RouteGuide.RouteChat", "OK", OK),
        ],
    },
    // Two services over one connection.
    Example {
        name: "multiplex",
        calls: &[
            Call("helloworld.Greeter.SayHello", "OK", OK),
            Call(ECHO, "OK", OK),
        ],
    },
    // The server refuses three times of four; to the client it is one call.
    Example {
        name: "retry",
        calls: &[Call(
            ECHO,
            "OK",
            &[&["UNAVAILABLE"], &["UNAVAILABLE"], &["UNAVAILABLE"], &["OK"]],
        )],
    },
    Example {
        name: "deadline",
        calls: &[
            Call(ECHO, "OK", OK),
            // The server does not look at its deadline, and its answer finds the stream closed.
            Call(ECHO, "DEADLINE_EXCEEDED", LATE),
            Call(ECHO, "OK", OK),
            Call(ECHO, "DEADLINE_EXCEEDED", LATE),
            // The client has what it wants after one message and cancels.
            Call(BIDI, "CANCELLED", &[&["CANCELLED"]]),
            Call(BIDI, "DEADLINE_EXCEEDED", LATE),
        ],
    },
    Example {
        name: "cancellation",
        calls: &[Call(BIDI, "CANCELLED", GONE)],
    },
];

impl Example {
    fn server(&self) -> String {
        format!("{}_server", self.name)
    }

    fn client(&self) -> String {
        format!("{}_client", self.name)
    }

    fn methods(&self) -> BTreeSet<&str> {
        self.calls.iter().map(|Call(method, ..)| *method).collect()
    }
}

/// An example whose server runs.
struct Running {
    example: &'static Example,
    programs: PathBuf,
    server: Target,
    address: String,
}

impl Running {
    fn start(example: &'static Example, programs: &Path) -> Result<Self> {
        let address = http::free_address()?;
        let server = Target::spawn(
            quiet(&programs.join(example.server())).args(["-port", &address.port().to_string()]),
        )?;
        wait_for_listener(address)?;
        Ok(Self {
            example,
            programs: programs.to_owned(),
            server,
            address: address.to_string(),
        })
    }

    /// Starts the client, which does nothing until it is let go.
    fn client(&self) -> Result<Target> {
        let program = self.programs.join(self.example.client());
        Target::spawn_stopped(quiet(&program).args(["-addr", &self.address]))
    }

    /// Another client, which starts under the probe.
    fn run_client(&self, probe: &Probe) -> Result<()> {
        let client = self.client()?;
        probe.wait_for_words(&format!("Process traced pid={} ", client.pid()), START_TIMEOUT)?;
        client.resume();
        succeed(client)
    }
}

/// What they write to their logs is nobody's concern here.
fn quiet(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.stderr(Stdio::null());
    command
}

fn succeed(mut client: Target) -> Result<()> {
    let status = client.wait()?;
    ensure!(status.success(), "a client ended with {status}");
    Ok(())
}

fn wait_for_listener(address: SocketAddr) -> Result<()> {
    for _ in 0..START_TIMEOUT.as_millis() / 20 {
        if TcpStream::connect(address).is_ok() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
    TcpStream::connect(address).with_context(|| format!("nobody listens on {address}"))?;
    Ok(())
}

/// Copies of the programs, so that a probe that picks them by their folder picks nobody else's.
fn own(programs: &Path) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    for entry in programs.read_dir()? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("go.") {
            continue;
        }
        fs::copy(entry.path(), folder.path().join(entry.file_name()))?;
    }
    Ok(folder)
}

#[test]
fn grpcs_own_examples_are_drawn_and_joined() {
    needs_probe!();
    let programs = match peers::grpc_examples() {
        Ok(programs) => own(&programs).expect("copies of the programs"),
        Err(error) => return skip::skip(&format!("{error:#}")),
    };
    let oap = Oap::start(REFERENCE, Ports::default()).expect("an OAP starts");
    let graphql = GraphQl::new(oap.http);
    let running: Vec<Running> = EXAMPLES
        .iter()
        .map(|example| Running::start(example, programs.path()).expect("a server starts"))
        .collect();
    let clients: Vec<Target> = running
        .iter()
        .map(|example| example.client().expect("a client starts"))
        .collect();
    let all = format!("{}/*", programs.path().display());
    let probe = attach(&oap, &["--exe", &all]).expect("the probe attaches");
    for client in &clients {
        client.resume();
    }
    for client in clients {
        succeed(client).expect("a client does what it is for");
    }

    for Running { example, address, .. } in &running {
        eventually(example.name, || check_traces(&graphql, example, address));
        eventually(example.name, || check_endpoints(&graphql, example));
    }
    // OAP learns from the first calls which service is behind an address: only later ones show their client's side.
    for example in &running {
        let (client, server) = (example.example.client(), example.example.server());
        eventually(&format!("the line from {client} to {server}"), || {
            let map = graphql.topology()?;
            if map.sides(&client, &server) != both_sides() {
                example.run_client(&probe)?;
            }
            ensure!(map.sides(&client, &server) == both_sides(), "{map:?}");
            let [asks, answers] = map.components(&client, &server);
            let grpc = BTreeSet::from(["GRPC".to_owned()]);
            ensure!(asks == grpc && answers == grpc, "{map:?}");
            Ok(())
        });
    }
    assert_eq!(oap.figure("trace_analysis_error_count", "").expect("figure"), 0.0);
    for mut example in running {
        assert!(example.server.runs(), "{} is gone", example.example.server());
    }
}

fn check_endpoints(graphql: &GraphQl, example: &Example) -> Result<()> {
    let endpoints = graphql.endpoints(&graphql.service_id(&example.server())?)?;
    let found: BTreeSet<&str> = endpoints.iter().map(|found| found.name.as_str()).collect();
    ensure!(found == example.methods(), "{found:?}");
    Ok(())
}

/// Whether there is one trace for each call of the client's, with each attempt at the server in it.
fn check_traces(graphql: &GraphQl, example: &Example, address: &str) -> Result<()> {
    // By the server: OAP lists no service that only calls others and is gone before its first heartbeat.
    let briefs = graphql.traces(&graphql.service_id(&example.server())?, &[])?;
    let ids: BTreeSet<&String> = briefs.iter().flat_map(|brief| &brief.trace_ids).collect();
    let mut traces = ids
        .into_iter()
        .map(|id| {
            let spans = graphql.trace(id)?;
            let root = |span: &&Span| span.service_code == example.client();
            let call = spans
                .iter()
                .find(root)
                .context("a trace without its call")?
                .clone();
            Ok((call, spans))
        })
        .collect::<Result<Vec<_>>>()?;
    // Two calls may begin in one millisecond: only where all else is equal does their order matter.
    let code = |call: &Span| call.tag("rpc.status_code").map(str::to_owned);
    traces.sort_by_cached_key(|(call, _)| (call.endpoint_name.clone(), code(call), call.start_time));
    let mut calls: Vec<&Call> = example.calls.iter().collect();
    calls.sort_by_key(|Call(method, code, _)| (*method, *code));
    ensure!(
        traces.len() == calls.len(),
        "{} traces, not {}: {traces:?}",
        traces.len(),
        calls.len()
    );
    for ((call, spans), Call(method, code, attempts)) in traces.iter().zip(calls) {
        ensure!(
            (call.r#type.as_str(), call.component.as_str(), call.layer.as_str())
                == ("Exit", "GRPC", "RPCFramework"),
            "{call:?}"
        );
        ensure!(
            call.endpoint_name == *method && call.peer == address && call.parent_span_id == -1,
            "{call:?}"
        );
        ensure!(
            call.tag("rpc.status_code") == Some(code) && call.is_error == (*code != "OK"),
            "{call:?}"
        );
        let mut served: Vec<&Span> = spans.iter().filter(|span| span.refers_to(call)).collect();
        served.sort_by_key(|span| span.start_time);
        let codes: Vec<&str> = served
            .iter()
            .filter_map(|span| span.tag("rpc.status_code"))
            .collect();
        let expected = codes.len() == attempts.len()
            && codes
                .iter()
                .zip(*attempts)
                .all(|(code, codes)| codes.contains(code));
        ensure!(expected, "{method} was served {codes:?}: {spans:#?}");
        for entry in served {
            ensure!(
                entry.service_code == example.server() && entry.endpoint_name == *method,
                "{entry:?}"
            );
            check_messages(call, entry)?;
        }
        check_rest(spans)?;
    }
    Ok(())
}

/// Whether each side of a stream that has ended well has received what the other has sent.
fn check_messages(call: &Span, entry: &Span) -> Result<()> {
    if call.tag("rpc.type") != Some("Streaming") || call.is_error {
        return Ok(());
    }
    for (ours, theirs) in [
        ("rpc.messages.sent", "rpc.messages.received"),
        ("rpc.messages.received", "rpc.messages.sent"),
    ] {
        ensure!(
            call.tag(ours).is_some() && call.tag(ours) == entry.tag(theirs),
            "{call:?} {entry:?}"
        );
    }
    Ok(())
}

/// Whether all spans of a trace but one have a parent or refer to one that is there.
fn check_rest(spans: &[Span]) -> Result<()> {
    let rootless = spans.iter().filter(|span| {
        let inside = spans
            .iter()
            .any(|other| other.segment_id == span.segment_id && other.span_id == span.parent_span_id);
        !inside && !spans.iter().any(|other| span.refers_to(other))
    });
    ensure!(rootless.count() == 1, "{spans:#?}");
    Ok(())
}

/// grpc-gateway's example, which has its ports from nobody but itself: so both live in a network of their own.
#[test]
fn a_gateway_from_http_to_grpc_is_drawn_and_joined() {
    needs_probe!();
    let programs = match peers::grpc_gateway() {
        Ok(programs) => programs,
        Err(error) => return skip::skip(&format!("{error:#}")),
    };
    let oap = Oap::start(REFERENCE, Ports::default()).expect("an OAP starts");
    let graphql = GraphQl::new(oap.http);
    let networks = Networks::new().expect("networks of our own");
    let within = |run: &dyn Fn() -> Result<()>| networks.within(Host::Client, run);
    let (front, back) = ("example-gateway-server", "example-grpc-server");
    let start = |name: &str, arguments: &[&str], port: u16| {
        networks.within(Host::Client, || {
            let target = Target::spawn(quiet(&programs.join(name)).args(arguments))?;
            wait_for_listener(([127, 0, 0, 1], port).into())?;
            Ok(target)
        })
    };
    let rpc = "127.0.0.1:9090";
    let server = start(back, &["-addr", rpc], 9090).expect("the server starts");
    let gateway = start(front, &["-endpoint", rpc], 8080).expect("the gateway starts");
    let ask = |path: &str, status: u16| {
        within(&|| {
            let answer = client::get("127.0.0.1:8080", path)?;
            ensure!(answer.status == status, "{answer:?}");
            Ok(())
        })
    };
    // The connection between the two is there before the probe.
    ask("/v1/example/echo/before/1", 200).expect("an answer");
    let _probe = attach_to(&oap, &[gateway.pid(), server.pid()]).expect("the probe attaches");
    ask("/v1/example/echo/hello/7", 200).expect("an answer");
    ask("/v1/example/echo_unauthorized", 401).expect("an answer");

    let service = "grpc.gateway.examples.internal.proto.examplepb.EchoService";
    for (http_code, method, code, is_error) in [
        ("200", "Echo", "OK", false),
        ("401", "EchoUnauthorized", "UNAUTHENTICATED", true),
    ] {
        eventually(method, || {
            let briefs = graphql.traces(&graphql.service_id(front)?, &[("http.status_code", http_code)])?;
            let id = briefs.iter().flat_map(|brief| &brief.trace_ids).next();
            let spans = graphql.trace(id.context("no trace")?)?;
            let of = |service: &str, kind: &str| {
                let found = spans
                    .iter()
                    .find(|span| span.service_code == service && span.r#type == kind);
                found.with_context(|| format!("no {kind} of {service}: {spans:?}"))
            };
            let (asked, call, served) = (of(front, "Entry")?, of(front, "Exit")?, of(back, "Entry")?);
            ensure!(spans.len() == 3, "{spans:?}");
            ensure!(
                asked.component == "GoHttpServer" && call.parent_span_id == asked.span_id,
                "{spans:?}"
            );
            ensure!(served.refers_to(call) && call.peer == rpc, "{spans:?}");
            for span in [call, served] {
                ensure!(span.endpoint_name == format!("{service}.{method}"), "{span:?}");
                ensure!(
                    (span.component.as_str(), span.tag("rpc.status_code")) == ("GRPC", Some(code)),
                    "{span:?}"
                );
            }
            // To the server, whom nobody may ask without a name is no failure of its own.
            ensure!((call.is_error, served.is_error) == (is_error, false), "{spans:?}");
            Ok(())
        });
    }
    eventually("the map", || {
        ask("/v1/example/echo/again/2", 200)?;
        let map = graphql.topology()?;
        ensure!(map.sides(front, back) == both_sides(), "{map:?}");
        Ok(())
    });
    assert_eq!(oap.figure("trace_analysis_error_count", "").expect("figure"), 0.0);
}
