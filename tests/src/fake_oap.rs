//! An OAP in the process: records what it is told, and can be told to misbehave.
//!
//! It runs on a thread with a runtime of its own, so that [`FakeOap::kill`] is what a killed process is to its
//! clients: all sockets are closed at once, whatever was going on.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use proto::v3::management_service_server::{ManagementService, ManagementServiceServer};
use proto::v3::trace_segment_report_service_server::{
    TraceSegmentReportService, TraceSegmentReportServiceServer,
};
use proto::v3::{Commands, InstancePingPkg, InstanceProperties, SegmentCollection, SegmentObject};
use tokio::sync::oneshot;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::InterceptorLayer;
use tonic::transport::server::ServerTlsConfig;
use tonic::transport::{Certificate, Identity, Server};
use tonic::{Code, Request, Response, Status, Streaming};

/// How a service of the fake answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// As it should.
    #[default]
    Well,
    /// Takes what comes and never answers.
    Silent,
    /// Does not even read.
    Deaf,
    /// Answers at once with this code.
    Refusing(Code),
    /// Takes so many segments of a stream, then answers with `INTERNAL`.
    FailingAfter(usize),
}

/// What the fake was told, over all its lives.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// In the order they came; one that was sent twice stands here twice.
    pub segments: Vec<SegmentObject>,
    /// Streams of segments that were begun.
    pub streams: usize,
    pub properties: Vec<InstanceProperties>,
    pub pings: Vec<InstancePingPkg>,
    /// Calls for properties and pings, refused ones too.
    pub management_calls: usize,
    /// The `authentication` of every call, refused ones too.
    pub tokens: Vec<Option<String>>,
}

impl Received {
    pub fn segment_ids(&self) -> Vec<&str> {
        self.segments
            .iter()
            .map(|segment| segment.trace_segment_id.as_str())
            .collect()
    }
}

/// What the fake shows when TLS is on, in PEM.
#[derive(Clone, Debug)]
pub struct FakeTls {
    pub certificate: String,
    pub key: String,
    /// Whom its clients must be known by; `None` if it does not ask.
    pub client_ca: Option<String>,
}

/// What the fake is to be like; [`FakeOap::start`] gives the one that behaves.
#[derive(Clone, Debug, Default)]
pub struct FakeSettings {
    /// Of this machine; 127.0.0.1 unless told otherwise.
    pub host: Option<Ipv4Addr>,
    /// 0 for any that is free.
    pub port: u16,
    /// What every call must carry.
    pub token: Option<String>,
    pub tls: Option<FakeTls>,
    pub segments: Mood,
    pub management: Mood,
}

/// The fake. Dropping it kills it.
#[derive(Debug)]
pub struct FakeOap {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    settings: FakeSettings,
    received: Received,
}

impl FakeOap {
    /// One that behaves, on a free port.
    pub fn start() -> Self {
        Self::start_with(FakeSettings::default())
    }

    pub fn start_with(settings: FakeSettings) -> Self {
        let host = settings.host.unwrap_or(Ipv4Addr::LOCALHOST);
        let address = SocketAddr::from((host, settings.port));
        let state = State {
            settings,
            received: Received::default(),
        };
        let mut fake = Self {
            state: Arc::new(Mutex::new(state)),
            address,
            running: None,
        };
        fake.restart();
        fake
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// What it was told so far.
    pub fn received(&self) -> Received {
        lock(&self.state).received.clone()
    }

    /// Changes how it behaves from now on. TLS changes with the next start, where it listens never.
    pub fn change(&self, change: impl FnOnce(&mut FakeSettings)) {
        change(&mut lock(&self.state).settings);
    }

    /// Waits until `enough` holds for what it was told. The end of the time is the end of the test.
    pub fn wait(&self, what: &str, enough: impl Fn(&Received) -> bool) {
        const PATIENCE: Duration = Duration::from_secs(20);
        const LOOK: Duration = Duration::from_millis(5);
        for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
            if enough(&lock(&self.state).received) {
                return;
            }
            std::thread::sleep(LOOK);
        }
        let received = self.received();
        assert!(
            enough(&received),
            "waited {PATIENCE:?} for {what}; there are {} segments on {} streams, {} properties, {} pings",
            received.segments.len(),
            received.streams,
            received.properties.len(),
            received.pings.len()
        );
    }

    /// Closes all its sockets at once; what it was told is kept.
    pub fn kill(&mut self) {
        if let Some(Running { stop, thread }) = self.running.take() {
            // It may have died of itself; then there is nobody to be told.
            let _ = stop.send(());
            let ended = thread.join();
            assert!(ended.is_ok(), "the fake OAP panicked");
        }
    }

