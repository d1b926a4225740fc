//! `skyprobe check`: a configuration, tried without tracing anything.

use std::{
    fmt,
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::{
    app,
    config::{Config, Export},
    discover::{
        container::Place,
        go,
        pod::Pods,
        process::{self, Process},
        select::{Meant, SelectError, Selection, Surroundings, Wish},
    },
    export::skywalking::SettingsError,
    kubernetes,
    naming::{self, Known},
    status::table,
    words::counted,
};

/// Why `run` would not start with it.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error(transparent)]
    Select(#[from] SelectError),
    #[error(transparent)]
    Oap(#[from] SettingsError),
    #[error("there is no folder {} for the output: make it, or name another file with `output`", .0.display())]
    Folder(PathBuf),
    #[error("list the processes")]
    List(#[source] io::Error),
    #[error("write to stdout")]
    Output(#[source] io::Error),
}

/// Says where traces would go, and which of the processes that run now would be traced, by what name and why.
pub fn run(config: &Config, out: &mut dyn Write) -> Result<(), CheckError> {
    let selection = Selection::new(&config.select)?;
    app::check_export(config)?;
    if let Some(folder) = config.output.as_deref().and_then(Path::parent)
        && !folder.as_os_str().is_empty()
        && !folder.is_dir()
    {
        return Err(CheckError::Folder(folder.to_owned()));
    }
    let found = find(&selection, config).map_err(CheckError::List)?;
    write(config, &selection, &found, out).map_err(CheckError::Output)
}

/// What the selection says of what runs.
#[derive(Default)]
struct Found {
    /// Id, service, program and why.
    meant: Vec<[String; 4]>,
    /// Go programs that a rule leaves out.
    excluded: Vec<[String; 3]>,
}

fn find(selection: &Selection, config: &Config) -> io::Result<Found> {
    let mut surroundings = Surroundings::new(Pods::default());
    let mut found = Found::default();
    for entry in process::list()? {
        // It has ended, is a thread of the kernel's, or somebody else's.
        let Ok(Some(process)) = Process::read(entry.pid) else {
            continue;
        };
        let pid = process.pid.to_string();
        let exe = process.exe.to_string_lossy().into_owned();
        let is_go = go::is_go(&process.exe_path());
        match selection.explain(&process, &mut surroundings) {
            (Meant::Yes(_), why) if is_go => {
                let place = Place::of(process.pid);
                let known = Known {
                    process: &process,
                    place: &place,
                    pod: None,
                };
                let service = naming::name_target(known, config).service;
                found.meant.push([pid, service, exe, why]);
            }
            // Others are left alone without a word.
            (Meant::Yes(wish), why) if wish > Wish::Kind => {
                let why = format!("{why}, but it is no Go program and will not be traced");
                found.meant.push([pid, "-".to_owned(), exe, why]);
            }
            (Meant::Excluded, why) if is_go => found.excluded.push([pid, exe, why]),
            (Meant::Yes(_) | Meant::No | Meant::Excluded | Meant::NotYet, _) => {}
        }
    }
    Ok(found)
}

fn write(config: &Config, selection: &Selection, found: &Found, out: &mut dyn Write) -> io::Result<()> {
    let file = config.file.as_ref().map(|file| file.path.display().to_string());
    let rules = counted(config.select.rules.len() as u64, ["rule", "rules"]);
    writeln!(
        out,
        "{} can be used: {rules}; traces go to {}",
        file.unwrap_or_default(),
        Goal(config)
    )?;
    if selection.asks_pods() || kubernetes::is_asked(&config.pods) {
        writeln!(
            out,
            "Kubernetes is not asked here, so rules about pods are not tried, and what a pod's annotation says and what \
             it is called are not known: `skyprobe status --pid N` has the probe that runs say what it decides"
        )?;
    }
    if !rustix::process::geteuid().is_root() {
        writeln!(
            out,
            "Programs of other users are not looked at: call it as root to see those, too"
        )?;
    }
    if found.meant.is_empty() {
        writeln!(out, "Of the programs that run now, none would be traced")?;
    } else {
        let table = table(["PID", "SERVICE", "TRACED", "WHY"], &found.meant, false);
        write!(out, "\n{table}")?;
    }
    if !found.excluded.is_empty() {
        let table = table(["PID", "LEFT OUT", "WHY"], &found.excluded, false);
        write!(out, "\n{table}")?;
    }
    Ok(())
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
