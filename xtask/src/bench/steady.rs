//! HTTP requests at a fixed rate.
//!
//! A request is due when the clock says so, not when the one before it is answered: its time begins there, also if no
//! connection is free and it has to wait here. A server that stalls is seen by all who would have asked meanwhile.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::load::{CONNECTIONS, Latency, Measured};

/// How long answers may take after the last request.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks for `path` so many times a second.
#[expect(clippy::disallowed_methods, reason = "a tool that measures reads a clock")]
pub(super) fn run(address: SocketAddr, path: &str, seconds: u32, rate: f64) -> Result<Measured> {
    wake_in_time();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let mut connections = (0..CONNECTIONS)
        .map(|_| Connection::open(address))
        .collect::<Result<Vec<_>>>()?;
    let mut free: VecDeque<usize> = (0..connections.len()).collect();
    // Few, unless the programs are at their end: only these are worth a look.
    let mut busy: Vec<usize> = Vec::new();
    let all = (rate * f64::from(seconds)) as u64;
    let begin = Instant::now();
    let due = |number: u64| begin + Duration::from_secs_f64(number as f64 / rate);
    let (mut sent, mut errors) = (0, 0);
    let mut times = Vec::with_capacity(usize::try_from(all).unwrap_or(0));
    let end = due(all) + PATIENCE;
    let mut ready = Vec::new();
    while (times.len() as u64) < all {
        let mut now = Instant::now();
        while sent < all && due(sent) <= now {
            let Some(index) = free.pop_front() else { break };
            let connection = connections.get_mut(index).context("a free connection")?;
            connection.ask(request.as_bytes(), due(sent))?;
            busy.push(index);
            sent += 1;
            now = Instant::now();
        }
        if now >= end {
            break;
        }
        // Nobody can be asked before a connection is free, nor before the next request is due.
        let next = if sent < all && !free.is_empty() {
            due(sent)
        } else {
            end
        };
        wait(
            &connections,
            &busy,
            next.saturating_duration_since(now),
            &mut ready,
        )?;
        for (place, index) in ready.drain(..).rev() {
            let connection = connections.get_mut(index).context("a connection")?;
            if let Some(success) = connection.read()? {
                times.push(connection.due.elapsed());
                errors += u64::from(!success);
                // From the end, so that the places before it stay.
                busy.swap_remove(place);
                free.push_back(index);
            }
        }
    }
    // Their times are at least these, and would be missed most of all.
    let answered = times.len() as u64;
    let now = Instant::now();
    times.extend((answered..all).map(|number| now.saturating_duration_since(due(number))));
    Ok(Measured {
        requests_per_s: answered as f64 / begin.elapsed().as_secs_f64(),
        requests: answered,
        errors: errors + (all - answered),
        latency: Some(Latency::of(times)),
        cpu_s: 0.0,
    })
}

/// The kernel may be 50 µs late otherwise, with each request.
fn wake_in_time() {
    // SAFETY: a plain system call about the calling thread.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000) };
}

/// Waits until one of the busy connections has something to read; puts which have, and where they stand among the busy.
fn wait(
    connections: &[Connection],
    busy: &[usize],
    longest: Duration,
    ready: &mut Vec<(usize, usize)>,
) -> Result<()> {
    let streams = busy.iter().filter_map(|index| connections.get(*index));
    let mut fds: Vec<_> = streams
        .map(|connection| PollFd::new(&connection.stream, PollFlags::IN))
        .collect();
    let longest = Timespec {
        tv_sec: i64::try_from(longest.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(longest.subsec_nanos()),
    };
    match poll(&mut fds, Some(&longest)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error).context("wait for answers"),
    }
    let places = fds.iter().zip(busy).enumerate();
    ready.extend(
        places.filter_map(|(place, (fd, index))| (!fd.revents().is_empty()).then_some((place, *index))),
    );
    Ok(())
}

/// A connection that is free, or has one request under way.
struct Connection {
    stream: TcpStream,
    due: Instant,
    /// What has come of the answer.
    answer: Vec<u8>,
}

impl Connection {
    #[expect(clippy::disallowed_methods, reason = "a tool that measures reads a clock")]
    fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            due: Instant::now(),
            answer: Vec::new(),
        })
    }

    fn ask(&mut self, request: &[u8], due: Instant) -> Result<()> {
        self.due = due;
        self.answer.clear();
        self.stream.write_all(request).context("send a request")
    }

    /// Whether the answer is a success, once it is whole.
    fn read(&mut self) -> Result<Option<bool>> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => bail!("the program has closed a connection"),
            Ok(length) => {
                self.answer
                    .extend_from_slice(buffer.get(..length).unwrap_or_default());
                Ok(whole(&self.answer)?.then(|| self.answer.starts_with(b"HTTP/1.1 200 ")))
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(error).context("read an answer"),
        }
    }
}

/// Whether these bytes are all of an answer that tells its length.
fn whole(answer: &[u8]) -> Result<bool> {
    const LENGTH: &[u8] = b"content-length:";
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        ensure!(answer.len() < 64 * 1024, "an answer's head has no end");
        return Ok(false);
    };
    let head = answer.get(..end).unwrap_or_default();
    let length: usize = head
        .split(|byte| *byte == b'\n')
        .find_map(|line| {
            let (name, value) = line.split_at_checked(LENGTH.len())?;
            name.eq_ignore_ascii_case(LENGTH).then_some(value)
        })
        .and_then(|length| str::from_utf8(length).ok()?.trim().parse().ok())
        .context("an answer that does not tell its length")?;
    Ok(answer.len() >= end + 4 + length)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    #[test]
    fn an_answer_is_whole_with_its_last_byte() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        for length in 0..answer.len() {
            assert!(
                !whole(&answer[..length]).expect("an answer's beginning"),
                "{length}"
            );
        }
        assert!(whole(answer).expect("an answer"));
        assert!(whole(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    /// A server that stalls once for 100 ms has asked for 100 ms of everybody's time, not of one request's.
    #[test]
    fn a_stall_is_seen_by_all_who_would_have_asked_meanwhile() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || {
            let mut streams: Vec<_> = (0..CONNECTIONS)
                .map(|_| listener.accept().expect("accept").0)
                .collect();
            for stream in &streams {
                stream.set_nonblocking(true).expect("a setting");
            }
            let mut answered = 0;
            loop {
                for stream in &mut streams {
                    let mut request = [0; 512];
                    match stream.read(&mut request) {
                        Ok(0) => return,
                        Ok(_) => {
                            answered += 1;
                            if answered == 200 {
                                thread::sleep(Duration::from_millis(100));
                            }
                            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                        }
                        Err(_) => {}
                    }
                }
                thread::sleep(Duration::from_micros(200));
            }
        });
        let measured = run(address, "/", 1, 1000.0).expect("measured");
        assert_eq!((measured.requests, measured.errors), (1000, 0));
        let latency = measured.latency.expect("times");
        // A tenth of a second's requests came into the stall: some 100 of 1,000, whose times are spread evenly.
        assert!(latency.p99_ms > 60.0, "{latency:?}");
        assert!(latency.p50_ms < 60.0, "{latency:?}");
    }
}
