//! Puts method `socket` to work on this kernel, or says why it cannot.

use std::{fs::File, path::PathBuf};

use aya::{
    Ebpf,
    maps::{MapData, ProgramArray, SockHash},
    programs::{CgroupAttachMode, CgroupSock, SkMsg, SkSkb, SockOps},
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

/// What method `socket` is made of for every program that makes calls, with the usual way to enrol sockets.
const PROGRAMS: [&str; 2] = ["socket_message", "socket_connect"];
/// The ways to enrol new sockets. Before Linux 6.10 a sockops program cannot ask which process it runs in, and another
/// program has to note it when the socket is made.
const ENROLLING: [&[&str]; 2] = [&["socket_connect"], &["socket_create", "socket_connect_created"]];
/// What it takes besides for those that write frames of HTTP/2.
const FRAMES: &str = "socket_frames";

/// The programs that `sites` will want, those first that take the verifier longest.
pub(super) fn programs<'a>(mut sites: impl Iterator<Item = &'a Site>) -> impl Iterator<Item = &'static str> {
    let frames = sites.any(|site| site.part.writes_frames()).then_some(FRAMES);
    frames.into_iter().chain(PROGRAMS)
}

/// Whether nothing is lost without `program`, for there is another way to do what it does. `taken` says which programs
/// this kernel takes.
pub fn is_spare(program: &str, taken: impl Fn(&str) -> bool) -> bool {
    let mut whole = ENROLLING.iter().filter(|way| way.iter().all(|name| taken(name)));
    ENROLLING.iter().any(|way| way.contains(&program)) && whole.any(|way| !way.contains(&program))
}

/// Loads the programs of the first way to enrol new sockets that this kernel takes.
fn load_enrolling(ebpf: &mut Ebpf) -> Result<&'static [&'static str], LoadError> {
    let mut refused = None;
    for way in ENROLLING {
        match way.iter().try_for_each(|program| load::program(ebpf, program)) {
            Ok(()) => return Ok(way),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(refused.unwrap_or(LoadError::Absent {
        what: "program to enrol sockets",
    }))
}

/// Has sockets enrolled that the processes of the cgroup connect from here on.
pub(super) fn enrol_new(ebpf: &mut Ebpf, cgroup: &File) -> Result<(), PropagationError> {
    for name in load_enrolling(ebpf)? {
        let program = ebpf.program_mut(name).ok_or(LoadError::Absent { what: name })?;
        // A link (kernel 5.7) never keeps others out, and takes no other mode.
        let mode = CgroupAttachMode::Single;
        let attached = match <&mut SockOps>::try_from(&mut *program) {
            Ok(program) => program.attach(cgroup, mode).map(drop),
            Err(_) => <&mut CgroupSock>::try_from(program)
                .and_then(|program| program.attach(cgroup, mode).map(drop)),
        };
        attached.map_err(|source| attach(name, source))?;
    }
    Ok(())
}

/// Loads and attaches the programs of method `socket`. They stay attached as long as `ebpf` lives.
pub(super) fn start(ebpf: &mut Ebpf) -> Result<SocketMethod, PropagationError> {
    load::program(ebpf, "socket_message")?;
    load_enrolling(ebpf)?;
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
    enrol_new(ebpf, &cgroup)?;
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
