//! Where all that trace report to: a program of ours that takes everything and keeps nothing.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    ops::Sub,
    path::Path,
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{START_TIMEOUT, variant};
use crate::{http, process::Running, step::wait_until};

/// The running sink.
pub(super) struct Sink {
    pub(super) address: SocketAddr,
    running: Running,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What has come in: segments by SkyWalking's protocol, spans by OpenTelemetry's.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Reported {
    pub(super) segments: u64,
    pub(super) spans: u64,
}

impl Sub for Reported {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            segments: self.segments - before.segments,
            spans: self.spans - before.spans,
        }
    }
}

impl Sink {
    pub(super) fn start(directory: &Path) -> Result<Self> {
        let program = variant::go_build("sink", "", &directory.join("sink"))?;
        let address = http::free_address()?;
        let mut command = Command::new(program);
        command
            .args(["-listen", &address.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut running = Running::start("sink", &mut command)?;
        let asks = running.child().stdin.take().context("the pipe to the sink")?;
        let answers = running.child().stdout.take().context("the pipe from the sink")?;
        ensure!(
            wait_until(START_TIMEOUT, || TcpStream::connect(address).is_ok()),
            "the sink does not listen on {address}"
        );
        Ok(Self {
            address,
            running,
            asks,
            answers: BufReader::new(answers),
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// What has come in so far.
    pub(super) fn reported(&mut self) -> Result<Reported> {
        writeln!(self.asks).context("ask the sink")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).context("hear the sink")?;
        serde_json::from_str(&answer).with_context(|| format!("understand what the sink said: {answer:?}"))
    }
}
