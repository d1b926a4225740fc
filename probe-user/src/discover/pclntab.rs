//! The function table of a Go binary (`pclntab`, Go 1.18 and later), which survives stripping.
//!
//! Its bytes are a stranger's: offsets are checked, order is demanded (so that reading stays linear), nothing is
//! allocated by a count that the table claims, and it is read in windows instead of being held.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::ControlFlow,
};

use crate::discover::elf::{Architecture, Elf, ElfError};

/// Magic number of Go 1.18 and 1.19.
const MAGIC_1_18: u32 = 0xffff_fff0;
/// Magic number since Go 1.20.
const MAGIC_1_20: u32 = 0xffff_fff1;
/// Magic numbers of Go 1.2 and 1.16.
const MAGIC_OLD: [u32; 2] = [0xffff_fffb, 0xffff_fffa];
/// Bytes of the header since Go 1.18.
const HEADER_BYTES: usize = 72;
/// Functions that a real program may have; the largest known have under a million.
const FUNCTIONS_MAX: u64 = 8_000_000;
/// The longest function name that is looked at. Generics make names of a few thousand bytes.
const NAME_MAX: usize = 64 * 1024;
/// Bytes of the table read at once.
const WINDOW_BYTES: usize = 64 * 1024;

/// The header of the table, checked.
#[derive(Clone, Copy, Debug)]
pub struct Pclntab {
    /// Its address before the load bias.
    pub address: u64,
    file_offset: u64,
    size_bytes: u64,
    functions: u64,
    /// Where the program's text begins, as the header says: 0 since Go 1.26, and before relocation in a PIE.
    pub text_start: u64,
    names: (u64, u64),
    table: u64,
}

/// A function's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its address before the load bias.
    pub address: u64,
    /// Up to the next function: padding included.
    pub size_bytes: u64,
}

/// What a walk over the names found.
#[derive(Debug, Default)]
pub struct Found {
    /// The bodies with each wanted name. ABI wrappers share their function's name.
    pub functions: BTreeMap<String, Vec<Function>>,
    /// The wanted names that are there, also those of functions that were inlined everywhere and have no body.
    pub names: BTreeSet<String>,
    /// The first name that starts with one of the prefixes.
    pub prefixed: Option<String>,
    /// What stands before the names of other people's packages: `shop/vendor/` in a program that keeps copies of them in
    /// its own tree and was built without modules; mostly nothing.
    pub vendor: String,
}

impl Found {
    /// The body that a hook is for: of several under one name the largest, since wrappers are small.
    pub fn function(&self, name: &str) -> Option<&Function> {
        self.functions
            .get(name)?
            .iter()
            .max_by_key(|function| function.size_bytes)
    }
}

/// Is this the start of a table? `Err` carries the magic number of one that is too old.
fn check_magic(head: &[u8; 8], architecture: Architecture) -> Result<bool, u32> {
    let [a, b, c, d, pad1, pad2, quantum, pointer_bytes] = *head;
    let magic = u32::from_le_bytes([a, b, c, d]);
    let expected_quantum = match architecture {
        Architecture::Amd64 => 1,
        Architecture::Arm64 => 4,
    };
    if (pad1, pad2, quantum, pointer_bytes) != (0, 0, expected_quantum, 8) {
        return Ok(false);
    }
    match magic {
        MAGIC_1_18 | MAGIC_1_20 => Ok(true),
        old if MAGIC_OLD.contains(&old) => Err(old),
        _ => Ok(false),
    }
}

// === impl Pclntab ===

impl Pclntab {
    /// Finds the table by its section's name, else by its magic number in the segments that are not code.
    pub fn find(elf: &Elf) -> Result<Self, ElfError> {
        const NONE: ElfError = ElfError::Corrupted("it has no function table (gopclntab)");
        let by_name = [".gopclntab", ".data.rel.ro.gopclntab"];
        if let Some(section) = by_name.iter().find_map(|name| elf.section(name)) {
            return Self::parse(elf, section.address, section.size_bytes);
        }
        let mut candidates = Vec::new();
        for segment in elf.segments.iter().filter(|segment| !segment.executable) {
            elf.scan(segment.offset, segment.file_bytes, |at, chunk| {
                for (index, word) in chunk.as_chunks::<8>().0.iter().enumerate() {
                    if check_magic(word, elf.architecture) == Ok(true) && candidates.len() < 64 {
                        let at = at + index as u64 * 8;
                        candidates.push((segment.address + at, segment.file_bytes - at));
                    }
                }
                ControlFlow::<()>::Continue(())
            })?;
        }
        candidates
            .iter()
            .find_map(|(address, size)| Self::parse(elf, *address, *size).ok())
            .ok_or(NONE)
    }

