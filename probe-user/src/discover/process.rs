//! `/proc`: which processes there are, and what is known of one. Processes come and go while they are read, so
//! "gone" is an answer here and no error.

pub mod parse;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    io::Read as _,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirEntryExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::io::Errno;

/// How much of a process's environment is read. Linux bounds arguments and environment together by a quarter of
/// the stack limit, 2 MiB as a rule; what we look for stands in the first part of sane ones.
const ENVIRONMENT_MAX_BYTES: u64 = 1024 * 1024;
/// How often, and with what pause, a process in the midst of an exec is asked for its environment.
const EXEC_LOOKS: usize = 20;
const EXEC_LOOK_PAUSE: Duration = Duration::from_micros(500);
/// What the kernel puts behind the path of an executable that was removed or replaced.
const DELETED: &[u8] = b" (deleted)";

/// Why a process that is there cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("process {pid} runs no program: it is a thread of the kernel")]
    NoProgram { pid: u32 },
    #[error("{pid} is a thread of process {process}; give the process's id")]
    Thread { pid: u32, process: u32 },
    #[error("not allowed to look at process {pid}: run as root, or with CAP_SYS_PTRACE")]
    Denied { pid: u32, source: io::Error },
    #[error("read {} of process {pid}", what.display())]
    Read {
        pid: u32,
        what: PathBuf,
        source: io::Error,
    },
}

/// A file whatever its name: what the kernel keys uprobes by. Inodes are reused once a file is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    pub device: u64,
    pub inode: u64,
}

/// The namespaces that matter to tracing, by inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Namespaces {
    pub pid: u64,
    pub net: u64,
    pub mount: u64,
    pub uts: u64,
}

/// A running process, as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    /// Clock ticks from boot to its start: with the pid, a name nobody else gets.
    pub start_ticks: u64,
    /// The executable's path in the process's own mount namespace: for names and globs, not to open.
    pub exe: PathBuf,
    pub exe_id: FileId,
}

/// A process as `/proc` lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub pid: u32,
    /// The inode of its folder: another process with the same id has another one.
    pub node: u64,
}

/// All processes, our own included.
pub fn list() -> io::Result<impl Iterator<Item = Entry>> {
    let entries = fs::read_dir("/proc")?;
    Ok(entries.filter_map(|entry| {
        let entry = entry.ok()?;
        Some(Entry {
            pid: entry.file_name().to_str()?.parse().ok()?,
            node: entry.ino(),
        })
    }))
}

impl Process {
    /// The process `pid`; nothing when there is none (any more).
    pub fn read(pid: u32) -> Result<Option<Self>, ProcessError> {
        match Self::look(pid) {
            Ok(process) => Ok(Some(process)),
            Err(Absence::Gone) => Ok(None),
            Err(Absence::Error(error)) => Err(error),
        }
    }

    fn look(pid: u32) -> Result<Self, Absence> {
        let stat = fs::read_to_string(proc_path(pid, "stat")).map_err(|error| absence(pid, "stat", error))?;
        let stat = parse::stat(&stat).ok_or(Absence::Gone)?;
        if stat.is_dead {
            return Err(Absence::Gone);
        }
        if stat.is_kernel_thread {
            return Err(Absence::Error(ProcessError::NoProgram { pid }));
        }
        let process = thread_group(pid)?;
        if process != pid {
            return Err(Absence::Error(ProcessError::Thread { pid, process }));
        }
        let exe = match fs::read_link(proc_path(pid, "exe")) {
            Ok(exe) => exe,
            // It has given up its memory on its way out, and is no zombie yet.
            Err(error) => return Err(absence(pid, "exe", error)),
        };
        let metadata = fs::metadata(proc_path(pid, "exe")).map_err(|error| absence(pid, "exe", error))?;
        let exe_id = FileId {
            device: metadata.dev(),
            inode: metadata.ino(),
        };
        Ok(Self {
            pid,
            start_ticks: stat.start_ticks,
            exe: without_deleted(exe),
            exe_id,
        })
    }

