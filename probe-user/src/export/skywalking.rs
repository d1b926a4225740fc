//! The exporter to SkyWalking's OAP: the only module that knows `proto`.
//!
//! ```text
//! SegmentReceiver ─▶ delivery ──┐
//!                               ├─▶ connection ─▶ one of the backends
//! Registry ────────▶ management ┘
//! ```
//!
//! Bias: a segment is rather lost, and counted, than told twice; what OAP surely never saw is kept until it can be
//! delivered. The only exception is a connection that breaks under a batch: what was sent on it without an answer
//! is sent once more, because an OAP that dies takes what it has not yet stored with it.

mod backend;
pub mod component;
mod connection;
mod convert;
mod credentials;
mod delivery;
pub mod management;
mod wire;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::export::SegmentReceiver;
use crate::telemetry::Telemetry;

use connection::Connection;
pub use credentials::{Authentication, Token};
use delivery::Delivery;
pub use management::Registry;

/// What the operator chose. [`Settings::new`] gives the values that are good for most.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `host:port`, with `http://` or `https://` before it or not. The first to be tried is picked at random.
    pub backends: Vec<String>,
    /// Sent with every call.
    pub authentication: Option<Authentication>,
    pub tls: Tls,
    /// Segments sent on one stream, and confirmed by one reply.
    pub batch_segments: usize,
    /// How long a batch waits to be filled.
    pub batch_interval: Duration,
    /// How long OAP may take to confirm a batch.
    pub deadline: Duration,
    /// How long a backend may take to be connected to.
    pub connect_timeout: Duration,
    /// An instance says this often that it lives. OAP wants it at least once a minute.
    pub heartbeat: Duration,
    /// The pause after every backend has failed once, and how long it may become.
    pub backoff: Backoff,
    /// The pause after every backend has refused us. That is a matter for a person, so it is long.
    pub refused_pause: Duration,
    /// How long what is left may take to be sent when the probe stops.
    pub flush: Duration,
}

impl Settings {
    pub fn new(backends: Vec<String>) -> Self {
        Self {
            backends,
            authentication: None,
            tls: Tls::default(),
            batch_segments: 300,
            batch_interval: Duration::from_millis(500),
            deadline: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            heartbeat: Duration::from_secs(20),
            backoff: Backoff {
                first: Duration::from_secs(1),
                most: Duration::from_secs(20),
            },
            refused_pause: Duration::from_secs(30),
            flush: Duration::from_secs(5),
        }
    }
}

/// Encryption of the connection to OAP. A backend written with `https://` or `http://` decides for itself. The files are
/// read anew whenever it is connected to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    pub enabled: bool,
    /// PEM; whom to trust. Without it, the roots browsers trust.
    pub ca: Option<PathBuf>,
    /// PEM; who we are, for an OAP that asks. Both or none.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// Growing pauses: each is 1.6 times the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    pub first: Duration,
    pub most: Duration,
}

impl Backoff {
    /// The pause after the `failure`th failure in a row, counted from 1.
    fn pause(self, failure: u32) -> Duration {
        // The exponent is bounded so that the product stays finite; the result is cut anyway.
        let grown = self.first.as_secs_f64() * 1.6_f64.powi(failure.saturating_sub(1).min(64) as i32);
        self.most
            .min(Duration::try_from_secs_f64(grown).unwrap_or(self.most))
    }
}

/// Why the exporter cannot start. All of it is the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("no OAP address is given: name at least one as host:11800")]
    NoBackend,
    #[error("the OAP address `{address}` {problem}: write it as host:11800")]
    Address { address: String, problem: &'static str },
    #[error("the authentication token has characters that no metadata can carry: use visible ASCII only")]
    Token,
    #[error("the file `{path}` is empty: it must hold the authentication token")]
    NoToken { path: PathBuf },
    #[error("cannot read the {what} `{path}`")]
    Read {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the {what} `{path}` has no {wanted} in PEM form")]
    NotPem {
        what: &'static str,
        path: PathBuf,
        wanted: &'static str,
    },
    #[error("a {given} for TLS is given without its {missing}: name both, or none")]
    HalfIdentity {
        given: &'static str,
        missing: &'static str,
    },
    #[error("TLS for `{address}` cannot be set up with the certificates given")]
    Tls {
        address: String,
        source: tonic::transport::Error,
    },
}

impl SettingsError {
    /// Whether a file is there and not for us. It was at the start, when there were more rights: who gave them up reads it
    /// once and no more, which is no fault.
    fn is_denied(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// Whether the exporter could start.
pub fn check(settings: &Settings) -> Result<(), SettingsError> {
    Connection::new(settings, Arc::default()).map(drop)
}

/// Prepares the exporter. Nothing is sent before the future is run; it ends after the last sender of `segments` is
/// gone and what was left is delivered or counted as lost.
pub fn start(
    settings: Settings,
    segments: SegmentReceiver,
    telemetry: Arc<Telemetry>,
) -> Result<(Registry, impl Future<Output = ()> + Send + 'static), SettingsError> {
    let connection = Arc::new(Connection::new(&settings, Arc::clone(&telemetry))?);
    let registry = Registry::default();
    let heartbeats = management::run(
        registry.clone(),
        Arc::clone(&connection),
        settings.clone(),
        segments.closing(),
    );
    let delivery = Delivery::new(segments, connection, telemetry, settings);
    let run = async move {
        tokio::join!(delivery.run(), heartbeats);
    };
    Ok((registry, run))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit() {
        let backoff = Settings::new(Vec::new()).backoff;
        let seconds: Vec<_> = (1..=9)
            .map(|failure| backoff.pause(failure).as_secs_f64())
            .collect();
        for (pause, expected) in seconds
            .iter()
            .zip([1.0, 1.6, 2.56, 4.096, 6.5536, 10.48576, 16.777216])
        {
            assert!((pause - expected).abs() < 1e-6, "{pause} {expected}");
        }
        assert_eq!(seconds[7..], [20.0, 20.0]);
        assert_eq!(backoff.pause(u32::MAX), Duration::from_secs(20));
    }

    #[test]
    fn the_token_is_never_shown() {
        let settings = Settings {
            authentication: Some(Authentication::Token(Token::new("s3cret"))),
            ..Settings::new(Vec::new())
        };
        assert!(!format!("{settings:?}").contains("s3cret"));
    }
}