    fn parse(elf: &Elf, address: u64, size_bytes: u64) -> Result<Self, ElfError> {
        const BROKEN: ElfError = ElfError::Corrupted("the function table (gopclntab) is damaged");
        let mut head = [0; HEADER_BYTES];
        elf.read_address(address, &mut head).map_err(|_read| BROKEN)?;
        let file_offset = elf.file_offset(address).ok_or(BROKEN)?;
        let (start, rest) = head.split_first_chunk::<8>().ok_or(BROKEN)?;
        match check_magic(start, elf.architecture) {
            Ok(true) => {}
            Ok(false) => return Err(BROKEN),
            Err(_old) => {
                return Err(ElfError::Corrupted(
                    "the function table (gopclntab) has the form of Go 1.17 or older",
                ));
            }
        }
        let mut words = rest
            .as_chunks::<8>()
            .0
            .iter()
            .map(|word| u64::from_le_bytes(*word));
        let mut next = || words.next().ok_or(BROKEN);
        let (functions, _files, text_start) = (next()?, next()?, next()?);
        let (names, units, files, counters, table) = (next()?, next()?, next()?, next()?, next()?);
        let in_order = [
            HEADER_BYTES as u64,
            names,
            units,
            files,
            counters,
            table,
            size_bytes,
        ];
        let entries_fit = functions
            .checked_mul(8)
            .and_then(|bytes| bytes.checked_add(table));
        if !in_order.is_sorted()
            || functions == 0
            || functions > FUNCTIONS_MAX
            || entries_fit.is_none_or(|end| end > size_bytes)
            || file_offset
                .checked_add(table)
                .is_none_or(|table| table > elf.size_bytes())
        {
            return Err(BROKEN);
        }
        Ok(Self {
            address,
            file_offset,
            size_bytes,
            functions,
            text_start,
            names: (names, units),
            table,
        })
    }

    pub fn function_count(&self) -> u64 {
        self.functions
    }

    /// Looks up functions by name, and for a name with one of the `prefixes`; entries count from `text`.
    pub fn look_up(
        &self,
        elf: &Elf,
        text: u64,
        wanted: &[&str],
        prefixes: &[&str],
    ) -> Result<Found, ElfError> {
        const BROKEN: ElfError = ElfError::Corrupted("the function table (gopclntab) is damaged");
        let names = self.find_names(elf, wanted, prefixes)?;
        let mut found = Found {
            functions: BTreeMap::new(),
            names: names.offsets.values().map(|name| (*name).to_owned()).collect(),
            prefixed: names.prefixed,
            vendor: names.vendor,
        };
        if names.offsets.is_empty() {
            return Ok(found);
        }
        let end = self.file_offset + self.size_bytes;
        let mut entries = Window::new(elf, self.file_offset + self.table, end);
        let mut bodies = Window::new(elf, self.file_offset + self.table, end);
        let mut entry = entries.pair(0)?;
        for index in 1..=self.functions {
            // The last pair has only the end of the last function.
            let next = if index == self.functions {
                (entries.word(index * 8)?, 0)
            } else {
                entries.pair(index * 8)?
            };
            let (start, body) = entry;
            if next.0 < start {
                return Err(BROKEN);
            }
            let name = bodies.word(u64::from(body) + 4)?;
            if let Some(name) = names.offsets.get(&name) {
                let address = text.checked_add(u64::from(start)).ok_or(BROKEN)?;
                let size_bytes = u64::from(next.0 - start);
                let functions = found.functions.entry((*name).to_owned()).or_default();
                if functions.len() < 16 {
                    functions.push(Function { address, size_bytes });
                }
            }
            entry = next;
        }
        Ok(found)
    }

    /// Finds the wanted names in the table of names.
    fn find_names<'a>(
        &self,
        elf: &Elf,
        wanted: &[&'a str],
        prefixes: &[&str],
    ) -> Result<Names<'a>, ElfError> {
        let wanted: HashSet<&'a str> = wanted.iter().copied().collect();
        let longest = wanted
            .iter()
            .chain(prefixes)
            .map(|name| name.len())
            .max()
            .unwrap_or_default();
        let mut offsets = HashMap::new();
        let mut vendored: BTreeMap<String, HashMap<u32, &'a str>> = BTreeMap::new();
        let mut prefixed = None;
        let mut check = |name: &[u8], offset: u64| {
            // Most names fall out by their first bytes; all that could match are ASCII.
            let Ok(name) = str::from_utf8(name) else { return };
            let (vendor, name) = split_vendor(name);
            if name.len() <= longest
                && let Some(name) = wanted.get(name)
                && let Ok(offset) = u32::try_from(offset)
            {
                if vendor.is_empty() {
                    offsets.insert(offset, *name);
                } else if vendored.len() < VENDORS_MAX || vendored.contains_key(vendor) {
                    vendored
                        .entry(vendor.to_owned())
                        .or_default()
                        .insert(offset, name);
                }
            }
            if prefixed.is_none() && prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                prefixed = Some(name.to_owned());
            }
        };
        let (start, end) = self.names;
        // The beginning of a name that a chunk cut off.
        let mut cut: Vec<u8> = Vec::new();
        elf.scan(self.file_offset + start, end - start, |at, chunk| {
            let mut rest = chunk;
            let mut place = at;
            while let Some(length) = rest.iter().position(|byte| *byte == 0) {
                let (name, after) = rest.split_at(length);
                if cut.is_empty() {
                    check(name, place);
                } else {
                    let before = cut.len() as u64;
                    cut.extend_from_slice(name);
                    check(&cut, place - before);
                    cut.clear();
                }
                rest = after.get(1..).unwrap_or_default();
                place += length as u64 + 1;
            }
            cut.extend_from_slice(rest);
            if cut.len() > NAME_MAX {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?
        .map_or(Ok(()), |()| {
            Err(ElfError::Corrupted("a function's name has no end"))
        })?;
        // Of several copies one, so that no two versions are mixed.
        let has_own = offsets.values().any(|name| is_foreign(name));
        let most = vendored.into_iter().max_by_key(|(_, names)| names.len());
        let (vendor, names) = most.filter(|_| !has_own).unwrap_or_default();
        offsets.extend(names);
        Ok(Names {
            offsets,
            vendor,
            prefixed,
        })
    }
}

/// What is found in the table of names.
struct Names<'a> {
    /// Where the wanted ones are.
    offsets: HashMap<u32, &'a str>,
    vendor: String,
    prefixed: Option<String>,
}