    /// The executable, openable whatever mount namespace it lies in and even when it was removed.
    pub fn exe_path(&self) -> PathBuf {
        proc_path(self.pid, "exe")
    }

    /// The executable's base name.
    pub fn exe_name(&self) -> String {
        let name = self.exe.file_name().unwrap_or(self.exe.as_os_str());
        name.to_string_lossy().into_owned()
    }

    /// How long it runs, `now` after the boot.
    pub fn age(&self, now: Duration) -> Duration {
        let ticks_per_second = rustix::param::clock_ticks_per_second().max(1);
        let started = Duration::from_millis(self.start_ticks.saturating_mul(1000) / ticks_per_second);
        now.saturating_sub(started)
    }

    /// Whether this very process, and not a later one with the same id, is still there and runs the same file.
    pub fn is_current(&self) -> bool {
        // By the file and not by its name: a program may be renamed or replaced under those that run it.
        let is_it = |now: Self| now.start_ticks == self.start_ticks && now.exe_id == self.exe_id;
        Self::read(self.pid).is_ok_and(|now| now.is_some_and(is_it))
    }

    /// The values of those of `names` that stand in the environment the process was started with. Empty ones
    /// count as absent. A process that is gone, or that may not be read, has none.
    pub fn environment(&self, names: &[&'static str]) -> BTreeMap<&'static str, String> {
        for _ in 0..EXEC_LOOKS {
            let Ok(file) = fs::File::open(proc_path(self.pid, "environ")) else {
                break;
            };
            let mut bytes = Vec::new();
            // What was read before an error is used: the process may end at any time.
            let _ = file.take(ENVIRONMENT_MAX_BYTES).read_to_end(&mut bytes);
            if !bytes.is_empty() || self.has_environment() {
                return parse::environment(&bytes, names);
            }
            thread::sleep(EXEC_LOOK_PAUSE);
        }
        BTreeMap::new()
    }

    /// Whether its environment, empty or not, is in place: in the midst of an exec the new executable shows before
    /// the new environment does.
    fn has_environment(&self) -> bool {
        let stat = fs::read_to_string(proc_path(self.pid, "stat"));
        stat.is_ok_and(|stat| parse::stat(&stat).is_none_or(|stat| stat.has_environment))
    }

    /// Nothing when the process is gone or may not be read.
    pub fn namespaces(&self) -> Option<Namespaces> {
        let inode = |name: &str| Some(fs::metadata(proc_path(self.pid, name)).ok()?.ino());
        Some(Namespaces {
            pid: inode("ns/pid")?,
            net: inode("ns/net")?,
            mount: inode("ns/mnt")?,
            uts: inode("ns/uts")?,
        })
    }

    /// The TCP ports it listens on, over all addresses.
    pub fn listening_ports(&self) -> BTreeSet<u16> {
        Listeners::default().ports_of(self)
    }

    /// The inodes of the sockets it has open.
    fn sockets(&self) -> impl Iterator<Item = u64> {
        let entries = fs::read_dir(proc_path(self.pid, "fd")).into_iter().flatten();
        entries.filter_map(|entry| {
            let target = fs::read_link(entry.ok()?.path()).ok()?;
            target
                .to_str()?
                .strip_prefix("socket:[")?
                .strip_suffix(']')?
                .parse()
                .ok()
        })
    }
}

/// The listening sockets of each network namespace, read once: for one look at many processes, then thrown away.
#[derive(Debug, Default)]
pub struct Listeners {
    /// Network namespace → socket inode → port.
    by_namespace: HashMap<u64, HashMap<u64, u16>>,
}

impl Listeners {
    /// The TCP ports that `process` listens on.
    pub fn ports_of(&mut self, process: &Process) -> BTreeSet<u16> {
        let ports = self.namespace_of(process);
        if ports.is_empty() {
            return BTreeSet::new();
        }
        process
            .sockets()
            .filter_map(|inode| ports.get(&inode).copied())
            .collect()
    }

    /// One of `wanted` that `process` listens on. Its sockets are looked at only when somebody in its
    /// namespace does: that is what takes time.
    pub fn port_of(&mut self, process: &Process, wanted: &BTreeSet<u16>) -> Option<u16> {
        let ports = self.namespace_of(process);
        if !ports.values().any(|port| wanted.contains(port)) {
            return None;
        }
        let mut sockets = process.sockets();
        sockets.find_map(|inode| ports.get(&inode).copied().filter(|port| wanted.contains(port)))
    }

    fn namespace_of(&mut self, process: &Process) -> &HashMap<u64, u16> {
        // Without a namespace the process is gone: the table under 0 stays empty.
        let net = fs::metadata(proc_path(process.pid, "ns/net")).map_or(0, |metadata| metadata.ino());
        self.by_namespace.entry(net).or_insert_with(|| {
            let read = |name| fs::read_to_string(proc_path(process.pid, name)).unwrap_or_default();
            let tables = if net == 0 {
                [String::new(), String::new()]
            } else {
                [read("net/tcp"), read("net/tcp6")]
            };
            tables
                .iter()
                .flat_map(|table| table.lines().filter_map(parse::listener))
                .collect()
        })
    }
}

enum Absence {
    Gone,
    Error(ProcessError),
}

fn absence(pid: u32, what: &str, source: io::Error) -> Absence {
    match source.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::SRCH) => Absence::Gone,
        Some(Errno::ACCESS | Errno::PERM) => Absence::Error(ProcessError::Denied { pid, source }),
        _ => Absence::Error(ProcessError::Read {
            pid,
            what: PathBuf::from(what),
            source,
        }),
    }
}

