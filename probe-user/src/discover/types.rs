//! Names of Go types by their addresses in a running process: what tells one error value from another.

use std::{collections::HashMap, fs, io, path::PathBuf, sync::Arc};

use thiserror::Error;

use crate::discover::{
    elf::{Elf, Segment},
    go::{GoBinary, GoVersion, take_varint},
};

/// Names remembered: programs make some dozens of different errors.
const REMEMBERED_MAX: usize = 1024;
/// The longest name that is read.
const NAME_MAX: usize = 512;
/// `abi.Type`, which has the same form in every version from Go 1.19 to 1.27.
const TYPE_BYTES: usize = 48;
const TYPE_FLAGS_AT: usize = 20;
const TYPE_NAME_AT: usize = 40;
/// The name is stored with a star that is not part of it.
const EXTRA_STAR: u8 = 1 << 1;

/// `runtime.moduledata.types`, measured: Go 1.20 put the counters of coverage before it.
pub fn types_field(version: GoVersion) -> Option<u64> {
    match version.minor {
        19 => Some(280),
        20..=27 => Some(296),
        _ => None,
    }
}

/// Reads names from the binary's file, and remembers them.
pub struct TypeNames {
    elf: Arc<Elf>,
    /// Where the offsets of names count from, before the load bias.
    types: u64,
    load_bias: u64,
    remembered: HashMap<u64, Option<String>>,
}

/// Why the load bias of a process is not known.
#[derive(Debug, Error)]
pub enum LoadBiasError {
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("the program's code is not mapped in process {0}")]
    NotMapped(u32),
}

// === impl TypeNames ===

impl TypeNames {
    /// `types` is [`crate::instrument::Plan::types`]; the load bias is what [`load_bias`] says.
    pub fn new(binary: &GoBinary, types: u64, load_bias: u64) -> Self {
        Self {
            elf: binary.share_elf(),
            types,
            load_bias,
            remembered: HashMap::new(),
        }
    }

    /// The type's name as Go prints it, such as `*net.OpError`. `None` if no such type is at the address: it may
    /// have been made at run time.
    pub fn name(&mut self, address: u64) -> Option<String> {
        if let Some(name) = self.remembered.get(&address) {
            return name.clone();
        }
        let name = self.read(address);
        if self.remembered.len() < REMEMBERED_MAX {
            self.remembered.insert(address, name.clone());
        }
        name
    }

    fn read(&self, address: u64) -> Option<String> {
        let address = address.checked_sub(self.load_bias)?;
        if address < self.types {
            return None;
        }
        let mut described = [0; TYPE_BYTES];
        self.elf.read_address(address, &mut described).ok()?;
        let flags = *described.get(TYPE_FLAGS_AT)?;
        let offset = i32::from_le_bytes(*described.get(TYPE_NAME_AT..)?.first_chunk()?);
        let at = self
            .types
            .checked_add(u64::try_from(offset).ok().filter(|offset| *offset > 0)?)?;
        let segment = self.elf.segment(at)?;
        let left = segment.file_bytes - (at - segment.address);
        let mut bytes = vec![0; NAME_MAX.min(usize::try_from(left).ok()?)];
        self.elf.read_address(at, &mut bytes).ok()?;
        // A byte of flags, the length, the name.
        let (length, rest) = take_varint(bytes.get(1..)?)?;
        let name = str::from_utf8(rest.get(..usize::try_from(length).ok()?)?).ok()?;
        let name = if flags & EXTRA_STAR == 0 {
            name
        } else {
            name.strip_prefix('*')?
        };
        let printable = !name.is_empty() && !name.chars().any(char::is_control);
        printable.then(|| name.to_owned())
    }
}

/// What is added to the addresses of the binary in process `pid`: 0 where it is not position independent.
pub fn load_bias(pid: u32, binary: &GoBinary) -> Result<u64, LoadBiasError> {
    if !binary.pie {
        return Ok(0);
    }
    let read = |path: PathBuf| (fs::read_to_string(&path), path);
    let (maps, path) = read(PathBuf::from(format!("/proc/{pid}/maps")));
    let maps = maps.map_err(|source| LoadBiasError::Read { path, source })?;
    let path = PathBuf::from(format!("/proc/{pid}/exe"));
    let program = fs::read_link(&path).map_err(|source| LoadBiasError::Read { path, source })?;
    bias_from_maps(&maps, &program.to_string_lossy(), &binary.elf().segments)
        .ok_or(LoadBiasError::NotMapped(pid))
}

