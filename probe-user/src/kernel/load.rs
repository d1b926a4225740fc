//! The object becomes loaded programs.

use aya::{Ebpf, EbpfLoader, VerifierLogLevel, programs::ProgramError};
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
    #[error("the kernel object holds no {what}: it was built as a stub (SKYPROBE_BPF_SKIP=1), build it anew")]
    Absent { what: &'static str },
}

/// Creates the maps and hands the programs to the verifier one by one.
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

/// Has one program verified.
pub fn program(ebpf: &mut Ebpf, name: &str) -> Result<(), LoadError> {
    let program = ebpf.program_mut(name).ok_or(LoadError::Absent {
        what: "program of this name",
    })?;
    let failed = |source| LoadError::Program {
        program: name.to_owned(),
        source: Box::new(source),
    };
    use aya::programs::Program;
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "aya's enum; ours has these kinds of programs"
    )]
    match program {
        Program::UProbe(program) => program.load(),
        Program::RawTracePoint(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::SkMsg(program) => program.load(),
        Program::SkSkb(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
    .inspect_err(|error| debug!(%name, %error, "Program refused by the kernel"))
    .map_err(failed)
}
