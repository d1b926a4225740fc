//! Trials: the kernel programs are loaded and attached for a moment, to ourselves and to a pair of our own sockets.

use std::{
    fs, io,
    io::Write as _,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
    time::Duration,
};

use aya::{
    maps::{MapData, MapError, MapType, SockHash},
    sys::{SyscallError, is_map_supported},
};
use rustix::{io::ioctl_fionread, net::sockopt::socket_cookie};

use crate::kernel::{
    PROCESS_PROGRAMS,
    attach::{self, Scope},
    bpf::{self, Place},
    load::{self, LoadError},
    object::{Kind, Object, Uprobes},
    propagation::{self, PropagationError, Sockets},
};

/// What is queued when the count is asked for.
pub const QUEUED_BYTES: u64 = 100;
/// Loopback delivers at once; a machine that does not in this time has other troubles.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why a trial failed.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    #[error("this kernel has no ring buffers")]
    NoRingBuffer,
    #[error("create a ring buffer")]
    RingBuffer(#[source] SyscallError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Propagation(#[from] PropagationError),
    #[error("the kernel object holds no {what}")]
    Absent { what: &'static str },
    #[error("attach {what}")]
    Attach { what: &'static str, source: io::Error },
    #[error("enrol a socket of our own")]
    Enrol(#[source] MapError),
    #[error("{what}")]
    Io { what: &'static str, source: io::Error },
}

/// What a kernel program is for, by its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    Tracing,
    Propagation,
}

/// What `FIONREAD` says of a socket in a socket map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fionread {
    /// The truth.
    Right,
    /// The truth once a program that lets everything pass is attached.
    Cured,
    /// Something else, whatever is attached.
    Wrong { bytes: u64 },
}

/// Whether a ring buffer can be made.
pub fn ring_buffer() -> Result<(), TrialError> {
    match is_map_supported(MapType::RingBuf) {
        Ok(true) => Ok(()),
        Ok(false) => Err(TrialError::NoRingBuffer),
        Err(error) => Err(TrialError::RingBuffer(error)),
    }
}

/// The kernel object, loaded for trials. Nothing is traced, for no process is a target; all is undone when it goes.
pub struct Bench {
    /// Of what was attached and stays so.
    links: Vec<OwnedFd>,
    object: Object,
}

impl Bench {
    /// Makes the maps.
    pub fn new() -> Result<Self, LoadError> {
        Ok(Self {
            links: Vec::new(),
            object: load::object()?,
        })
    }

    /// Has every program verified: its name, purpose and fate. One that is refused and can be done without is left out.
    pub fn load_programs(&mut self) -> Vec<(String, Purpose, Result<(), LoadError>)> {
        let mut programs: Vec<_> = self
            .object
            .programs()
            .map(|(name, program)| (name.to_owned(), purpose(program.kind())))
            .collect();
        programs.sort();
        let fates = programs.into_iter().map(|(name, purpose)| {
            let fate = load::program(&mut self.object, &name).map(drop);
            (name, purpose, fate)
        });
        let mut fates: Vec<_> = fates.collect();
        let refused: Vec<String> = fates
            .iter()
            .filter(|(_, _, fate)| fate.is_err())
            .map(|(name, ..)| name.clone())
            .collect();
        fates.retain(|(name, _, fate)| {
            let taken = |name: &str| !refused.iter().any(|refused| refused == name);
            fate.is_ok() || !propagation::is_spare(name, taken)
        });
        fates
    }

    /// Attaches one of the loaded programs to a function of our own, and calls it; the way in which it was attached.
    pub fn attach_to_ourselves(&mut self) -> Result<Uprobes, TrialError> {
        let uprobes = self.object.uprobes();
        let place = Place {
            file_offset: offset_of_landing()?,
            cookie: 0,
        };
        let mut programs = self.object.programs();
        let hook = programs
            .find_map(|(_, program)| program.fd().filter(|_| matches!(program.kind(), Kind::Hook(_))));
        let hook = hook.ok_or(TrialError::Absent {
            what: "program for uprobes",
        })?;
        let ourselves = Scope::Process(std::process::id());
        let link = attach::attach_places(uprobes, hook, Path::new("/proc/self/exe"), &[place], ourselves);
        let link = link.map_err(|source| TrialError::Attach {
            what: "a uprobe to ourselves",
            source,
        })?;
        landing();
        drop(link);
        Ok(uprobes)
    }

    /// Attaches what says that processes start and end.
    pub fn attach_to_scheduler(&mut self) -> Result<(), TrialError> {
        for (name, tracepoint) in PROCESS_PROGRAMS {
            let program = load::program(&mut self.object, name)?;
            let link = bpf::attach_to_tracepoint(program, tracepoint);
            link.map(drop)
                .map_err(|source| TrialError::Attach { what: name, source })?;
        }
        Ok(())
    }

    /// Attaches what enrols new sockets; it stays attached.
    pub fn attach_to_cgroup(&mut self, cgroup: &Path) -> Result<(), TrialError> {
        let cgroup = fs::File::open(cgroup).map_err(|source| TrialError::Io {
            what: "open the cgroup",
            source,
        })?;
        self.links
            .extend(propagation::enrol_new(&mut self.object, &cgroup)?);
        Ok(())
    }

    /// Attaches what inserts headers; it stays attached.
    pub fn attach_to_sockets(&mut self) -> Result<(), TrialError> {
        Ok(propagation::attach_to_sockets(
            &mut self.object,
            "socket_message",
            Sockets::Plain,
        )?)
    }

    /// Asks `FIONREAD` about a socket of our own in the map, and tries the cure if it answers wrongly.
    pub fn fionread(&mut self) -> Result<Fionread, TrialError> {
        if queued_bytes(&mut self.sockets(Sockets::Plain)?)? == QUEUED_BYTES {
            return Ok(Fionread::Right);
        }
        propagation::attach_to_sockets(&mut self.object, "socket_receive", Sockets::WithVerdict)?;
        Ok(match queued_bytes(&mut self.sockets(Sockets::WithVerdict)?)? {
            QUEUED_BYTES => Fionread::Cured,
            bytes => Fionread::Wrong { bytes },
        })
    }

    fn sockets(&mut self, sockets: Sockets) -> Result<SockHash<&mut MapData, u64>, TrialError> {
        sockets.map(&mut self.object).map_err(TrialError::from)
    }
}

/// How many of [`QUEUED_BYTES`] bytes `FIONREAD` sees that wait in a socket of our own which is in `sockets`.
pub fn queued_bytes(sockets: &mut SockHash<&mut MapData, u64>) -> Result<u64, TrialError> {
    let io = |what| move |source| TrialError::Io { what, source };
    let (client, mut server) = pair().map_err(io("connect to ourselves on loopback"))?;
    let cookie = socket_cookie(&client).map_err(|error| io("name a socket of our own")(error.into()))?;
    sockets
        .insert(cookie, client.as_raw_fd(), 0)
        .map_err(TrialError::Enrol)?;
    let asked = (|| {
        server.write_all(&[0; QUEUED_BYTES as usize])?;
        client.set_read_timeout(Some(PATIENCE))?;
        // The bytes have arrived once one of them can be seen.
        client.peek(&mut [0])?;
        Ok(ioctl_fionread(&client)?)
    })();
    sockets.remove(&cookie).map_err(TrialError::Enrol)?;
    asked.map_err(io("talk to ourselves on loopback"))
}

/// Two ends of one connection.
fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    loop {
        let (server, peer) = listener.accept()?;
        // Somebody else may have knocked first.
        if peer == client.local_addr()? {
            return Ok((client, server));
        }
    }
}

fn purpose(kind: Kind) -> Purpose {
    match kind {
        Kind::Hook(_) | Kind::Tracepoint => Purpose::Tracing,
        Kind::Socket(..) => Purpose::Propagation,
    }
}

/// Where the trial's uprobe goes.
#[inline(never)]
extern "C" fn landing() {
    std::hint::black_box(());
}

/// The place of [`landing`] in our executable's file, by way of the mapping it lies in.
fn offset_of_landing() -> Result<u64, TrialError> {
    let maps = fs::read_to_string("/proc/self/maps");
    let maps = maps.map_err(|source| TrialError::Io {
        what: "read our own mappings",
        source,
    })?;
    let address = landing as extern "C" fn() as usize as u64;
    let offset = maps.lines().find_map(|line| file_offset(line, address));
    offset.ok_or(TrialError::Absent {
        what: "mapping of our own code",
    })
}

/// `line` is one of `/proc/self/maps`: `start-end rights offset device inode path`.
fn file_offset(line: &str, address: u64) -> Option<u64> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(end, 16).ok()?;
    let offset = u64::from_str_radix(fields.nth(1)?, 16).ok()?;
    (start..end).contains(&address).then(|| address - start + offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_code_is_found_in_our_own_file() {
        let offset = usize::try_from(offset_of_landing().unwrap()).unwrap();
        let file = fs::read("/proc/self/exe").unwrap();
        let address = landing as extern "C" fn() as *const u8;
        // SAFETY: a function is at least one byte of code; what safe code cannot do is read code.
        let first = unsafe { *address };
        assert_eq!(file[offset], first);
    }

    #[test]
    fn mappings() {
        let line = "55d0c000-55d0e000 r-xp 00001000 fe:00 131 /usr/bin/x";
        assert_eq!(file_offset(line, 0x55d0_c010), Some(0x1010));
        assert_eq!(file_offset(line, 0x55d0_e000), None);
        assert_eq!(file_offset("", 0), None);
    }
}
