//! A program's file, held as it is while hooks are in it.
//!
//! A uprobe belongs to an inode, whatever that holds: the kernel puts the breakpoint into every program that is started
//! from it, and has the instruction run that it once copied from there. A file that is written anew in place (`cp new
//! app`) while hooks are in it would have them at places that mean nothing, and its program would break.
//!
//! A lease prevents that. Who wants to open the file for writing is held up by the kernel until it is given back, and we
//! are told by a signal. While a program runs nobody can write into its file anyway, so only files are asked back that
//! nothing runs any more.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsRawFd as _, RawFd},
    path::{Path, PathBuf},
};

use tracing::debug;

/// The kernel takes a lease away that is not given back in time. Before Linux 6.6 taking out some forty hooks takes four
/// seconds.
const BREAK_TIME_MIN_S: u64 = 15;

/// The file stays open as well: its inode is not given to another one.
#[derive(Debug)]
pub(super) struct Hold {
    file: File,
    is_leased: bool,
}

impl Hold {
    /// Opens the file and takes a lease on it, if its file system and the machine's settings have it.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let leased = lease(file.as_raw_fd());
        match &leased {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::new(
                    error.kind(),
                    "another program has it open for writing",
                ));
            }
            Err(error) => debug!(path = %path.display(), %error, "No lease on the program's file"),
        }
        Ok(Self {
            file,
            is_leased: leased.is_ok(),
        })
    }

    /// Whether nobody can change it without our knowing.
    pub(super) fn is_leased(&self) -> bool {
        self.is_leased
    }

    /// Whether somebody waits for us to give it back, or the kernel has taken it.
    pub(super) fn is_asked_back(&self) -> bool {
        // SAFETY: a number is asked for by the number of a file that we hold open.
        #[expect(unsafe_code, reason = "rustix does not know leases")]
        let kind = unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_GETLEASE) };
        self.is_leased && kind != libc::F_RDLCK
    }

    /// A name of the open file: the program's own may be another file's by now.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

fn lease(file: RawFd) -> io::Result<()> {
    let seconds: u64 = fs::read_to_string("/proc/sys/fs/lease-break-time")?
        .trim()
        .parse()
        .map_err(io::Error::other)?;
    if seconds < BREAK_TIME_MIN_S {
        return Err(io::Error::other(format!(
            "fs.lease-break-time is {seconds} s, and taking hooks out may take {BREAK_TIME_MIN_S}"
        )));
    }
    set(file, libc::F_SETLEASE, libc::F_RDLCK)?;
    // Else the signal would go to this thread, and to nobody once it has ended.
    set(file, libc::F_SETOWN, std::process::id().cast_signed())
}

fn set(file: RawFd, what: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: both commands take a number, and change nothing but the open file that is named.
    #[expect(unsafe_code, reason = "rustix does not know leases")]
    let failed = unsafe { libc::fcntl(file, what, value) };
    if failed == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, thread, time::Duration};

    use super::*;

    #[test]
    fn who_would_write_waits_until_it_is_given_back() {
        // SAFETY: sets how a signal is answered; by default it would end the process.
        unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        fs::write(&path, "old").unwrap();
        let hold = Hold::new(&path).unwrap();
        assert!(hold.is_leased() && !hold.is_asked_back());
        assert_eq!(fs::read(&path).unwrap(), b"old", "readers do not wait");
        let writer = thread::spawn({
            let path = path.clone();
            move || fs::write(path, "new").unwrap()
        });
        while !hold.is_asked_back() {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(fs::read(hold.path()).unwrap(), b"old");
        drop(hold);
        writer.join().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn what_is_being_written_is_not_held() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"half").unwrap();
        let error = Hold::new(file.path()).unwrap_err();
        assert!(error.to_string().contains("open for writing"), "{error}");
    }
}
