//! What went over the wire: a proxy that notes all bytes, and a reader that takes requests apart again.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

/// The bytes of one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    /// From the client to the server.
    pub sent: Vec<u8>,
    /// From the server to the client.
    pub answered: Vec<u8>,
}

/// How a proxy reads.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// All that is there.
    Steady,
    /// A little or a lot, and now and then nothing for a while, so that whoever sends has to wait. Random from this state
    /// on, which is not 0.
    Stalling(u64),
}

impl Pace {
    /// How much to read next, perhaps after a while.
    fn next(&mut self) -> usize {
        let Self::Stalling(state) = self else {
            return usize::MAX;
        };
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        if state.is_multiple_of(64) {
            thread::sleep(Duration::from_millis(*state >> 60));
        }
        match *state >> 32 & 3 {
            0 => 1 + (*state as usize & 0xff),
            1 => 1 + (*state as usize & 0xfff),
            _ => usize::MAX,
        }
    }
}

type Noted = Arc<Mutex<Vec<Exchange>>>;

/// A TCP proxy that changes nothing and notes everything.
#[derive(Debug)]
pub struct Recorder {
    address: String,
    noted: Noted,
    over: Arc<AtomicBool>,
}

impl Recorder {
    /// Listens on a free port and passes each connection on to `upstream`, `127.0.0.1:1234`.
    pub fn start(upstream: &str) -> Result<Self> {
        Self::with_pace(upstream, Pace::Steady)
    }

    /// The same, at a pace.
    pub fn with_pace(upstream: &str, pace: Pace) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let noted = Noted::default();
        let over = Arc::new(AtomicBool::new(false));
        let (shared, ended, upstream) = (Arc::clone(&noted), Arc::clone(&over), upstream.to_owned());
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(far) = TcpStream::connect(&upstream) else {
                    continue;
                };
                let _ = pass(near, far, &shared, pace);
            }
        });
        Ok(Self { address, noted, over })
    }

    /// `127.0.0.1:1234`
    pub fn host(&self) -> &str {
        &self.address
    }

    /// What has been noted since the last time, one entry a connection in the order of their opening. Bytes that
    /// an open connection carries from now on are noted as a connection of their own.
    pub fn take(&self) -> Vec<Exchange> {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted
            .iter_mut()
            .map(std::mem::take)
            .filter(|exchange| *exchange != Exchange::default())
            .collect()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect(&self.address);
    }
}

fn pass(near: TcpStream, far: TcpStream, noted: &Noted, pace: Pace) -> Result<()> {
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let at = {
        let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.push(Exchange::default());
        noted.len() - 1
    };
    let (near_too, far_too) = (near.try_clone()?, far.try_clone()?);
    let (there, back) = (Arc::clone(noted), Arc::clone(noted));
    thread::spawn(move || pump(near, far, &there, at, pace, |exchange| &mut exchange.sent));
    thread::spawn(move || {
        pump(far_too, near_too, &back, at, pace, |exchange| {
            &mut exchange.answered
        })
    });
    Ok(())
}

fn pump(
    mut from: TcpStream,
    mut to: TcpStream,
    noted: &Noted,
    at: usize,
    mut pace: Pace,
    side: impl Fn(&mut Exchange) -> &mut Vec<u8>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let most = pace.next().min(buffer.len());
        let Some(room) = buffer.get_mut(..most) else { break };
        let Ok(size @ 1..) = from.read(room) else { break };
        let Some(bytes) = buffer.get(..size) else { break };
        // First noted, then passed on: whoever has the answer finds the request noted.
        if let Some(exchange) = noted.lock().unwrap_or_else(PoisonError::into_inner).get_mut(at) {
            side(exchange).extend_from_slice(bytes);
        }
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

/// A request as it stood in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Lines with their ends, the request line first, without the empty one.
    pub head: Vec<Vec<u8>>,
    /// With the framing of chunks and with trailers.
    pub body: Vec<u8>,
}

impl Request {
    /// Method and target: `GET /path`.
    pub fn target(&self) -> String {
        let line = self
            .head
            .first()
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .unwrap_or_default();
        line.rsplit_once(' ').map_or("", |(target, _)| target).to_owned()
    }

    /// The path without the query.
    pub fn path(&self) -> String {
        let target = self.target();
        let path = target.split(' ').nth(1).unwrap_or_default();
        path.split('?').next().unwrap_or_default().to_owned()
    }

