//! ELF files, read piece by piece: headers once, everything else where and when it is asked for.
//!
//! The bytes are a stranger's. Nothing is allocated by a size that the file claims, every address is checked
//! against the segments, and no table is held in memory: a binary of any size costs a few buffers.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    ops::ControlFlow,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use object::{LittleEndian as LE, elf, pod};
use thiserror::Error;

/// The largest file that is read: where section headers are gone, all of it is searched, and a sparse file may claim any
/// size without taking room. The largest known Go programs have 300 MB.
const FILE_MAX: u64 = 1024 * 1024 * 1024;
/// Section headers that are read: real binaries have some forty.
const SECTIONS_MAX: u64 = 4096;
/// Program headers that are read: real binaries have some ten.
const SEGMENTS_MAX: u64 = 512;
/// Bytes of section names that are read.
const SECTION_NAMES_MAX: u64 = 256 * 1024;
/// Bytes read at once where a range is scanned.
const CHUNK_BYTES: usize = 128 * 1024;

/// Why a file cannot be read as an ELF file.
#[derive(Debug, Error)]
pub enum ElfError {
    #[error("cannot open {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot read {size_bytes} bytes at offset {offset:#x}")]
    Read {
        offset: u64,
        size_bytes: usize,
        source: io::Error,
    },
    #[error("not an ELF file")]
    NotElf,
    #[error("built for {0}, and skyprobe knows 64-bit x86 and ARM")]
    Architecture(String),
    #[error("corrupted: {0}")]
    Corrupted(&'static str),
}

/// The processors whose Go code is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    Amd64,
    Arm64,
}

impl Architecture {
    /// As Go spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The one this program was built for.
    pub const fn host() -> Option<Self> {
        if cfg!(target_arch = "x86_64") {
            Some(Self::Amd64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Self::Arm64)
        } else {
            None
        }
    }

    const fn relative_relocation(self) -> u32 {
        match self {
            Self::Amd64 => elf::R_X86_64_RELATIVE.0,
            Self::Arm64 => elf::R_AARCH64_RELATIVE.0,
        }
    }
}

/// A loadable segment.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub address: u64,
    pub offset: u64,
    /// Bytes of it that are in the file.
    pub file_bytes: u64,
    /// Bytes of it in memory; those beyond the file's are zero.
    pub memory_bytes: u64,
    pub executable: bool,
    pub writable: bool,
}

/// A section.
#[derive(Clone, Debug)]
pub struct Section {
    pub name: String,
    pub address: u64,
    pub offset: u64,
    pub size_bytes: u64,
    /// It takes room in the file.
    pub in_file: bool,
    /// It starts with a compression header.
    pub compressed: bool,
}

enum Source {
    File(File),
    Bytes(Vec<u8>),
}

/// An opened ELF file.
pub struct Elf {
    source: Source,
    size_bytes: u64,
    pub architecture: Architecture,
    /// Position independent: run-time addresses differ from the file's by the load bias.
    pub pie: bool,
    pub segments: Vec<Segment>,
    pub sections: Vec<Section>,
    /// The program's interpreter is named: it is linked dynamically.
    pub dynamic: bool,
    dynamic_section: Option<(u64, u64)>,
    notes: Vec<(u64, u64)>,
}

// === impl Elf ===

impl Elf {
    pub fn open(path: &Path) -> Result<Self, ElfError> {
        let open = || {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            Ok((file, metadata))
        };
        let (file, metadata) = open().map_err(|source: io::Error| ElfError::Open {
            path: path.to_owned(),
            source,
        })?;
        if !metadata.is_file() {
            return Err(ElfError::NotElf);
        }
        Self::parse(Source::File(file), metadata.len())
    }

    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, ElfError> {
        let size_bytes = bytes.len() as u64;
        Self::parse(Source::Bytes(bytes), size_bytes)
    }

