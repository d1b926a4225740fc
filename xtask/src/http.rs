//! The little HTTP that talks to programs on this machine: one request, one answer, closed.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// Longer than any answer of a loaded OAP took.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// A loopback address, with a port that nobody uses right now.
pub fn free_address() -> Result<SocketAddr> {
    let [address] = free_addresses()?;
    Ok(address)
}

/// Several at once, all different.
pub fn free_addresses<const COUNT: usize>() -> Result<[SocketAddr; COUNT]> {
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); COUNT];
    // Each is held until all are there: a port that was given back may be handed out again.
    let mut held = Vec::with_capacity(COUNT);
    for address in &mut addresses {
        let listener = TcpListener::bind(*address).context("look for a free port")?;
        *address = listener.local_addr().context("look for a free port")?;
        held.push(listener);
    }
    Ok(addresses)
}

pub fn get(server: SocketAddr, path: &str) -> Result<Answer> {
    exchange(
        server,
        &format!("GET {path} HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n\r\n"),
    )
    .with_context(|| format!("get http://{server}{path}"))
}

pub fn post_json(server: SocketAddr, path: &str, json: &str) -> Result<Answer> {
    let length = json.len();
    exchange(
        server,
        &format!(
            "POST {path} HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{json}"
        ),
    )
    .with_context(|| format!("post to http://{server}{path}"))
}

fn exchange(server: SocketAddr, request: &str) -> Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    exchange_over(&mut stream, request)
}

/// Sends a request over any connection and reads one answer.
pub fn exchange_over(stream: &mut (impl Read + Write), request: &str) -> Result<Answer> {
    stream.write_all(request.as_bytes())?;
    // Armeria 1.29 answers at once and closes three seconds later: the answer says itself where it ends.
    let mut bytes = Vec::new();
    let mut piece = [0; 16 * 1024];
    while !is_whole(&bytes) {
        let read = stream.read(&mut piece)?;
        if read == 0 {
            break;
        }
        bytes.extend_from_slice(piece.get(..read).unwrap_or_default());
    }
    parse(&bytes)
}

/// Whether it is there to its end; one that does not say where that is ends with the connection.
fn is_whole(bytes: &[u8]) -> bool {
    let Ok((head, body)) = head_and_body(bytes) else {
        return false;
    };
    let length = header(head, "content-length").and_then(|length| length.parse().ok());
    if is_chunked(head) {
        unchunk(body).is_ok()
    } else {
        length.is_some_and(|length: usize| body.len() >= length)
    }
}

fn head_and_body(bytes: &[u8]) -> Result<(&str, &[u8])> {
    let head_end = bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .context("the answer has no end of head")?;
    let (head, rest) = bytes.split_at(head_end);
    let head = std::str::from_utf8(head).context("the head of the answer is not text")?;
    Ok((head, rest.get(4..).unwrap_or_default()))
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn is_chunked(head: &str) -> bool {
    header(head, "transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
}

fn parse(bytes: &[u8]) -> Result<Answer> {
    let (head, body) = head_and_body(bytes)?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .context("the answer has no status")?;
    let body = if is_chunked(head) {
        unchunk(body)?
    } else {
        body.to_vec()
    };
    Ok(Answer {
        status,
        body: String::from_utf8(body).context("the body of the answer is not UTF-8")?,
    })
}

fn unchunk(mut bytes: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line_end = bytes
            .windows(2)
            .position(|window| window == b"\r\n")
            .context("a chunk has no size")?;
        let (size, rest) = bytes.split_at(line_end);
        let size = std::str::from_utf8(size).context("a chunk's size is not text")?;
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).with_context(|| format!("a chunk of size {size:?}"))?;
        if size == 0 {
            return Ok(body);
        }
        let Some(chunk) = rest.get(2..size + 2) else {
            bail!("the answer breaks off within a chunk")
        };
        body.extend_from_slice(chunk);
        bytes = rest
            .get(size + 4..)
            .context("the answer breaks off after a chunk")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_with_and_without_chunks_are_read() {
        let plain = parse(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno").expect("plain");
        assert_eq!(
            plain,
            Answer {
                status: 404,
                body: "no".into()
            }
        );
        let chunked = parse(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1\r\n!\r\n0\r\n\r\n",
        );
        assert_eq!(
            chunked.expect("chunked"),
            Answer {
                status: 200,
                body: "hello!".into()
            }
        );
        assert!(parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel").is_err());
        assert!(parse(b"nonsense").is_err());
    }

    #[test]
    fn a_real_server_is_asked() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let server = listener.local_addr().expect("address");
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).expect("read");
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}")
                .expect("write");
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        assert_eq!(
            post_json(server, "/graphql", "[1]").expect("post"),
            Answer {
                status: 200,
                body: "{}".into()
            }
        );
        let request = serving.join().expect("serve");
        assert!(
            request.starts_with("POST /graphql HTTP/1.1\r\n") && request.ends_with("\r\n\r\n[1]"),
            "{request}"
        );
    }

    #[test]
    fn an_answer_ends_where_it_says() {
        let ends = |answer: &[u8]| (0..=answer.len()).find(|&end| is_whole(&answer[..end]));
        let plain = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno";
        assert_eq!(ends(plain), Some(plain.len()));
        let empty = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(ends(empty), Some(empty.len()));
        // The chunk's own end looks like that of the answer.
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n0\r\n\r\n0\r\n\r\n";
        assert_eq!(ends(chunked), Some(chunked.len() - 2));
        assert_eq!(ends(b"HTTP/1.1 200 OK\r\n\r\nuntil it closes"), None);
    }
}
