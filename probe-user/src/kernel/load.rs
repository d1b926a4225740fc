//! The object becomes loaded programs.

use std::{
    io,
    sync::{Mutex, PoisonError},
    thread,
};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    programs::{Program, ProgramError},
};
use tracing::debug;

/// The kernel programs, as `build.rs` left them.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/probe"));

/// The same programs with messages for whoever debugs them.
#[cfg(feature = "kernel-log")]
pub static LOGGING_OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/probe-kernel-log"));

/// Why the object, or one program of it, is not in the kernel.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("load the kernel object: its maps were refused")]
    Object(#[source] Box<aya::EbpfError>),
    #[error("load the kernel program {program}")]
    Program {
        program: String,
        #[source]
        source: Box<ProgramError>,
    },
    #[error("the kernel's table {what} takes no more entries")]
    Full { what: &'static str },
    #[error("map the ring buffer")]
    Ring(#[source] io::Error),
    #[error("the kernel object holds no {what}: it was built as a stub (SKYPROBE_BPF_SKIP=1), build it anew")]
    Absent { what: &'static str },
}

/// Creates the maps. The programs are left to whoever wants them.
pub fn object() -> Result<Ebpf, LoadError> {
    from(OBJECT)
}

/// The same from the bytes of one of our objects.
pub fn from(object: &[u8]) -> Result<Ebpf, LoadError> {
    EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::STATS)
        .load(object)
        .map_err(|error| LoadError::Object(Box::new(error)))
}

/// Has one program verified; one that is loaded already is left as it is.
pub fn program(ebpf: &mut Ebpf, name: &str) -> Result<(), LoadError> {
    let program = ebpf.program_mut(name).ok_or(LoadError::Absent {
        what: "program of this name",
    })?;
    if is_loaded(program) {
        return Ok(());
    }
    verify(name, program).map_err(|source| LoadError::Program {
        program: name.to_owned(),
        source: Box::new(source),
    })
}

/// Has programs verified on all processors at once: the start waits for little else. One that is refused is refused
/// again, with its reason, to whoever asks for it by [`program`].
pub(super) fn ahead(ebpf: &mut Ebpf, names: &[&str]) {
    let mut wanted: Vec<_> = ebpf
        .programs_mut()
        .filter_map(|(name, program)| {
            let place = names.iter().position(|wanted| *wanted == name)?;
            (!is_loaded(program)).then(|| (place, name.to_owned(), program))
        })
        .collect();
    // Taken from the end, so that the first named is begun first.
    wanted.sort_by_key(|(place, ..)| std::cmp::Reverse(*place));
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let wanted = Mutex::new(wanted);
    let next = || wanted.lock().unwrap_or_else(PoisonError::into_inner).pop();
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((_, name, program)) = next() {
                    let _asked_again = verify(&name, program);
                }
            });
        }
    });
}

fn is_loaded(program: &Program) -> bool {
    program.fd().is_ok()
}

fn verify(name: &str, program: &mut Program) -> Result<(), ProgramError> {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "aya's enum; ours has these kinds of programs"
    )]
    match program {
        Program::UProbe(program) => program.load(),
        Program::RawTracePoint(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::SkMsg(program) => program.load(),
        Program::SkSkb(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
    .inspect_err(|error| debug!(%name, %error, "Program refused by the kernel"))
}
