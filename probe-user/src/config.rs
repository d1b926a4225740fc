//! The configuration: flags, environment and file become one plain [`Config`]. The only reader of all three.
//!
//! Each setting is a [`key::Key`] and arrives as text with its origin, whichever source it came from; one
//! parser per key turns it into a value, so a wrong value gets the same answer everywhere. A flag beats the
//! environment, the environment beats the file, the file beats the default, key by key.

mod completions;
mod environment;
mod error;
#[cfg(test)]
mod example;
mod file;
mod flags;
mod key;
#[cfg(test)]
mod man;
mod resolve;
mod rules;
mod sampling;
mod template;
mod value;

use std::{ffi::OsString, net::SocketAddr, path::PathBuf};

use self::key::Settings;

pub use self::{
    error::{ConfigError, Place},
    file::Stamp,
    rules::{Condition, Language, Pair, Rule, Verdict},
    sampling::{PathRatio, Ratio, Sampling, SamplingMethod},
    template::{Piece, Placeholder, Template},
};

/// What one call of the program is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    Run(Box<Config>),
    Inspect {
        subject: Subject,
        json: bool,
    },
    /// The same configuration, only to be looked at.
    Check(Box<Config>),
    Status {
        /// Which process is asked about, if it is one.
        pid: Option<u32>,
        socket: PathBuf,
        json: bool,
        watch: bool,
    },
    Doctor {
        json: bool,
    },
    /// Help, version or a shell's completions: this text goes to stdout and nothing else is done.
    Show(String),
}

/// What `inspect` looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    Pid(u32),
    File(PathBuf),
}

/// Everything `skyprobe run` needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub select: Select,
    pub naming: Naming,
    pub pods: Pods,
    /// The file it was read from.
    pub file: Option<ConfigFile>,
    pub export: Export,
    /// Where `text` and `json` go; stdout when there is none.
    pub output: Option<PathBuf>,
    pub color: Color,
    pub oap: Oap,
    pub propagate: Propagate,
    pub routes: Routes,
    /// Spans also say how their parent was found, and the like.
    pub grpc_messages: bool,
    pub sampling: Sampling,
    pub debug_tags: bool,
    pub log: LogLevel,
    /// Where `/metrics`, `/healthz` and `/readyz` are answered.
    pub http: Option<SocketAddr>,
    /// Where `skyprobe status` is answered.
    pub status_socket: Option<PathBuf>,
}

impl Config {
    /// This one with what of `new` can be taken over while the probe runs, and the names of the keys whose change has to
    /// wait for the next start.
    pub fn take_over(&self, new: Self) -> (Self, Vec<&'static str>) {
        // Whole, so that a new key is put into its place here.
        let Self {
            select,
            naming,
            pods,
            file: _,
            export,
            output,
            color,
            oap,
            propagate,
            routes,
            grpc_messages,
            sampling,
            debug_tags,
            log,
            http,
            status_socket,
        } = new;
        let Pods {
            kubernetes,
            kubeconfig,
            node,
            property_labels,
        } = pods;
        let Oap {
            addresses,
            authentication,
            tls,
            queue_segments,
            batch_segments,
            batch_delay_ms,
            timeout_s,
            heartbeat_s,
        } = oap;
        let stays = [
            ("kubernetes", kubernetes == self.pods.kubernetes),
            ("kubeconfig", kubeconfig == self.pods.kubeconfig),
            ("node", node == self.pods.node),
            ("export", export == self.export),
            ("output", output == self.output),
            ("color", color == self.color),
            ("oap", addresses == self.oap.addresses),
            ("authentication_file", authentication == self.oap.authentication),
            ("tls, tls_ca, tls_cert or tls_key", tls == self.oap.tls),
            ("queue_segments", queue_segments == self.oap.queue_segments),
            ("batch_segments", batch_segments == self.oap.batch_segments),
            ("batch_delay_ms", batch_delay_ms == self.oap.batch_delay_ms),
            ("timeout_s", timeout_s == self.oap.timeout_s),
            ("heartbeat_s", heartbeat_s == self.oap.heartbeat_s),
            ("propagate", propagate == self.propagate),
            ("routes", routes == self.routes),
            ("grpc_messages", grpc_messages == self.grpc_messages),
            ("sampling and what belongs to it", sampling == self.sampling),
            ("debug_tags", debug_tags == self.debug_tags),
            ("log", log == self.log),
            ("http", http == self.http),
            ("status_socket", status_socket == self.status_socket),
        ];
        // Processes named by id are those that were there at the start.
        let pids_stay = select.pids == self.select.pids;
        let waiting = stays.into_iter().chain([("pid", pids_stay)]);
        let waiting = waiting
            .filter(|(_, is_same)| !is_same)
            .map(|(key, _)| key)
            .collect();
        let taken = Self {
            select: Select {
                pids: self.select.pids.clone(),
                ..select
            },
            naming,
            pods: Pods {
                property_labels,
                ..self.pods.clone()
            },
            ..self.clone()
        };
        (taken, waiting)
    }
}

