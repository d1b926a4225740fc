//! Puts method `socket` to work on this kernel, or says why it cannot.

use std::{
    fs::File,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use aya::maps::{Array, Map, MapData, SockHash};
use aya_obj::generated::bpf_attach_type;
use probe_common::propagation::{SOCKET_LIMIT, SOCKET_QUEUED};
use tracing::warn;

use super::{
    bpf,
    feature::{Cgroup, trial},
    load::{self, LoadError},
    object::{Kind, Object, Program},
    types,
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
    pub(super) const ALL: [Self; 2] = [Self::Plain, Self::WithVerdict];

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "CLIENT_SOCKETS",
            Self::WithVerdict => "CLIENT_SOCKETS_WITH_VERDICT",
        }
    }

    pub(super) fn map(self, object: &mut Object) -> Result<SockHash<&mut MapData, u64>, LoadError> {
        let absent = || LoadError::Absent { what: self.name() };
        let map = object.map_mut(self.name()).ok_or_else(absent)?;
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
fn load_enrolling(object: &mut Object) -> Result<&'static [&'static str], LoadError> {
    let mut refused = None;
    for way in ENROLLING {
        match way
            .iter()
            .try_for_each(|program| load::program(object, program).map(drop))
        {
            Ok(()) => return Ok(way),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(refused.unwrap_or(LoadError::Absent {
        what: "program to enrol sockets",
    }))
}

/// Has sockets enrolled that the processes of the cgroup connect from here on, as long as the links are open.
pub(super) fn enrol_new(object: &mut Object, cgroup: &File) -> Result<Vec<OwnedFd>, PropagationError> {
    let mut links = Vec::new();
    for name in load_enrolling(object)? {
        let (program, attach_type) = socket_program(object, name)?;
        // A link never keeps others out.
        let link = bpf::attach_to_cgroup(program, cgroup.as_fd(), attach_type);
        links.push(link.map_err(|source| attach(name, source))?);
    }
    Ok(links)
}

/// Attaches a program to the sockets of a map. It stays attached as long as that is open.
pub(super) fn attach_to_sockets(
    object: &mut Object,
    name: &'static str,
    sockets: Sockets,
) -> Result<(), PropagationError> {
    let map = sockets.map(object)?.fd().try_clone();
    let map = map.map_err(|source| attach(name, source))?;
    let (program, attach_type) = socket_program(object, name)?;
    bpf::attach_to_sockets(program, map.as_fd(), attach_type).map_err(|source| attach(name, source))
}

/// Loads and attaches the programs of method `socket`. They stay attached as long as `object` lives, and what is to be
/// put among `links`.
pub(super) fn start(object: &mut Object, links: &mut Vec<OwnedFd>) -> Result<SocketMethod, PropagationError> {
    tell_fields(object)?;
    load_enrolling(object)?;
    for sockets in Sockets::ALL {
        attach_to_sockets(object, "socket_message", sockets)?;
    }

    let receive_verdict = queued_bytes(object, Sockets::Plain)? != trial::QUEUED_BYTES;
    if receive_verdict {
        attach_to_sockets(object, "socket_receive", Sockets::WithVerdict)?;
        let bytes = queued_bytes(object, Sockets::WithVerdict)?;
        if bytes != trial::QUEUED_BYTES {
            return Err(PropagationError::Fionread { bytes });
        }
    }

    // Last, so that no socket is enrolled by a method that is then found wanting.
    let path = Cgroup::find().ok_or(PropagationError::NoCgroup)?.path;
    let cgroup = File::open(&path).map_err(|source| PropagationError::Cgroup { path, source })?;
    links.extend(enrol_new(object, &cgroup)?);
    Ok(SocketMethod { receive_verdict })
}

/// Tells the programs where the kernel keeps how full a socket is.
fn tell_fields(object: &mut Object) -> Result<(), PropagationError> {
    const WHAT: &str = "SOCKET_FIELDS";
    let absent = || LoadError::Absent { what: WHAT };
    let map = object.map_mut(WHAT).ok_or_else(absent)?;
    let mut map: Array<_, u32> = Array::try_from(map).or(Err(absent()))?;
    let Some([queued, limit]) = types::fields("sock", ["sk_wmem_queued", "sk_sndbuf"]) else {
        warn!(
            "The kernel does not tell its types (/sys/kernel/btf/vmlinux), so it is not known how full a socket is: \
             requests by HTTP/2 and gRPC get no header"
        );
        return Ok(());
    };
    for (field, at) in [(SOCKET_QUEUED, queued), (SOCKET_LIMIT, limit)] {
        map.set(field, at, 0)
            .map_err(|source| attach("how full a socket is", source))?;
    }
    Ok(())
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
pub(super) fn start_frames(object: &mut Object) -> Result<(), PropagationError> {
    const WHAT: &str = "FRAME_PROGRAMS";
    load::program(object, FRAMES)?;
    let (Some(Map::ProgramArray(map)), Some(frames)) =
        (object.map(WHAT), object.program(FRAMES).and_then(Program::fd))
    else {
        return Err(LoadError::Absent { what: WHAT }.into());
    };
    bpf::put_program(map.fd().as_fd(), 0, frames)
        .map_err(|source| attach("socket_frames to the map of programs", source))
}

fn queued_bytes(object: &mut Object, sockets: Sockets) -> Result<u64, PropagationError> {
    trial::queued_bytes(&mut sockets.map(object)?).map_err(|source| attach("a socket of our own", source))
}

/// Loads a program for sockets; its descriptor, and where it is attached.
fn socket_program<'a>(
    object: &'a mut Object,
    name: &'static str,
) -> Result<(BorrowedFd<'a>, bpf_attach_type), LoadError> {
    let absent = LoadError::Absent { what: name };
    let Some(Kind::Socket(_, attach_type)) = object.program(name).map(Program::kind) else {
        return Err(absent);
    };
    Ok((load::program(object, name)?, attach_type))
}