    fn parse(source: Source, size_bytes: u64) -> Result<Self, ElfError> {
        let mut this = Self {
            source,
            size_bytes,
            architecture: Architecture::Amd64,
            pie: false,
            segments: Vec::new(),
            sections: Vec::new(),
            dynamic: false,
            dynamic_section: None,
            notes: Vec::new(),
        };
        let mut ident = [0; 20];
        if this.read_at(0, &mut ident).is_err() || ident.get(..4) != Some(elf::ELFMAG.as_slice()) {
            return Err(ElfError::NotElf);
        }
        let [_, _, _, _, class, data, ..] = ident;
        let [.., machine_low, machine_high] = ident;
        let (class, data) = (elf::FileClass(class), elf::DataEncoding(data));
        let machine = elf::Machine(if data == elf::ELFDATA2MSB {
            u16::from_be_bytes([machine_low, machine_high])
        } else {
            u16::from_le_bytes([machine_low, machine_high])
        });
        this.architecture = match (machine, class, data) {
            (elf::EM_X86_64, elf::ELFCLASS64, elf::ELFDATA2LSB) => Architecture::Amd64,
            (elf::EM_AARCH64, elf::ELFCLASS64, elf::ELFDATA2LSB) => Architecture::Arm64,
            _ => return Err(ElfError::Architecture(machine_name(machine))),
        };
        if size_bytes > FILE_MAX {
            return Err(ElfError::Corrupted("it has more than 1 GB, as no Go program has"));
        }
        let bytes = this.bytes(
            0,
            size_of::<elf::FileHeader64<LE>>() as u64,
            "the file ends in its header",
        )?;
        let (header, _) = pod::from_bytes::<elf::FileHeader64<LE>>(&bytes)
            .map_err(|()| ElfError::Corrupted("the file ends in its header"))?;
        let header = *header;
        this.pie = match header.e_type.get(LE) {
            elf::ET_EXEC => false,
            elf::ET_DYN => true,
            _ => return Err(ElfError::Corrupted("neither a program nor a shared object")),
        };
        this.read_segments(&header)?;
        this.read_sections(&header)?;
        Ok(this)
    }

    fn read_segments(&mut self, header: &elf::FileHeader64<LE>) -> Result<(), ElfError> {
        const BROKEN: &str = "the program headers are outside the file";
        let count = u64::from(header.e_phnum.get(LE));
        if count > SEGMENTS_MAX {
            return Err(ElfError::Corrupted("too many program headers"));
        }
        let size = size_of::<elf::ProgramHeader64<LE>>() as u64;
        let bytes = self.bytes(header.e_phoff.get(LE), count * size, BROKEN)?;
        let count = usize::try_from(count).unwrap_or_default();
        let (headers, _) = pod::slice_from_bytes::<elf::ProgramHeader64<LE>>(&bytes, count)
            .map_err(|()| ElfError::Corrupted(BROKEN))?;
        for segment in headers {
            let flags = segment.p_flags.get(LE);
            let range = (segment.p_vaddr.get(LE), segment.p_filesz.get(LE));
            match segment.p_type.get(LE) {
                elf::PT_LOAD => {
                    let (address, memory_bytes) = (range.0, segment.p_memsz.get(LE));
                    // A last segment cut short by a truncated file still serves what is there.
                    if address.checked_add(memory_bytes).is_none() {
                        return Err(ElfError::Corrupted("a segment does not fit the address space"));
                    }
                    self.segments.push(Segment {
                        address,
                        offset: segment.p_offset.get(LE),
                        file_bytes: range.1.min(memory_bytes),
                        memory_bytes,
                        executable: flags.contains(elf::PF_X),
                        writable: flags.contains(elf::PF_W),
                    });
                }
                elf::PT_INTERP => self.dynamic = true,
                elf::PT_DYNAMIC => self.dynamic_section = Some(range),
                elf::PT_NOTE => self.notes.push((segment.p_offset.get(LE), range.1)),
                _ => {}
            }
        }
        if self.segments.is_empty() {
            return Err(ElfError::Corrupted("nothing in it can be loaded"));
        }
        // Each is searched by itself: five hundred of them over one large range would take hours.
        let in_file = |segment: &Segment| {
            segment
                .file_bytes
                .min(self.size_bytes.saturating_sub(segment.offset))
        };
        if self.segments.iter().map(in_file).sum::<u64>() > 2 * self.size_bytes {
            return Err(ElfError::Corrupted("its segments overlap"));
        }
        Ok(())
    }

