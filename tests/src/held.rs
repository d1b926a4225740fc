//! One thread of a program, held still while its others run: what a deadlock looks like from outside.

use std::{fs, io, ptr};

use anyhow::{Context as _, Result, ensure};

/// Goes on when this is dropped, which the thread that made it has to do.
#[derive(Debug)]
pub struct HeldThread {
    tid: libc::pid_t,
}

impl HeldThread {
    /// The thread of this name.
    pub fn of(pid: u32, name: &str) -> Result<Self> {
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))?;
        let tid = tasks
            .filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok())
            .find(|tid: &libc::pid_t| {
                fs::read_to_string(format!("/proc/{pid}/task/{tid}/comm"))
                    .is_ok_and(|comm| comm.trim_end() == name)
            })
            .with_context(|| format!("process {pid} has no thread {name}"))?;
        request(libc::PTRACE_SEIZE, tid)?;
        let held = Self { tid };
        request(libc::PTRACE_INTERRUPT, tid)?;
        // SAFETY: nothing but the number of a thread is handed over.
        let stopped = unsafe { libc::waitpid(tid, ptr::null_mut(), libc::__WALL) };
        ensure!(
            stopped == tid,
            "hold thread {tid}: {}",
            io::Error::last_os_error()
        );
        Ok(held)
    }
}

impl Drop for HeldThread {
    fn drop(&mut self) {
        // One that has ended needs nothing.
        let _ = request(libc::PTRACE_DETACH, self.tid);
    }
}

fn request(request: libc::c_uint, tid: libc::pid_t) -> Result<()> {
    let nothing = ptr::null_mut::<libc::c_void>();
    // SAFETY: these requests take no pointer.
    let done = unsafe { libc::ptrace(request, tid, nothing, nothing) };
    ensure!(
        done == 0,
        "ptrace request {request} of thread {tid}: {}",
        io::Error::last_os_error()
    );
    Ok(())
}
