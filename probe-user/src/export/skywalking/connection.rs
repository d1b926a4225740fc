//! The connection to one of the backends, shared by all calls; moves to the next when one fails.

use std::error::Error;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use proto::v3::Commands;
use proto::v3::management_service_client::ManagementServiceClient;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use tracing::{error, info, warn};

use super::backend::{Backend, Backends};
use super::credentials::Credentials;
use super::wire::{SegmentCodec, Taken};
use super::{Backoff, Settings, SettingsError};
use crate::telemetry::{Repeats, Telemetry};

/// A backend that was reached.
#[derive(Clone)]
pub(super) struct Live {
    /// Counts connections, so that a failure is put down to the one it happened on.
    pub(super) generation: u64,
    pub(super) address: Arc<str>,
    /// It is encrypted, and we showed no certificate.
    anonymous: bool,
    channel: Channel,
    credentials: Credentials,
}

impl Live {
    /// What `TraceSegmentReportServiceClient::collect` does, with a codec of our own.
    pub(super) async fn collect(
        &self,
        segments: Request<impl Stream<Item = Taken> + Send + 'static>,
    ) -> Result<Response<Commands>, Status> {
        let channel = InterceptedService::new(self.channel.clone(), self.credentials.clone());
        let mut client = Grpc::new(channel);
        let ready = client.ready().await;
        ready.map_err(|error| Status::unknown(format!("the connection is not ready: {error}")))?;
        let path = PathAndQuery::from_static("/skywalking.v3.TraceSegmentReportService/collect");
        client.client_streaming(segments, path, SegmentCodec).await
    }

    pub(super) fn management(&self) -> ManagementServiceClient<InterceptedService<Channel, Credentials>> {
        ManagementServiceClient::with_interceptor(self.channel.clone(), self.credentials.clone())
    }
}

/// All backends, and the one in use.
pub(super) struct Connection {
    /// How many there are.
    backends: usize,
    credentials: Credentials,
    telemetry: Arc<Telemetry>,
    connect_timeout: Duration,
    backoff: Backoff,
    /// Held while connecting: who else needs a connection waits for the same one.
    state: Mutex<State>,
}

struct State {
    backends: Backends,
    live: Option<Live>,
    /// The backend to try next; counted on and on.
    next: usize,
    generation: u64,
    /// Backends that could not be reached in a row.
    failures: u32,
    retry_at: Option<Instant>,
    /// A refused token has been said since a call last went through.
    refusal_said: bool,
    /// A call went through, ever.
    worked: bool,
    /// A connection is worth telling: it is the first, or a failure was told before. Failures are told once a
    /// minute, so this is no flood either.
    news: bool,
    repeats: Repeats<&'static str>,
}

impl Connection {
    pub(super) fn new(settings: &Settings, telemetry: Arc<Telemetry>) -> Result<Self, SettingsError> {
        let backends = Backends::new(settings)?;
        telemetry.link().expect(backends.addresses());
        // The keys of a new hasher are random, and that is all that is wanted: many probes must not all begin with
        // the same OAP.
        let next = RandomState::new().build_hasher().finish() as usize % backends.len();
        Ok(Self {
            backends: backends.len(),
            credentials: Credentials::new(settings.authentication.as_ref())?,
            telemetry,
            connect_timeout: settings.connect_timeout,
            backoff: settings.backoff,
            state: Mutex::new(State {
                backends,
                live: None,
                next,
                generation: 0,
                failures: 0,
                retry_at: None,
                refusal_said: false,
                worked: false,
                news: true,
                repeats: Repeats::default(),
            }),
        })
    }

    pub(super) fn backends(&self) -> u32 {
        u32::try_from(self.backends).unwrap_or(u32::MAX)
    }

    pub(super) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// A connection, however long it takes. May be given up at any time.
    pub(super) async fn live(&self) -> Live {
        let mut state = self.state.lock().await;
        loop {
            if let Some(live) = &state.live {
                return live.clone();
            }
            if let Some(retry_at) = state.retry_at {
                tokio::time::sleep_until(retry_at).await;
            }
            self.connect(&mut state).await;
        }
    }

    /// A connection now: each backend is tried once, without a pause.
    pub(super) async fn live_now(&self) -> Option<Live> {
        let mut state = self.state.lock().await;
        for _ in 0..self.backends {
            if state.live.is_some() {
                break;
            }
            self.connect(&mut state).await;
        }
        state.live.clone()
    }

    /// Tries the next backend.
    async fn connect(&self, state: &mut State) {
        let Backend {
            address,
            anonymous,
            endpoint,
        } = state.backends.nth(state.next);
        // Moved on before the wait: a connect that is given up halfway is not begun again with the same backend.
        state.next = state.next.wrapping_add(1);
        let connected = tokio::time::timeout(self.connect_timeout, endpoint.connect()).await;
        let error = match connected {
            Ok(Ok(channel)) => {
                state.generation += 1;
                state.failures = 0;
                state.retry_at = None;
                if std::mem::take(&mut state.news) {
                    info!(server.addr = %address, "OAP connected");
                }
                self.telemetry.link().connected(&address);
                state.live = Some(Live {
                    generation: state.generation,
                    address,
                    anonymous,
                    channel,
                    credentials: self.credentials.clone(),
                });
                return;
            }
            Ok(Err(error)) => crate::chain(&error),
            Err(_elapsed) => format!("no connection within {} ms", self.connect_timeout.as_millis()),
        };
        self.telemetry.link().failed(&address, &error);
        state.failures = state.failures.saturating_add(1);
        // A pause only when every backend has had its turn.
        if state.failures.is_multiple_of(self.backends()) {
            let pause = self.backoff.pause(state.failures / self.backends());
            state.retry_at = Some(Instant::now() + pause);
        }
        if let Some(count) = state.repeats.admit("unreachable", Instant::now()) {
            state.news = true;
            warn!(server.addr = %address, error, count, "OAP not reachable, trying again");
        }
    }

