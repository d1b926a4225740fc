//! Every setting there is: its name as a flag, in the environment and in the file, in one table.

use std::{
    collections::BTreeMap,
    fmt::{Display, Formatter, Result},
};

use super::error::Place;

/// A setting of `skyprobe run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Pid,
    Exe,
    Port,
    AllGo,
    Export,
    Output,
    Color,
    Service,
    Instance,
    Namespace,
    Cluster,
    ServiceTemplate,
    InstanceTemplate,
    PropertyLabels,
    Kubernetes,
    Kubeconfig,
    Node,
    Oap,
    Authentication,
    AuthenticationFile,
    Tls,
    TlsCaFile,
    TlsCertFile,
    TlsKeyFile,
    QueueSegments,
    BatchSegments,
    BatchDelayMs,
    TimeoutS,
    HeartbeatS,
    Propagate,
    Routes,
    GrpcMessages,
    DebugTags,
    Log,
    Http,
    StatusSocket,
    Sampling,
    SampleRate,
    RatePerSecond,
    BurstSize,
    AdaptiveThreshold,
    AdaptiveCpuPercent,
    SampleNPer3Secs,
    SamplePaths,
    KeepErrors,
    KeepSlowerThan,
}

impl Key {
    pub(super) const ALL: [Self; 46] = [
        Self::Pid,
        Self::Exe,
        Self::Port,
        Self::AllGo,
        Self::Export,
        Self::Output,
        Self::Color,
        Self::Service,
        Self::Instance,
        Self::Namespace,
        Self::Cluster,
        Self::ServiceTemplate,
        Self::InstanceTemplate,
        Self::PropertyLabels,
        Self::Kubernetes,
        Self::Kubeconfig,
        Self::Node,
        Self::Oap,
        Self::Authentication,
        Self::AuthenticationFile,
        Self::Tls,
        Self::TlsCaFile,
        Self::TlsCertFile,
        Self::TlsKeyFile,
        Self::QueueSegments,
        Self::BatchSegments,
        Self::BatchDelayMs,
        Self::TimeoutS,
        Self::HeartbeatS,
        Self::Propagate,
        Self::Routes,
        Self::GrpcMessages,
        Self::DebugTags,
        Self::Log,
        Self::Http,
        Self::StatusSocket,
        Self::Sampling,
        Self::SampleRate,
        Self::RatePerSecond,
        Self::BurstSize,
        Self::AdaptiveThreshold,
        Self::AdaptiveCpuPercent,
        Self::SampleNPer3Secs,
        Self::SamplePaths,
        Self::KeepErrors,
        Self::KeepSlowerThan,
    ];

