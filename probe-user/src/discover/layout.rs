//! The layouts of structs as a program itself describes them.
//!
//! Whatever Go code may allocate, convert to an interface or look at by reflection has a type descriptor in the
//! binary, which stripping leaves alone: for a struct the names and offsets of all its fields. It is the truth about
//! this very binary, whatever version of Go or of a module it was built with.
//!
//! Descriptors of structs are in no list, so they are found by their names: first the names are looked for among the
//! type data, then what refers to one of them and has a struct's form. What its package is stands in the descriptor.

use std::{
    collections::{BTreeMap, HashMap},
    ops::{ControlFlow, Range},
};

use crate::discover::{
    elf::{Elf, ElfError},
    go::{GoBinary, GoVersion, take_varint},
    types::types_field,
};

/// A field by the struct's full name (`net/http.Request`) and its own.
pub type FieldName<'a> = (&'a str, &'a str);

/// `abi.Type`, and what of it is looked at; the same from Go 1.19 to 1.27.
const TYPE_BYTES: usize = 48;
const SIZE_AT: usize = 0;
const FLAGS_AT: usize = 20;
const ALIGN_AT: usize = 21;
const KIND_AT: usize = 23;
const NAME_AT: usize = 40;
/// An `abi.UncommonType` follows, the name is stored with a star before it, and it is one of the type's own.
const FLAGS_OF_STRUCTS: u8 = 1 << 0 | 1 << 1 | 1 << 2;
const KIND_MASK: u8 = 31;
const KIND_STRUCT: u8 = 25;
/// `abi.StructType`: behind the type a package for private fields, and a slice of all; then the `abi.UncommonType`, which
/// begins with the name of the struct's package.
const STRUCT_BYTES: usize = 88;
const PACKAGE_AT: usize = 80;
const FIELDS_AT: usize = 56;
const FIELD_COUNT_AT: usize = 64;
/// `abi.StructField`: name, type, offset.
const FIELD_BYTES: usize = 24;
/// The largest struct that is believed in, and the most fields.
const STRUCT_SIZE_MAX: u64 = 1 << 20;
const FIELDS_MAX: u64 = 512;
/// The longest name of a package or a field.
const NAME_MAX: usize = 256;
/// Type data of the largest known programs is some 20 MB.
const TYPES_MAX: u64 = 256 * 1024 * 1024;

/// The layouts of some structs.
#[derive(Debug, Default)]
pub struct Layouts<'a> {
    /// By full name; each field's offset by its name.
    structs: HashMap<&'a str, BTreeMap<String, u64>>,
}

/// What the program says of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    At(u64),
    /// The struct is there, and has no such field.
    NoField,
    /// The struct is not described, or twice in different ways.
    NoStruct,
}

// === impl Layouts ===