fn proc_path(pid: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

/// The process a thread belongs to. `/proc` lists processes only, yet answers for threads too.
fn thread_group(pid: u32) -> Result<u32, Absence> {
    let status =
        fs::read_to_string(proc_path(pid, "status")).map_err(|error| absence(pid, "status", error))?;
    let group = status
        .lines()
        .find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok());
    group.ok_or(Absence::Gone)
}

fn without_deleted(exe: PathBuf) -> PathBuf {
    match exe.as_os_str().as_bytes().strip_suffix(DELETED) {
        Some(path) => Path::new(std::ffi::OsStr::from_bytes(path)).to_owned(),
        None => exe,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::TcpListener,
        process::{Child, Command, Stdio},
    };

    use super::*;

    /// A child that is gone at the end of the test.
    struct Sleeper(Child);

    impl Sleeper {
        fn start(command: &mut Command) -> Self {
            Self(command.arg("1000").stdin(Stdio::null()).spawn().unwrap())
        }

        fn process(&self) -> Process {
            // Between fork and exec the child still runs our own file.
            loop {
                let process = Process::read(self.0.id()).unwrap().unwrap();
                if process.exe != std::env::current_exe().unwrap() {
                    return process;
                }
                thread::yield_now();
            }
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn ourselves() {
        let process = Process::read(std::process::id()).unwrap().unwrap();
        assert_eq!(process.exe, std::env::current_exe().unwrap());
        assert!(process.is_current());
        assert!(list().unwrap().any(|entry| entry.pid == process.pid));
        let metadata = fs::metadata(&process.exe).unwrap();
        assert_eq!(
            process.exe_id,
            FileId {
                device: metadata.dev(),
                inode: metadata.ino()
            }
        );
        assert_eq!(fs::metadata(process.exe_path()).unwrap().ino(), metadata.ino());
        assert!(process.namespaces().is_some());
    }

    #[test]
    fn a_process_that_ended_is_no_error() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        // A zombie first, then nothing.
        while Process::read(pid).is_ok_and(|process| process.is_some()) {
            thread::yield_now();
        }
        assert!(matches!(Process::read(pid), Ok(None)));
        child.wait().unwrap();
        assert!(matches!(Process::read(pid), Ok(None)));
    }

    #[test]
    fn a_thread_is_refused_with_the_id_of_its_process() {
        // The thread must still run while it is looked at, so the look is taken from within.
        let error = thread::spawn(|| {
            let tid = u32::try_from(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            Process::read(tid).unwrap_err()
        });
        let error = error.join().unwrap();
        assert!(
            matches!(error, ProcessError::Thread { process, .. } if process == std::process::id()),
            "{error}"
        );
    }

    #[test]
    fn a_kernel_thread_runs_no_program() {
        // kthreadd; in a container the id may be somebody else's, then there is nothing to see here.
        if fs::read_to_string("/proc/2/comm").is_ok_and(|name| name.trim() == "kthreadd") {
            let error = Process::read(2).unwrap_err();
            assert!(
                matches!(
                    error,
                    ProcessError::NoProgram { pid: 2 } | ProcessError::Denied { .. }
                ),
                "{error}"
            );
        }
    }

    #[test]
    fn a_removed_executable_keeps_its_name_and_can_be_opened() {
        let directory = tempfile::tempdir().unwrap();
        let exe = directory.path().join("my service");
        fs::copy("/bin/sleep", &exe).unwrap();
        let sleeper = Sleeper::start(&mut Command::new(&exe));
        let before = sleeper.process();
        fs::remove_file(&exe).unwrap();
        let after = sleeper.process();
        assert_eq!(after, before);
        assert_eq!(after.exe_name(), "my service");
        assert_eq!(
            fs::read(after.exe_path()).unwrap(),
            fs::read("/bin/sleep").unwrap()
        );
    }

    #[test]
    fn the_environment_it_was_started_with() {
        let sleeper = Sleeper::start(
            Command::new("sleep")
                .env("SW_AGENT_NAME", "shop=1")
                .env("OTEL_SERVICE_NAME", "")
                .env("OTHER", "x"),
        );
        let found =
            sleeper
                .process()
                .environment(&["SW_AGENT_NAME", "OTEL_SERVICE_NAME", "SW_AGENT_CLUSTER"]);
        assert_eq!(found, BTreeMap::from([("SW_AGENT_NAME", "shop=1".to_owned())]));
    }

    #[test]
    fn listening_ports_of_both_families() {
        let four = TcpListener::bind("127.0.0.1:0").unwrap();
        let six = TcpListener::bind("[::1]:0").unwrap();
        let process = Process::read(std::process::id()).unwrap().unwrap();
        let ports = process.listening_ports();
        let port_of = |listener: &TcpListener| listener.local_addr().unwrap().port();
        assert!(
            ports.contains(&port_of(&four)) && ports.contains(&port_of(&six)),
            "{ports:?}"
        );
        let mut listeners = Listeners::default();
        let six = port_of(&six);
        assert_eq!(listeners.port_of(&process, &BTreeSet::from([six])), Some(six));
        // Listening is somebody's in this namespace, but not this child's.
        let sleeper = Sleeper::start(&mut Command::new("sleep"));
        let wanted = BTreeSet::from([port_of(&four)]);
        assert_eq!(listeners.port_of(&sleeper.process(), &wanted), None);
    }

    #[test]
    fn stat_with_a_name_full_of_brackets() {
        let fields = (12..=52).map(|number| format!(" {number}")).collect::<String>();
        let line = format!("42 (a) R (b) ) S 1 42 42 0 -1 4194560 10 11{fields}\n");
        let expected = parse::Stat {
            is_dead: false,
            is_kernel_thread: false,
            start_ticks: 22,
            has_environment: true,
        };
        assert_eq!(parse::stat(&line), Some(expected));
        assert!(
            parse::stat(&line.replace("4194560", "69238848"))
                .unwrap()
                .is_kernel_thread
        );
        assert!(!parse::stat(&line.replace(" 51 ", " 0 ")).unwrap().has_environment);
        assert_eq!(parse::stat("42 (a) Z 1"), None);
        assert_eq!(parse::stat(""), None);
    }

    #[test]
    fn only_listening_lines_count() {
        let listening =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 4711 1";
        assert_eq!(parse::listener(listening), Some((4711, 8080)));
        assert_eq!(parse::listener(&listening.replace(" 0A ", " 01 ")), None);
        assert_eq!(
            parse::listener("  sl  local_address rem_address   st tx_queue"),
            None
        );
    }
}
