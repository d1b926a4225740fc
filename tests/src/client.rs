//! An HTTP/1 client that sends exactly the bytes it is given.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context as _, Result};

/// No answer of a target takes longer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Status line and headers, without the empty line.
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// A connection that stays open.
#[derive(Debug)]
pub struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    /// `host` is `127.0.0.1:1234`.
    pub fn open(host: &str) -> Result<Self> {
        let stream = TcpStream::connect(host).with_context(|| format!("connect to {host}"))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            reader: BufReader::new(stream),
        })
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.reader.get_mut().write_all(bytes)?)
    }

    /// Sends `GET path`.
    pub fn get(&mut self, path: &str) -> Result<Response> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes())?;
        self.receive()
    }

    /// Reads one answer.
    pub fn receive(&mut self) -> Result<Response> {
        let mut response = self.receive_head()?;
        if matches!(response.status, 100..200 | 204 | 304) {
            return Ok(response);
        }
        if response
            .header("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
        {
            loop {
                let size = usize::from_str_radix(self.line()?.trim_end(), 16).context("size of a chunk")?;
                let mut chunk = vec![0; size];
                self.reader.read_exact(&mut chunk)?;
                self.line()?;
                if size == 0 {
                    return Ok(response);
                }
                response.body.append(&mut chunk);
            }
        }
        match response.header("content-length") {
            Some(length) => {
                response.body = vec![0; length.parse().context("content length")?];
                self.reader.read_exact(&mut response.body)?;
            }
            None => {
                self.reader.read_to_end(&mut response.body)?;
            }
        }
        Ok(response)
    }

    /// Reads status line and headers only.
    pub fn receive_head(&mut self) -> Result<Response> {
        let mut response = Response::default();
        loop {
            let line = self.line()?;
            if line.trim_end().is_empty() {
                break;
            }
            response.head.push_str(&line);
        }
        let status = response.head.split(' ').nth(1).context("no status line")?;
        response.status = status
            .trim()
            .parse()
            .with_context(|| format!("status in {:?}", response.head))?;
        Ok(response)
    }

    /// Reads what the peer sends without any form.
    pub fn read_exact(&mut self, bytes: &mut [u8]) -> Result<()> {
        Ok(self.reader.read_exact(bytes)?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line)?;
        anyhow::ensure!(read > 0, "the connection was closed");
        Ok(line)
    }
}

/// One request on a connection of its own.
pub fn get(host: &str, path: &str) -> Result<Response> {
    let mut connection = Connection::open(host)?;
    connection
        .send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())?;
    connection.receive()
}