/// Copies of other people's packages that are told apart.
const VENDORS_MAX: usize = 16;

/// `shop/vendor/` and `example.org/a.F` of `shop/vendor/example.org/a.F`. The standard library's own copies have nothing
/// before `vendor/`, and are left as they are.
fn split_vendor(name: &str) -> (&str, &str) {
    const VENDOR: &str = "/vendor/";
    let at = name.rfind(VENDOR).map_or(0, |at| at + VENDOR.len());
    name.split_at(at)
}

/// Whether the function is of no package of the standard library, whose paths begin without a dot.
fn is_foreign(name: &str) -> bool {
    name.split_once('/').is_some_and(|(first, _)| first.contains('.'))
}

/// A stretch of the file that moves forward only: what reading goes back for more than a window is not ordered as
/// Go's linker orders it, and would make a hostile table cost its square.
struct Window<'a> {
    elf: &'a Elf,
    base: u64,
    end: u64,
    buffer: Vec<u8>,
    /// Where `buffer` starts, from `base`.
    start: u64,
    next: u64,
}

impl<'a> Window<'a> {
    fn new(elf: &'a Elf, base: u64, end: u64) -> Self {
        Self {
            elf,
            base,
            end: end.min(elf.size_bytes()),
            buffer: Vec::new(),
            start: 0,
            next: 0,
        }
    }

    fn bytes<const N: usize>(&mut self, at: u64) -> Result<[u8; N], ElfError> {
        const BROKEN: ElfError = ElfError::Corrupted("the function table (gopclntab) is damaged");
        let found = |window: &Self| {
            let from = usize::try_from(at.checked_sub(window.start)?).ok()?;
            window.buffer.get(from..)?.first_chunk::<N>().copied()
        };
        if let Some(bytes) = found(self) {
            return Ok(bytes);
        }
        // Forward by at least a quarter of the last window, or this is not the linker's order.
        if at < self.next {
            return Err(BROKEN);
        }
        let offset = self.base.checked_add(at).ok_or(BROKEN)?;
        let left = self.end.checked_sub(offset).ok_or(BROKEN)?;
        let length = WINDOW_BYTES.min(usize::try_from(left).unwrap_or(WINDOW_BYTES));
        self.buffer.resize(length, 0);
        self.elf.read_at(offset, &mut self.buffer)?;
        self.start = at;
        self.next = at + (length / 4) as u64;
        found(self).ok_or(BROKEN)
    }

    fn word(&mut self, at: u64) -> Result<u32, ElfError> {
        Ok(u32::from_le_bytes(self.bytes(at)?))
    }

    fn pair(&mut self, at: u64) -> Result<(u32, u32), ElfError> {
        let pair = u64::from_le_bytes(self.bytes(at)?);
        Ok((pair as u32, (pair >> 32) as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_packages_have_the_names_of_packages() {
        for (name, split) in [
            ("shop/vendor/example.org/a.F", ("shop/vendor/", "example.org/a.F")),
            (
                "a.b/c/vendor/d/vendor/e.org/f.G",
                ("a.b/c/vendor/d/vendor/", "e.org/f.G"),
            ),
            // The standard library's own, and names that only look alike.
            (
                "vendor/golang.org/x/net/http2/hpack.F",
                ("", "vendor/golang.org/x/net/http2/hpack.F"),
            ),
            ("example.org/vendors/a.F", ("", "example.org/vendors/a.F")),
            ("main.main", ("", "main.main")),
        ] {
            assert_eq!(split_vendor(name), split);
        }
        assert!(is_foreign("example.org/a.F"));
        assert!(!is_foreign("net/http.(*conn).serve") && !is_foreign("main.main"));
    }
}
