//! Two networks of our own, joined by a cable: a client's and a server's host on one machine.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsFd as _,
    path::Path,
    process::{self, Command},
};

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use xtask::debian;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    Client,
    Server,
}

/// Gone when dropped.
#[derive(Debug)]
pub struct Networks {
    client: String,
    server: String,
}

impl Networks {
    /// The client's address.
    pub const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 231, 77, 1));
    /// The server's address, and any port.
    pub const SERVER: &str = "10.231.77.2:0";

    pub fn new() -> Result<Self> {
        debian::ensure_program("ip", "iproute2", "make networks of our own")?;
        let networks = Self {
            client: format!("skyprobe-client-{}", process::id()),
            server: format!("skyprobe-server-{}", process::id()),
        };
        let Self { client, server } = &networks;
        for name in [client, server] {
            ip(&["netns", "add", name])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        let cable = [
            "-n", client, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", server,
        ];
        ip(&cable)?;
        for (name, address) in [(client, "10.231.77.1/24"), (server, "10.231.77.2/24")] {
            ip(&["-n", name, "address", "add", address, "dev", "wire"])?;
            ip(&["-n", name, "link", "set", "wire", "up"])?;
        }
        Ok(networks)
    }

    /// What the host's namespace is called.
    pub fn name(&self, host: Host) -> &str {
        match host {
            Host::Client => &self.client,
            Host::Server => &self.server,
        }
    }

    /// Does something on one of the hosts, to which this thread goes for it: what is started there stays there.
    pub fn within<T>(&self, host: Host, run: impl FnOnce() -> Result<T>) -> Result<T> {
        within(Path::new(&format!("/run/netns/{}", self.name(host))), run)
    }
}

/// Does something in the network of a process, as [`Networks::within`].
pub fn within_process<T>(pid: u64, run: impl FnOnce() -> Result<T>) -> Result<T> {
    within(Path::new(&format!("/proc/{pid}/ns/net")), run)
}

fn within<T>(namespace: &Path, run: impl FnOnce() -> Result<T>) -> Result<T> {
    let home = Home(File::open("/proc/thread-self/ns/net").context("open our namespace")?);
    let there = File::open(namespace).with_context(|| format!("open {}", namespace.display()))?;
    go(&there).context("go into the namespace")?;
    let result = run();
    drop(home);
    result
}

/// Where the thread came from. Dropped, it is back there, also after a panic.
struct Home(File);

impl Drop for Home {
    fn drop(&mut self) {
        go(&self.0).expect("a thread may go home");
    }
}

fn go(namespace: &File) -> rustix::io::Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
}

impl Drop for Networks {
    fn drop(&mut self) {
        for name in [&self.client, &self.server] {
            let _never_made = ip(&["netns", "delete", name]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("run ip")?;
    ensure!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
