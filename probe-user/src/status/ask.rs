//! `skyprobe status`: asks the probe that runs, and shows what it says.

use std::{
    error::Error as _,
    io::{self, IsTerminal as _, Read as _, Write},
    mem,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use super::{FORMAT, Question, Status, process, table};

/// How long a probe may take to answer that is busy.
const TIMEOUT: Duration = Duration::from_secs(15);
/// From one look to the next.
const EACH: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};
/// Longer than any answer: a gigabyte of it is none.
const ANSWER_MAX: u64 = 1 << 30;

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error(
        "no probe answers at {}: start one with `skyprobe run`, or name its socket with --socket",
        .0.display()
    )]
    Nobody(PathBuf),
    #[error("the socket {} is for its probe's user alone: ask as that user, or as root with sudo", .0.display())]
    NotAllowed(PathBuf),
    #[error("the probe at {} does not answer", path.display())]
    Silent { path: PathBuf, source: io::Error },
    #[error("the probe is busy with attaching to a program: ask again")]
    Busy,
    #[error("what answers at {} is no skyprobe", .0.display())]
    Stranger(PathBuf),
    #[error(
        "the probe that runs is of version {theirs} and this program is not: ask it by its own, `/proc/{pid}/exe status`"
    )]
    OtherVersion { theirs: String, pid: u32 },
    #[error("write to stdout")]
    Output(#[from] io::Error),
}

/// Shows the status of the probe at `socket`: once, or each second until nobody reads it. A probe that is watched may end
/// and come again, as in an upgrade. Of a process that is asked about, that alone is shown.
pub fn show(
    socket: &Path,
    question: Question,
    json: bool,
    watch: bool,
    out: &mut dyn Write,
) -> Result<(), AskError> {
    let is_terminal = io::stdout().is_terminal();
    let mut before: Option<Status> = None;
    let mut is_missed = false;
    let mut was_there = false;
    loop {
        let status = match ask(socket, question) {
            Err(error @ (AskError::Nobody(_) | AskError::Silent { .. })) if watch && was_there => {
                before = None;
                if !mem::replace(&mut is_missed, true) {
                    miss(&error, is_terminal && !json, out)?;
                }
                if is_left() {
                    return Ok(());
                }
                continue;
            }
            asked => asked?,
        };
        (was_there, is_missed) = (true, false);
        let text = match question.pid {
            Some(pid) => match answer(&status, pid, json) {
                // It attaches to something; soon it answers.
                Err(AskError::Busy) if watch && was_there => {
                    if is_left() {
                        return Ok(());
                    }
                    continue;
                }
                answer => answer?,
            },
            None if json => as_json(&status)?,
            None => table::text(&status, before.as_ref(), is_terminal),
        };
        if !watch {
            out.write_all(text.as_bytes())?;
            return Ok(out.flush()?);
        }
        if json {
            // A line each, whatever it holds.
            let line: serde_json::Value = serde_json::from_str(&text).map_err(io::Error::from)?;
            writeln!(out, "{line}")?;
        } else if is_terminal {
            redraw(&text, out)?;
        } else {
            writeln!(out, "{text}")?;
        }
        out.flush()?;
        before = Some(status);
        if is_left() {
            return Ok(());
        }
    }
}

/// Says that the probe is gone: on the page, else beside what is read by others.
fn miss(error: &AskError, on_page: bool, out: &mut dyn Write) -> io::Result<()> {
    let text = match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    let text = format!("{text} (waiting for the next)\n");
    if on_page {
        redraw(&text, out)?;
        return out.flush();
    }
    io::stderr().write_all(text.as_bytes())
}

/// Waits for the next look, and says whether who read it has gone in the meantime: with no probe there is nothing to
/// write, by which that would be noticed.
fn is_left() -> bool {
    let stdout = io::stdout();
    // Only what is always told: that the other end is gone.
    let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
    match poll(&mut watched, Some(&EACH)) {
        Ok(ended) => ended > 0,
        // A signal that is no end; the next look is a little early.
        Err(_) => false,
    }
}

fn as_json(told: &impl Serialize) -> Result<String, AskError> {
    let text = serde_json::to_string_pretty(told).map_err(io::Error::from)?;
    Ok(text + "\n")
}

/// What the probe says of one process.
fn answer(status: &Status, pid: u32, json: bool) -> Result<String, AskError> {
    let tracing = status.tracing.as_ref().ok_or(AskError::Busy)?;
    let asked = tracing.asked.as_ref().ok_or_else(|| AskError::OtherVersion {
        theirs: status.version.clone(),
        pid: status.pid,
    })?;
    if json {
        return as_json(asked);
    }
    let target = tracing.targets.iter().find(|target| target.pid == pid);
    Ok(process::text(asked, target))
}

