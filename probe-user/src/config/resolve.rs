//! From all settings to the [`Config`]: defaults, and what must fit together.

use super::{
    Address, Authentication, ClientCertificate, Color, Config, ConfigError, Export, Kubernetes, LogLevel,
    Naming, Oap, Pods, Propagate, Routes, Rule, STATUS_SOCKET, Select, Tls,
    key::{Given, Key, Settings},
    sampling, template, value,
};

/// Where an OAP listens, and where SkyWalking's agents look for it when they are told nothing.
const OAP_DEFAULT: (&str, u16) = ("127.0.0.1", 11_800);
/// As SkyWalking's Go agent has it.
const QUEUE_SEGMENTS_DEFAULT: usize = 5_000;
/// Some hundred kilobytes at once; below 600 segments a second the delay rules, and a trace shows at once.
const BATCH_SEGMENTS_DEFAULT: usize = 300;
const BATCH_DELAY_MS_DEFAULT: u64 = 500;
/// As SkyWalking's Java agent has it.
const TIMEOUT_S_DEFAULT: u64 = 30;
/// As SkyWalking's Go agent has it.
const HEARTBEAT_S_DEFAULT: u64 = 20;

/// The largest process id Linux hands out (`PID_MAX_LIMIT`, 64 bit).
const PID_MOST: u32 = 4_194_304;

pub(super) fn config(settings: &Settings, rules: Vec<Rule>, no_color: bool) -> Result<Config, ConfigError> {
    let reader = Reader { settings };
    let select = Select {
        pids: reader.list(Key::Pid, |given| {
            value::one_number(given, "a process id", 1, PID_MOST)
        })?,
        exes: reader.list(Key::Exe, value::glob)?,
        ports: reader.list(Key::Port, |given| {
            value::one_number(given, "a TCP port", 1, u16::MAX)
        })?,
        all_go: reader.or(Key::AllGo, value::choice, false)?,
        rules,
    };
    let naming = Naming {
        service: reader.one(Key::Service, value::name)?,
        instance: reader.one(Key::Instance, value::name)?,
        namespace: reader.one(Key::Namespace, value::name)?,
        cluster: reader.one(Key::Cluster, value::name)?,
        service_template: reader.one(Key::ServiceTemplate, template::template)?,
        instance_template: reader.one(Key::InstanceTemplate, template::template)?,
    };
    let pods = Pods {
        kubernetes: reader.or(Key::Kubernetes, value::choice, Kubernetes::Auto)?,
        kubeconfig: reader.one(Key::Kubeconfig, value::path)?,
        node: reader.one(Key::Node, value::name)?,
        property_labels: reader.list(Key::PropertyLabels, value::name)?,
    };
    for (name, template) in [
        (Key::Service, Key::ServiceTemplate),
        (Key::Instance, Key::InstanceTemplate),
    ] {
        if settings.one(name).is_some() && settings.one(template).is_some() {
            return Err(reader.twice(name, template));
        }
    }
    let given_addresses: Vec<Vec<Address>> = reader.list(Key::Oap, value::addresses)?;
    let export_default = if given_addresses.is_empty() {
        Export::Text
    } else {
        Export::SkyWalking
    };
    let (host, port) = OAP_DEFAULT;
    let addresses = match given_addresses.concat() {
        addresses if addresses.is_empty() => vec![Address {
            host: host.to_owned(),
            port,
        }],
        addresses => addresses,
    };
    let oap = Oap {
        addresses,
        authentication: authentication(&reader)?,
        tls: tls(&reader)?,
        queue_segments: reader.or(
            Key::QueueSegments,
            |given| value::number(given, "a count of segments", 1, 1_000_000),
            QUEUE_SEGMENTS_DEFAULT,
        )?,
        batch_segments: reader.or(
            Key::BatchSegments,
            |given| value::number(given, "a count of segments", 1, 100_000),
            BATCH_SEGMENTS_DEFAULT,
        )?,
        batch_delay_ms: reader.or(
            Key::BatchDelayMs,
            |given| value::number(given, "a time in milliseconds", 1, 60_000),
            BATCH_DELAY_MS_DEFAULT,
        )?,
        timeout_s: reader.or(
            Key::TimeoutS,
            |given| value::number(given, "a time in seconds", 1, 600),
            TIMEOUT_S_DEFAULT,
        )?,
        // OAP wants a sign of life once a minute at least.
        heartbeat_s: reader.or(
            Key::HeartbeatS,
            |given| value::number(given, "a time in seconds", 1, 60),
            HEARTBEAT_S_DEFAULT,
        )?,
    };
    let config = Config {
        select,
        naming,
        pods,
        file: None,
        export: reader.or(Key::Export, value::choice, export_default)?,
        output: reader.one(Key::Output, value::path)?,
        color: reader.or(
            Key::Color,
            value::choice,
            if no_color { Color::Never } else { Color::Auto },
        )?,
        oap,
        propagate: propagate(&reader)?,
        routes: reader.or(Key::Routes, value::choice, Routes::Pattern)?,
        grpc_messages: reader.or(Key::GrpcMessages, value::choice, true)?,
        sampling: sampling::sampling(&reader, settings)?,
        debug_tags: reader.or(Key::DebugTags, value::choice, false)?,
        http: reader.one(Key::Http, value::socket_address)?,
        status_socket: reader.or(Key::StatusSocket, value::path_or_off, Some(STATUS_SOCKET.into()))?,
        log: reader.or(Key::Log, value::choice, LogLevel::Info)?,
    };
    if let (Export::SkyWalking, Some(given)) = (config.export, settings.one(Key::Output)) {
        let by = settings.one(Key::Export).or(settings.one(Key::Oap));
        return Err(ConfigError::NoFile {
            given: given.origin.to_string(),
            by: by.map_or_else(String::new, |by| by.origin.to_string()),
        });
    }
    if config.select.is_empty() {
        return Err(ConfigError::NothingSelected);
    }
    Ok(config)
}

