//! The command line.

use std::{ffi::OsString, path::PathBuf};

use clap::{
    Args, Parser, Subcommand,
    error::{ContextKind, ErrorKind},
};

use super::{
    ConfigError, Invocation, Subject,
    completions::{self, Shell},
    key::{Given, Key, Origin, Settings},
};

/// What the command line asks for.
pub(super) enum Parsed {
    Run {
        settings: Settings,
        config: Option<PathBuf>,
    },
    Check(PathBuf),
    Other(Invocation),
}

/// Trace unmodified Go programs, from outside, into the terminal or Apache SkyWalking.
#[derive(Parser)]
#[command(
    name = "skyprobe",
    version = crate::version::BOTH,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub(super) struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Trace running programs, and those that start later, until Ctrl-C
    Run(Box<Run>),
    /// Say what could be traced in a program, without touching it
    Inspect {
        /// An executable file, or the id of a process
        #[arg(value_name = "PATH|PID")]
        subject: OsString,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say what the probe that runs traces and what it does not, and how it is
    Status {
        /// Say of this process why it is traced, or why not
        #[arg(long, value_name = "N")]
        pid: Option<u32>,
        /// The probe's socket, as `run --status-socket` has it
        #[arg(long, alias = "status-socket", value_name = "PATH", default_value = super::STATUS_SOCKET)]
        socket: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Ask each second, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// Read a configuration file as `run --config` would, and say what it would trace of what runs now
    Check {
        /// The YAML file
        file: PathBuf,
    },
    /// Say what works on this machine and what does not, and why
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print what completes this command line in a shell
    Completions {
        /// bash, zsh or fish
        #[arg(value_name = "SHELL", hide_possible_values = true)]
        shell: Shell,
    },
}

// Values stay text here, so that a wrong one gets the same answer whichever source it came from.
#[derive(Args)]
#[command(
    after_help = "At least one of --pid, --exe, --port, --all-go and a rule in the file is needed.\n\
    Settings come from flags, then SW_AGENT_* variables, then the file: see docs/configuration.md."
)]
struct Run {
    /// Trace this process; may be repeated
    #[arg(long, value_name = "N", help_heading = "What to trace")]
    pid: Vec<String>,
    /// Trace processes whose executable's path or base name matches; may be repeated
    #[arg(long, value_name = "GLOB", help_heading = "What to trace")]
    exe: Vec<String>,
    /// Trace processes that listen on this TCP port; may be repeated
    #[arg(long, value_name = "N", help_heading = "What to trace")]
    port: Vec<String>,
    /// Trace every Go program
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        help_heading = "What to trace")]
    all_go: Option<String>,

    /// Where traces go: text, json or skywalking [default: text, or skywalking when an OAP is given]
    #[arg(long, value_name = "FORM", help_heading = "Where it goes")]
    export: Option<String>,
    /// Write text or json to this file [default: stdout]
    #[arg(long, value_name = "FILE", help_heading = "Where it goes")]
    output: Option<String>,
    /// Colour the text: auto, always or never [default: auto]
    #[arg(long, value_name = "WHEN", help_heading = "Where it goes")]
    color: Option<String>,

    /// The service name [default: SW_AGENT_NAME or OTEL_SERVICE_NAME of the traced process, else what
    /// its pod, its unit or its executable is called]
    #[arg(long, value_name = "NAME", help_heading = "Names")]
    service: Option<String>,
    /// The instance name [default: SW_AGENT_INSTANCE_NAME of the traced process, else its pod, else its id,
    /// start and host]
    #[arg(long, value_name = "NAME", help_heading = "Names")]
    instance: Option<String>,
    /// The namespace, joined to the service name
    #[arg(long, value_name = "NAME", help_heading = "Names")]
    namespace: Option<String>,
    /// The cluster, joined to the service name
    #[arg(long, value_name = "NAME", help_heading = "Names")]
    cluster: Option<String>,

    /// The service name put together, such as {workload}-{container}
    #[arg(long, value_name = "TEMPLATE", help_heading = "Names")]
    service_template: Option<String>,
    /// The instance name put together, such as {pod}/{container}
    #[arg(long, value_name = "TEMPLATE", help_heading = "Names")]
    instance_template: Option<String>,

    /// Whether Kubernetes is asked for pods: auto, on or off [default: auto, within a pod or with a kubeconfig]
    #[arg(long, value_name = "WHEN", help_heading = "Kubernetes")]
    kubernetes: Option<String>,
    /// How its API is reached from outside the cluster
    #[arg(long, value_name = "FILE", help_heading = "Kubernetes")]
    kubeconfig: Option<String>,
    /// This node's name [default: the host's name]
    #[arg(long, value_name = "NAME", help_heading = "Kubernetes")]
    node: Option<String>,
    /// A pod's label that its instances have among their properties; may be repeated
    #[arg(long, value_name = "LABEL", help_heading = "Kubernetes")]
    property_labels: Vec<String>,

    /// SkyWalking OAP addresses [default: 127.0.0.1:11800]
    #[arg(long, value_name = "HOST:PORT[,...]", help_heading = "SkyWalking OAP")]
    oap: Option<String>,
    /// The file with the token each call to the OAP carries [default: the token in SW_AGENT_AUTHENTICATION]
    #[arg(long, value_name = "FILE", help_heading = "SkyWalking OAP")]
    authentication_file: Option<String>,
    /// Talk TLS to the OAP
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        help_heading = "SkyWalking OAP")]
    tls: Option<String>,
    /// Trust this authority's certificate (PEM) instead of the public ones
    #[arg(long, value_name = "FILE", help_heading = "SkyWalking OAP")]
    tls_ca: Option<String>,
    /// Our own certificate chain (PEM)
    #[arg(long, value_name = "FILE", help_heading = "SkyWalking OAP")]
    tls_cert: Option<String>,
    /// The key of our own certificate (PEM)
    #[arg(long, value_name = "FILE", help_heading = "SkyWalking OAP")]
    tls_key: Option<String>,
    /// How many segments may wait to be sent [default: 5000]
    #[arg(long, value_name = "COUNT", help_heading = "SkyWalking OAP")]
    queue_segments: Option<String>,
    /// How many segments are sent at once [default: 300]
    #[arg(long, value_name = "COUNT", help_heading = "SkyWalking OAP")]
    batch_segments: Option<String>,
    /// How long a segment waits for others, in milliseconds [default: 500]
    #[arg(long, value_name = "MS", help_heading = "SkyWalking OAP")]
    batch_delay_ms: Option<String>,
    /// How long one call may take, in seconds [default: 30]
    #[arg(long, value_name = "S", help_heading = "SkyWalking OAP")]
    timeout_s: Option<String>,
    /// How often instances report that they live, in seconds [default: 20]
    #[arg(long, value_name = "S", help_heading = "SkyWalking OAP")]
    heartbeat_s: Option<String>,

    /// Which requests are reported: all, constant, rate_limiting, adaptive or n_per_3_secs [default: all, or the one
    /// whose settings are given]
    #[arg(long, value_name = "METHOD", help_heading = "Sampling")]
    sampling: Option<String>,
    /// constant: the part of them, from 0 to 1
    #[arg(long, value_name = "RATIO", help_heading = "Sampling")]
    sample_rate: Option<String>,
    /// rate_limiting: requests a second and process
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    rate_per_second: Option<String>,
    /// rate_limiting: requests at once after a silence [default: as many as in a second]
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    burst_size: Option<String>,
    /// adaptive: all are sampled up to so many a second and process [default: 100]
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    adaptive_threshold: Option<String>,
    /// adaptive: what tracing a process may cost above that, in percent of one processor [default: 10]
    #[arg(long, value_name = "PERCENT", help_heading = "Sampling")]
    adaptive_cpu_percent: Option<String>,
    /// n_per_3_secs: so many of each three seconds and process
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    sample_n_per_3_secs: Option<String>,
    /// Another ratio for a path, or for all below it: /health=0, /static/*=0.01; may be repeated
    #[arg(long, value_name = "PATH=RATIO", help_heading = "Sampling")]
    sample_paths: Vec<String>,
    /// Report what has an error even if it is not sampled
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        help_heading = "Sampling")]
    keep_errors: Option<String>,
    /// Report what takes longer, such as 500ms or 2s, even if it is not sampled
    #[arg(long, value_name = "TIME", help_heading = "Sampling")]
    keep_slower_than: Option<String>,

    /// Headers that outgoing requests get: sw8, w3c, sw8,w3c or off [default: sw8]
    #[arg(long, value_name = "HEADERS", help_heading = "Tracing")]
    propagate: Option<String>,
    /// Paths in operation names: pattern (as matched, or ids folded) or path (as they came) [default: pattern]
    #[arg(long, value_name = "FORM", help_heading = "Tracing")]
    routes: Option<String>,
    /// Count the messages of gRPC streams; unary calls pay for it, too [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        help_heading = "Tracing")]
    grpc_messages: Option<String>,
    /// Tag spans with how their parent was found
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        help_heading = "Tracing")]
    debug_tags: Option<String>,
    /// What is logged to stderr: error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL", help_heading = "Tracing")]
    log: Option<String>,
    /// Answer GET /metrics, /healthz and /readyz at this address [default: nowhere]
    #[arg(long, value_name = "IP:PORT", help_heading = "Tracing")]
    http: Option<String>,
    /// Answer `skyprobe status` at this Unix socket, or off [default: /run/skyprobe/status.sock]
    #[arg(long, value_name = "PATH", help_heading = "Tracing")]
    status_socket: Option<String>,
    /// Read settings from this YAML file
    #[arg(long, value_name = "FILE", help_heading = "Tracing")]
    config: Option<PathBuf>,
}

pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Parsed, ConfigError> {
    let command_line = match CommandLine::try_parse_from(arguments) {
        Ok(command_line) => command_line,
        Err(error) => {
            return if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
                Ok(Parsed::Other(Invocation::Show(error.to_string())))
            } else {
                Err(usage(&error))
            };
        }
    };
    Ok(match command_line.command {
        Command::Run(run) => {
            let (settings, config) = run.settings();
            Parsed::Run { settings, config }
        }
        Command::Inspect { subject, json } => Parsed::Other(Invocation::Inspect {
            subject: self::subject(subject),
            json,
        }),
        Command::Status {
            pid,
            socket,
            json,
            watch,
        } => Parsed::Other(Invocation::Status {
            pid,
            socket,
            json,
            watch,
        }),
        Command::Check { file } => Parsed::Check(file),
        Command::Doctor { json } => Parsed::Other(Invocation::Doctor { json }),
        Command::Completions { shell } => Parsed::Other(Invocation::Show(completions::script(shell))),
    })
}

/// Digits are a process id; a file of that name is reached as `./123`.
fn subject(text: OsString) -> Subject {
    match text.to_str().and_then(|text| text.parse().ok()) {
        Some(pid) => Subject::Pid(pid),
        None => Subject::File(PathBuf::from(text)),
    }
}

