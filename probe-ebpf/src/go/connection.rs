//! The socket of a `net.Conn`.

use probe_common::{
    field::{GoField, Offsets},
    key::SocketKey,
};

use crate::memory::{self, GoInterface, Window};

/// The connection's socket, if it is a TCP connection of package `net`, or a wrapper that embeds one as its first
/// field, as those have that only count or watch (Prometheus dials so).
///
/// One layer only: a wrapper around a `tls.Conn` must not be looked through, whose first field is a connection too.
#[inline(always)]
pub(crate) fn socket(conn: u64, tgid: u32, offsets: &Offsets, window: &mut Window) -> Option<SocketKey> {
    if let Some(socket) = tcp_socket(conn, tgid, offsets, window) {
        return Some(socket);
    }
    let embedded: GoInterface = memory::read(conn)?;
    tcp_socket(embedded.data, tgid, offsets, window)
}

/// The socket of a `*net.TCPConn`; of anything else nothing, since no other type has "tcp" in that place.
#[inline(always)]
fn tcp_socket(conn: u64, tgid: u32, offsets: &Offsets, window: &mut Window) -> Option<SocketKey> {
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
    let port_at = offsets.get(GoField::TcpAddrPort)?;
    let local_port: u64 = memory::read(local.data + port_at)?;
    let fields = window.fetch(remote.data, port_at)?;
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

/// An IPv4 address as IPv6 writes it.
#[inline(always)]
pub(crate) fn mapped(ip: [u8; 4]) -> [u8; 16] {
    [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ip[0], ip[1], ip[2], ip[3],
    ]
}
