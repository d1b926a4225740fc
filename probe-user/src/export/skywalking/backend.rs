//! Where OAP is: addresses, and the files TLS needs.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tracing::{info, warn};

use super::{Settings, SettingsError, Tls};

/// HTTP/2 pings only while a call is open and silent. Java's gRPC servers close connections that ping too often;
/// an idle connection is tried by the heartbeat anyway.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// One OAP, ready to be connected to.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    /// As the operator wrote it.
    pub(super) address: Arc<str>,
    /// Encrypted, without a certificate of our own.
    pub(super) anonymous: bool,
    /// The host is looked up anew each time it is connected to.
    pub(super) endpoint: Endpoint,
}

/// All backends that the settings name, in their order.
pub(super) struct Backends {
    settings: Settings,
    tls: ReadTls,
    backends: Vec<Backend>,
    /// That the files cannot be used has been said.
    is_failure_said: bool,
}

impl Backends {
    pub(super) fn new(settings: &Settings) -> Result<Self, SettingsError> {
        let tls = ReadTls::read(&settings.tls)?;
        Ok(Self {
            backends: backends(settings, &tls)?,
            settings: settings.clone(),
            tls,
            is_failure_said: false,
        })
    }

    /// Never 0.
    pub(super) fn len(&self) -> usize {
        self.backends.len()
    }

    pub(super) fn addresses(&self) -> Vec<String> {
        self.backends
            .iter()
            .map(|backend| backend.address.to_string())
            .collect()
    }

    /// The one to be connected to, counted on and on, with the certificates that the files hold now.
    pub(super) fn nth(&mut self, count: usize) -> Backend {
        self.renew();
        #[expect(
            clippy::indexing_slicing,
            reason = "there is one at least, and it is a remainder"
        )]
        self.backends[count % self.backends.len()].clone()
    }

    /// Files that cannot be used change nothing: they may be on their way.
    fn renew(&mut self) {
        let read = ReadTls::read(&self.settings.tls).and_then(|tls| {
            let is_same = tls == self.tls;
            let backends = (!is_same).then(|| backends(&self.settings, &tls)).transpose()?;
            Ok(backends.map(|backends| (tls, backends)))
        });
        match read {
            Ok(Some((tls, backends))) => {
                info!("The certificates for the connection to OAP have changed");
                self.tls = tls;
                self.backends = backends;
                self.is_failure_said = false;
            }
            Ok(None) => self.is_failure_said = false,
            Err(_) if self.is_failure_said => {}
            Err(error) if error.is_denied() => {
                info!(
                    "Only the start may read the certificates for OAP: others count from the next start on"
                );
                self.is_failure_said = true;
            }
            Err(error) => {
                let error = crate::chain(&error);
                warn!(
                    error,
                    "The certificates for the connection to OAP cannot be read anew: the old ones are used"
                );
                self.is_failure_said = true;
            }
        }
    }
}

fn backends(settings: &Settings, tls: &ReadTls) -> Result<Vec<Backend>, SettingsError> {
    let backends: Vec<_> = settings
        .backends
        .iter()
        .map(|address| address.trim())
        .filter(|address| !address.is_empty())
        .map(|address| backend(address, settings, tls))
        .collect::<Result<_, _>>()?;
    if backends.is_empty() {
        Err(SettingsError::NoBackend)
    } else {
        Ok(backends)
    }
}

fn backend(address: &str, settings: &Settings, tls: &ReadTls) -> Result<Backend, SettingsError> {
    let wrong = |problem| SettingsError::Address {
        address: address.to_owned(),
        problem,
    };
    let Address {
        host,
        port,
        encrypted,
    } = Address::parse(address).map_err(wrong)?;
    let encrypted = encrypted.unwrap_or(settings.tls.enabled);
    let scheme = if encrypted { "https" } else { "http" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{host}:{port}"))
        .map_err(|_not_a_uri| wrong("has a host name that is none"))?
        .connect_timeout(settings.connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(false);
    if encrypted {
        let config = tls.config(settings.connect_timeout);
        endpoint = endpoint.tls_config(config).map_err(|source| SettingsError::Tls {
            address: address.to_owned(),
            source,
        })?;
    }
    let anonymous = encrypted && tls.identity.is_none();
    Ok(Backend {
        address: address.into(),
        anonymous,
        endpoint,
    })
}

/// An address taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Address<'a> {
    /// With its brackets, if it is an IPv6 address.
    host: &'a str,
    port: u16,
    /// What the prefix says, if there is one.
    encrypted: Option<bool>,
}

impl<'a> Address<'a> {
    /// The error says what is wrong with it, to be read after the address.
    fn parse(address: &'a str) -> Result<Self, &'static str> {
        let (scheme, rest) = match address.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, address),
        };
        let encrypted = match scheme.map(str::to_ascii_lowercase).as_deref() {
            None => None,
            Some("http" | "grpc") => Some(false),
            Some("https" | "grpcs") => Some(true),
            Some(_) => return Err("has a prefix other than http:// and https://"),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = if rest.starts_with('[') {
            let end = rest
                .find(']')
                .ok_or("has an IPv6 address without its closing bracket")?;
            let (host, port) = rest.split_at(end + 1);
            (host, port.strip_prefix(':'))
        } else {
            match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            }
        };
        let port = port.ok_or("has no port")?;
        if port.contains(':') {
            return Err("has more than one colon; an IPv6 address goes in brackets");
        }
        if host.is_empty() {
            return Err("has no host");
        }
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let known = match bare {
            Some(bare) => bare.parse::<std::net::Ipv6Addr>().is_ok(),
            None => host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)),
        };
        if !known {
            return Err("has a host name that is none");
        }
        match port.parse() {
            Ok(0) | Err(_) => Err("has a port that is no number from 1 to 65535"),
            Ok(port) => Ok(Self {
                host,
                port,
                encrypted,
            }),
        }
    }
}