impl Run {
    fn settings(self) -> (Settings, Option<PathBuf>) {
        let Self {
            pid,
            exe,
            port,
            all_go,
            export,
            output,
            color,
            service,
            instance,
            namespace,
            cluster,
            service_template,
            instance_template,
            kubernetes,
            kubeconfig,
            node,
            property_labels,
            oap,
            authentication_file,
            tls,
            tls_ca,
            tls_cert,
            tls_key,
            queue_segments,
            batch_segments,
            batch_delay_ms,
            timeout_s,
            heartbeat_s,
            propagate,
            routes,
            grpc_messages,
            sampling,
            sample_rate,
            rate_per_second,
            burst_size,
            adaptive_threshold,
            adaptive_cpu_percent,
            sample_n_per_3_secs,
            sample_paths,
            keep_errors,
            keep_slower_than,
            debug_tags,
            log,
            http,
            status_socket,
            config,
        } = self;
        let lists = [
            (Key::Pid, pid),
            (Key::Exe, exe),
            (Key::Port, port),
            (Key::PropertyLabels, property_labels),
            (Key::SamplePaths, sample_paths),
        ];
        let singles = [
            (Key::AllGo, all_go),
            (Key::Export, export),
            (Key::Output, output),
            (Key::Color, color),
            (Key::Service, service),
            (Key::Instance, instance),
            (Key::Namespace, namespace),
            (Key::Cluster, cluster),
            (Key::ServiceTemplate, service_template),
            (Key::InstanceTemplate, instance_template),
            (Key::Kubernetes, kubernetes),
            (Key::Kubeconfig, kubeconfig),
            (Key::Node, node),
            (Key::Oap, oap),
            (Key::AuthenticationFile, authentication_file),
            (Key::Tls, tls),
            (Key::TlsCaFile, tls_ca),
            (Key::TlsCertFile, tls_cert),
            (Key::TlsKeyFile, tls_key),
            (Key::QueueSegments, queue_segments),
            (Key::BatchSegments, batch_segments),
            (Key::BatchDelayMs, batch_delay_ms),
            (Key::TimeoutS, timeout_s),
            (Key::HeartbeatS, heartbeat_s),
            (Key::Propagate, propagate),
            (Key::Routes, routes),
            (Key::GrpcMessages, grpc_messages),
            (Key::Sampling, sampling),
            (Key::SampleRate, sample_rate),
            (Key::RatePerSecond, rate_per_second),
            (Key::BurstSize, burst_size),
            (Key::AdaptiveThreshold, adaptive_threshold),
            (Key::AdaptiveCpuPercent, adaptive_cpu_percent),
            (Key::SampleNPer3Secs, sample_n_per_3_secs),
            (Key::KeepErrors, keep_errors),
            (Key::KeepSlowerThan, keep_slower_than),
            (Key::DebugTags, debug_tags),
            (Key::Log, log),
            (Key::Http, http),
            (Key::StatusSocket, status_socket),
        ];
        let mut settings = Settings::default();
        let singles = singles.into_iter().filter_map(|(key, value)| Some((key, value?)));
        let lists = lists
            .into_iter()
            .flat_map(|(key, values)| values.into_iter().map(move |value| (key, value)));
        for (key, text) in lists.chain(singles) {
            settings.add(
                key,
                Given {
                    text,
                    origin: Origin::Flag(key),
                },
            );
        }
        (settings, config)
    }
}