    /// Section headers are no part of what runs: a file without them, or with nonsense, is read without them.
    fn read_sections(&mut self, header: &elf::FileHeader64<LE>) -> Result<(), ElfError> {
        let offset = header.e_shoff.get(LE);
        let count = u64::from(header.e_shnum.get(LE));
        if offset == 0 || count == 0 || count > SECTIONS_MAX {
            return Ok(());
        }
        let size = size_of::<elf::SectionHeader64<LE>>() as u64;
        let Ok(bytes) = self.bytes(offset, count * size, "the section headers are outside the file") else {
            return Ok(());
        };
        let count = usize::try_from(count).unwrap_or_default();
        let Ok((headers, _)) = pod::slice_from_bytes::<elf::SectionHeader64<LE>>(&bytes, count) else {
            return Ok(());
        };
        let names = match headers.get(usize::from(header.e_shstrndx.get(LE).0)) {
            Some(section) if section.sh_size.get(LE) <= SECTION_NAMES_MAX => self
                .bytes(
                    section.sh_offset.get(LE),
                    section.sh_size.get(LE),
                    "the section names",
                )
                .unwrap_or_default(),
            _ => Vec::new(),
        };
        for section in headers {
            let name = usize::try_from(section.sh_name.get(LE)).unwrap_or(usize::MAX);
            let name = names
                .get(name..)
                .and_then(|rest| rest.split(|byte| *byte == 0).next())
                .unwrap_or_default();
            self.sections.push(Section {
                name: String::from_utf8_lossy(name).into_owned(),
                address: section.sh_addr.get(LE),
                offset: section.sh_offset.get(LE),
                size_bytes: section.sh_size.get(LE),
                in_file: section.sh_type.get(LE) != elf::SHT_NOBITS,
                compressed: section.sh_flags.get(LE).contains(elf::SHF_COMPRESSED),
            });
        }
        Ok(())
    }

    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections
            .iter()
            .find(|section| section.name == name && section.in_file)
    }

    /// Fills `buffer` from the file.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ElfError> {
        let size_bytes = buffer.len();
        match &self.source {
            Source::File(file) => file
                .read_exact_at(buffer, offset)
                .map_err(|source| ElfError::Read {
                    offset,
                    size_bytes,
                    source,
                }),
            Source::Bytes(bytes) => {
                let found = usize::try_from(offset)
                    .ok()
                    .and_then(|start| bytes.get(start..start.checked_add(size_bytes)?))
                    .ok_or_else(|| ElfError::Read {
                        offset,
                        size_bytes,
                        source: io::ErrorKind::UnexpectedEof.into(),
                    })?;
                buffer.copy_from_slice(found);
                Ok(())
            }
        }
    }

    /// `size_bytes` bytes of the file; a claim beyond the file's end is refused before anything is allocated.
    pub fn bytes(&self, offset: u64, size_bytes: u64, broken: &'static str) -> Result<Vec<u8>, ElfError> {
        let fits = offset
            .checked_add(size_bytes)
            .is_some_and(|end| end <= self.size_bytes);
        let length = usize::try_from(size_bytes)
            .ok()
            .filter(|_| fits)
            .ok_or(ElfError::Corrupted(broken))?;
        let mut bytes = vec![0; length];
        self.read_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Where the byte at `address` is in the file.
    pub fn file_offset(&self, address: u64) -> Option<u64> {
        let segment = self.segment(address)?;
        segment.offset.checked_add(address - segment.address)
    }

    /// The segment that has the byte at `address` in the file.
    pub fn segment(&self, address: u64) -> Option<&Segment> {
        self.segments.iter().find(|segment| {
            address
                .checked_sub(segment.address)
                .is_some_and(|at| at < segment.file_bytes)
        })
    }

    pub fn is_executable(&self, address: u64) -> bool {
        self.segment(address).is_some_and(|segment| segment.executable)
    }

    /// Fills `buffer` with what the file has at `address`, before relocation.
    pub fn read_address(&self, address: u64, buffer: &mut [u8]) -> Result<(), ElfError> {
        const OUTSIDE: ElfError = ElfError::Corrupted("an address points outside the program");
        let segment = self.segment(address).ok_or(OUTSIDE)?;
        let at = address - segment.address;
        if buffer.len() as u64 > segment.file_bytes - at {
            return Err(OUTSIDE);
        }
        self.read_at(segment.offset.checked_add(at).ok_or(OUTSIDE)?, buffer)
    }

    /// Hands `size_bytes` bytes from `offset` on to `visit`, chunk by chunk, with each chunk's place in the range.
    /// A range that the file cuts short is read as far as it goes.
    pub fn scan<B>(
        &self,
        offset: u64,
        size_bytes: u64,
        mut visit: impl FnMut(u64, &[u8]) -> ControlFlow<B>,
    ) -> Result<Option<B>, ElfError> {
        let size_bytes = size_bytes.min(self.size_bytes.saturating_sub(offset));
        let mut buffer = vec![0; CHUNK_BYTES.min(usize::try_from(size_bytes).unwrap_or(CHUNK_BYTES))];
        let mut at = 0;
        while at < size_bytes {
            let left = usize::try_from(size_bytes - at).unwrap_or(usize::MAX);
            let length = left.min(buffer.len());
            let Some(chunk) = buffer.get_mut(..length) else {
                break;
            };
            self.read_at(offset + at, chunk)?;
            if let ControlFlow::Break(found) = visit(at, chunk) {
                return Ok(Some(found));
            }
            at += length as u64;
        }
        Ok(None)
    }

    /// Addresses of the aligned words whose value at run time (less the load bias) is `target`: in the data as it
    /// stands in the file, and where a relocation puts it. At most `limit`.
    pub fn pointers_to(&self, target: u64, limit: usize) -> Result<Vec<u64>, ElfError> {
        let mut found = Vec::new();
        let needle = target.to_le_bytes();
        let data = self.segments.iter().filter(|segment| !segment.executable);
        for segment in data {
            self.scan(segment.offset, segment.file_bytes, |at, chunk| {
                for (index, word) in chunk.chunks_exact(8).enumerate() {
                    if word == needle && found.len() < limit {
                        found.push(segment.address + at + index as u64 * 8);
                    }
                }
                ControlFlow::<()>::Continue(())
            })?;
        }
        self.relocations(|address, value| {
            if value == target && found.len() < limit {
                found.push(address);
            }
        })?;
        Ok(found)
    }

    /// What will be at `address` at run time, less the load bias: the file's bytes with the relocations that fall
    /// into them.
    pub fn read_relocated(&self, address: u64, buffer: &mut [u8]) -> Result<(), ElfError> {
        self.read_address(address, buffer)?;
        self.relocations(|place, value| {
            let at = place.checked_sub(address).and_then(|at| usize::try_from(at).ok());
            let word = at.and_then(|at| buffer.get_mut(at..at.checked_add(8)?));
            if let Some(word) = word {
                word.copy_from_slice(&value.to_le_bytes());
            }
        })
    }

    /// The same of many ranges, each an address and a number of bytes, in one pass over the relocations; nothing of
    /// those that lie outside of the file.
    pub fn read_all_relocated(&self, ranges: &[(u64, usize)]) -> Result<Vec<Option<Vec<u8>>>, ElfError> {
        let mut read = Vec::with_capacity(ranges.len());
        let mut by_address: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (index, (address, size_bytes)) in ranges.iter().enumerate() {
            let mut bytes = vec![0; *size_bytes];
            if self.read_address(*address, &mut bytes).is_err() {
                read.push(None);
                continue;
            }
            read.push(Some(bytes));
            for word in (0..*size_bytes as u64).step_by(8) {
                by_address.entry(address + word).or_default().push(index);
            }
        }
        self.relocations(|place, value| {
            for index in by_address.get(&place).into_iter().flatten() {
                let at = ranges
                    .get(*index)
                    .and_then(|(address, _)| usize::try_from(place - address).ok());
                let range = read.get_mut(*index).and_then(Option::as_mut);
                let word = at.and_then(|at| range?.get_mut(at..at.checked_add(8)?));
                if let Some(word) = word {
                    word.copy_from_slice(&value.to_le_bytes());
                }
            }
        })?;
        Ok(read)
    }

    /// Every relocation of the kind "load bias plus addend": its address and its addend.
    fn relocations(&self, mut visit: impl FnMut(u64, u64)) -> Result<(), ElfError> {
        let Some((address, size_bytes)) = self.dynamic_section else {
            return Ok(());
        };
        let (mut table, mut table_bytes) = (0, 0);
        let offset = self
            .file_offset(address)
            .ok_or(ElfError::Corrupted("the dynamic section"))?;
        self.scan(offset, size_bytes.min(64 * 1024), |_, chunk| {
            let (entries, _) = chunk.as_chunks::<16>();
            for entry in entries {
                let (tag, value) = words(entry);
                match elf::DynamicTag(tag.cast_signed()) {
                    elf::DT_NULL => return ControlFlow::Break(()),
                    elf::DT_RELA => table = value,
                    elf::DT_RELASZ => table_bytes = value,
                    _ => {}
                }
            }
            ControlFlow::Continue(())
        })?;
        if table == 0 || table_bytes == 0 {
            return Ok(());
        }
        let offset = self
            .file_offset(table)
            .ok_or(ElfError::Corrupted("the relocation table"))?;
        let relative = self.architecture.relative_relocation();
        // Entries are 24 bytes, and a chunk is no multiple of that: the rest goes before the next chunk.
        let mut rest: Vec<u8> = Vec::with_capacity(CHUNK_BYTES + 24);
        self.scan(offset, table_bytes, |_, chunk| {
            rest.extend_from_slice(chunk);
            let (entries, left) = rest.as_chunks::<24>();
            for entry in entries {
                let [place, kind, addend] = three_words(entry);
                if kind as u32 == relative {
                    visit(place, addend);
                }
            }
            let done = rest.len() - left.len();
            rest.drain(..done);
            ControlFlow::<()>::Continue(())
        })?;
        Ok(())
    }

    /// The description of the first note of this owner and type.
    pub fn note(&self, owner: &[u8], kind: u32) -> Option<Vec<u8>> {
        self.notes.iter().find_map(|(offset, size_bytes)| {
            let bytes = self.bytes(*offset, (*size_bytes).min(4096), "a note").ok()?;
            find_note(&bytes, owner, kind)
        })
    }
}

