//! Programs that talk gRPC, and the load that one of them makes of the other: both can be traced.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::{START_TIMEOUT, load::Measured, variant::Programs};
use crate::{http, process::Running, step::wait_until};

/// What the client does: calls of one message each way, or streams.
#[derive(Clone, Copy)]
pub(super) struct Work {
    pub(super) kind: &'static str,
    pub(super) callers: u32,
    pub(super) connections: u32,
}

/// As many calls at a time as the load of HTTP has connections.
pub(super) const UNARY: Work = Work {
    kind: "unary",
    callers: 64,
    connections: 8,
};
/// On one connection, so that what one goroutine writes are the frames of a thousand.
pub(super) const STREAMS: Work = Work {
    kind: "chat",
    callers: 1000,
    connections: 1,
};
/// That a stream carries each way, as `tests/targets/go/bench/echo` has it.
pub(super) const STREAM_MESSAGES: u32 = 10;

/// A server and its client.
pub(super) struct Pair {
    server: Running,
    client: Running,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Pair {
    pub(super) fn start(programs: &Programs, sink: SocketAddr) -> Result<Self> {
        let address = http::free_address()?;
        let sink = format!("http://{sink}");
        let mut command = Command::new(&programs.echo_server);
        command
            .args(["serve", "-listen", &address.to_string()])
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", &sink)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let server = Running::start("echo serve", &mut command)?;
        ensure!(
            wait_until(START_TIMEOUT, || TcpStream::connect(address).is_ok()),
            "the server does not listen on {address}"
        );
        let mut command = Command::new(&programs.echo_client);
        command
            .args(["load", "-target", &address.to_string()])
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", &sink)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut client = Running::start("echo load", &mut command)?;
        let orders = client.child().stdin.take().context("the pipe to the client")?;
        let answers = client.child().stdout.take().context("the pipe from the client")?;
        Ok(Self {
            server,
            client,
            orders,
            answers: BufReader::new(answers),
        })
    }

    pub(super) fn server(&self) -> u32 {
        self.server.pid()
    }

    pub(super) fn client(&self) -> u32 {
        self.client.pid()
    }

    /// Lets the client work for so long, at this rate; 0: as fast as it goes.
    pub(super) fn run(&mut self, work: Work, seconds: u32, rate: f64) -> Result<Measured> {
        let Work {
            kind,
            callers,
            connections,
        } = work;
        writeln!(self.orders, "{kind} {callers} {connections} {seconds} {rate}")
            .context("tell the client")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).context("hear the client")?;
        let measured: Measured = serde_json::from_str(&answer)
            .with_context(|| format!("understand what the client said: {answer:?}"))?;
        ensure!(measured.requests > 0, "the client made no call");
        Ok(measured)
    }
}
