//! A target's open client sockets go into the socket map: connections older than the probe.

use std::{
    collections::HashSet,
    fs, io,
    net::SocketAddr,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::PathBuf,
};

use aya::maps::{MapData, SockHash};
use rustix::{
    net::{AddressFamily, SocketType, getpeername, getsockname, sockopt},
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use crate::discover::process::{Listeners, Process};

/// What became of a process's sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enrolled {
    /// Client connections that are in the map now.
    pub sockets: usize,
    /// Client connections that the kernel would not take: another owner has them, say.
    pub refused: usize,
}

/// A TCP connection that a process has opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// Requests on it get headers.
    pub is_enrolled: bool,
}

/// A connection, and what the map knows it by.
struct Client {
    socket: OwnedFd,
    cookie: u64,
    local: SocketAddr,
    peer: SocketAddr,
}

/// Enrols the TCP connections that `process` has opened.
pub(super) fn enrol(map: &mut SockHash<&mut MapData, u64>, process: &Process) -> io::Result<Enrolled> {
    let mut enrolled = Enrolled::default();
    let mut ours = None;
    clients(process, |client| {
        let is_in = match map.insert(client.cookie, client.socket.as_raw_fd(), 0) {
            Ok(()) => true,
            // The kernel takes no socket twice. Who was let go and is traced again has left his here.
            Err(_) => ours.get_or_insert_with(|| cookies(map)).contains(&client.cookie),
        };
        if is_in {
            enrolled.sockets += 1;
        } else {
            enrolled.refused += 1;
        }
    })?;
    Ok(enrolled)
}

/// The sockets in the map.
pub(super) fn cookies(map: &SockHash<&mut MapData, u64>) -> HashSet<u64> {
    map.keys().filter_map(Result::ok).collect()
}

/// The connections that the process has opened, by what is `enrolled`.
pub(super) fn connections(process: &Process, enrolled: &HashSet<u64>) -> io::Result<Vec<Connection>> {
    let mut all = Vec::new();
    clients(process, |client| {
        all.push(Connection {
            local: client.local,
            peer: client.peer,
            is_enrolled: enrolled.contains(&client.cookie),
        });
    })?;
    Ok(all)
}

/// Hands over the TCP connections that `process` has opened, one by one. Those it has accepted are left alone: their
/// local port is one that it listens on.
fn clients(process: &Process, mut each: impl FnMut(Client)) -> io::Result<()> {
    let pid = i32::try_from(process.pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(io::ErrorKind::InvalidInput)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let listening = Listeners::default().ports_of(process);
    for entry in fs::read_dir(PathBuf::from(format!("/proc/{}/fd", process.pid)))? {
        let Ok(entry) = entry else { continue };
        let is_socket = fs::read_link(entry.path()).is_ok_and(|target| {
            target
                .to_str()
                .is_some_and(|target| target.starts_with("socket:"))
        });
        let Some(fd) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        if !is_socket {
            continue;
        }
        // The descriptor may have been closed or reused since; what comes is what is looked at.
        let Ok(socket) = pidfd_getfd(&pidfd, fd, PidfdGetfdFlags::empty()) else {
            continue;
        };
        let Some((local, peer)) = connected(&socket) else {
            continue;
        };
        if listening.contains(&local.port()) {
            continue;
        }
        let Ok(cookie) = sockopt::socket_cookie(&socket) else {
            continue;
        };
        each(Client {
            socket,
            cookie,
            local,
            peer,
        });
    }
    Ok(())
}

/// Both ends, if it is a TCP connection.
fn connected(socket: &OwnedFd) -> Option<(SocketAddr, SocketAddr)> {
    let socket = socket.as_fd();
    let is_tcp = sockopt::socket_type(socket).is_ok_and(|kind| kind == SocketType::STREAM)
        && sockopt::socket_domain(socket)
            .is_ok_and(|domain| domain == AddressFamily::INET || domain == AddressFamily::INET6);
    if !is_tcp {
        return None;
    }
    let local = getsockname(socket).ok()?.try_into().ok()?;
    let peer = getpeername(socket).ok()??.try_into().ok()?;
    Some((local, peer))
}