    /// The values of the header `name`.
    pub fn values(&self, name: &str) -> Vec<String> {
        self.head
            .iter()
            .skip(1)
            .filter(|line| has_name(line, name))
            .map(|line| value(line))
            .collect()
    }

    /// Takes the header lines `name` out and returns their values.
    pub fn take(&mut self, name: &str) -> Vec<String> {
        let values = self.values(name);
        let mut first = true;
        self.head
            .retain(|line| std::mem::take(&mut first) || !has_name(line, name));
        values
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head.concat();
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

fn has_name(line: &[u8], name: &str) -> bool {
    line.split(|&byte| byte == b':')
        .next()
        .is_some_and(|key| key.eq_ignore_ascii_case(name.as_bytes()))
}

fn value(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.split_once(':')
        .map_or("", |(_, value)| value)
        .trim()
        .to_owned()
}

/// Takes a client's stream apart. What follows a request to switch protocols or to tunnel is its body.
pub fn requests(stream: &[u8]) -> Result<Vec<Request>> {
    let mut rest = stream;
    let mut requests = Vec::new();
    while !rest.is_empty() {
        let (request, after) = request(rest)
            .with_context(|| format!("request {} at byte {}", requests.len(), stream.len() - rest.len()))?;
        requests.push(request);
        rest = after;
    }
    Ok(requests)
}

fn request(stream: &[u8]) -> Result<(Request, &[u8])> {
    let mut rest = stream;
    let mut head = Vec::new();
    loop {
        let (line, after) = line(rest)?;
        rest = after;
        if line == b"\r\n" {
            break;
        }
        head.push(line.to_vec());
    }
    let mut request = Request {
        head,
        body: Vec::new(),
    };
    ensure!(
        request.target().contains(' '),
        "no request line: {:?}",
        request.head.first().map(|line| line.escape_ascii().to_string())
    );
    let start = rest;
    if request.target().starts_with("CONNECT ") || !request.values("upgrade").is_empty() {
        rest = &[];
    } else if request.values("transfer-encoding") == ["chunked"] {
        loop {
            let (size, after) = line(rest)?;
            let size = usize::from_str_radix(String::from_utf8_lossy(size).trim_end(), 16)
                .context("size of a chunk")?;
            if size == 0 {
                rest = after;
                break;
            }
            rest = after.get(size + 2..).context("chunk cut off")?;
        }
        // Trailers, up to an empty line.
        loop {
            let (trailer, after) = line(rest)?;
            rest = after;
            if trailer == b"\r\n" {
                break;
            }
        }
    } else if let Some(length) = request.values("content-length").first() {
        rest = rest.get(length.parse()?..).context("body cut off")?;
    }
    request.body = start.get(..start.len() - rest.len()).unwrap_or_default().to_vec();
    Ok((request, rest))
}

/// The first line with its end, and the rest.
fn line(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
        bail!(
            "no end of line in {:?}",
            bytes
                .get(..bytes.len().min(80))
                .unwrap_or_default()
                .escape_ascii()
                .to_string()
        );
    };
    Ok(bytes.split_at(end + 2))
}

/// The fields of an `sw8` header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sw8 {
    pub trace_id: String,
    pub segment_id: String,
    pub span_id: i32,
    pub service: String,
    pub instance: String,
    pub endpoint: String,
    pub peer: String,
}

impl Sw8 {
    /// Reads all eight fields as strictly as the strictest agent.
    pub fn parse(value: &str) -> Result<Self> {
        let fields: Vec<&str> = value.split('-').collect();
        let [
            sample,
            trace_id,
            segment_id,
            span_id,
            service,
            instance,
            endpoint,
            peer,
        ] = fields.as_slice()
        else {
            bail!("{} fields in {value:?}", fields.len());
        };
        ensure!(*sample == "1", "sample {sample:?} in {value:?}");
        let text = |field: &str| {
            let text = base64_text(field).with_context(|| format!("field {field:?} in {value:?}"))?;
            ensure!(!text.is_empty(), "empty field in {value:?}");
            Ok(text)
        };
        Ok(Self {
            trace_id: text(trace_id)?,
            segment_id: text(segment_id)?,
            span_id: span_id.parse().with_context(|| format!("span id in {value:?}"))?,
            service: text(service)?,
            instance: text(instance)?,
            endpoint: text(endpoint)?,
            peer: text(peer)?,
        })
    }
}

