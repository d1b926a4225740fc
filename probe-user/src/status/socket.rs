//! The socket of the running probe: whoever connects is told the status, as one JSON text, and that is all.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixStream as BlockingStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
};
use tracing::debug;

use super::{Question, Status};

/// How long somebody may take to read the answer: others wait meanwhile.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a question may take to come. `nc -U` and the like ask nothing and wait.
const QUESTION_TIMEOUT: Duration = Duration::from_millis(200);
/// Longer than any question.
const QUESTION_MAX: u64 = 1 << 12;

/// Why there is no socket. The probe traces all the same.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("another skyprobe answers at {}", .0.display())]
    Taken(PathBuf),
    #[error("{} is there and is no socket", .0.display())]
    NoSocket(PathBuf),
    #[error("make {}", path.display())]
    Make { path: PathBuf, source: io::Error },
}

/// The listening socket; its file goes with it, and its folder if that was made for it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode.
    file: (u64, u64),
    _folder: Option<Folder>,
}

/// What was made for the socket: folders in `/run` go with a restart of the machine.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    /// Nothing if it is there already, or cannot be, which the socket then tells.
    fn make(path: &Path) -> Option<Self> {
        let made = fs::DirBuilder::new().mode(0o755).create(path);
        made.is_ok().then(|| Self(path.to_owned()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // As long as somebody else has something there, it stays.
        let _ = fs::remove_dir(&self.0);
    }
}

impl Socket {
    /// For its user alone. What a probe has left behind that was killed is replaced.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |source| SocketError::Make {
            path: path.to_owned(),
            source,
        };
        match fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => {
                return Err(SocketError::NoSocket(path.to_owned()));
            }
            Ok(_) if BlockingStream::connect(path).is_ok() => {
                return Err(SocketError::Taken(path.to_owned()));
            }
            Ok(_) | Err(_) => {}
        }
        let folder = path.parent().and_then(Folder::make);
        // Made under another name, so that nobody finds it before its mode is set.
        let mut begun = path.as_os_str().to_owned();
        begun.push(format!(".{}", std::process::id()));
        let begun = PathBuf::from(begun);
        let _left_behind = fs::remove_file(&begun);
        let listener = UnixListener::bind(&begun).map_err(failed)?;
        let made = fs::set_permissions(&begun, fs::Permissions::from_mode(0o600))
            .and_then(|()| fs::metadata(&begun))
            .and_then(|metadata| fs::rename(&begun, path).map(|()| metadata));
        match made {
            Ok(metadata) => Ok(Self {
                listener,
                path: path.to_owned(),
                file: (metadata.dev(), metadata.ino()),
                _folder: folder,
            }),
            Err(source) => {
                let _ = fs::remove_file(&begun);
                Err(failed(source))
            }
        }
    }

    /// Tells everybody who connects, one by one. Never ends; to be dropped when the probe stops.
    pub async fn serve<Answer: Future<Output = Status>>(self, status: impl Fn(Question) -> Answer) {
        loop {
            let mut stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                // Such as no descriptor left: the next one may have more luck.
                Err(error) => {
                    debug!(%error, "Nobody could be let in who asks for the status");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let question = question(&mut stream).await;
            let text = serde_json::to_vec(&status(question).await).unwrap_or_default();
            let told = async {
                stream.write_all(&text).await?;
                stream.write_all(b"\n").await?;
                stream.shutdown().await
            };
            match tokio::time::timeout(READ_TIMEOUT, told).await {
                Ok(Ok(())) => {}
                // It has heard enough, or does not listen.
                Ok(Err(error)) => debug!(%error, "Status not told"),
                Err(_elapsed) => debug!("Status not told: nobody reads it"),
            }
        }
    }
}

/// What somebody asks who has something to ask. Others end their side, or say nothing.
async fn question(stream: &mut UnixStream) -> Question {
    let mut line = Vec::new();
    let mut reader = BufReader::new(stream.take(QUESTION_MAX));
    let read = reader.read_until(b'\n', &mut line);
    let _nothing_came = tokio::time::timeout(QUESTION_TIMEOUT, read).await;
    serde_json::from_slice(&line).unwrap_or_default()
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Another probe may have put its own there since.
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.file);
        if is_ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[tokio::test]
    async fn it_is_for_its_user_and_replaces_only_what_is_dead() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("probe.sock");
        let first = Socket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let error = Socket::bind(&path).unwrap_err();
        assert!(error.to_string().contains("another skyprobe"), "{error}");
        drop(first);
        assert!(!path.exists());

        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "as a probe leaves it that was killed");
        let second = Socket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "somebody's").unwrap();
        assert!(matches!(Socket::bind(&path), Err(SocketError::NoSocket(_))));
        drop(second);
        assert_eq!(fs::read(&path).unwrap(), b"somebody's");
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        let nowhere = folder.path().join("no/where/probe.sock");
        assert!(matches!(Socket::bind(&nowhere), Err(SocketError::Make { .. })));
    }

    #[tokio::test]
    async fn a_folder_that_was_made_for_it_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let made = folder.path().join("skyprobe");
        drop(Socket::bind(&made.join("probe.sock")).unwrap());
        assert!(!made.exists());

        let first = Socket::bind(&made.join("first.sock")).unwrap();
        assert_eq!(fs::metadata(&made).unwrap().mode() & 0o7777, 0o755);
        let second = Socket::bind(&made.join("second.sock")).unwrap();
        drop(first);
        assert!(made.join("second.sock").exists());
        drop(second);
        assert!(made.exists(), "it was not made for the second");
    }

    #[tokio::test]
    async fn each_who_connects_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("probe.sock");
        let socket = Socket::bind(&path).unwrap();
        let ask = {
            let path = path.clone();
            std::thread::spawn(move || {
                // One that goes without having listened, and one that does.
                drop(BlockingStream::connect(&path).unwrap());
                let told = |question: &[u8]| {
                    let mut text = String::new();
                    let mut stream = BlockingStream::connect(&path).unwrap();
                    stream.write_all(question).unwrap();
                    stream.read_to_string(&mut text).unwrap();
                    serde_json::from_str::<Status>(&text).unwrap().pid
                };
                // Without a question, with one, and with words that are none.
                [
                    told(b""),
                    told(b"{\"pid\":12}\n"),
                    told(b"GET / HTTP/1.1\r\n\r\n"),
                ]
            })
        };
        let serve = socket.serve(|question| async move {
            Status {
                pid: question.pid.unwrap_or(7),
                ..Status::default()
            }
        });
        let told = tokio::time::timeout(Duration::from_secs(2), serve).await;
        assert!(told.is_err(), "it never ends");
        assert_eq!(ask.join().unwrap(), [7, 12, 7]);
    }
}