/// One sentence for what clap spreads over several lines.
fn usage(error: &clap::Error) -> ConfigError {
    let context = |kind| error.get(kind).map(ToString::to_string);
    let argument = context(ContextKind::InvalidArg).unwrap_or_default();
    let suggestion = context(ContextKind::SuggestedArg)
        .or_else(|| context(ContextKind::SuggestedSubcommand))
        .map_or_else(String::new, |suggestion| format!(", did you mean {suggestion}?"));
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "clap's enum; the rest is said in clap's words"
    )]
    let sentence = match error.kind() {
        ErrorKind::UnknownArgument if argument.starts_with('-') => {
            format!("unknown option {argument}{suggestion}")
        }
        ErrorKind::UnknownArgument => format!("unexpected argument {argument:?}"),
        ErrorKind::InvalidSubcommand => {
            let command = context(ContextKind::InvalidSubcommand).unwrap_or_default();
            format!("unknown command {command:?}{suggestion}")
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            "say what to do: run, status, check, inspect or doctor".to_owned()
        }
        ErrorKind::ArgumentConflict => format!("{argument} may be given only once"),
        ErrorKind::MissingRequiredArgument => format!("missing argument {argument}"),
        ErrorKind::InvalidValue
            if context(ContextKind::InvalidValue).is_none_or(|value| value.is_empty()) =>
        {
            format!("{argument} needs a value")
        }
        ErrorKind::NoEquals => format!("{argument} takes its value after an equals sign"),
        ErrorKind::InvalidUtf8 => "an argument is not UTF-8 text".to_owned(),
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            first.trim_start_matches("error: ").to_owned()
        }
    };
    ConfigError::Usage {
        sentence,
        help: "skyprobe --help",
    }
}
