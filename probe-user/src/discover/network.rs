//! The network namespace of a process, by the cookie that kernel programs know it by.

use std::{
    fs::{self, File, Metadata},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::MetadataExt as _,
    },
    thread,
};

use rustix::{
    net::{AddressFamily, SocketType, socket},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::process::Process;

/// The cookie of the process's network namespace (kernel 5.14).
pub fn cookie(process: &Process) -> io::Result<u64> {
    let namespace = File::open(format!("/proc/{}/ns/net", process.pid))?;
    // Ours is asked without the right to go elsewhere.
    if same(&namespace.metadata()?, &fs::metadata("/proc/self/ns/net")?) {
        return cookie_here();
    }
    // A thread of its own, for it never comes back from there.
    let asked = thread::Builder::new()
        .name("namespace".to_owned())
        .spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            cookie_here()
        })?;
    asked
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread that asks has panicked")))
}

fn same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// The cookie of the calling thread's namespace, which any socket made in it knows.
fn cookie_here() -> io::Result<u64> {
    let socket = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    let mut cookie = 0_u64;
    let mut length = size_of_val(&cookie) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the number's size.
    #[expect(unsafe_code, reason = "rustix does not know this option")]
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if failed == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_namespace_has_one_cookie() {
        let process = Process::read(std::process::id()).unwrap().unwrap();
        let cookie = cookie(&process).unwrap();
        assert_ne!(cookie, 0);
        assert_eq!(cookie, cookie_here().unwrap());
    }
}