    /// The connection `live` broke: the next call is made on a new one, to the next backend.
    pub(super) async fn broke(&self, live: &Live, status: &Status) {
        let mut state = self.state.lock().await;
        self.telemetry.link().failed(&live.address, &told(status));
        if let Some(count) = state.repeats.admit("broke", Instant::now()) {
            state.news = true;
            let error = told(status);
            if live.anonymous && !state.worked {
                // A server that wants to know its clients says so too late to be heard for sure: for the client the
                // handshake is over by then.
                warn!(
                    server.addr = %live.address,
                    error,
                    count,
                    "OAP broke the encrypted connection off; if it asks for a client certificate, name one"
                );
            } else {
                warn!(server.addr = %live.address, error, count, "Connection to OAP broke, trying again");
            }
        }
        self.leave(&mut state, live);
    }

    /// The backend of `live` does not answer: the next call is made on a new connection, to the next backend.
    pub(super) async fn abandon(&self, live: &Live) {
        let mut state = self.state.lock().await;
        self.telemetry.link().failed(&live.address, "no answer in time");
        self.leave(&mut state, live);
    }

    /// The backend of `live` answered, but not as it should: if there is another one, it is tried next.
    pub(super) async fn displeased(&self, live: &Live) {
        if self.backends > 1 {
            let mut state = self.state.lock().await;
            self.leave(&mut state, live);
        }
    }

    /// OAP refused the token. Said once, until a call goes through again: only a person can change it.
    pub(super) async fn refused(&self, live: &Live) {
        self.telemetry.link().refused(true);
        let mut state = self.state.lock().await;
        if !std::mem::replace(&mut state.refusal_said, true) {
            let token = if self.credentials.has_token() {
                "wrong"
            } else {
                "missing"
            };
            error!(
                server.addr = %live.address,
                token,
                "OAP refuses the authentication token: set --authentication-file or SW_AGENT_AUTHENTICATION \
                 to the one OAP expects"
            );
        }
    }

    /// A call went through.
    pub(super) async fn pleased(&self) {
        self.telemetry.link().refused(false);
        let mut state = self.state.lock().await;
        state.refusal_said = false;
        state.worked = true;
    }

    /// The next call is made on another connection than `live`.
    fn leave(&self, state: &mut State, live: &Live) {
        let is_current = |current: &Live| current.generation == live.generation;
        if state.live.as_ref().is_some_and(is_current) {
            state.live = None;
            self.telemetry.link().left();
        }
    }
}

/// What a status from OAP asks of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It took nothing, and may soon.
    TryAgain,
    /// It took nothing, and wants less.
    Spare,
    /// It takes nothing from us: the token is not the right one.
    Refused,
    /// It has no such service.
    Unimplemented,
    /// It does not take this message.
    Failed,
}

impl Answer {
    pub(super) fn of(code: Code) -> Self {
        match code {
            Code::Unavailable => Self::TryAgain,
            Code::ResourceExhausted => Self::Spare,
            Code::PermissionDenied | Code::Unauthenticated => Self::Refused,
            Code::Unimplemented => Self::Unimplemented,
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::InvalidArgument
            | Code::DeadlineExceeded
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Internal
            | Code::DataLoss => Self::Failed,
        }
    }
}

/// A status in one line: its code, what it says, and what lies under it.
pub(super) fn told(status: &Status) -> String {
    let mut text = format!("{:?}", status.code());
    if !status.message().is_empty() {
        text.push_str(": ");
        text.push_str(status.message());
    }
    add_causes(&mut text, status);
    text
}

/// An error with what lies under it, in one line.
fn add_causes(text: &mut String, error: &dyn Error) {
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Many errors only repeat what lies under them.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        assert_eq!(Answer::of(Code::Unavailable), Answer::TryAgain);
        assert_eq!(Answer::of(Code::ResourceExhausted), Answer::Spare);
        assert_eq!(Answer::of(Code::PermissionDenied), Answer::Refused);
        assert_eq!(Answer::of(Code::Unauthenticated), Answer::Refused);
        assert_eq!(Answer::of(Code::Unimplemented), Answer::Unimplemented);
        assert_eq!(Answer::of(Code::Internal), Answer::Failed);
    }

    #[test]
    fn a_status_is_one_line() {
        let status = Status::permission_denied("no");
        assert_eq!(told(&status), "PermissionDenied: no");
        let status = Status::from_error(Box::new(std::io::Error::other("connection reset")));
        assert_eq!(told(&status), "Unknown: connection reset");
    }
}
