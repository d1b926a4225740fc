//! What a running probe does, for its operator: the answer of its Unix socket, and `skyprobe status`, which asks for it.

mod ask;
mod own;
mod process;
mod socket;
mod table;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock;

pub(crate) use self::table::table;
pub use self::{
    ask::{AskError, show},
    own::Own,
    socket::{Socket, SocketError},
};

/// The form of the answer. A probe and a `skyprobe status` of two versions understand each other as long as it is one.
pub const FORMAT: u32 = 1;

/// All of it. Times are in seconds before the answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    pub format: u32,
    pub version: String,
    pub build: String,
    pub pid: u32,
    pub uptime_s: u64,
    /// Processor time of the probe itself.
    pub cpu_ms: u64,
    pub memory_bytes: u64,
    /// The thread that is stuck, in a sentence; nothing while all come round.
    pub unwell: Option<String>,
    /// Why it is not ready, in a sentence; nothing once it is.
    pub unready: Option<String>,
    pub export: Export,
    pub spans: Spans,
    /// Nothing where every request is reported.
    pub sampling: Option<Sampling>,
    /// Nothing if the thread that knows does not answer, because it is busy with attaching.
    pub tracing: Option<Tracing>,
}

/// Where segments go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Export {
    /// `text`, `json` or `skywalking`.
    pub to: String,
    /// Segments that wait for the exporter, and how many may.
    pub waiting_segments: usize,
    pub queue_segments: usize,
    pub oap: Option<Oap>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Oap {
    pub addresses: Vec<String>,
    /// The address it is reached at, if it is.
    pub connected: Option<String>,
    pub connected_s: Option<u64>,
    pub error: Option<String>,
    pub error_s: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spans {
    pub produced: u64,
    pub exported: u64,
    /// Of those that were produced.
    pub lost: u64,
    /// What struck, and how often.
    pub losses: Vec<Lost>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lost {
    /// `user`, `tracer` or `kernel`.
    pub side: String,
    pub reason: String,
    pub count: u64,
    /// Else a link, a name or time.
    pub loses_span: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sampling {
    pub decided: u64,
    pub sampled: u64,
    pub followed: u64,
    pub kept: u64,
    pub left_out_spans: u64,
}

/// What may be asked besides: a line of JSON, written to the socket before anything is read. Nothing is a question, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Question {
    /// Why this process is traced, or why not.
    pub pid: Option<u32>,
}

/// What the targets thread knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tracing {
    pub configuration: Configuration,
    /// Nothing where Kubernetes is not asked.
    pub kubernetes: Option<Kubernetes>,
    pub targets: Vec<Target>,
    /// Processes that are meant and cannot be traced.
    pub refused: Vec<Refused>,
    /// The headers that outgoing requests get, or why they get none.
    pub propagation: String,
    /// Connections that get them, of all targets.
    pub connections: u64,
    /// The programs of the kernel side that are loaded.
    pub programs: Vec<Program>,
    /// The process that was asked about.
    pub asked: Option<Asked>,
}

/// What the configuration file has become.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Configuration {
    /// Nothing if none was named.
    pub file: Option<String>,
    /// When it was last read without a mistake.
    pub read_s: u64,
    /// Why it was not taken over since.
    pub error: Option<String>,
    pub error_s: Option<u64>,
    /// Keys that have changed and count from the next start on.
    pub waits_for_restart: Vec<String>,
}

/// What is known from Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kubernetes {
    pub address: String,
    pub node: String,
    /// On this node.
    pub pods: usize,
    /// Else new pods are not known, and named by their processes.
    pub current: bool,
    pub error: Option<String>,
    pub error_s: Option<u64>,
}

/// A process that was asked about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Asked {
    pub pid: u32,
    /// Nothing if there is no such process.
    pub exe: Option<String>,
    pub fate: Fate,
    /// What decided, a part of a sentence.
    pub why: String,
    /// The TCP connections it has opened; only where it is traced.
    pub connections: Vec<Connection>,
}

/// What becomes of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    #[default]
    NotThere,
    Traced,
    /// It is meant and will be looked at again soon.
    Waits,
    /// It is meant and cannot be traced.
    Refused,
    NotMeant,
    Excluded,
}

/// A connection that a traced process has opened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connection {
    pub local: String,
    pub peer: String,
    /// Whether requests on it get headers.
    pub gets_headers: bool,
}

/// Whole seconds since a moment of the boot clock.
pub(crate) fn seconds_since(boot_ns: u64) -> u64 {
    Duration::from_nanos(clock::now_boot_ns().saturating_sub(boot_ns)).as_secs()
}

/// A traced process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Target {
    pub pid: u32,
    pub exe: String,
    pub service: String,
    pub instance: String,
    pub language: String,
    /// Of the language.
    pub version: String,
    pub traced_s: u64,
    /// The service of systemd, where it is one.
    pub unit: Option<String>,
    /// The container it runs in, and what Kubernetes says of that.
    pub container_id: Option<String>,
    pub namespace: Option<String>,
    pub pod: Option<String>,
    pub container: Option<String>,
    /// `Kind/name` of what the pod belongs to.
    pub workload: Option<String>,
    /// What of its libraries is traced.
    pub parts: Vec<String>,
    pub hooks: usize,
    /// Hooks that could not be placed, and matter.
    pub missing: Vec<Missing>,
    /// Connections older than its tracing that were taken over, and those that another program has.
    pub enrolled: Option<u64>,
    pub not_enrolled: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Missing {
    pub program: String,
    pub symbol: String,
    pub reason: String,
    /// What is not seen without it.
    pub loss: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Refused {
    pub pid: u32,
    pub exe: String,
    pub reason: String,
}

/// A program in the kernel, and what it took, where the kernel counts that (`kernel.bpf_stats_enabled`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Program {
    pub name: String,
    pub runs: u64,
    pub run_ns: u64,
}
