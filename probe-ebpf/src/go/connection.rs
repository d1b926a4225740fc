//! The socket of a `net.Conn`.

use probe_common::{
    field::{GoField, Offsets},
    key::SocketKey,
    target::TargetInfo,
};

use crate::{
    memory::{self, GoInterface, Window},
    scratch::Scratch,
};

/// The connection's socket, if it is a TCP connection of package `net`, or a wrapper that embeds one as its first
/// field, as those have that only count or watch (Prometheus dials so).
///
/// One layer only: a wrapper around a `tls.Conn` must not be looked through, whose first field is a connection too.
#[inline(always)]
pub(crate) fn socket(conn: u64, tgid: u32, offsets: &Offsets, window: &mut Window) -> Option<SocketKey> {
    if let Some(socket) = tcp_socket(conn, tgid, offsets, window) {
        return Some(socket);
    }
    tcp_socket(embedded(conn)?, tgid, offsets, window)
}

/// What the connection has as its first field, if that is a connection.
#[inline(always)]
fn embedded(conn: u64) -> Option<u64> {
    let embedded: GoInterface = memory::read(conn)?;
    Some(embedded.data)
}

/// The socket of a `*net.TCPConn`.
#[inline(always)]
fn tcp_socket(conn: u64, tgid: u32, offsets: &Offsets, window: &mut Window) -> Option<SocketKey> {
    let TcpAddresses { local, remote } = addresses(conn, offsets, window)?;
    let port_at = offsets.get(GoField::TcpAddrPort)?;
    let local_port: u64 = memory::read(local + port_at)?;
    let fields = window.fetch(remote, port_at)?;
    let remote_port = fields.word(port_at)?;
    let ip = fields.string(offsets.get(GoField::TcpAddrIp)?)?;
    let remote_address = if ip.len == 16 {
        memory::read(ip.address)?
    } else if ip.len == 4 {
        mapped(memory::read(ip.address)?)
    } else {
        return None;
    };
    Some(SocketKey {
        remote_address,
        tgid,
        local_port: local_port as u16,
        remote_port: remote_port as u16,
    })
}

/// Where a TCP connection's `net.TCPAddr`s are.
struct TcpAddresses {
    local: u64,
    remote: u64,
}

/// Those of a `*net.TCPConn`; of anything else nothing, since no other type has "tcp" in that place.
#[inline(always)]
fn addresses(conn: u64, offsets: &Offsets, window: &mut Window) -> Option<TcpAddresses> {
    // `net.TCPConn` is a `net.conn`, which is a pointer to its `netFD`.
    let fd: u64 = memory::read(conn)?;
    let remote_at = offsets.get(GoField::NetFdRaddr)?;
    let fields = window.fetch(fd, remote_at + 8)?;
    let network = fields.string(offsets.get(GoField::NetFdNet)?)?;
    let name: [u8; 3] = memory::read(network.address)?;
    if network.len < 3 || network.len > 4 || name != *b"tcp" {
        return None;
    }
    let local = fields.interface(offsets.get(GoField::NetFdLaddr)?)?;
    let remote = fields.interface(remote_at)?;
    Some(TcpAddresses {
        local: local.data,
        remote: remote.data,
    })
}

/// Whether it is a TCP connection of package `net` with nothing on it.
#[inline(always)]
pub(crate) fn is_plain(conn: u64, offsets: &Offsets, window: &mut Window) -> bool {
    addresses(conn, offsets, window).is_some()
}

/// Notes in `scratch.connection` the ends of an encrypted connection of the target's: of the TCP connection of package
/// `net` at its bottom, under a `tls.Conn` and what else may lie on it, each of which has what it wraps as its first
/// field.
///
/// By way of the scratch: kernels of 2026 stumble over keys of this size on the stack («verifier bug»).
#[inline(always)]
pub(crate) fn below_tls(
    conn: u64,
    target: &TargetInfo,
    at_client: bool,
    scratch: &mut Scratch,
) -> Option<()> {
    const LAYERS_MAX: u32 = 3;
    let offsets = &target.offsets;
    let mut conn = conn;
    let mut layer = 0;
    while layer < LAYERS_MAX {
        conn = embedded(conn)?;
        if let Some(TcpAddresses { local, remote }) = addresses(conn, offsets, &mut scratch.window) {
            let (client, server) = if at_client {
                (local, remote)
            } else {
                (remote, local)
            };
            let key = &mut scratch.connection;
            key.network = target.network;
            key._pad = 0;
            key.client_port = address(client, offsets, &mut scratch.window, &mut key.client_address)?;
            key.server_port = address(server, offsets, &mut scratch.window, &mut key.server_address)?;
            return Some(());
        }
        layer += 1;
    }
    None
}

/// Reads a `net.TCPAddr`; its port.
#[inline(always)]
fn address(at: u64, offsets: &Offsets, window: &mut Window, to: &mut [u8; 16]) -> Option<u16> {
    let port_at = offsets.get(GoField::TcpAddrPort)?;
    let fields = window.fetch(at, port_at)?;
    let port = fields.word(port_at)?;
    let ip = fields.string(offsets.get(GoField::TcpAddrIp)?)?;
    if ip.len == 16 {
        memory::read_bytes::<16>(ip.address, 16, to.as_mut_ptr())?;
    } else if ip.len == 4 {
        *to = mapped([0; 4]);
        // SAFETY: the last four of sixteen.
        memory::read_bytes::<4>(ip.address, 4, unsafe { to.as_mut_ptr().add(12) })?;
    } else {
        return None;
    }
    Some(port as u16)
}

/// An IPv4 address as IPv6 writes it.
#[inline(always)]
pub(crate) fn mapped(ip: [u8; 4]) -> [u8; 16] {
    [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ip[0], ip[1], ip[2], ip[3],
    ]
}
