//! HTTP/2 by hand, for peers that do what no implementation lets them do.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::Result;

/// What a client begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// Bytes before a frame's payload.
const HEADER_BYTES: usize = 9;

/// A frame as it is sent; of a length that fits 24 bits.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = length.to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A field as RFC 7541, 6.2.2, has it: without indexing, its name new, nothing in Huffman's code.
pub fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        // The highest bit would say that Huffman's code follows.
        match u8::try_from(text.len()) {
            Ok(short @ ..127) => bytes.push(short),
            _ => {
                bytes.push(127);
                let mut rest = text.len() - 127;
                while rest >= 128 {
                    bytes.push(low(rest) | 128);
                    rest >>= 7;
                }
                bytes.push(low(rest));
            }
        }
        bytes.extend(text);
    }
    bytes
}

/// The lowest seven bits.
fn low(number: usize) -> u8 {
    u8::try_from(number & 127).unwrap_or_default()
}

/// The header block of an answer of gRPC: 200, and its type.
pub fn answer() -> Vec<u8> {
    [
        literal(b":status", b"200"),
        literal(b"content-type", b"application/grpc"),
    ]
    .concat()
}

/// How long a connection waits for a peer that says nothing.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server that answers the first request of each connection with the same bytes, and then waits for the client to go.
#[derive(Debug)]
pub struct Answering {
    address: String,
}

impl Answering {
    /// Listens on a free port. It lives as long as the process.
    pub fn start(bytes: Vec<u8>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let bytes = bytes.clone();
                // Whatever goes wrong is the client's to complain of.
                thread::spawn(move || serve(client, &bytes));
            }
        });
        Ok(Self { address })
    }

    /// `127.0.0.1:1234`
    pub fn host(&self) -> &str {
        &self.address
    }
}

fn serve(mut client: TcpStream, bytes: &[u8]) -> Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.write_all(&[frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, ACK, 0, &[])].concat())?;
    let mut preface = vec![0; PREFACE.len()];
    client.read_exact(&mut preface)?;
    loop {
        let mut header = [0; HEADER_BYTES];
        client.read_exact(&mut header)?;
        let [a, b, c, kind, ..] = header;
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c]))?];
        client.read_exact(&mut payload)?;
        if kind == HEADERS {
            break;
        }
    }
    client.write_all(bytes)?;
    let mut rest = Vec::new();
    client.read_to_end(&mut rest)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_fields_as_the_standards_print_them() {
        assert_eq!(
            frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
            [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8]
        );
        // RFC 7541, C.2.2, has its name indexed: this is the other form.
        assert_eq!(literal(b"a", b"bc"), [0, 1, b'a', 2, b'b', b'c']);
        // C.1.2: 1337 with a prefix of five bits goes on as 154, 10; with seven, the rest is 1210: 186, 9.
        assert_eq!(literal(b"a", &[b'x'; 1337])[3..6], [127, 186, 9]);
    }
}
