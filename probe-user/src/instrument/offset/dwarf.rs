//! Offsets of struct fields from a binary's own DWARF, versions 4 and 5.
//!
//! Go's linker puts the types of all packages into a unit of the package `runtime` (its assembler files have
//! others). The section is inflated as a
//! stream, other units are passed over by their length, and reading stops with the last field found: it costs a
//! window of memory, whatever the size.

use std::{
    collections::HashMap,
    io::{self, BufReader, Read},
};

use flate2::read::ZlibDecoder;
use gimli::{
    Abbreviations, AttributeValue, DebugAbbrev, DebugAbbrevOffset, Encoding, EndianSlice, EntriesRaw, Format,
    LittleEndian, UnitOffset, constants,
};

use crate::discover::{
    elf::{Elf, Section},
    layout::FieldName,
};

/// Bytes of the section held at once.
const WINDOW_BYTES: usize = 256 * 1024;
/// The largest entry: names of generic types are the longest thing in it.
const ENTRY_MAX: usize = 64 * 1024;
/// Bytes of `.debug_abbrev` that are read: Go writes some 400, C compilers a few thousand for each unit.
const ABBREVIATIONS_MAX: u64 = 4 * 1024 * 1024;
/// Inflated bytes of `.debug_info` that are read: the largest known Go programs have 100 MB.
const SECTION_MAX: u64 = 512 * 1024 * 1024;
/// Bytes of a compressed section's header.
const COMPRESSION_HEADER_BYTES: u64 = 24;
const COMPRESSION_ZLIB: u32 = 1;

/// The offsets of those of the fields that the binary's DWARF has. `None` if it has no DWARF that can be read.
pub fn find<'a>(elf: &Elf, fields: &[FieldName<'a>]) -> Option<HashMap<FieldName<'a>, u64>> {
    let info = elf.section(".debug_info")?;
    let abbreviations = elf.section(".debug_abbrev")?;
    let mut bytes = Vec::new();
    inflated(elf, abbreviations)?
        .take(ABBREVIATIONS_MAX)
        .read_to_end(&mut bytes)
        .ok()?;
    let mut structs: HashMap<&'a str, HashMap<&'a str, Option<u64>>> = HashMap::new();
    for (name, field) in fields {
        structs.entry(name).or_default().insert(field, None);
    }
    let mut walk = Walk {
        input: Input::new(inflated(elf, info)?.take(SECTION_MAX)),
        abbreviations: DebugAbbrev::new(&bytes, LittleEndian),
        // A field may be asked for under two numbers.
        missing: structs.values().map(HashMap::len).sum(),
        structs,
    };
    // What has been found before an error stands: each offset is told by an entry of its own.
    let _end = walk.units();
    let found = walk.structs.iter().flat_map(|(name, fields)| {
        fields
            .iter()
            .filter_map(|(field, offset)| offset.map(|offset| ((*name, *field), offset)))
    });
    Some(found.collect())
}

/// A section's contents as a stream. Go before 1.19 and `objcopy` have other ways to compress, which are not read.
fn inflated<'a>(elf: &'a Elf, section: &Section) -> Option<Box<dyn Read + 'a>> {
    let range = |skip: u64| FileRange {
        elf,
        at: section.offset.saturating_add(skip),
        end: section
            .offset
            .saturating_add(section.size_bytes)
            .min(elf.size_bytes()),
    };
    if !section.compressed {
        return Some(Box::new(BufReader::with_capacity(WINDOW_BYTES, range(0))));
    }
    let mut kind = [0; 4];
    elf.read_at(section.offset, &mut kind).ok()?;
    if u32::from_le_bytes(kind) != COMPRESSION_ZLIB {
        return None;
    }
    Some(Box::new(ZlibDecoder::new(BufReader::with_capacity(
        WINDOW_BYTES,
        range(COMPRESSION_HEADER_BYTES),
    ))))
}

