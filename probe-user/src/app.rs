//! Wires the stages, owns their threads and tasks, and drains them in order when the probe is told to stop.
//!
//! ```text
//! reader thread    ring ─▶ event::decode ─▶ Tracer ─▶ queue ─▶ exporter (task; text and json: output thread)
//!                    │ processes that come and go
//!                    ▼
//! targets thread   select ─▶ plan ─▶ attach ─▶ TARGETS, enrolled sockets
//! ```

mod exporter;
mod heap;
mod others;
mod reader;
mod report;
mod supervisor;
mod targets;

use std::{
    io::{self, PipeWriter, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    task::JoinHandle as JoinHandleOfTask,
};
use tracing::{info, warn};

pub(crate) use self::exporter::check as check_export;
use self::{
    reader::Reader,
    report::Reporter,
    targets::{Ahead, Attached, Notice, Ready, Targets, TargetsError},
};
use crate::{
    clock,
    config::{Config, LogLevel},
    discover::{
        pod::Pods,
        select::{SelectError, Selection},
    },
    export::{self, skywalking::SettingsError},
    http,
    kernel::{Kernel, load::LoadError, rights},
    kubernetes::{Kubernetes, KubernetesError},
    naming,
    requests::Requests,
    status::{Question, Socket},
    telemetry::{self, Telemetry},
    trace::Tracer,
    version::{BUILD, VERSION},
    words::counted,
};

/// Why the probe cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Select(#[from] SelectError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Targets(#[from] TargetsError),
    #[error(transparent)]
    Oap(#[from] SettingsError),
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    #[error("open {} for the output", path.display())]
    Output { path: PathBuf, source: io::Error },
    #[error("listen for who asks how the probe is at {address}: choose another address with --http")]
    Http { address: SocketAddr, source: io::Error },
    #[error("open a pipe between threads")]
    Pipe(#[source] io::Error),
    #[error("start the output's runtime")]
    Runtime(#[source] io::Error),
    #[error("listen for signals")]
    Signals(#[source] io::Error),
    #[error("start the {name} thread")]
    Thread { name: &'static str, source: io::Error },
    #[error("the {0} thread ended before its time: what it said stands above")]
    Ended(&'static str),
}

/// Traces until a signal comes, until no target is left and none can come, or until nobody reads what comes out.
pub async fn run(config: Config) -> Result<(), AppError> {
    let begin_ns = clock::now_boot_ns();
    open_files_to_the_limit();
    info!(version = VERSION, build = BUILD, "skyprobe starts");
    let config = Arc::new(config);
    let mut signals = Signals::new()?;
    let mut hangup = signal(SignalKind::hangup()).map_err(AppError::Signals)?;
    let mut file_signals = signal(SignalKind::io()).map_err(AppError::Signals)?;
    let _announced = others::announce();
    let selection = Selection::new(&config.select)?;

    let telemetry = Arc::new(Telemetry::default());
    let status = config.status_socket.as_deref().and_then(status_socket);
    let http = match config.http {
        Some(address) => {
            let listener = http::listen(address).await;
            Some(listener.map_err(|source| AppError::Http { address, source })?)
        }
        None => None,
    };
    let pods = Pods::default();
    let kubernetes = Kubernetes::new(&config, &naming::OUR_HOST, &pods).await?;
    if kubernetes.is_none() && selection.asks_pods() {
        warn!(
            "Rules ask for pods, and Kubernetes is not asked, so they hold for nothing: name a kubeconfig with \
             --kubeconfig, or leave them out"
        );
    }
    let (segments, receiver) = export::queue(config.oap.queue_segments, Arc::clone(&telemetry));
    let gauge = segments.gauge();
    let (registry, exporter) = exporter::start(&config, receiver, &telemetry)?;
    // From here on: the address and the file that are written to may have wanted others.
    give_up(rights::keep_tracing);
    let (notices, notices_in) = mpsc::channel();
    // Before processes are looked at, so that they are named once.
    let watching = match kubernetes {
        Some(kubernetes) => Some(watch_pods(kubernetes, notices.clone()).await),
        None => None,
    };
    let talkative = matches!(config.log, LogLevel::Debug | LogLevel::Trace);
    // Programs are read while the kernel makes the maps, and takes what every target will want.
    let (loaded, ahead) = thread::scope(|scope| {
        let ahead = scope.spawn(|| Ahead::read(selection, pods, &config));
        let loaded = Kernel::load(talkative, !config.propagate.is_off());
        (loaded, ahead.join())
    });
    let (kernel, ring) = loaded?;
    let ahead = ahead.or(Err(AppError::Ended("targets")))?;
    let tracer = Arc::new(Mutex::new(Tracer::new(exporter::tracer_settings(&config))));

    let reporter = Arc::new(Reporter::new(
        &config,
        gauge,
        notices.clone(),
        Arc::clone(&telemetry),
    ));
    let requests = Arc::new(Requests::default());
    let (ready, is_ready) = oneshot::channel();
    let (ended, has_ended) = oneshot::channel();
    let targets = Targets::new(
        kernel,
        ahead,
        config,
        Arc::clone(&tracer),
        registry,
        Arc::clone(&telemetry),
    );
    let (until, reading) = io::pipe().map_err(AppError::Pipe)?;
    let reader = Reader {
        ring,
        tracer,
        types: targets.types(),
        segments,
        requests: http.is_some().then(|| Arc::clone(&requests)),
        telemetry: Arc::clone(&telemetry),
        notices: notices.clone(),
        until,
    };
    let notices_of_files = notices.clone();
    let notices_of_user = notices.clone();
    let stages = Stages {
        reading,
        notices,
        targets: spawn("targets", move || targets.run(&notices_in, ready, ended))?,
        reader: spawn("reader", move || {
            give_up(rights::keep_none);
            reader.run();
        })?,
    };
    // This thread talks to the network. Who attaches has a thread of its own.
    give_up(rights::keep_none);
    #[expect(clippy::disallowed_methods, reason = "this is app")]
    let (mut exporter, files, hangups, watch, watchdog, http, status) = (
        tokio::spawn(exporter),
        tokio::spawn(async move {
            // Without the targets thread nothing is held.
            while file_signals.recv().await.is_some() && notices_of_files.send(Notice::Written).is_ok() {}
        }),
        tokio::spawn(async move {
            while hangup.recv().await.is_some() && notices_of_user.send(Notice::Reload).is_ok() {}
        }),
        tokio::spawn(telemetry::watch(Arc::clone(&telemetry))),
        tokio::spawn(supervisor::watch(Arc::clone(&telemetry))),
        http.map(|listener| {
            let reporter = Arc::clone(&reporter);
            let status = move || Arc::clone(&reporter).status(Question::default());
            tokio::spawn(http::serve(listener, Arc::clone(&telemetry), requests, status))
        }),
        status
            .map(|socket| tokio::spawn(socket.serve(move |question| Arc::clone(&reporter).status(question)))),
    );

    let started = tokio::select! {
        ready = is_ready => match ready {
            Ok(Ok(ready)) => Ok(Some(ready)),
            Ok(Err(error)) => Err(AppError::from(error)),
            Err(_) => Err(AppError::Ended("targets")),
        },
        () = signals.recv() => Ok(None),
    };
    if let Ok(Some(ready)) = &started {
        announce(ready, clock::now_boot_ns().saturating_sub(begin_ns));
        telemetry.vitals().tracing();
        supervisor::ready(ready);
        tokio::select! {
            () = signals.recv() => {}
            ended = has_ended => if ended.is_ok() { info!("No target is left, and none can come"); },
            // It has said why.
            _ = &mut exporter => {}
        }
    }

    telemetry.vitals().stopping();
    supervisor::stopping();
    let attached = stages.stop(&telemetry).await?;
    // Ends by itself: the reader held the queue's only sender.
    if !exporter.is_finished() {
        let _ = exporter.await;
    }
    files.abort();
    hangups.abort();
    if let Some(watching) = watching {
        watching.abort();
    }
    watch.abort();
    watchdog.abort();
    for task in [http, status].into_iter().flatten() {
        task.abort();
        // Who asks from here on is not kept waiting.
        let _ = task.await;
    }
    let ready = started?;
    if ready.is_some() {
        let _nobody_reads = writeln!(io::stderr(), "{}\ndetaching ...", telemetry.account());
    }
    attached.detach();
    Ok(())
}

/// It traces without one, too.
fn status_socket(path: &Path) -> Option<Socket> {
    let socket = Socket::bind(path);
    if let Err(error) = &socket {
        let error = crate::chain(error);
        warn!(
            error,
            "`skyprobe status` cannot ask this probe: name another socket with --status-socket, or say off"
        );
    }
    socket.ok()
}

/// How long a start waits for the pods that there are. Without them names come from the processes, and are mended when
/// they are known.
const PODS_WAIT: Duration = Duration::from_secs(3);

async fn watch_pods(kubernetes: Kubernetes, notices: Sender<Notice>) -> JoinHandleOfTask<()> {
    let (known, are_known) = oneshot::channel();
    let mut known = Some(known);
    let changed = move || {
        if let Some(known) = known.take() {
            let _nobody_waits = known.send(());
        }
        // Without the targets thread nobody is named.
        let _ = notices.send(Notice::Pods);
    };
    #[expect(clippy::disallowed_methods, reason = "this is app")]
    let watching = tokio::spawn(kubernetes.watch(changed));
    let _late = tokio::time::timeout(PODS_WAIT, are_known).await;
    watching
}

/// The line that scripts wait for.
fn announce(ready: &Ready, took_ns: u64) {
    let Ready {
        targets,
        binaries,
        sites,
        refused,
        propagation,
    } = ready;
    let processes = counted(*targets as u64, ["process", "processes"]);
    let hooks = counted(*sites as u64, ["hook", "hooks"]);
    let binaries = counted(*binaries as u64, ["binary", "binaries"]);
    let waits = if *targets == 0 {
        "; waiting for one that is selected"
    } else {
        ""
    };
    let _nobody_reads = writeln!(
        io::stderr(),
        "ready: {processes} traced, {refused} refused{waits}; {hooks} in {binaries}; propagation {propagation}; after \
         {} ms",
        took_ns / 1_000_000
    );
}

/// The threads.
struct Stages {
    notices: Sender<Notice>,
    /// Closed, it has the reader end.
    reading: PipeWriter,
    targets: JoinHandle<Attached>,
    reader: JoinHandle<()>,
}

impl Stages {
    /// In order: no more events, then what is under way is finished. What is attached still is left to the caller.
    async fn stop(self, telemetry: &Telemetry) -> Result<Attached, AppError> {
        // A thread that is gone already has left its word in the join below.
        let _ = self.notices.send(Notice::Stop);
        has_ended(&self.targets).await;
        let attached = self.targets.join().or(Err(AppError::Ended("targets")))?;
        drop(self.reading);
        has_ended(&self.reader).await;
        self.reader.join().or(Err(AppError::Ended("reader")))?;
        for (reason, count) in attached.losses() {
            telemetry.kernel_lost(reason, count);
        }
        Ok(attached)
    }
}

/// To join it would keep the exporter from sending, and who asks from being answered, until it has attached or let go
/// what it is at.
async fn has_ended<T>(thread: &JoinHandle<T>) {
    while !thread.is_finished() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Each hook is an open file, and so is each connection of who asks; the limit that is usual is for programs that
/// `select`, and what may be raised may be raised by anybody.
fn open_files_to_the_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // Not where system calls are filtered: who does that sets the limit, too.
    let _as_it_was = setrlimit(Resource::Nofile, raised);
}

/// It goes on with the rights that it has where that is not allowed.
fn give_up(rights: fn() -> rustix::io::Result<()>) {
    if let Err(error) = rights() {
        warn!(%error, "Rights that are not needed any more cannot be given up");
    }
}

fn spawn<T: Send + 'static>(
    name: &'static str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, AppError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|source| AppError::Thread { name, source })
}

/// What tells the probe to stop.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self, AppError> {
        let listen = |kind| signal(kind).map_err(AppError::Signals);
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn recv(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