/// `sw8,w3c`, which a file may have as a list.
fn propagate(reader: &Reader<'_>) -> Result<Propagate, ConfigError> {
    let all = reader.settings.all(Key::Propagate);
    let Some(first) = all.first() else {
        return Ok(Propagate {
            sw8: true,
            w3c: false,
        });
    };
    let words: Vec<&str> = all.iter().map(|given| given.text.trim()).collect();
    value::choice(&Given {
        text: words.join(","),
        origin: first.origin.clone(),
    })
}

/// A token, or the file that it stands in.
fn authentication(reader: &Reader<'_>) -> Result<Option<Authentication>, ConfigError> {
    let token = reader.one(Key::Authentication, value::token)?;
    let file = reader.one(Key::AuthenticationFile, value::path)?;
    match (token, file) {
        (Some(_), Some(_)) => Err(reader.twice(Key::Authentication, Key::AuthenticationFile)),
        (Some(token), None) => Ok(Some(Authentication::Token(token))),
        (None, file) => Ok(file.map(Authentication::File)),
    }
}

/// TLS is on when it is asked for, or when a certificate is given and it is not refused.
fn tls(reader: &Reader<'_>) -> Result<Option<Tls>, ConfigError> {
    let ca = reader.one(Key::TlsCaFile, value::path)?;
    let cert = reader.one(Key::TlsCertFile, value::path)?;
    let key = reader.one(Key::TlsKeyFile, value::path)?;
    let client = match (cert, key) {
        (Some(cert), Some(key)) => Some(ClientCertificate { cert, key }),
        (None, None) => None,
        (Some(_), None) => return Err(reader.incomplete(Key::TlsCertFile, Key::TlsKeyFile)),
        (None, Some(_)) => return Err(reader.incomplete(Key::TlsKeyFile, Key::TlsCertFile)),
    };
    let wanted = reader.or(Key::Tls, value::choice, ca.is_some() || client.is_some())?;
    Ok(wanted.then_some(Tls { ca, client }))
}

pub(super) struct Reader<'a> {
    settings: &'a Settings,
}

impl Reader<'_> {
    pub(super) fn list<T>(
        &self,
        key: Key,
        parse: impl FnMut(&Given) -> Result<T, ConfigError>,
    ) -> Result<Vec<T>, ConfigError> {
        self.settings.all(key).iter().map(parse).collect()
    }

    pub(super) fn one<T>(
        &self,
        key: Key,
        parse: impl FnOnce(&Given) -> Result<T, ConfigError>,
    ) -> Result<Option<T>, ConfigError> {
        self.settings.one(key).map(parse).transpose()
    }

    pub(super) fn or<T>(
        &self,
        key: Key,
        parse: impl FnOnce(&Given) -> Result<T, ConfigError>,
        default: T,
    ) -> Result<T, ConfigError> {
        Ok(self.one(key, parse)?.unwrap_or(default))
    }

    /// A key that may not be left out; `missing` says for whose sake.
    pub(super) fn needed<T>(
        &self,
        key: Key,
        parse: impl FnOnce(&Given) -> Result<T, ConfigError>,
        missing: impl FnOnce(Key) -> ConfigError,
    ) -> Result<T, ConfigError> {
        self.one(key, parse)?.ok_or_else(|| missing(key))
    }

    fn incomplete(&self, given: Key, missing: Key) -> ConfigError {
        let origin = self.settings.one(given).map(|given| &given.origin);
        ConfigError::Incomplete {
            given: self.origin(given),
            missing: missing.as_in(origin),
        }
    }

    fn twice(&self, one: Key, other: Key) -> ConfigError {
        ConfigError::Twice {
            one: self.origin(one),
            other: self.origin(other),
        }
    }

    fn origin(&self, key: Key) -> String {
        let given = self.settings.one(key);
        given.map_or_else(String::new, |given| given.origin.to_string())
    }
}