impl Sw8 {
    /// The header's value.
    pub fn print(&self) -> String {
        let of = |text: &str| base64_of(text.as_bytes());
        format!(
            "1-{}-{}-{}-{}-{}-{}-{}",
            of(&self.trace_id),
            of(&self.segment_id),
            self.span_id,
            of(&self.service),
            of(&self.instance),
            of(&self.endpoint),
            of(&self.peer)
        )
    }
}

// The tests have a base64 of their own: what the probe writes is not to be checked by the probe's code.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64_of(bytes: &[u8]) -> String {
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte))
            << (8 * (3 - group.len()));
        for at in 0..4 {
            let index = (bits >> (18 - 6 * at)) as usize & 63;
            let character = ALPHABET.get(index).copied().unwrap_or(b'?');
            text.push(if at > group.len() { '=' } else { character.into() });
        }
    }
    text
}

fn base64_text(text: &str) -> Result<String> {
    ensure!(text.len().is_multiple_of(4), "length {}", text.len());
    let unpadded = text.trim_end_matches('=');
    ensure!(text.len() - unpadded.len() <= 2, "padding");
    let mut bytes = Vec::new();
    let (mut bits, mut held) = (0_u32, 0);
    for character in unpadded.bytes() {
        let Some(index) = ALPHABET.iter().position(|&known| known == character) else {
            bail!("character {:?}", char::from(character));
        };
        bits = bits << 6 | u32::try_from(index)?;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff)?);
        }
    }
    Ok(String::from_utf8(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_stream_apart() {
        let stream = b"GET /a?q HTTP/1.1\r\nHost: x\r\nsw8: v\r\n\r\n\
            POST /b HTTP/1.1\r\nContent-Length: 5\r\n\r\nsw8: \
            POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n3\r\n\r\n\r\r\n0\r\nT: 1\r\n\r\n\
            GET /d HTTP/1.1\r\nUpgrade: echo\r\n\r\nGET /e HTTP/1.1\r\n\r\n";
        let all = requests(stream).unwrap();
        let paths: Vec<String> = all.iter().map(Request::path).collect();
        assert_eq!(paths, ["/a", "/b", "/c", "/d"]);
        assert_eq!(all.iter().flat_map(Request::bytes).collect::<Vec<u8>>(), stream);
        let mut first = all[0].clone();
        assert_eq!(first.take("SW8"), ["v"]);
        assert_eq!(first.bytes(), b"GET /a?q HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(all[1].body, b"sw8: ");
        assert!(requests(b"POST /b HTTP/1.1\r\nContent-Length: 5\r\n\r\nsw8").is_err());
    }

    #[test]
    fn sw8_is_read_strictly() {
        let sw8 = Sw8 {
            trace_id: "trace".into(),
            segment_id: "segment id".into(),
            span_id: 3,
            service: "s".into(),
            instance: "in".into(),
            endpoint: "GET:/users/{id}".into(),
            peer: "127.0.0.1:80".into(),
        };
        assert_eq!(base64_of(b"GET:/p"), "R0VUOi9w");
        assert_eq!(base64_of(b"s"), "cw==");
        assert_eq!(Sw8::parse(&sw8.print()).unwrap(), sw8);
        for bad in [
            "",
            "1-cw==-cw==-0-cw==-cw==-cw==",
            "1-cw==-cw==-0-cw==-cw==-cw==-",
            "1-cw==-cw==-x-cw==-cw==-cw==-cw==",
            "1-cw-cw==-0-cw==-cw==-cw==-cw==",
        ] {
            assert!(Sw8::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_recorder_notes_both_directions() {
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        let recorder = Recorder::start(&upstream.local_addr().unwrap().to_string()).unwrap();
        let mut client = TcpStream::connect(recorder.host()).unwrap();
        let (mut server, _) = upstream.accept().unwrap();
        client.write_all(b"ping").unwrap();
        let mut buffer = [0; 4];
        server.read_exact(&mut buffer).unwrap();
        server.write_all(b"pong").unwrap();
        client.read_exact(&mut buffer).unwrap();
        assert_eq!(
            recorder.take(),
            [Exchange {
                sent: b"ping".to_vec(),
                answered: b"pong".to_vec()
            }]
        );
        assert_eq!(recorder.take(), []);
    }
}
