//! Puts method `socket` to work on this kernel, or says why it cannot.

use std::{fs::File, path::PathBuf};

use aya::{
    Ebpf,
    maps::SockHash,
    programs::{CgroupAttachMode, SkMsg, SkSkb, SockOps},
};

use super::{
    feature::{Cgroup, trial},
    load::{self, LoadError},
};

/// Why no header can be inserted. Spans still come.
#[derive(Debug, thiserror::Error)]
pub enum PropagationError {
    #[error("no cgroup v2 hierarchy is mounted, and new connections are seen there")]
    NoCgroup,
    #[error("open the cgroup {}", path.display())]
    Cgroup {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{0}")]
    Load(#[from] LoadError),
    #[error("attach {what}")]
    Attach {
        what: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(
        "on this kernel FIONREAD answers {bytes} bytes wrongly for a socket in a map, and the cure does not help"
    )]
    Fionread { bytes: u64 },
}

/// What method `socket` needed on this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketMethod {
    /// The no-op verdict is attached because the kernel's `FIONREAD` needs it.
    pub receive_verdict: bool,
}

/// Loads and attaches the programs of method `socket`. They stay attached as long as `ebpf` lives.
pub(super) fn start(ebpf: &mut Ebpf) -> Result<SocketMethod, PropagationError> {
    for program in ["socket_connect", "socket_message"] {
        load::program(ebpf, program)?;
    }
    let map = sockets(ebpf)?
        .fd()
        .try_clone()
        .map_err(|source| attach("socket_message to the socket map", source))?;
    let program: &mut SkMsg = program(ebpf, "socket_message")?;
    program
        .attach(&map)
        .map_err(|source| attach("socket_message to the socket map", source))?;

    let queued =
        trial::queued_bytes(&mut sockets(ebpf)?).map_err(|source| attach("a socket of our own", source))?;
    let receive_verdict = queued != trial::QUEUED_BYTES;
    if receive_verdict {
        load::program(ebpf, "socket_receive")?;
        let program: &mut SkSkb = self::program(ebpf, "socket_receive")?;
        program
            .attach(&map)
            .map_err(|source| attach("socket_receive to the socket map", source))?;
        let bytes = trial::queued_bytes(&mut sockets(ebpf)?)
            .map_err(|source| attach("a socket of our own", source))?;
        if bytes != trial::QUEUED_BYTES {
            return Err(PropagationError::Fionread { bytes });
        }
    }

    // Last, so that no socket is enrolled by a method that is then found wanting.
    let path = Cgroup::find().ok_or(PropagationError::NoCgroup)?.path;
    let cgroup = File::open(&path).map_err(|source| PropagationError::Cgroup { path, source })?;
    let program: &mut SockOps = self::program(ebpf, "socket_connect")?;
    // A link (kernel 5.7) never keeps others out, and takes no other mode.
    program
        .attach(cgroup, CgroupAttachMode::Single)
        .map_err(|source| attach("socket_connect to the cgroup", source))?;
    Ok(SocketMethod { receive_verdict })
}

fn attach(
    what: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> PropagationError {
    PropagationError::Attach {
        what,
        source: source.into(),
    }
}

/// The map of enrolled sockets.
pub(super) fn sockets(ebpf: &mut Ebpf) -> Result<SockHash<&mut aya::maps::MapData, u64>, LoadError> {
    let map = ebpf.map_mut("CLIENT_SOCKETS").ok_or(LoadError::Absent {
        what: "map CLIENT_SOCKETS",
    })?;
    SockHash::try_from(map).or(Err(LoadError::Absent {
        what: "socket map CLIENT_SOCKETS",
    }))
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, LoadError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program>,
{
    let absent = LoadError::Absent { what: name };
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(absent)
}
