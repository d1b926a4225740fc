//! The exporter the configuration asks for, as one future; for `text` and `json` also the loop that feeds it.

use std::{
    fs::OpenOptions,
    io::{self, IsTerminal as _, Write},
    mem,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use tokio::sync::oneshot;
use tracing::error;

use super::{AppError, give_up, spawn};
use crate::{
    clock,
    config::{Authentication, Color, Config, Export, Oap},
    export::{
        self, SegmentReceiver,
        json::{Json, JsonSettings},
        output::OutputError,
        skywalking::{self, Registry},
        tally_all,
        text::{Text, TextSettings},
    },
    kernel::rights,
    telemetry::{Loss, Tally, Telemetry},
    trace::{self, segment::Segment},
};

/// Segments written at once.
const BATCH_SEGMENTS: usize = 256;
/// How often the text exporter looks for traces that are due.
const TICK: Duration = Duration::from_millis(50);
/// How long the probe waits at its end for the output to be read.
const FLUSH: Duration = Duration::from_secs(5);
/// Columns of a line where the terminal does not say.
const DEFAULT_COLUMNS: usize = 100;

/// Ends when the queue's last sender is gone and what was left is delivered or counted as lost.
pub(super) type Exporting = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Prepares the exporter; with `skywalking`, also the registry that instances are announced by.
pub(super) fn start(
    config: &Config,
    segments: SegmentReceiver,
    telemetry: &Arc<Telemetry>,
) -> Result<(Option<Registry>, Exporting), AppError> {
    let telemetry = Arc::clone(telemetry);
    match config.export {
        Export::SkyWalking => {
            let (registry, exporting) = skywalking::start(settings(&config.oap), segments, telemetry)?;
            Ok((Some(registry), Box::pin(exporting)))
        }
        Export::Text => {
            let (out, is_terminal) = output(config)?;
            let colour = match config.color {
                Color::Auto => is_terminal,
                Color::Always => true,
                Color::Never => false,
            };
            let width = columns(is_terminal);
            let sink = TextSink(Text::new(out, TextSettings { colour, width }));
            Ok((None, apart(sink, segments, telemetry)?))
        }
        Export::Json => {
            let (out, _) = output(config)?;
            let sink = JsonSink(Json::new(out, JsonSettings::default()));
            Ok((None, apart(sink, segments, telemetry)?))
        }
    }
}

/// Whether the exporter could be made: its files are there, and its addresses and its token have their form.
pub(crate) fn check(config: &Config) -> Result<(), skywalking::SettingsError> {
    match config.export {
        Export::SkyWalking => skywalking::check(&settings(&config.oap)),
        Export::Text | Export::Json => Ok(()),
    }
}

/// What the tracer is told.
pub(super) fn tracer_settings(config: &Config) -> trace::Settings {
    trace::Settings {
        debug_tags: config.debug_tags,
        ..trace::Settings::default()
    }
}

type Output = Box<dyn Write + Send>;

fn output(config: &Config) -> Result<(Output, bool), AppError> {
    let Some(path) = &config.output else {
        return Ok((Box::new(io::stdout()), io::stdout().is_terminal()));
    };
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|source| AppError::Output {
            path: path.clone(),
            source,
        })?;
    let is_terminal = file.is_terminal();
    Ok((Box::new(file), is_terminal))
}

fn columns(is_terminal: bool) -> usize {
    if !is_terminal {
        return DEFAULT_COLUMNS;
    }
    let size = rustix::termios::tcgetwinsize(io::stdout());
    size.map_or(DEFAULT_COLUMNS, |size| usize::from(size.ws_col))
        .clamp(60, 200)
}

fn settings(oap: &Oap) -> skywalking::Settings {
    let tls = oap.tls.clone();
    let client = tls.as_ref().and_then(|tls| tls.client.clone());
    skywalking::Settings {
        authentication: match &oap.authentication {
            Some(Authentication::Token(token)) => {
                let token = skywalking::Token::new(token.reveal());
                Some(skywalking::Authentication::Token(token))
            }
            Some(Authentication::File(path)) => Some(skywalking::Authentication::File(path.clone())),
            None => None,
        },
        tls: skywalking::Tls {
            enabled: tls.is_some(),
            ca: tls.and_then(|tls| tls.ca),
            certificate: client.as_ref().map(|client| client.cert.clone()),
            key: client.map(|client| client.key),
        },
        batch_segments: oap.batch_segments,
        batch_interval: Duration::from_millis(oap.batch_delay_ms),
        deadline: Duration::from_secs(oap.timeout_s),
        heartbeat: Duration::from_secs(oap.heartbeat_s),
        ..skywalking::Settings::new(oap.addresses.iter().map(ToString::to_string).collect())
    }
}