    /// Lives again, on the same port.
    pub fn restart(&mut self) {
        self.kill();
        let listener = TcpListener::bind(self.address).expect("the port of the fake OAP is free");
        listener
            .set_nonblocking(true)
            .expect("a socket can be made non-blocking");
        self.address = listener.local_addr().expect("a listener has an address");
        let (stop, stopped) = oneshot::channel();
        let state = Arc::clone(&self.state);
        let thread = std::thread::spawn(move || serve(listener, state, stopped));
        self.running = Some(Running { stop, thread });
    }
}

impl Drop for FakeOap {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Serves until told to stop. Returning drops the runtime, and every connection with it.
fn serve(listener: TcpListener, state: Arc<Mutex<State>>, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be made").block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).expect("the listener is non-blocking");
        let mut server = Server::builder();
        if let Some(FakeTls {
            certificate,
            key,
            client_ca,
        }) = lock(&state).settings.tls.clone()
        {
            let mut tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
            if let Some(ca) = client_ca {
                tls = tls.client_ca_root(Certificate::from_pem(ca));
            }
            server = server.tls_config(tls).expect("the certificates are good");
        }
        let gate = Arc::clone(&state);
        let serving = server
            .layer(InterceptorLayer::new(move |request: Request<()>| {
                admit(&gate, request)
            }))
            .add_service(TraceSegmentReportServiceServer::new(Service {
                state: Arc::clone(&state),
            }))
            .add_service(ManagementServiceServer::new(Service { state }))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::select! {
            served = serving => served.expect("the fake OAP serves"),
            _ = stopped => {}
        }
    });
}

/// Looks at the token, as OAP does before it looks at anything else.
fn admit(state: &Mutex<State>, request: Request<()>) -> Result<Request<()>, Status> {
    let token = request
        .metadata()
        .get("authentication")
        .and_then(|token| token.to_str().ok());
    let token = token.map(str::to_owned);
    let mut state = lock(state);
    state.received.tokens.push(token.clone());
    if state.settings.token.is_none() || state.settings.token == token {
        Ok(request)
    } else {
        Err(Status::permission_denied("the token is not the one"))
    }
}

struct Service {
    state: Arc<Mutex<State>>,
}

impl Service {
    fn mood(&self, of: impl FnOnce(&FakeSettings) -> Mood) -> Mood {
        of(&lock(&self.state).settings)
    }

    async fn management(&self, take: impl FnOnce(&mut Received)) -> Result<Response<Commands>, Status> {
        lock(&self.state).received.management_calls += 1;
        match self.mood(|settings| settings.management) {
            Mood::Well => {
                take(&mut lock(&self.state).received);
                Ok(Response::new(Commands::default()))
            }
            Mood::Silent | Mood::Deaf => std::future::pending().await,
            Mood::Refusing(code) => Err(Status::new(code, "as it was told")),
            Mood::FailingAfter(_) => Err(Status::internal("as it was told")),
        }
    }
}

#[tonic::async_trait]
impl TraceSegmentReportService for Service {
    async fn collect(
        &self,
        request: Request<Streaming<SegmentObject>>,
    ) -> Result<Response<Commands>, Status> {
        lock(&self.state).received.streams += 1;
        let mood = self.mood(|settings| settings.segments);
        match mood {
            Mood::Refusing(code) => return Err(Status::new(code, "as it was told")),
            Mood::Deaf => std::future::pending().await,
            Mood::Well | Mood::Silent | Mood::FailingAfter(_) => {}
        }
        let mut stream = request.into_inner();
        let mut taken = 0;
        while let Some(segment) = stream.next().await {
            if mood == Mood::FailingAfter(taken) {
                break;
            }
            lock(&self.state).received.segments.push(segment?);
            taken += 1;
        }
        match mood {
            Mood::Silent | Mood::Deaf => std::future::pending().await,
            Mood::FailingAfter(_) => Err(Status::internal("as it was told")),
            Mood::Well | Mood::Refusing(_) => Ok(Response::new(Commands::default())),
        }
    }

    async fn collect_in_sync(
        &self,
        _request: Request<SegmentCollection>,
    ) -> Result<Response<Commands>, Status> {
        Err(Status::unimplemented("the probe does not use it"))
    }
}

#[tonic::async_trait]
impl ManagementService for Service {
    async fn report_instance_properties(
        &self,
        request: Request<InstanceProperties>,
    ) -> Result<Response<Commands>, Status> {
        self.management(|received| received.properties.push(request.into_inner()))
            .await
    }

    async fn keep_alive(&self, request: Request<InstancePingPkg>) -> Result<Response<Commands>, Status> {
        self.management(|received| received.pings.push(request.into_inner()))
            .await
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // A panic elsewhere is reported where it happened.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
