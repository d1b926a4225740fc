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

/// Enrols the TCP connections that `process` has opened. Those it has accepted are left alone: their local port is
/// one that it listens on.
pub(super) fn enrol(map: &mut SockHash<&mut MapData, u64>, process: &Process) -> io::Result<Enrolled> {
    let pid = i32::try_from(process.pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(io::ErrorKind::InvalidInput)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let listening = Listeners::default().ports_of(process);
    let mut enrolled = Enrolled::default();
    let mut ours = None;
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
        if !is_client_connection(&socket, |port| listening.contains(&port)) {
            continue;
        }
        let Ok(cookie) = sockopt::socket_cookie(&socket) else {
            continue;
        };
        let is_in = match map.insert(cookie, socket.as_raw_fd(), 0) {
            Ok(()) => true,
            // The kernel takes no socket twice. Who was let go and is traced again has left his here.
            Err(_) => ours
                .get_or_insert_with(|| map.keys().filter_map(Result::ok).collect::<HashSet<u64>>())
                .contains(&cookie),
        };
        if is_in {
            enrolled.sockets += 1;
        } else {
            enrolled.refused += 1;
        }
    }
    Ok(enrolled)
}

fn is_client_connection(socket: &OwnedFd, is_listening: impl Fn(u16) -> bool) -> bool {
    let socket = socket.as_fd();
    let is_tcp = sockopt::socket_type(socket).is_ok_and(|kind| kind == SocketType::STREAM)
        && sockopt::socket_domain(socket)
            .is_ok_and(|domain| domain == AddressFamily::INET || domain == AddressFamily::INET6);
    let local: Option<SocketAddr> = getsockname(socket)
        .ok()
        .and_then(|address| address.try_into().ok());
    let is_connected = getpeername(socket).is_ok();
    is_tcp && is_connected && local.is_some_and(|local| !is_listening(local.port()))
}