/// The files of [`Tls`], read.
#[derive(Debug, Default, PartialEq, Eq)]
struct ReadTls {
    ca: Option<String>,
    identity: Option<(String, String)>,
}

impl ReadTls {
    fn read(tls: &Tls) -> Result<Self, SettingsError> {
        let ca = match &tls.ca {
            Some(path) => Some(pem("trusted CA", path, "CERTIFICATE")?),
            None => None,
        };
        let identity = match (&tls.certificate, &tls.key) {
            (Some(certificate), Some(key)) => Some((
                pem("client certificate", certificate, "CERTIFICATE")?,
                pem("client key", key, "PRIVATE KEY")?,
            )),
            (Some(_), None) => {
                return Err(SettingsError::HalfIdentity {
                    given: "client certificate",
                    missing: "key",
                });
            }
            (None, Some(_)) => {
                return Err(SettingsError::HalfIdentity {
                    given: "client key",
                    missing: "certificate",
                });
            }
            (None, None) => None,
        };
        Ok(Self { ca, identity })
    }

    fn config(&self, timeout: Duration) -> ClientTlsConfig {
        // `assume_http2`: some proxies before OAP do not negotiate the protocol; it is the only one we speak.
        let mut config = ClientTlsConfig::new().assume_http2(true).timeout(timeout);
        config = match &self.ca {
            Some(ca) => config.ca_certificate(Certificate::from_pem(ca)),
            None => config.with_webpki_roots(),
        };
        if let Some((certificate, key)) = &self.identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        config
    }
}

fn pem(what: &'static str, path: &Path, wanted: &'static str) -> Result<String, SettingsError> {
    let path = path.to_owned();
    match fs::read(&path) {
        // A file without a certificate would be taken, and then every handshake fails.
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) if text.contains(&format!("{wanted}-----")) => Ok(text),
            Ok(_) | Err(_) => Err(SettingsError::NotPem { what, path, wanted }),
        },
        Err(source) => Err(SettingsError::Read { what, path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let plain = |host, port| {
            Ok(Address {
                host,
                port,
                encrypted: None,
            })
        };
        assert_eq!(Address::parse("oap:11800"), plain("oap", 11800));
        assert_eq!(Address::parse("10.0.0.1:1"), plain("10.0.0.1", 1));
        assert_eq!(Address::parse("sky_oap.svc:65535"), plain("sky_oap.svc", 65535));
        assert_eq!(Address::parse("[::1]:11800"), plain("[::1]", 11800));
        assert_eq!(
            Address::parse("https://oap:443/"),
            Ok(Address {
                host: "oap",
                port: 443,
                encrypted: Some(true)
            })
        );
        assert_eq!(
            Address::parse("HTTP://oap:80"),
            Ok(Address {
                host: "oap",
                port: 80,
                encrypted: Some(false)
            })
        );
    }

    #[test]
    fn wrong_addresses_say_what_is_wrong() {
        for (address, problem) in [
            ("oap", "has no port"),
            ("[::1]", "has no port"),
            (":11800", "has no host"),
            ("oap:", "has a port that is no number from 1 to 65535"),
            ("oap:0", "has a port that is no number from 1 to 65535"),
            ("oap:99999", "has a port that is no number from 1 to 65535"),
            ("oap:eleven", "has a port that is no number from 1 to 65535"),
            (
                "::1:11800",
                "has more than one colon; an IPv6 address goes in brackets",
            ),
            ("[::1:11800", "has an IPv6 address without its closing bracket"),
            ("[oap]:11800", "has a host name that is none"),
            ("o ap:11800", "has a host name that is none"),
            ("oap/path:11800", "has a host name that is none"),
            ("ftp://oap:11800", "has a prefix other than http:// and https://"),
        ] {
            assert_eq!(Address::parse(address), Err(problem), "{address}");
        }
    }

    #[test]
    fn settings_that_cannot_work_are_refused_in_one_sentence() {
        let message = |settings: Settings| Backends::new(&settings).map(|_| ()).unwrap_err().to_string();
        assert_eq!(
            message(Settings::new(Vec::new())),
            "no OAP address is given: name at least one as host:11800"
        );
        assert_eq!(
            message(Settings::new(vec!["oap:11800".into(), "oap".into()])),
            "the OAP address `oap` has no port: write it as host:11800"
        );
        let with = |tls| Settings {
            tls,
            ..Settings::new(vec!["oap:11800".into()])
        };
        assert_eq!(
            message(with(Tls {
                ca: Some("/does/not/exist".into()),
                ..Tls::default()
            })),
            "cannot read the trusted CA `/does/not/exist`"
        );
        assert_eq!(
            message(with(Tls {
                ca: Some("/dev/null".into()),
                ..Tls::default()
            })),
            "the trusted CA `/dev/null` has no CERTIFICATE in PEM form"
        );
        assert_eq!(
            message(with(Tls {
                key: Some("/dev/null".into()),
                ..Tls::default()
            })),
            "a client key for TLS is given without its certificate: name both, or none"
        );
    }

    #[test]
    fn the_prefix_decides_over_the_setting() {
        let tls = Tls {
            enabled: true,
            ..Tls::default()
        };
        let settings = Settings {
            tls,
            ..Settings::new(vec![
                "a:1".into(),
                " http://b:2 ".into(),
                "https://c:3".into(),
                String::new(),
            ])
        };
        let schemes: Vec<_> = Backends::new(&settings)
            .expect("they are right")
            .backends
            .iter()
            .map(|backend| backend.endpoint.uri().to_string())
            .collect();
        assert_eq!(schemes, ["https://a:1/", "http://b:2/", "https://c:3/"]);
    }
}