fn find_note(mut bytes: &[u8], owner: &[u8], kind: u32) -> Option<Vec<u8>> {
    loop {
        let (head, rest) = bytes.split_first_chunk::<12>()?;
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *head;
        let name_bytes = u32::from_le_bytes([a, b, c, d]) as usize;
        let text_bytes = u32::from_le_bytes([e, f, g, h]) as usize;
        let found = u32::from_le_bytes([i, j, k, l]);
        let name = rest.get(..name_bytes)?;
        let rest = rest.get(name_bytes.checked_next_multiple_of(4)?..)?;
        let text = rest.get(..text_bytes)?;
        if found == kind && name.split(|byte| *byte == 0).next() == Some(owner) {
            return Some(text.to_vec());
        }
        bytes = rest.get(text_bytes.checked_next_multiple_of(4)?..)?;
    }
}

fn words(entry: &[u8; 16]) -> (u64, u64) {
    let value = u128::from_le_bytes(*entry);
    (value as u64, (value >> 64) as u64)
}

fn three_words(entry: &[u8; 24]) -> [u64; 3] {
    let (words, _) = entry.as_chunks::<8>();
    let word = |index: usize| words.get(index).map_or(0, |word| u64::from_le_bytes(*word));
    [word(0), word(1), word(2)]
}