/// The executable's first code mapping tells it: where a segment is, less where its program header puts it.
pub fn bias_from_maps(maps: &str, program: &str, segments: &[Segment]) -> Option<u64> {
    maps.lines().find_map(|line| {
        let mut columns = line.splitn(6, ' ');
        let (range, rights, offset) = (columns.next()?, columns.next()?, columns.next()?);
        let path = columns.nth(2)?.trim_start();
        if !rights.contains('x') || path != program {
            return None;
        }
        let start = u64::from_str_radix(range.split('-').next()?, 16).ok()?;
        let offset = u64::from_str_radix(offset, 16).ok()?;
        // The mapping begins at the page in which the segment begins.
        let segment = segments
            .iter()
            .find(|segment| segment.executable && segment.offset & !0xfff == offset)?;
        start.checked_sub(segment.address & !0xfff)
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader},
        process::{Command, Stdio},
    };

    use super::*;
    use crate::{
        discover::sample::{VARIANTS, build_variant},
        instrument,
    };

    /// Prints the addresses of types and their names, and waits.
    const PROGRAM: &str = r#"package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"syscall"
	"unsafe"
)

type own[T any] struct{ value T }

func show(value any) { fmt.Printf("%x %T\n", *(*uintptr)(unsafe.Pointer(&value)), value) }

func main() {
	show(&net.OpError{})
	show(&net.DNSError{})
	show(&url.Error{})
	show(errors.New("text"))
	show(fmt.Errorf("%w", os.ErrExist))
	show(syscall.ECONNREFUSED)
	show(context.DeadlineExceeded)
	show(own[map[string]int]{})
	show(&own[error]{})
	show(func(int) string { return "" })
	fmt.Println("end")
	os.Stdin.Read(make([]byte, 1))
}
"#;

    #[test]
    fn types_have_the_names_that_go_prints() {
        let directory = tempfile::tempdir().unwrap();
        for variant in VARIANTS {
            let binary = build_variant(directory.path(), PROGRAM, variant);
            let types = instrument::plan(&binary).unwrap().types.unwrap();
            let mut child = Command::new(&binary.path)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let shown: Vec<String> = lines
                .map(Result::unwrap)
                .take_while(|line| line != "end")
                .collect();
            let bias = load_bias(child.id(), &binary).unwrap();
            drop(child.stdin.take());
            child.wait().unwrap();
            assert_eq!(bias != 0, binary.pie);
            let mut names = TypeNames::new(&binary, types, bias);
            assert_eq!(shown.len(), 10);
            for line in shown {
                let (address, name) = line.split_once(' ').unwrap();
                let address = u64::from_str_radix(address, 16).unwrap();
                assert_eq!(names.name(address).as_deref(), Some(name), "{}", variant.0);
                assert_eq!(names.name(address).as_deref(), Some(name), "a second time");
            }
            assert_eq!(names.name(0), None);
            assert_eq!(names.name(bias + binary.text), None);
        }
    }

    #[test]
    fn a_process_that_is_gone_has_no_bias() {
        let directory = tempfile::tempdir().unwrap();
        let binary = build_variant(directory.path(), PROGRAM, VARIANTS[3]);
        assert!(matches!(
            load_bias(u32::MAX, &binary),
            Err(LoadBiasError::Read { .. })
        ));
    }

    fn code(address: u64, offset: u64) -> Segment {
        Segment {
            address,
            offset,
            file_bytes: 0x1000,
            memory_bytes: 0x1000,
            executable: true,
            writable: false,
        }
    }

    #[test]
    fn the_bias_is_where_the_code_is_less_where_it_would_be() {
        let maps = "\
            55aa10000000-55aa10001000 r--p 00000000 fe:01 77 /srv/my app\n\
            55aa10401000-55aa10690000 r-xp 00001000 fe:01 77 /srv/my app\n\
            7f0000001000-7f0000002000 r-xp 00001000 fe:01 78 /usr/lib/libc.so.6\n";
        let segments = [code(0x40_1000, 0x1000)];
        assert_eq!(
            bias_from_maps(maps, "/srv/my app", &segments),
            Some(0x55aa_1000_0000)
        );
        assert_eq!(bias_from_maps(maps, "/srv/other", &segments), None);
        // External linking: code begins within a page, and at another offset than address.
        let segments = [code(0x7_4460, 0x1460)];
        assert_eq!(
            bias_from_maps(maps, "/srv/my app", &segments),
            Some(0x55aa_1038_d000)
        );
        assert_eq!(bias_from_maps("", "/srv/my app", &segments), None);
        assert_eq!(bias_from_maps("nonsense\n- x\n", "/srv/my app", &segments), None);
    }
}
