//! Puts method `socket` to work on this kernel, or says why it cannot.

use std::{fs::File, path::PathBuf};

use aya::{
    Ebpf,
    maps::{MapData, ProgramArray, SockHash},
    programs::{CgroupAttachMode, SkMsg, SkSkb, SockOps},
};

use super::{
    feature::{Cgroup, trial},
    load::{self, LoadError},
};
use crate::instrument::Site;

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
    /// Sockets of programs that may ask `FIONREAD` belong into [`Sockets::WithVerdict`].
    pub receive_verdict: bool,
}

/// The maps of enrolled sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sockets {
    Plain,
    /// What these receive passes through a verdict that lets all pass, which is what `FIONREAD` needs on some kernels.
    WithVerdict,
}

// === impl Sockets ===

impl Sockets {
    const ALL: [Self; 2] = [Self::Plain, Self::WithVerdict];

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "CLIENT_SOCKETS",
            Self::WithVerdict => "CLIENT_SOCKETS_WITH_VERDICT",
        }
    }

    pub(super) fn map(self, ebpf: &mut Ebpf) -> Result<SockHash<&mut MapData, u64>, LoadError> {
        let absent = || LoadError::Absent { what: self.name() };
        let map = ebpf.map_mut(self.name()).ok_or_else(absent)?;
        SockHash::try_from(map).or(Err(absent()))
    }
}

/// What method `socket` is made of for every program that makes calls.
const PROGRAMS: [&str; 2] = ["socket_message", "socket_connect"];
/// What it takes besides for those that write frames of HTTP/2.
const FRAMES: &str = "socket_frames";

/// The programs that `sites` will want, those first that take the verifier longest.
pub(super) fn programs<'a>(mut sites: impl Iterator<Item = &'a Site>) -> impl Iterator<Item = &'static str> {
    let frames = sites.any(|site| site.part.writes_frames()).then_some(FRAMES);
    frames.into_iter().chain(PROGRAMS)
}

/// Loads and attaches the programs of method `socket`. They stay attached as long as `ebpf` lives.
pub(super) fn start(ebpf: &mut Ebpf) -> Result<SocketMethod, PropagationError> {
    for program in PROGRAMS {
        load::program(ebpf, program)?;
    }
    for sockets in Sockets::ALL {
        let failed = |source| attach("socket_message to the socket map", source);
        let map = sockets.map(ebpf)?.fd().try_clone().map_err(failed)?;
        let program: &mut SkMsg = program(ebpf, "socket_message")?;
        let failed = |source| attach("socket_message to the socket map", source);
        program.attach(&map).map_err(failed)?;
    }

    let receive_verdict = queued_bytes(ebpf, Sockets::Plain)? != trial::QUEUED_BYTES;
    if receive_verdict {
        load::program(ebpf, "socket_receive")?;
        let map = Sockets::WithVerdict.map(ebpf)?.fd().try_clone();
        let map = map.map_err(|source| attach("socket_receive to the socket map", source))?;
        let program: &mut SkSkb = program(ebpf, "socket_receive")?;
        program
            .attach(&map)
            .map_err(|source| attach("socket_receive to the socket map", source))?;
        let bytes = queued_bytes(ebpf, Sockets::WithVerdict)?;
        if bytes != trial::QUEUED_BYTES {
            return Err(PropagationError::Fionread { bytes });
        }
    }

    // Last, so that no socket is enrolled by a method that is then found wanting.
    let path = Cgroup::find().ok_or(PropagationError::NoCgroup)?.path;
    let cgroup = File::open(&path).map_err(|source| PropagationError::Cgroup { path, source })?;
    let program: &mut SockOps = program(ebpf, "socket_connect")?;
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

/// Has requests in frames of HTTP/2 propagated as well: `socket_message` and `socket_frames` call the latter by the
/// map `FRAME_PROGRAMS`. Once is enough, and more does no harm.
pub(super) fn start_frames(ebpf: &mut Ebpf) -> Result<(), PropagationError> {
    const WHAT: &str = "FRAME_PROGRAMS";
    load::program(ebpf, FRAMES)?;
    let frames: &mut SkMsg = program(ebpf, FRAMES)?;
    let frames = frames.fd().and_then(|fd| Ok(fd.try_clone()?));
    let frames = frames.map_err(|source| attach("socket_frames to the map of programs", source))?;
    let map = ebpf.map_mut(WHAT).ok_or(LoadError::Absent { what: WHAT })?;
    let mut map = ProgramArray::try_from(map).or(Err(LoadError::Absent { what: WHAT }))?;
    map.set(0, &frames, 0)
        .map_err(|source| attach("socket_frames to the map of programs", source))
}

fn queued_bytes(ebpf: &mut Ebpf, sockets: Sockets) -> Result<u64, PropagationError> {
    trial::queued_bytes(&mut sockets.map(ebpf)?).map_err(|source| attach("a socket of our own", source))
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