/// Writes over what stands there, from the upper left corner on, and clears the rest: without blinking.
fn redraw(text: &str, out: &mut dyn Write) -> io::Result<()> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
    // A terminal that nobody has told its size says 0.
    let size = size.filter(|size| size.ws_row > 0 && size.ws_col > 0);
    let (rows, columns) = size.map_or((24, 80), |size| (size.ws_row, size.ws_col));
    out.write_all(page(text, rows.into(), columns.into()).as_bytes())
}

/// As much of the text as the terminal holds. Longer lines are cut, since they would push the others out.
fn page(text: &str, rows: usize, columns: usize) -> String {
    let mut page = String::from("\x1b[H");
    let lines: Vec<&str> = text.lines().collect();
    // The last row is for how many more there are.
    let shown = lines.len().min(rows.saturating_sub(1));
    for line in lines.iter().take(shown) {
        page.extend(line.chars().take(columns));
        page.push_str("\x1b[K\n");
    }
    page.push_str("\x1b[J");
    if shown < lines.len() {
        page.push_str(&format!("(lines below: {})", lines.len() - shown));
    }
    page
}

/// What every version says of itself.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Head {
    format: u32,
    version: String,
    pid: u32,
}

fn ask(socket: &Path, question: Question) -> Result<Status, AskError> {
    let path = || socket.to_owned();
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the standard library's enum; the rest is said in the system's words"
    )]
    let mut stream = UnixStream::connect(socket).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => AskError::NotAllowed(path()),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => AskError::Nobody(path()),
        _ => AskError::Silent { path: path(), source },
    })?;
    let silent = |source| AskError::Silent { path: path(), source };
    stream.set_read_timeout(Some(TIMEOUT)).map_err(silent)?;
    let mut line = serde_json::to_vec(&question).map_err(|error| silent(error.into()))?;
    line.push(b'\n');
    // A probe that is about to end does not read it, and neither does an older one.
    let _not_asked = stream.write_all(&line);
    let mut text = Vec::new();
    let read = stream.take(ANSWER_MAX).read_to_end(&mut text);
    read.map_err(silent)?;
    if text.is_empty() {
        // It was about to end.
        return Err(AskError::Nobody(path()));
    }
    read_answer(&text).ok_or_else(|| AskError::Stranger(path()))?
}

/// Nothing if it is not an answer at all.
fn read_answer(text: &[u8]) -> Option<Result<Status, AskError>> {
    let head: Head = serde_json::from_slice(text).ok()?;
    if head.format == FORMAT {
        return serde_json::from_slice(text).ok().map(Ok);
    }
    let is_ours = head.format > 0 && !head.version.is_empty();
    is_ours.then_some(Err(AskError::OtherVersion {
        theirs: head.version,
        pid: head.pid,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Option<Result<u32, String>> {
        let read = read_answer(text.as_bytes())?;
        Some(read.map(|status| status.pid).map_err(|error| error.to_string()))
    }

    #[test]
    fn answers_of_this_version_others_and_strangers() {
        assert_eq!(answer(r#"{"format":1,"pid":7,"new":[1]}"#), Some(Ok(7)));
        let other = answer(r#"{"format":9,"version":"2.0","pid":7,"spans":"many"}"#);
        assert_eq!(
            other,
            Some(Err(
                "the probe that runs is of version 2.0 and this program is not: ask it by its own, \
                 `/proc/7/exe status`"
                    .to_owned()
            ))
        );
        assert_eq!(answer("HTTP/1.1 400 Bad Request"), None);
        assert_eq!(answer("{}"), None);
        assert_eq!(answer(""), None);
    }

    #[test]
    fn a_page_is_no_larger_than_its_terminal() {
        assert_eq!(page("one\ntwo\n", 3, 80), "\x1b[Hone\x1b[K\ntwo\x1b[K\n\x1b[J");
        assert_eq!(
            page("one\ntwo\nthree\n", 3, 2),
            "\x1b[Hon\x1b[K\ntw\x1b[K\n\x1b[J(lines below: 1)"
        );
    }

    #[test]
    fn where_nobody_answers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("probe.sock");
        let error = ask(&path, Question::default()).unwrap_err().to_string();
        assert!(
            error.contains("no probe answers") && error.contains("--socket"),
            "{error}"
        );
        // What a probe leaves behind that was killed.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert_eq!(ask(&path, Question::default()).unwrap_err().to_string(), error);
    }
}
