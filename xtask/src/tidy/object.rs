//! The kernel object: what its programs call, and that each is explained.

use std::fs;

use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SectionKind, SymbolKind};
use probe_user::kernel::load::OBJECT;

use super::expect_none;
use crate::build::root;

/// The number of the helper that writes into a process's memory.
const PROBE_WRITE_USER: i32 = 36;

/// That of the tail call.
const TAIL_CALL: i32 = 12;

/// `BPF_JMP | BPF_CALL`; the source register says of what: 0 is a helper.
const CALL: u8 = 0x85;

/// A 64-bit constant: the only instruction of two slots, the second without an opcode.
const LOAD_CONSTANT: u8 = 0x18;

fn file() -> object::File<'static> {
    object::File::parse(OBJECT)
        .expect("the kernel object is an ELF file: was it built with SKYPROBE_BPF_SKIP=1?")
}

#[test]
fn no_program_writes_into_a_process() {
    let file = file();
    let mut helpers = 0;
    for section in file
        .sections()
        .filter(|section| section.kind() == SectionKind::Text)
    {
        let called = called_helpers(section.data().expect("a section's bytes"));
        helpers += called.len();
        let name = section.name().expect("a section's name");
        assert!(
            !called.contains(&PROBE_WRITE_USER),
            "a program in section {name} calls bpf_probe_write_user"
        );
    }
    assert!(
        helpers > 0,
        "no calls of helpers found: the object is not read as it should be"
    );
}

#[test]
fn programs_at_uprobes_have_a_tail_call() {
    let programs: Vec<Program> = programs()
        .into_iter()
        .filter(|program| program.section.starts_with("uprobe"))
        .collect();
    assert!(!programs.is_empty(), "the object holds no programs at uprobes");
    let without = programs
        .iter()
        .filter(|program| !called_helpers(&program.code).contains(&TAIL_CALL));
    expect_none(
        &without
            .map(|program| {
                format!(
                    "`{}` would have a stack per CPU: see probe-ebpf/src/stack.rs",
                    program.name
                )
            })
            .collect::<Vec<_>>(),
    );
}

#[test]
fn what_nobody_reads_at_run_time_is_left_out() {
    let names: Vec<_> = file()
        .sections()
        .map(|section| section.name().expect("a section's name").to_owned())
        .collect();
    assert!(names.iter().any(|name| name == ".BTF"), "{names:?}");
    let dwarf = names.iter().filter(|name| name.contains(".debug_"));
    expect_none(
        &dwarf
            .map(|name| format!("the kernel object has a section {name}"))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn each_program_is_in_the_page_of_hooks() {
    let page = fs::read_to_string(root().join("docs/hooks.md")).expect("docs/hooks.md");
    let programs = programs();
    assert!(!programs.is_empty(), "the object holds no programs");
    let missing = programs
        .iter()
        .filter(|program| !page.contains(&format!("`{}`", program.name)));
    expect_none(
        &missing
            .map(|program| format!("docs/hooks.md does not name `{}`", program.name))
            .collect::<Vec<_>>(),
    );
}

struct Program {
    name: String,
    section: String,
    code: Vec<u8>,
}

/// Functions in sections of their own kind; what all programs share is in `.text`.
fn programs() -> Vec<Program> {
    let file = file();
    let functions = file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0);
    let own = functions.filter_map(|symbol| {
        let section = file.section_by_index(symbol.section_index()?).ok()?;
        let code = section.data_range(symbol.address(), symbol.size()).ok()??;
        Some(Program {
            name: symbol.name().ok()?.to_owned(),
            section: section.name().ok()?.to_owned(),
            code: code.to_vec(),
        })
    });
    own.filter(|program| program.section != ".text").collect()
}

fn called_helpers(code: &[u8]) -> Vec<i32> {
    let mut helpers = Vec::new();
    let mut instructions = code.chunks_exact(8);
    while let Some(instruction) = instructions.next() {
        match instruction[0] {
            LOAD_CONSTANT => {
                instructions.next();
            }
            CALL if instruction[1] >> 4 == 0 => {
                let number = instruction.last_chunk().expect("an instruction has eight bytes");
                helpers.push(i32::from_le_bytes(*number));
            }
            _ => {}
        }
    }
    helpers
}

#[test]
fn helper_calls_are_told_from_other_calls_and_from_constants() {
    let code = [
        [CALL, 0, 0, 0, 36, 0, 0, 0],
        // A call of a function of ours, and a constant whose second half looks like a call.
        [CALL, 0x10, 0, 0, 7, 0, 0, 0],
        [LOAD_CONSTANT, 0, 0, 0, 1, 0, 0, 0],
        [CALL, 0, 0, 0, 5, 0, 0, 0],
        [CALL, 0, 0, 0, 14, 0, 0, 0],
    ];
    assert_eq!(called_helpers(code.as_flattened()), [36, 14]);
}
