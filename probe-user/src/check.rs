//! `skyprobe check`: a configuration, tried without tracing anything.

use std::{
    fmt,
    io::{self, Write},
};

use crate::{
    app,
    config::{Config, Export, Kubernetes},
    discover::{
        container::Place,
        go,
        pod::Pods,
        process::{self, Process},
        select::{Meant, SelectError, Selection, Surroundings},
    },
    export::skywalking::SettingsError,
    naming::{self, Known},
    status::table,
    telemetry::counted,
};

/// Why `run` would not start with it.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error(transparent)]
    Select(#[from] SelectError),
    #[error(transparent)]
    Oap(#[from] SettingsError),
    #[error("list the processes")]
    List(#[source] io::Error),
    #[error("write to stdout")]
    Output(#[source] io::Error),
}

/// Says where traces would go, and which of the processes that run now would be traced, by what name and why.
pub fn run(config: &Config, out: &mut dyn Write) -> Result<(), CheckError> {
    let mut selection = Selection::new(&config.select)?;
    app::check_export(config)?;
    let rows = meant(&mut selection, config).map_err(CheckError::List)?;
    write(config, &selection, &rows, out).map_err(CheckError::Output)
}

type Row = [String; 4];

fn meant(selection: &mut Selection, config: &Config) -> io::Result<Vec<Row>> {
    let mut surroundings = Surroundings::new(Pods::default());
    let mut rows = Vec::new();
    for entry in process::list()? {
        // It has ended, is a thread of the kernel's, or somebody else's.
        let Ok(Some(process)) = Process::read(entry.pid) else {
            continue;
        };
        let (Meant::Yes(_), mut why) = selection.explain(&process, &mut surroundings) else {
            continue;
        };
        let place = Place::of(process.pid);
        let known = Known {
            process: &process,
            place: &place,
            pod: None,
        };
        let service = if go::is_go(&process.exe_path()) {
            naming::name_target(known, config).service
        } else {
            why.push_str(", but it is no Go program");
            "-".to_owned()
        };
        let exe = process.exe.to_string_lossy().into_owned();
        rows.push([process.pid.to_string(), service, exe, why]);
    }
    Ok(rows)
}

fn write(config: &Config, selection: &Selection, rows: &[Row], out: &mut dyn Write) -> io::Result<()> {
    let file = config.file.as_ref().map(|file| file.display().to_string());
    let rules = counted(config.select.rules.len() as u64, ["rule", "rules"]);
    writeln!(
        out,
        "{} can be used: {rules}; traces go to {}",
        file.unwrap_or_default(),
        Goal(config)
    )?;
    if selection.asks_pods() || config.pods.kubernetes == Kubernetes::On {
        writeln!(
            out,
            "Kubernetes is not asked here, so rules about pods are not tried: `skyprobe status --pid N` has the probe \
             that runs say what it decides"
        )?;
    }
    if !rustix::process::geteuid().is_root() {
        writeln!(
            out,
            "Programs of other users are not looked at: call it as root to see those, too"
        )?;
    }
    if rows.is_empty() {
        return writeln!(out, "Of the programs that run now, none would be traced");
    }
    writeln!(out)?;
    let table = table(["PID", "SERVICE", "PROGRAM", "SELECTED, FOR"], rows, false);
    out.write_all(table.as_bytes())
}

/// Where traces go, in words.
struct Goal<'a>(&'a Config);

impl fmt::Display for Goal<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config {
            export, oap, output, ..
        } = self.0;
        match (export, output) {
            (Export::SkyWalking, _) => {
                let addresses: Vec<String> = oap.addresses.iter().map(ToString::to_string).collect();
                let tls = if oap.tls.is_some() { ", by TLS" } else { "" };
                write!(formatter, "OAP at {}{tls}", addresses.join(" or "))
            }
            (Export::Text | Export::Json, Some(path)) => path.display().fmt(formatter),
            (Export::Text | Export::Json, None) => formatter.write_str("stdout"),
        }
    }
}