fn machine_name(machine: elf::Machine) -> String {
    let name = match machine {
        elf::EM_386 => "32-bit x86",
        elf::EM_ARM => "32-bit ARM",
        elf::EM_X86_64 => "x86-64 in a form other than 64-bit little-endian",
        elf::EM_AARCH64 => "ARM in a form other than 64-bit little-endian",
        elf::EM_PPC64 => "PowerPC",
        elf::EM_S390 => "S/390",
        elf::EM_RISCV => "RISC-V",
        elf::EM_MIPS => "MIPS",
        elf::EM_LOONGARCH => "LoongArch",
        other => return format!("machine {}", other.0),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_elf_file_is_said_so() {
        for bytes in [
            &b""[..],
            b"\x7fEL",
            b"#!/bin/sh\necho a script that is long enough\n",
        ] {
            assert!(matches!(Elf::from_bytes(bytes.to_vec()), Err(ElfError::NotElf)));
        }
        assert!(matches!(Elf::open(Path::new("/")), Err(ElfError::NotElf)));
        assert!(matches!(
            Elf::open(Path::new("/does/not/exist")),
            Err(ElfError::Open { .. })
        ));
    }

    #[test]
    fn another_machine_is_named() {
        let mut bytes = std::fs::read("/proc/self/exe").unwrap();
        bytes[18] = elf::EM_RISCV.0 as u8;
        bytes[19] = 0;
        let error = Elf::from_bytes(bytes).err().unwrap();
        assert_eq!(
            error.to_string(),
            "built for RISC-V, and skyprobe knows 64-bit x86 and ARM"
        );
    }

    #[test]
    fn our_own_program_is_read() {
        let elf = Elf::open(Path::new("/proc/self/exe")).unwrap();
        assert_eq!(Some(elf.architecture), Architecture::host());
        let text = elf.section(".text").unwrap();
        assert_eq!(elf.file_offset(text.address), Some(text.offset));
        assert!(elf.is_executable(text.address));
        assert!(
            elf.note(b"GNU", elf::NT_GNU_BUILD_ID.0)
                .is_some_and(|id| id.len() == 20)
        );
    }

    #[test]
    fn a_relocated_pointer_is_found_where_it_will_be() {
        // `.init_array` of a position independent program holds pointers that only relocations fill in.
        let elf = Elf::open(Path::new("/proc/self/exe")).unwrap();
        let array = elf.section(".init_array").unwrap();
        let mut word = [0; 8];
        elf.read_relocated(array.address, &mut word).unwrap();
        let function = u64::from_le_bytes(word);
        assert!(elf.is_executable(function));
        assert!(elf.pointers_to(function, 16).unwrap().contains(&array.address));
    }
}
