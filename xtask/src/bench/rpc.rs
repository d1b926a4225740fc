//! Programs that talk gRPC, and the load that one of them makes of the other: both can be traced.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::{START_TIMEOUT, build_program, free_address, load::Measured};
use crate::{
    build, go,
    process::{Running, check},
    step::wait_until,
};

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
/// That a stream carries each way, as `tests/targets/go/bench_grpc` has it.
pub(super) const STREAM_MESSAGES: u32 = 10;

/// Gets the modules of the program and builds it: server and client, the same in two files, for the kernel stops every
/// process of a file at the hooks in it, also one that nobody traces.
pub(super) fn build(directory: &Path) -> Result<[PathBuf; 2]> {
    let mut fetch = Command::new(go::current()?);
    fetch
        .args(["mod", "download"])
        .current_dir(build::root().join("tests/targets/go/bench_grpc"))
        .envs([("GOTOOLCHAIN", "local"), ("GOFLAGS", "-mod=readonly")]);
    check(&mut fetch).context("get grpc-go, of which a program to be measured is made")?;
    let server = build_program(directory, "bench_grpc")?;
    let client = server.with_extension("client");
    fs::copy(&server, &client).context("copy the program")?;
    Ok([server, client])
}

/// A server and its client.
pub(super) struct Pair {
    server: Running,
    client: Running,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Pair {
    pub(super) fn start([server, client]: &[PathBuf; 2]) -> Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(server);
        command
            .args(["serve", "-listen", &address.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let server = Running::start("bench_grpc serve", &mut command)?;
        ensure!(
            wait_until(START_TIMEOUT, || TcpStream::connect(address).is_ok()),
            "the server does not listen on {address}"
        );
        let mut command = Command::new(client);
        command
            .args(["load", "-target", &address.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut client = Running::start("bench_grpc load", &mut command)?;
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

    /// Lets the client work for so long.
    pub(super) fn run(&mut self, work: Work, seconds: u32) -> Result<Measured> {
        let Work {
            kind,
            callers,
            connections,
        } = work;
        writeln!(self.orders, "{kind} {callers} {connections} {seconds}").context("tell the client")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).context("hear the client")?;
        let measured: Measured = serde_json::from_str(&answer)
            .with_context(|| format!("understand what the client said: {answer:?}"))?;
        ensure!(measured.requests > 0, "the client made no call");
        Ok(measured)
    }
}