/// A stretch of the file.
struct FileRange<'a> {
    elf: &'a Elf,
    at: u64,
    end: u64,
}

impl Read for FileRange<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let length = left.min(buffer.len());
        let Some(part) = buffer.get_mut(..length) else {
            return Ok(0);
        };
        self.elf.read_at(self.at, part).map_err(io::Error::other)?;
        self.at += length as u64;
        Ok(length)
    }
}

/// The stream, with some bytes of it to look at.
struct Input<R> {
    stream: R,
    buffer: Vec<u8>,
    start: usize,
}

impl<R: Read> Input<R> {
    fn new(stream: R) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            start: 0,
        }
    }

    fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    /// Has at least `length` bytes ready, unless the stream ends.
    fn fill(&mut self, length: usize) -> io::Result<()> {
        if self.bytes().len() >= length {
            return Ok(());
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        let missing = WINDOW_BYTES.max(length) - self.buffer.len();
        (&mut self.stream)
            .take(missing as u64)
            .read_to_end(&mut self.buffer)?;
        Ok(())
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        let ready = usize::try_from(length)
            .unwrap_or(usize::MAX)
            .min(self.bytes().len());
        self.start += ready;
        let left = length - ready as u64;
        io::copy(&mut (&mut self.stream).take(left), &mut io::sink())?;
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.fill(N).ok()?;
        let bytes = *self.bytes().first_chunk()?;
        self.start += N;
        Some(bytes)
    }
}

struct Walk<'a, 'b, R> {
    input: Input<R>,
    abbreviations: DebugAbbrev<EndianSlice<'b, LittleEndian>>,
    structs: HashMap<&'a str, HashMap<&'a str, Option<u64>>>,
    missing: usize,
}

/// What the walk through a unit's entries remembers from one window to the next.
#[derive(Default)]
struct Place<'a> {
    depth: usize,
    /// The wanted struct that the walk is in, and the depth of its members.
    within: Option<(&'a str, usize)>,
}

impl<'a, R: Read> Walk<'a, '_, R> {
    /// Goes through the units up to the end of the one with Go's types. `None` ends a damaged section.
    fn units(&mut self) -> Option<()> {
        loop {
            let mut length = u64::from(u32::from_le_bytes(self.input.take()?));
            let mut format = Format::Dwarf32;
            if length == 0xffff_ffff {
                length = u64::from_le_bytes(self.input.take()?);
                format = Format::Dwarf64;
            }
            let version = u16::from_le_bytes(self.input.take()?);
            let mut left = length.checked_sub(2)?;
            let mut address_size = 8;
            if version == 5 {
                let [_kind, size] = self.input.take()?;
                address_size = size;
            }
            let abbreviations = match format {
                Format::Dwarf32 => u64::from(u32::from_le_bytes(self.input.take()?)),
                Format::Dwarf64 => u64::from_le_bytes(self.input.take()?),
            };
            if version < 5 {
                [address_size] = self.input.take()?;
            }
            let header = 1 + u64::from(version == 5) + u64::from(format.word_size());
            left = left.checked_sub(header)?;
            if !(2..=5).contains(&version) {
                self.input.skip(left).ok()?;
                continue;
            }
            let encoding = Encoding {
                address_size,
                format,
                version,
            };
            let offset = DebugAbbrevOffset(usize::try_from(abbreviations).ok()?);
            let abbreviations = self.abbreviations.abbreviations(offset).ok()?;
            if self.unit(encoding, &abbreviations, left)? {
                return Some(());
            }
        }
    }

    /// Reads or skips a unit. Whether it was the one with the types.
    fn unit(&mut self, encoding: Encoding, abbreviations: &Abbreviations, mut left: u64) -> Option<bool> {
        let mut place = Place::default();
        let mut first = true;
        let before = self.missing;
        while left > 0 {
            self.input
                .fill(usize::try_from(left).unwrap_or(usize::MAX).min(2 * ENTRY_MAX))
                .ok()?;
            let window = self.input.bytes();
            let whole = window.len() as u64 >= left;
            let window = if whole {
                window.get(..usize::try_from(left).ok()?)?
            } else {
                window
            };
            let input = EndianSlice::new(window, LittleEndian);
            let mut entries = EntriesRaw::new(input, encoding, abbreviations, UnitOffset(0));
            if first && !is_runtime(&mut entries)? {
                self.input.skip(left).ok()?;
                return Some(false);
            }
            place.depth += usize::from(first);
            first = false;
            let stop = if whole {
                window.len()
            } else {
                window.len().checked_sub(ENTRY_MAX)?
            };
            let structs = &mut self.structs;
            while entries.next_offset().0 < stop && self.missing > 0 {
                self.missing -= usize::from(entry(&mut entries, &mut place, structs)?);
            }
            let done = entries.next_offset().0;
            self.input.skip(done as u64).ok()?;
            left -= done as u64;
            if self.missing == 0 {
                break;
            }
        }
        Some(self.missing < before)
    }
}

