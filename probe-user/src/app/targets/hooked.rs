//! Whether a process has breakpoints where hooks would sit. Two files with names, devices and numbers of their own may
//! be one to the kernel: those of two containers of the same image, that lie on the same layer below.

use std::{fs::File, os::unix::fs::FileExt as _};

use crate::discover::{elf::Architecture, go::GoBinary};

/// What was found in a process's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Breakpoints {
    Everywhere,
    /// At some places: they are being put in, or taken out.
    Somewhere,
    Nowhere,
    /// The memory cannot be read, or is not there yet.
    Unknown,
}

/// Looks at the instructions that lie at these offsets in the program's file.
pub(super) fn look(pid: u32, program: &GoBinary, load_bias: Option<u64>, offsets: &[u64]) -> Breakpoints {
    let Some(bias) = load_bias else {
        return Breakpoints::Unknown;
    };
    let Ok(memory) = File::open(format!("/proc/{pid}/mem")) else {
        return Breakpoints::Unknown;
    };
    let wanted = breakpoint(program.architecture);
    let mut found = 0;
    for offset in offsets {
        let mut bytes = [0; 4];
        let instruction = bytes.get_mut(..wanted.len()).unwrap_or_default();
        let is_read = address(program, *offset)
            .and_then(|address| address.checked_add(bias))
            .is_some_and(|address| memory.read_exact_at(instruction, address).is_ok());
        if !is_read {
            return Breakpoints::Unknown;
        }
        found += usize::from(instruction == wanted);
    }
    match found {
        0 => Breakpoints::Nowhere,
        found if found == offsets.len() => Breakpoints::Everywhere,
        _ => Breakpoints::Somewhere,
    }
}

/// What the kernel writes over an instruction (`UPROBE_SWBP_INSN`).
fn breakpoint(architecture: Architecture) -> &'static [u8] {
    match architecture {
        // int3
        Architecture::Amd64 => &[0xcc],
        // brk #5
        Architecture::Arm64 => &[0xa0, 0x00, 0x20, 0xd4],
    }
}

fn address(program: &GoBinary, file_offset: u64) -> Option<u64> {
    let segments = program.elf().segments.iter();
    segments.filter(|segment| segment.executable).find_map(|segment| {
        let within = file_offset.checked_sub(segment.offset)?;
        (within < segment.file_bytes).then(|| segment.address.checked_add(within))?
    })
}
