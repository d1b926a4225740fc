//! The user's selection: does a process meet it, and by what?

use std::{collections::BTreeSet, ffi::OsStr, os::unix::ffi::OsStrExt as _};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::process::{Listeners, Process, ProcessError};
use crate::config::Select;

/// Why a selection cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    #[error("there is no process {pid}: `pgrep -l NAME` finds a program's id")]
    NoProcess { pid: u32 },
    #[error("process {pid} is skyprobe itself")]
    Ourselves { pid: u32 },
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("{glob:?} is not a glob")]
    Glob { glob: String, source: globset::Error },
}

/// By what a process was selected: the stronger the wish, the louder a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    /// Every Go program: another program is no news.
    AllGo,
    Port,
    Exe,
    /// This very process.
    Pid,
}

/// The selection, ready to be asked.
#[derive(Debug)]
pub struct Selection {
    /// As they were when tracing began: a later process with the same id is not meant.
    processes: Vec<Process>,
    exes: GlobSet,
    ports: BTreeSet<u16>,
    all_go: bool,
}

impl Selection {
    /// Looks up the processes that are named by id; each must be there.
    pub fn new(select: &Select) -> Result<Self, SelectError> {
        let mut processes = Vec::new();
        for &pid in &select.pids {
            if pid == std::process::id() {
                return Err(SelectError::Ourselves { pid });
            }
            processes.push(Process::read(pid)?.ok_or(SelectError::NoProcess { pid })?);
        }
        let mut exes = GlobSetBuilder::new();
        for glob in &select.exes {
            // A `*` in a path does not stop at slashes: `/srv/*` means all below.
            let compiled = GlobBuilder::new(glob).literal_separator(false).build();
            exes.add(compiled.map_err(|source| SelectError::Glob {
                glob: glob.clone(),
                source,
            })?);
        }
        let exes = exes.build().map_err(|source| SelectError::Glob {
            glob: select.exes.join(" "),
            source,
        })?;
        Ok(Self {
            processes,
            exes,
            ports: select.ports.iter().copied().collect(),
            all_go: select.all_go,
        })
    }

    /// The processes named by id.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// Whether a process that starts later can be meant, so that looking out for them makes sense.
    pub fn is_open(&self) -> bool {
        !self.exes.is_empty() || !self.ports.is_empty() || self.all_go
    }

    /// Whether a process that is not meant now may be later, when it listens.
    pub fn depends_on_ports(&self) -> bool {
        !self.ports.is_empty()
    }

    /// By what `process` is meant, if it is. Ports are looked up in `listeners`, which holds for one look at
    /// `/proc`: a program listens some time after its start, so a process that is not meant is asked about again.
    pub fn matches(&self, process: &Process, listeners: &mut Listeners) -> Option<Wish> {
        let is_it = |known: &Process| known.pid == process.pid && known.start_ticks == process.start_ticks;
        if self.processes.iter().any(is_it) {
            return Some(Wish::Pid);
        }
        if process.pid == std::process::id() {
            return None;
        }
        if self.matches_exe(process) {
            return Some(Wish::Exe);
        }
        if !self.ports.is_empty() && listeners.listens_on(process, &self.ports) {
            return Some(Wish::Port);
        }
        self.all_go.then_some(Wish::AllGo)
    }

    fn matches_exe(&self, process: &Process) -> bool {
        let name = process.exe.file_name().map_or(&b""[..], OsStr::as_bytes);
        self.exes.is_match(&process.exe) || self.exes.is_match(OsStr::from_bytes(name))
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, path::PathBuf};

    use super::*;
    use crate::discover::process::FileId;

    fn process(exe: &str) -> Process {
        Process {
            pid: 1,
            start_ticks: 5,
            exe: PathBuf::from(exe),
            exe_id: FileId { device: 1, inode: 1 },
        }
    }

    fn by_exe(glob: &str, exe: &str) -> bool {
        let select = Select {
            exes: vec![glob.to_owned()],
            ..Select::default()
        };
        let selection = Selection::new(&select).unwrap();
        selection.matches(&process(exe), &mut Listeners::default()) == Some(Wish::Exe)
    }

    #[test]
    fn a_glob_meets_the_whole_path_or_the_base_name() {
        assert!(by_exe("gateway", "/srv/shop/gateway"));
        assert!(by_exe("gate*", "/srv/shop/gateway"));
        assert!(by_exe("/srv/*", "/srv/shop/gateway"));
        assert!(by_exe("/srv/{shop,bank}/g?teway", "/srv/shop/gateway"));
        assert!(!by_exe("gateway", "/srv/gateway/other"));
        assert!(!by_exe("/srv", "/srv/shop/gateway"));
        assert!(!by_exe("shop/gateway", "/srv/shop/gateway"));
    }

    #[test]
    fn a_pid_means_the_process_that_had_it() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let select = Select {
            pids: vec![child.id()],
            ..Select::default()
        };
        let selection = Selection::new(&select).unwrap();
        assert!(!selection.is_open());
        let mut now = Process::read(child.id()).unwrap().unwrap();
        assert_eq!(
            selection.matches(&now, &mut Listeners::default()),
            Some(Wish::Pid)
        );
        now.start_ticks += 1;
        assert_eq!(selection.matches(&now, &mut Listeners::default()), None);
        child.kill().unwrap();
        child.wait().unwrap();
        let error = Selection::new(&select).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with(&format!("there is no process {}", child.id())),
            "{error}"
        );
    }

    #[test]
    fn we_are_never_meant() {
        let ourselves = Process::read(std::process::id()).unwrap().unwrap();
        let everything = Select {
            exes: vec!["*".to_owned()],
            all_go: true,
            ..Select::default()
        };
        let selection = Selection::new(&everything).unwrap();
        assert_eq!(selection.matches(&ourselves, &mut Listeners::default()), None);
        let select = Select {
            pids: vec![std::process::id()],
            ..Select::default()
        };
        assert!(matches!(
            Selection::new(&select),
            Err(SelectError::Ourselves { .. })
        ));
    }

    #[test]
    fn a_port_may_appear_later() {
        // A child inherits the listening socket, so it counts as a listener once it is there.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::read(child.id()).unwrap().unwrap();
        let select = |port| {
            Selection::new(&Select {
                ports: vec![port],
                ..Select::default()
            })
            .unwrap()
        };
        assert_eq!(
            select(port).matches(&process, &mut Listeners::default()),
            Some(Wish::Port)
        );
        assert_eq!(select(1).matches(&process, &mut Listeners::default()), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_strongest_wish_is_named() {
        let select = Select {
            exes: vec!["gateway".to_owned()],
            all_go: true,
            ..Select::default()
        };
        let selection = Selection::new(&select).unwrap();
        let wish = |exe| selection.matches(&process(exe), &mut Listeners::default());
        assert_eq!(wish("/srv/gateway"), Some(Wish::Exe));
        assert_eq!(wish("/srv/other"), Some(Wish::AllGo));
    }
}