/// Reads a unit's first entry: is it Go's package `runtime`?
fn is_runtime(entries: &mut EntriesRaw<'_, EndianSlice<'_, LittleEndian>>) -> Option<bool> {
    let Some(abbreviation) = entries.read_abbreviation().ok()? else {
        return Some(false);
    };
    let (mut named, mut go) = (false, false);
    for specification in abbreviation.attributes() {
        let attribute = entries.read_attribute(*specification).ok()?;
        match (attribute.name(), attribute.value()) {
            (constants::DW_AT_name, AttributeValue::String(name)) => named = name.slice() == b"runtime",
            (constants::DW_AT_language, AttributeValue::Language(language)) => {
                go = language == constants::DW_LANG_Go
            }
            _ => {}
        }
    }
    Some(named && go && abbreviation.has_children())
}

/// Reads one entry. Whether it told a field's offset.
fn entry<'a>(
    entries: &mut EntriesRaw<'_, EndianSlice<'_, LittleEndian>>,
    place: &mut Place<'a>,
    structs: &mut HashMap<&'a str, HashMap<&'a str, Option<u64>>>,
) -> Option<bool> {
    let Some(abbreviation) = entries.read_abbreviation().ok()? else {
        place.depth = place.depth.checked_sub(1)?;
        if place.within.is_some_and(|(_, depth)| place.depth < depth) {
            place.within = None;
        }
        return Some(false);
    };
    let depth = place.depth;
    place.depth += usize::from(abbreviation.has_children());
    let member_of = place
        .within
        .filter(|(_, members)| *members == depth)
        .map(|(name, _)| name);
    let wanted = match abbreviation.tag() {
        constants::DW_TAG_structure_type => depth == 1,
        constants::DW_TAG_member => member_of.is_some(),
        _ => false,
    };
    if !wanted {
        entries.skip_attributes(abbreviation.attributes()).ok()?;
        return Some(false);
    }
    let (mut name, mut location) = (None, None);
    for specification in abbreviation.attributes() {
        let attribute = entries.read_attribute(*specification).ok()?;
        match attribute.name() {
            constants::DW_AT_name => {
                if let AttributeValue::String(text) = attribute.value() {
                    name = str::from_utf8(text.slice()).ok();
                }
            }
            constants::DW_AT_data_member_location => location = attribute.udata_value(),
            _ => {}
        }
    }
    let Some(name) = name else { return Some(false) };
    let Some(owner) = member_of else {
        if let Some((key, _)) = structs
            .get_key_value(name)
            .filter(|_| abbreviation.has_children())
        {
            place.within = Some((key, depth + 1));
        }
        return Some(false);
    };
    let slot = structs.get_mut(owner).and_then(|fields| fields.get_mut(name));
    Some(match (slot, location) {
        (Some(slot @ None), Some(offset)) => {
            *slot = Some(offset);
            true
        }
        _ => false,
    })
}
