//! The program: reads what is wanted, checks that this machine can, and hands over.

use std::{
    error::Error,
    fmt,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use probe_user::{
    app, check,
    config::{self, ConfigError, Invocation, LogLevel},
    doctor, inspect,
    status::{self, AskError, Question},
};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer as _, filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// The call was not understood or cannot be carried out as it was written.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let invocation = match config::read_process() {
        Ok(invocation) => invocation,
        Err(error) => return fail(&Failure::Usage(error)),
    };
    match carry_out(invocation) {
        Ok(code) => code,
        Err(failure) => fail(&failure),
    }
}

fn carry_out(invocation: Invocation) -> Result<ExitCode, Failure> {
    match invocation {
        Invocation::Show(text) => {
            print(|out| out.write_all(text.as_bytes()))?;
            Ok(ExitCode::SUCCESS)
        }
        Invocation::Doctor { json } => {
            log_to_stderr(LogLevel::Warn);
            let report = doctor::examine();
            print(|out| {
                if json {
                    doctor::write_json(&report, out)
                } else {
                    doctor::write_text(&report, out)
                }
            })?;
            Ok(if report.tracing {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        Invocation::Check(config) => {
            let mut told = Vec::new();
            check::run(&config, &mut told).map_err(|error| Failure::Other(error.into()))?;
            print(|out| out.write_all(&told))?;
            Ok(ExitCode::SUCCESS)
        }
        Invocation::Status {
            pid,
            socket,
            json,
            watch,
        } => {
            let mut out = io::stdout().lock();
            let question = Question { pid };
            match status::show(&socket, question, json, watch, &mut out) {
                // Whoever has seen enough went.
                Err(AskError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {}
                shown => shown.map_err(|error| Failure::Other(error.into()))?,
            }
            Ok(ExitCode::SUCCESS)
        }
        Invocation::Inspect { subject, json } => {
            let mut told = Vec::new();
            let outcome = inspect::run(&subject, json, &mut told);
            print(|out| match &outcome {
                Err(error) if json => inspect::write_failure(error, out),
                Err(_) => Ok(()),
                Ok(()) => out.write_all(&told),
            })?;
            outcome.map_err(|error| Failure::Other(error.into()))?;
            Ok(ExitCode::SUCCESS)
        }
        Invocation::Run(config) => {
            doctor::preflight().map_err(|unfit| Failure::Other(unfit.into()))?;
            log_to_stderr(config.log);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime =
                runtime.map_err(|error| Failure::Other(format!("start the runtime: {error}").into()))?;
            runtime
                .block_on(app::run(*config))
                .map_err(|error| Failure::Other(error.into()))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Why the program ends early.
#[derive(Debug)]
enum Failure {
    Usage(ConfigError),
    Other(Box<dyn Error>),
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(error) => error.fmt(formatter),
            Self::Other(error) => {
                error.fmt(formatter)?;
                let mut said = error.to_string();
                let mut cause = error.source();
                while let Some(error) = cause {
                    let words = error.to_string();
                    // Some errors repeat their cause in their own words.
                    if !said.contains(&words) {
                        write!(formatter, ": {words}")?;
                        said = words;
                    }
                    cause = error.source();
                }
                Ok(())
            }
        }
    }
}

/// One sentence on stderr, and the code that goes with it.
fn fail(failure: &Failure) -> ExitCode {
    let _nobody_reads = writeln!(io::stderr(), "skyprobe: {failure}");
    match failure {
        Failure::Usage(_) => ExitCode::from(USAGE),
        Failure::Other(_) => ExitCode::FAILURE,
    }
}

/// Writes to stdout. A reader that has seen enough and went, as `head` does, is no failure.
fn print(write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Other(format!("write to stdout: {error}").into()))
        }
        _ => Ok(()),
    }
}

/// Logs go to stderr, so that stdout holds traces and nothing else.
fn log_to_stderr(level: LogLevel) {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // Kubernetes' client says each failure of its own accord; we say them with the address, and once a minute.
    let of_client = if level > LevelFilter::INFO {
        level
    } else {
        LevelFilter::OFF
    };
    let shown = Targets::new()
        .with_default(level)
        .with_target("kube_client", of_client);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry()
        .with(lines.with_filter(shown))
        .init();
}