/// The configuration file, and which version of it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFile {
    pub path: PathBuf,
    pub stamp: Option<Stamp>,
}

/// Where `skyprobe status` is answered, and asks, unless told otherwise.
const STATUS_SOCKET: &str = "/run/skyprobe/status.sock";

/// Which processes to trace. The rules come first, and what they do not decide is traced if it meets any of the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Select {
    /// These before all rules.
    pub pids: Vec<u32>,
    pub rules: Vec<Rule>,
    /// Globs, known to be well-formed, for the executable's whole path or its base name.
    pub exes: Vec<String>,
    /// Listening TCP ports.
    pub ports: Vec<u16>,
    /// Every process that runs a Go program.
    pub all_go: bool,
}

impl Select {
    pub fn is_empty(&self) -> bool {
        let includes = |rule: &Rule| rule.verdict == Verdict::Include;
        self.pids.is_empty()
            && self.exes.is_empty()
            && self.ports.is_empty()
            && !self.all_go
            && !self.rules.iter().any(includes)
    }
}

/// What the user says about names; what is missing is read from the target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Naming {
    pub service: Option<String>,
    pub instance: Option<String>,
    pub namespace: Option<String>,
    pub cluster: Option<String>,
    pub service_template: Option<Template>,
    pub instance_template: Option<Template>,
}

/// What is asked of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pods {
    pub kubernetes: Kubernetes,
    /// How its API is reached from outside the cluster.
    pub kubeconfig: Option<PathBuf>,
    /// The node we are on; the host's name if nobody says.
    pub node: Option<String>,
    /// Labels that instances have among their properties.
    pub property_labels: Vec<String>,
}

/// Whether Kubernetes is asked for pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kubernetes {
    /// Within a pod that has an account there, or with a kubeconfig.
    Auto,
    On,
    Off,
}

/// Where segments go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Export {
    /// A live tree per trace.
    Text,
    /// One segment per line.
    Json,
    /// A SkyWalking OAP.
    SkyWalking,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    /// When the output is a terminal.
    Auto,
    Always,
    Never,
}

/// Where the token is that each call carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    Token(Secret),
    /// A file that holds nothing else.
    File(PathBuf),
}

/// How a SkyWalking OAP is reached and fed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oap {
    /// Tried in turn; never empty.
    pub addresses: Vec<Address>,
    /// The token each call carries.
    pub authentication: Option<Authentication>,
    pub tls: Option<Tls>,
    /// Segments that may wait; more are dropped and counted.
    pub queue_segments: usize,
    /// Segments sent at once.
    pub batch_segments: usize,
    /// How long a segment waits for others to be sent with.
    pub batch_delay_ms: u64,
    /// How long one call may take.
    pub timeout_s: u64,
    /// How often each instance says that it is alive.
    pub heartbeat_s: u64,
}

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret(..)")
    }
}

/// `host:port`, where the host may be a name, an IPv4 address, or an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// Without brackets.
    pub host: String,
    pub port: u16,
}

impl std::fmt::Display for Address {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

/// TLS towards the OAP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM; the well-known public authorities when there is none.
    pub ca: Option<PathBuf>,
    /// Our own certificate, when the OAP asks for one.
    pub client: Option<ClientCertificate>,
}

/// PEM files of a certificate chain and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Which headers outgoing requests get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Propagate {
    pub sw8: bool,
    pub w3c: bool,
}

impl Propagate {
    pub fn is_off(self) -> bool {
        !self.sw8 && !self.w3c
    }
}

/// What the path in an operation name looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routes {
    /// The pattern the server matched, where Go keeps it; else the path with id-like parts folded.
    Pattern,
    /// The path as it came.
    Path,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Reads the command line `arguments` (the first is the program's name), the environment through `lookup`, and
/// the configuration file the flags name.
pub fn read(
    arguments: impl IntoIterator<Item = OsString>,
    lookup: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Invocation, ConfigError> {
    let (flags, file, is_check) = match flags::parse(arguments)? {
        flags::Parsed::Run { settings, config } => (settings, config, false),
        flags::Parsed::Check(file) => (Settings::default(), Some(file), true),
        flags::Parsed::Other(invocation) => return Ok(invocation),
    };
    let environment = environment::settings(lookup)?;
    // The stamp before the contents: what changes meanwhile is another version.
    let file = file.map(|path| ConfigFile {
        stamp: Stamp::of(&path),
        path,
    });
    let contents = match &file {
        Some(file) => file::read(&file.path)?,
        None => file::Contents::default(),
    };
    let mut config = resolve::config(
        &flags.over(environment).over(contents.settings),
        contents.rules,
        environment::forbids_color(lookup),
    )?;
    config.file = file;
    let config = Box::new(config);
    Ok(if is_check {
        Invocation::Check(config)
    } else {
        Invocation::Run(config)
    })
}

/// What this process was called for. Reads the configuration file anew each time.
pub fn read_process() -> Result<Invocation, ConfigError> {
    read(
        environment::process_arguments(),
        &environment::process_environment,
    )
}

#[cfg(test)]
mod tests;