impl<'a> Layouts<'a> {
    /// Finds the structs by their full names. What cannot be read is not described.
    pub fn find(binary: &GoBinary, names: &[&'a str]) -> Self {
        match type_data(binary) {
            Some(types) => Self::within(binary.elf(), types, names),
            None => Self::default(),
        }
    }

    /// The same in the type data at these addresses.
    pub fn within(elf: &Elf, types: Range<u64>, names: &[&'a str]) -> Self {
        Self::read(elf, types, names).unwrap_or_default()
    }

    pub fn field(&self, (name, field): FieldName<'_>) -> Told {
        match self.structs.get(name) {
            Some(fields) => fields
                .get(field)
                .map_or(Told::NoField, |offset| Told::At(*offset)),
            None => Told::NoStruct,
        }
    }

    fn read(elf: &Elf, types: Range<u64>, names: &[&'a str]) -> Option<Self> {
        let types = TypeData::at(elf, types)?;
        // By the name as it is printed, `http.Request`, which several packages may have.
        let mut printed: HashMap<&str, Vec<&'a str>> = HashMap::new();
        for name in names {
            printed.entry(short(name)).or_default().push(name);
        }
        let places = types.names(elf, &printed).ok()?;
        let described = types.structs(elf, &places).ok()?;
        let ranges: Vec<(u64, usize)> = described.iter().map(|address| (*address, STRUCT_BYTES)).collect();
        let read = elf.read_all_relocated(&ranges).ok()?;
        let mut found: Vec<(&'a str, Fields)> = Vec::new();
        for bytes in read.into_iter().flatten() {
            let word = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
            let half = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
            let candidates = half(NAME_AT).and_then(|place| places.get(&place));
            let package = half(PACKAGE_AT).and_then(|place| name_at(elf, types.address + u64::from(place)));
            let (Some(candidates), Some(package)) = (candidates, package) else {
                continue;
            };
            let (Some(at), Some(count)) = (word(FIELDS_AT), word(FIELD_COUNT_AT)) else {
                continue;
            };
            let name = candidates
                .iter()
                .find(|name| name.rsplit_once('.').is_some_and(|(path, _)| path == package));
            if let Some(name) = name
                && count <= FIELDS_MAX
            {
                let size = word(SIZE_AT).unwrap_or(0);
                found.push((name, Fields { at, count, size }));
            }
        }
        Some(Self::with_fields(elf, &found))
    }

    fn with_fields(elf: &Elf, found: &[(&'a str, Fields)]) -> Self {
        let mut structs: HashMap<&'a str, BTreeMap<String, u64>> = HashMap::new();
        let mut unclear = Vec::new();
        let ranges: Vec<(u64, usize)> = found
            .iter()
            .map(|(_, fields)| (fields.at, fields.count as usize * FIELD_BYTES))
            .collect();
        let tables = elf.read_all_relocated(&ranges).unwrap_or_default();
        for ((name, fields), table) in found.iter().zip(tables) {
            let Some(layout) = table.and_then(|table| layout(elf, &table, fields)) else {
                continue;
            };
            match structs.get(name) {
                Some(other) if *other != layout => unclear.push(*name),
                Some(_) => {}
                None => drop(structs.insert(name, layout)),
            }
        }
        for name in unclear {
            structs.remove(name);
        }
        Self { structs }
    }
}

/// Where a struct's fields are described.
#[derive(Clone, Copy, Debug)]
struct Fields {
    at: u64,
    count: u64,
    size: u64,
}

/// The fields' offsets; nothing if what is there cannot be a struct of this size.
fn layout(elf: &Elf, table: &[u8], fields: &Fields) -> Option<BTreeMap<String, u64>> {
    let (entries, rest) = table.as_chunks::<FIELD_BYTES>();
    if !rest.is_empty() {
        return None;
    }
    let mut layout = BTreeMap::new();
    let mut last = 0;
    for entry in entries {
        let word = |at: usize| Some(u64::from_le_bytes(*entry.get(at..)?.first_chunk()?));
        let (name, offset) = (name_at(elf, word(0)?)?, word(16)?);
        if offset < last || offset > fields.size {
            return None;
        }
        last = offset;
        layout.insert(name, offset);
    }
    Some(layout)
}

/// A name of `abi.Name`: a byte of flags, the length, the text.
fn name_at(elf: &Elf, address: u64) -> Option<String> {
    let segment = elf.segment(address)?;
    let left = segment.file_bytes - (address - segment.address);
    let mut bytes = vec![0; NAME_MAX.min(usize::try_from(left).ok()?)];
    elf.read_address(address, &mut bytes).ok()?;
    let (length, text) = take_varint(bytes.get(1..)?)?;
    let text = text.get(..usize::try_from(length).ok()?)?;
    str::from_utf8(text).ok().map(str::to_owned)
}

/// `http.Request` of `net/http.Request`: how the program prints it.
fn short(name: &str) -> &str {
    name.rsplit_once('/').map_or(name, |(_, short)| short)
}

/// `runtime.types` to `runtime.etypes`.
fn type_data(binary: &GoBinary) -> Option<Range<u64>> {
    let field = types_field(binary.go_version)?;
    let mut words = [0; 24];
    binary
        .elf()
        .read_relocated(binary.moduledata?.checked_add(field)?, &mut words)
        .ok()?;
    let word = |index: usize| Some(u64::from_le_bytes(*words.as_chunks().0.get(index)?));
    // Go 1.27 has the length of the descriptors between the two.
    let is_counted = binary.go_version >= GoVersion::new(27, 0);
    Some(word(0)?..word(if is_counted { 2 } else { 1 })?)
}

/// That as it lies in the file.
struct TypeData {
    address: u64,
    offset: u64,
    size_bytes: u64,
}

impl TypeData {
    fn at(elf: &Elf, Range { start: address, end }: Range<u64>) -> Option<Self> {
        let size_bytes = end.checked_sub(address).filter(|size| *size <= TYPES_MAX)?;
        let segment = elf.segment(address)?;
        let in_file = segment.file_bytes - (address - segment.address);
        Some(Self {
            address,
            offset: elf.file_offset(address)?,
            size_bytes: size_bytes.min(in_file),
        })
    }

    /// Where each of the names is, counted as descriptors do, and the structs that it may be the name of.
    fn names<'a>(
        &self,
        elf: &Elf,
        printed: &HashMap<&str, Vec<&'a str>>,
    ) -> Result<HashMap<u32, Vec<&'a str>>, ElfError> {
        let mut places: HashMap<u32, Vec<&'a str>> = HashMap::new();
        let longest = printed.keys().map(|name| name.len()).max().unwrap_or(0);
        self.scan(elf, longest + 4, |at, bytes| {
            let stars = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'*');
            for (index, _) in stars {
                // The flags and the length, which is one byte for names this short, stand before.
                let Some(length) = index.checked_sub(1).and_then(|before| bytes.get(before)) else {
                    continue;
                };
                let text = bytes.get(index..index + usize::from(*length)).unwrap_or_default();
                let Some(name) = str::from_utf8(text).ok().and_then(|text| text.strip_prefix('*')) else {
                    continue;
                };
                if let Some(structs) = printed.get(name)
                    && index >= 2
                {
                    let place = at + index as u64 - 2;
                    if let Ok(place) = u32::try_from(place) {
                        places.insert(place, structs.clone());
                    }
                }
            }
        })?;
        Ok(places)
    }

    /// Addresses of what refers to one of the names and may be a struct's descriptor.
    fn structs(&self, elf: &Elf, places: &HashMap<u32, Vec<&str>>) -> Result<Vec<u64>, ElfError> {
        let mut found = Vec::new();
        self.scan(elf, TYPE_BYTES, |at, bytes| {
            // Descriptors are 8-aligned, and so is what is scanned.
            let mut index = usize::try_from((8 - (self.address + at) % 8) % 8).unwrap_or(0);
            while let Some(described) = bytes.get(index..index + TYPE_BYTES) {
                if is_struct(described)
                    && let Some(name) = described.get(NAME_AT..).and_then(|bytes| bytes.first_chunk())
                    && places.contains_key(&u32::from_le_bytes(*name))
                {
                    found.push(self.address + at + index as u64);
                }
                index += 8;
            }
        })?;
        // Chunks overlap.
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Hands on the type data in pieces, each with the last bytes of the one before it.
    fn scan(&self, elf: &Elf, overlap: usize, mut visit: impl FnMut(u64, &[u8])) -> Result<(), ElfError> {
        let mut kept: Vec<u8> = Vec::new();
        elf.scan(self.offset, self.size_bytes, |at, chunk| {
            let begin = at - kept.len() as u64;
            kept.extend_from_slice(chunk);
            visit(begin, &kept);
            kept.drain(..kept.len().saturating_sub(overlap));
            ControlFlow::<()>::Continue(())
        })?;
        Ok(())
    }
}

/// Whether these bytes can be the `abi.Type` of a named struct.
fn is_struct(bytes: &[u8]) -> bool {
    let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
    let size = bytes
        .get(SIZE_AT..)
        .and_then(|bytes| bytes.first_chunk())
        .map_or(0, |size| u64::from_le_bytes(*size));
    byte(KIND_AT) & KIND_MASK == KIND_STRUCT
        && byte(FLAGS_AT) & FLAGS_OF_STRUCTS == FLAGS_OF_STRUCTS
        && matches!(byte(ALIGN_AT), 1 | 2 | 4 | 8)
        && (1..STRUCT_SIZE_MAX).contains(&size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::sample::{SERVER_AND_CLIENT, VARIANTS, build_variant};

    /// What `probe-common` names, and what is not there.
    const FIELDS: [(FieldName<'_>, Told); 6] = [
        (("net/http.Request", "Method"), Told::At(0)),
        (("net/http.Request", "ContentLength"), Told::At(88)),
        // All of its fields are public.
        (("net/url.URL", "Host"), Told::At(40)),
        (("runtime.g", "stack"), Told::At(0)),
        (("net/http.Request", "Nothing"), Told::NoField),
        (("net/http.Nothing", "Method"), Told::NoStruct),
    ];

    #[test]
    fn stripped_programs_describe_their_structs() {
        let directory = tempfile::tempdir().unwrap();
        for variant in VARIANTS {
            let binary = build_variant(directory.path(), SERVER_AND_CLIENT, variant);
            let names: Vec<&str> = FIELDS.iter().map(|((name, _), _)| *name).collect();
            let layouts = Layouts::find(&binary, &names);
            for (field, told) in FIELDS {
                assert_eq!(layouts.field(field), told, "{field:?} in {}", variant.0);
            }
        }
    }

    #[test]
    fn packages_of_the_same_last_name_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let binary = build_variant(directory.path(), SERVER_AND_CLIENT, VARIANTS[0]);
        let layouts = Layouts::find(&binary, &["example/http.Request", "net/http.Request"]);
        assert_eq!(layouts.field(("example/http.Request", "Method")), Told::NoStruct);
        assert_eq!(layouts.field(("net/http.Request", "Method")), Told::At(0));
    }

    #[test]
    fn what_cannot_be_a_struct_is_none() {
        let mut bytes = [0; TYPE_BYTES];
        bytes[SIZE_AT] = 16;
        bytes[FLAGS_AT] = FLAGS_OF_STRUCTS;
        bytes[ALIGN_AT] = 8;
        bytes[KIND_AT] = KIND_STRUCT;
        assert!(is_struct(&bytes));
        for (at, value) in [(SIZE_AT, 0), (FLAGS_AT, 1), (ALIGN_AT, 3), (KIND_AT, 22)] {
            let mut other = bytes;
            other[at] = value;
            assert!(!is_struct(&other));
        }
        assert!(!is_struct(&bytes[..8]));
    }
}
