//! The programs of one row, running, and the load that is put on them.

use std::{
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    START_TIMEOUT,
    load::{self, Measured},
    rpc::{self, Pair},
    steady,
    variant::Programs,
};
use crate::{http, process::Running, step::wait_until};

/// What a row's programs are and do.
#[derive(Clone, Copy)]
pub(super) enum Work {
    /// So many programs in a row, and what the first is asked for.
    Http {
        length: usize,
        path: &'static str,
    },
    Rpc {
        work: rpc::Work,
        traced: Ends,
    },
}

/// Which ends of calls by gRPC are measured, and traced.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    Server,
    Client,
    Both,
}

/// Running programs.
pub(super) enum Scene {
    Http {
        chain: Chain,
        path: &'static str,
    },
    Rpc {
        pair: Pair,
        work: rpc::Work,
        traced: Ends,
    },
}

impl Scene {
    /// Starts them; those that report by themselves do so to `sink`, and what takes work takes so many turns.
    pub(super) fn start(work: Work, programs: &Programs, sink: SocketAddr, turns: u64) -> Result<Self> {
        Ok(match work {
            Work::Http { length, path } => Self::Http {
                chain: Chain::start(&programs.hello, length, sink, turns)?,
                path,
            },
            Work::Rpc { work, traced } => Self::Rpc {
                pair: Pair::start(programs, sink)?,
                work,
                traced,
            },
        })
    }

    /// The processes that are measured, and traced.
    pub(super) fn pids(&self) -> Vec<u32> {
        match self {
            Self::Http { chain, .. } => chain.pids().collect(),
            Self::Rpc { pair, traced, .. } => match traced {
                Ends::Server => vec![pair.server()],
                Ends::Client => vec![pair.client()],
                Ends::Both => vec![pair.server(), pair.client()],
            },
        }
    }

    /// As many requests as they bear.
    pub(super) fn saturate(&mut self, seconds: u32) -> Result<Measured> {
        self.measure(|scene| match scene {
            Self::Http { chain, path } => load::saturate(&format!("http://{}{path}", chain.front), seconds),
            Self::Rpc { pair, work, .. } => pair.run(*work, seconds, 0.0),
        })
    }

    /// So many requests a second.
    pub(super) fn steady(&mut self, seconds: u32, rate: f64) -> Result<Measured> {
        self.measure(|scene| match scene {
            Self::Http { chain, path } => steady::run(chain.front, path, seconds, rate),
            Self::Rpc { pair, work, .. } => pair.run(*work, seconds, rate),
        })
    }

    fn measure(&mut self, press: impl FnOnce(&mut Self) -> Result<Measured>) -> Result<Measured> {
        let pids = self.pids();
        let cpu = || pids.iter().map(|pid| load::cpu(*pid)).sum::<Result<Duration>>();
        let before = cpu()?;
        let mut measured = press(self)?;
        measured.cpu_s = cpu()?.saturating_sub(before).as_secs_f64();
        Ok(measured)
    }
}

/// Programs that ask each other in a row; the first is the one under load.
pub(super) struct Chain {
    front: SocketAddr,
    programs: Vec<Running>,
}

impl Chain {
    pub(super) fn start(program: &Path, length: usize, sink: SocketAddr, turns: u64) -> Result<Self> {
        let mut programs = Vec::new();
        let mut next: Option<SocketAddr> = None;
        for _ in 0..length {
            let address = http::free_address()?;
            let mut command = Command::new(program);
            command.args(["-listen", &address.to_string()]);
            command.args(["-work", &turns.to_string()]);
            if let Some(next) = next {
                command.args(["-next", &format!("http://{next}/chain")]);
            }
            command
                .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{sink}"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            programs.push(Running::start("hello", &mut command)?);
            ensure!(
                wait_until(START_TIMEOUT, || TcpStream::connect(address).is_ok()),
                "the program does not listen on {address}"
            );
            next = Some(address);
        }
        Ok(Self {
            front: next.context("a chain has a front")?,
            programs,
        })
    }

    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.programs.iter().map(Running::pid)
    }
}
