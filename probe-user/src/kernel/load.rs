//! The object becomes loaded programs.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::{Mutex, PoisonError},
    thread,
};

use tracing::debug;

use super::{
    bpf::{self, Refused},
    object::{Object, Program, Uprobes},
};

/// The kernel programs, as `build.rs` left them.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/probe"));

/// The same programs with messages for whoever debugs them.
#[cfg(feature = "kernel-log")]
pub static LOGGING_OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/probe-kernel-log"));

/// Why the object, or one program of it, is not in the kernel.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("load the kernel object: its maps were refused")]
    Object(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("load the kernel program {program}")]
    Program {
        program: String,
        #[source]
        source: Refused,
    },
    #[error("attach the kernel program {program} to its tracepoint")]
    Tracepoint {
        program: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the kernel's table {what} takes no more entries")]
    Full { what: &'static str },
    #[error("map the ring buffer")]
    Ring(#[source] io::Error),
    #[error("the kernel object holds no {what}: it was built as a stub (SKYPROBE_BPF_SKIP=1), build it anew")]
    Absent { what: &'static str },
}

/// Creates the maps. The programs are left to whoever wants them.
pub fn object() -> Result<Object, LoadError> {
    from(OBJECT)
}

/// The same from the bytes of one of our objects.
pub fn from(object: &[u8]) -> Result<Object, LoadError> {
    Object::load(object, uprobes())
}

/// The better way to attach uprobes that this kernel has.
pub fn uprobes() -> Uprobes {
    if bpf::can_attach_to_places() {
        Uprobes::ByTheMany
    } else {
        Uprobes::OneByOne
    }
}

/// Has one program verified, if it is not loaded already; its descriptor.
pub fn program<'a>(object: &'a mut Object, name: &str) -> Result<BorrowedFd<'a>, LoadError> {
    let program = object.program_mut(name).ok_or(LoadError::Absent {
        what: "program of this name",
    })?;
    verify(name, program).map_err(|source| LoadError::Program {
        program: name.to_owned(),
        source,
    })
}

/// Has programs verified on all processors at once: the start waits for little else. One that is refused is refused
/// again, with its reason, to whoever asks for it by [`program`].
pub(super) fn ahead(object: &mut Object, names: &[&str]) {
    let mut wanted: Vec<_> = object
        .programs_mut()
        .filter_map(|(name, program)| {
            let place = names.iter().position(|wanted| *wanted == name)?;
            program.fd().is_none().then(|| (place, name.to_owned(), program))
        })
        .collect();
    // Taken from the end, so that the first named is begun first.
    wanted.sort_by_key(|(place, ..)| std::cmp::Reverse(*place));
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let others = workers.min(wanted.len()).saturating_sub(1);
    let wanted = Mutex::new(wanted);
    let next = || wanted.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let work = || {
        while let Some((_, name, program)) = next() {
            let _asked_again = verify(&name, program);
        }
    };
    thread::scope(|scope| {
        for _ in 0..others {
            // One less does the same.
            let _ = thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
}

fn verify<'a>(name: &str, program: &'a mut Program) -> Result<BorrowedFd<'a>, Refused> {
    program
        .load(name)
        .inspect_err(|error| debug!(%name, %error, "Program refused by the kernel"))
}