/// Where segments are written. Each call says what has left our hands.
trait Sink {
    /// What it leaves of `segments` is let go.
    fn take(&mut self, segments: &mut Vec<Segment>) -> Result<Tally, OutputError>;
    fn tick(&mut self) -> Result<Tally, OutputError>;
    fn flush(&mut self) -> Result<Tally, OutputError>;
    /// What was taken and has not left.
    fn pending(&self) -> Tally;
}

struct JsonSink(Json<Output>);

impl Sink for JsonSink {
    fn take(&mut self, segments: &mut Vec<Segment>) -> Result<Tally, OutputError> {
        self.0.export(segments)?;
        Ok(tally_all(&*segments))
    }

    fn tick(&mut self) -> Result<Tally, OutputError> {
        Ok(Tally::default())
    }

    fn flush(&mut self) -> Result<Tally, OutputError> {
        Ok(Tally::default())
    }

    fn pending(&self) -> Tally {
        Tally::default()
    }
}

struct TextSink(Text<Output>);

impl Sink for TextSink {
    fn take(&mut self, segments: &mut Vec<Segment>) -> Result<Tally, OutputError> {
        self.0.export(mem::take(segments), clock::now_boot_ns())
    }

    fn tick(&mut self) -> Result<Tally, OutputError> {
        self.0.tick(clock::now_boot_ns())
    }

    fn flush(&mut self) -> Result<Tally, OutputError> {
        self.0.flush()
    }

    fn pending(&self) -> Tally {
        self.0.pending()
    }
}

/// Feeds the sink on a thread of its own: a write waits for as long as whoever reads it likes, and signals, the watchdog
/// and who asks how the probe is shall not wait with it.
fn apart(
    sink: impl Sink + Send + 'static,
    segments: SegmentReceiver,
    telemetry: Arc<Telemetry>,
) -> Result<Exporting, AppError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(AppError::Runtime)?;
    let closing = segments.closing();
    let (done, is_done) = oneshot::channel::<()>();
    let feeding = Arc::clone(&telemetry);
    spawn("output", move || {
        give_up(rights::keep_none);
        runtime.block_on(feed(sink, segments, feeding));
        drop(done);
    })?;
    Ok(Box::pin(async move {
        let too_late = async {
            closing.await;
            tokio::time::sleep(FLUSH).await;
        };
        tokio::select! {
            // Dropped, whether it came to its end or panicked.
            _ = is_done => {}
            () = too_late => {
                error!("Nobody reads the output: what waits for it is counted and not shown");
                telemetry.lost(Loss::FlushDeadline, telemetry.account().pending());
            }
        }
    }))
}

/// Feeds the sink until the queue ends, or nobody reads any more. Once the output fails otherwise the rest is taken
/// and counted as lost: the traced programs must not feel it.
async fn feed(mut sink: impl Sink + Send, mut segments: SegmentReceiver, telemetry: Arc<Telemetry>) {
    let mut failed = false;
    let mut batch = Vec::with_capacity(BATCH_SEGMENTS);
    loop {
        batch.clear();
        // `recv` loses nothing when its wait is broken off; `batch` would lose what it has.
        let recv = segments.recv(&mut batch, BATCH_SEGMENTS);
        let came = if sink.pending().segments > 0 {
            tokio::time::timeout(TICK, recv).await
        } else {
            Ok(recv.await)
        };
        let (taken, written) = match came {
            Ok(false) => break,
            Ok(true) => {
                let taken = tally_all(&batch);
                if failed {
                    telemetry.lost(Loss::OutputFailed, taken);
                    continue;
                }
                (taken, sink.take(&mut batch))
            }
            Err(_) if failed => continue,
            Err(_) => (Tally::default(), sink.tick()),
        };
        if matches!(written, Err(OutputError::Closed(_))) {
            account(&telemetry, &sink, taken, written);
            telemetry.lost(Loss::OutputFailed, segments.close());
            return;
        }
        let is_emptied = taken.segments > 0 && taken.segments < BATCH_SEGMENTS as u64;
        failed = !account(&telemetry, &sink, taken, written);
        if is_emptied {
            tokio::time::sleep(export::PAUSE).await;
        }
    }
    if !failed {
        let written = sink.flush();
        account(&telemetry, &sink, Tally::default(), written);
    }
}

/// Counts what was written, or what is lost with the output; whether the output still works.
fn account(
    telemetry: &Telemetry,
    sink: &impl Sink,
    taken: Tally,
    written: Result<Tally, OutputError>,
) -> bool {
    match written {
        Ok(written) => {
            telemetry.exported(written);
            true
        }
        Err(error) => {
            let error = crate::chain(&error);
            error!(%error, "Output failed: traces are counted and not shown from here on");
            let pending = sink.pending();
            telemetry.lost(
                Loss::OutputFailed,
                if pending.segments > 0 { pending } else { taken },
            );
            false
        }
    }
}