    /// The name in the file; the flag is the same with dashes.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Pid => "pid",
            Self::Exe => "exe",
            Self::Port => "port",
            Self::AllGo => "all_go",
            Self::Export => "export",
            Self::Output => "output",
            Self::Color => "color",
            Self::Service => "service",
            Self::Instance => "instance",
            Self::Namespace => "namespace",
            Self::Cluster => "cluster",
            Self::ServiceTemplate => "service_template",
            Self::InstanceTemplate => "instance_template",
            Self::PropertyLabels => "property_labels",
            Self::Kubernetes => "kubernetes",
            Self::Kubeconfig => "kubeconfig",
            Self::Node => "node",
            Self::Oap => "oap",
            Self::Authentication => "authentication",
            Self::AuthenticationFile => "authentication_file",
            Self::Tls => "tls",
            Self::TlsCaFile => "tls_ca",
            Self::TlsCertFile => "tls_cert",
            Self::TlsKeyFile => "tls_key",
            Self::QueueSegments => "queue_segments",
            Self::BatchSegments => "batch_segments",
            Self::BatchDelayMs => "batch_delay_ms",
            Self::TimeoutS => "timeout_s",
            Self::HeartbeatS => "heartbeat_s",
            Self::Propagate => "propagate",
            Self::Routes => "routes",
            Self::GrpcMessages => "grpc_messages",
            Self::Sampling => "sampling",
            Self::SampleRate => "sample_rate",
            Self::RatePerSecond => "rate_per_second",
            Self::BurstSize => "burst_size",
            Self::AdaptiveThreshold => "adaptive_threshold",
            Self::AdaptiveCpuPercent => "adaptive_cpu_percent",
            Self::SampleNPer3Secs => "sample_n_per_3_secs",
            Self::SamplePaths => "sample_paths",
            Self::KeepErrors => "keep_errors",
            Self::KeepSlowerThan => "keep_slower_than",
            Self::DebugTags => "debug_tags",
            Self::Log => "log",
            Self::Http => "http",
            Self::StatusSocket => "status_socket",
        }
    }

    /// The variables of SkyWalking's agents that mean the same, the Java agent's first: the first that is set
    /// counts. Settings that those agents do not have are not read from the environment.
    pub(super) const fn environment(self) -> &'static [&'static str] {
        match self {
            Self::Service => &["SW_AGENT_NAME"],
            Self::Instance => &["SW_AGENT_INSTANCE_NAME"],
            Self::Namespace => &["SW_AGENT_NAMESPACE"],
            Self::Cluster => &["SW_AGENT_CLUSTER"],
            Self::Oap => &[
                "SW_AGENT_COLLECTOR_BACKEND_SERVICES",
                "SW_AGENT_REPORTER_GRPC_BACKEND_SERVICE",
            ],
            Self::Authentication => &["SW_AGENT_AUTHENTICATION", "SW_AGENT_REPORTER_GRPC_AUTHENTICATION"],
            Self::Tls => &["SW_AGENT_FORCE_TLS", "SW_AGENT_REPORTER_GRPC_TLS_ENABLE"],
            Self::TlsCaFile => &[
                "SW_AGENT_SSL_TRUSTED_CA_PATH",
                "SW_AGENT_REPORTER_GRPC_TLS_CA_PATH",
            ],
            Self::TlsCertFile => &[
                "SW_AGENT_SSL_CERT_CHAIN_PATH",
                "SW_AGENT_REPORTER_GRPC_TLS_CLIENT_CERT_CHAIN_PATH",
            ],
            Self::TlsKeyFile => &[
                "SW_AGENT_SSL_KEY_PATH",
                "SW_AGENT_REPORTER_GRPC_TLS_CLIENT_KEY_PATH",
            ],
            Self::QueueSegments => &["SW_AGENT_REPORTER_GRPC_MAX_SEND_QUEUE"],
            Self::TimeoutS => &["SW_AGENT_COLLECTOR_GRPC_UPSTREAM_TIMEOUT"],
            Self::HeartbeatS => &[
                "SW_AGENT_COLLECTOR_HEARTBEAT_PERIOD",
                "SW_AGENT_REPORTER_GRPC_CHECK_INTERVAL",
            ],
            Self::Pid
            | Self::Exe
            | Self::Port
            | Self::AllGo
            | Self::Export
            | Self::Output
            | Self::Color
            | Self::ServiceTemplate
            | Self::InstanceTemplate
            | Self::PropertyLabels
            | Self::Kubernetes
            | Self::Kubeconfig
            | Self::Node
            | Self::AuthenticationFile
            | Self::BatchSegments
            | Self::BatchDelayMs
            | Self::Propagate
            | Self::Routes
            | Self::GrpcMessages
            | Self::Sampling
            | Self::SampleRate
            | Self::RatePerSecond
            | Self::BurstSize
            | Self::AdaptiveThreshold
            | Self::AdaptiveCpuPercent
            | Self::SampleNPer3Secs
            | Self::SamplePaths
            | Self::KeepErrors
            | Self::KeepSlowerThan
            | Self::DebugTags
            | Self::Log
            | Self::Http
            | Self::StatusSocket => &[],
        }
    }

    /// Whether the file may hold a list of values; the others have one.
    pub(super) const fn takes_several(self) -> bool {
        matches!(
            self,
            Self::Pid
                | Self::Exe
                | Self::Port
                | Self::PropertyLabels
                | Self::SamplePaths
                | Self::Oap
                | Self::Propagate
        )
    }

    pub(super) fn flag(self) -> String {
        format!("--{}", self.name().replace('_', "-"))
    }

    /// As who gave something there would write it.
    pub(super) fn as_in(self, origin: Option<&Origin>) -> String {
        match origin {
            Some(Origin::File { .. }) => self.name().to_owned(),
            Some(Origin::Flag(_) | Origin::Environment(_)) | None => self.flag(),
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.name() == name)
    }
}

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Flag(Key),
    Environment(&'static str),
    File { place: Place, key: &'static str },
}

impl Display for Origin {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
        match self {
            Self::Flag(key) => formatter.write_str(&key.flag()),
            Self::Environment(name) => write!(formatter, "{name} in the environment"),
            Self::File { place, key } => write!(formatter, "{key} in {place}"),
        }
    }
}

/// A value as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) text: String,
    pub(super) origin: Origin,
}

/// What one source, or several laid over each other, say. A key that is present has at least one value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings(BTreeMap<Key, Vec<Given>>);

impl Settings {
    pub(super) fn add(&mut self, key: Key, given: Given) {
        self.0.entry(key).or_default().push(given);
    }

    /// These settings, and from `lower` those whose key is not among them.
    pub(super) fn over(mut self, lower: Self) -> Self {
        for (key, values) in lower.0 {
            self.0.entry(key).or_insert(values);
        }
        self
    }

    pub(super) fn all(&self, key: Key) -> &[Given] {
        self.0.get(&key).map_or(&[], Vec::as_slice)
    }

    /// The value of a key that takes only one.
    pub(super) fn one(&self, key: Key) -> Option<&Given> {
        self.all(key).last()
    }
}
