//! Go binaries: version, modules, where their text begins, and their functions.

mod buildinfo;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use object::elf::NT_GNU_BUILD_ID;
use thiserror::Error;

use self::buildinfo::{Buildinfo, module_of, parse_modules};
use crate::discover::{
    elf::{Architecture, Elf, ElfError},
    module::ModuleVersion,
    pclntab::{Found, Pclntab},
};

pub(crate) use self::buildinfo::take_varint;
pub use self::buildinfo::{GoVersion, Module, ModuleUnknown};

/// The oldest Go whose binaries are understood.
pub const OLDEST: GoVersion = GoVersion::new(19, 0);

/// Bytes of `runtime.moduledata` that are looked at.
const MODULEDATA_BYTES: usize = 344;
/// The note with Go's own build id.
const NT_GO_BUILD_ID: u32 = 4;

/// Why a binary cannot be traced, or read at all.
#[derive(Debug, Error)]
pub enum BinaryError {
    #[error("{path} cannot be opened: {}", .source)]
    Open { path: PathBuf, source: std::io::Error },
    #[error("{path} cannot be read: {}", .source)]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is not an ELF program")]
    NotElf { path: PathBuf },
    #[error("{path} is built for {machine}; skyprobe knows 64-bit x86 and ARM")]
    Architecture { path: PathBuf, machine: String },
    #[error("{path} is not a Go program: it has no Go build information")]
    NotGo { path: PathBuf },
    #[error("{path} is built with {version}; skyprobe knows Go 1.19 and later: rebuild it with a newer Go")]
    TooOld { path: PathBuf, version: String },
    #[error(
        "{path} does not say with which Go it is built (it says \"{version}\"), so nothing can be known of it"
    )]
    UnknownVersion { path: PathBuf, version: String },
    #[error("{path} is corrupted: {what}")]
    Corrupted { path: PathBuf, what: &'static str },
}

impl BinaryError {
    fn new(path: &Path, error: ElfError) -> Self {
        let path = path.to_owned();
        match error {
            ElfError::Open { source, .. } => Self::Open { path, source },
            ElfError::Read { source, .. } => Self::Read { path, source },
            ElfError::NotElf => Self::NotElf { path },
            ElfError::Architecture(machine) => Self::Architecture { path, machine },
            ElfError::Corrupted(what) => Self::Corrupted { path, what },
        }
    }
}

/// An opened Go program.
#[derive(Clone)]
pub struct GoBinary {
    pub path: PathBuf,
    pub go_version: GoVersion,
    /// The version as the binary has it, pre-release and experiments included.
    pub go_version_text: String,
    /// `None` where the build information has no list of modules.
    pub modules: Option<Vec<Module>>,
    /// Build settings such as `CGO_ENABLED`.
    pub settings: Vec<(String, String)>,
    pub architecture: Architecture,
    /// It has no symbol table.
    pub stripped: bool,
    pub pie: bool,
    /// A C linker made it, as with cgo; `None` where the section headers are gone.
    pub externally_linked: Option<bool>,
    /// Go's build id, else the GNU one in hexadecimal digits.
    pub build_id: Option<String>,
    /// Where Go's text begins, before the load bias.
    pub text: u64,
    /// Address of `runtime.firstmoduledata`, before the load bias.
    pub moduledata: Option<u64>,
    elf: Arc<Elf>,
    pclntab: Pclntab,
}

/// Whether the file is a Go program, whatever its version. What cannot be read is none.
pub fn is_go(path: &Path) -> bool {
    let elf = Elf::open(path);
    elf.is_ok_and(|elf| matches!(Buildinfo::find(&elf), Ok(Some(_))))
}

// === impl GoBinary ===

impl GoBinary {
    pub fn open(path: &Path) -> Result<Self, BinaryError> {
        let elf = Elf::open(path).map_err(|error| BinaryError::new(path, error))?;
        Self::from_elf(path, elf)
    }

    /// A binary in memory, for tests and fuzzing.
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, BinaryError> {
        let elf = Elf::from_bytes(bytes).map_err(|error| BinaryError::new(path, error))?;
        Self::from_elf(path, elf)
    }

    fn from_elf(path: &Path, elf: Elf) -> Result<Self, BinaryError> {
        let fail = |error| BinaryError::new(path, error);
        let buildinfo = Buildinfo::find(&elf).map_err(fail)?;
        let Some(buildinfo) = buildinfo else {
            return Err(BinaryError::NotGo {
                path: path.to_owned(),
            });
        };
        let version = buildinfo.version;
        let Some(go_version) = GoVersion::parse(&version) else {
            return Err(BinaryError::UnknownVersion {
                path: path.to_owned(),
                version,
            });
        };
        if go_version < OLDEST {
            return Err(BinaryError::TooOld {
                path: path.to_owned(),
                version,
            });
        }
        let pclntab = Pclntab::find(&elf).map_err(fail)?;
        let moduledata = Moduledata::find(&elf, &pclntab).map_err(fail)?;
        let text = text_base(&elf, &pclntab, moduledata.as_ref(), go_version).map_err(fail)?;
        let build_id = match elf.note(b"Go", NT_GO_BUILD_ID) {
            Some(id) if !id.is_empty() => Some(String::from_utf8_lossy(&id).into_owned()),
            _ => elf
                .note(b"GNU", NT_GNU_BUILD_ID.0)
                .map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect()),
        };
        let (modules, settings) = match &buildinfo.modules {
            Some(text) => parse_modules(text),
            None => (None, Vec::new()),
        };
        let sections_known = !elf.sections.is_empty();
        Ok(Self {
            path: path.to_owned(),
            go_version,
            go_version_text: version,
            modules,
            settings,
            architecture: elf.architecture,
            stripped: elf.section(".symtab").is_none(),
            pie: elf.pie,
            // Go's own linker makes no unwind tables for C.
            externally_linked: sections_known.then(|| elf.section(".eh_frame").is_some()),
            build_id,
            text,
            moduledata: moduledata.map(|moduledata| moduledata.address),
            elf: Arc::new(elf),
            pclntab,
        })
    }

    /// Whether code that is not Go's may run in it: cgo, and libraries behind it.
    pub fn may_hold_c(&self) -> bool {
        let built_without = self
            .settings
            .iter()
            .any(|(key, value)| key == "CGO_ENABLED" && value == "0");
        let alone = self.externally_linked == Some(false) && !self.elf.dynamic;
        !built_without && !alone
    }

    pub fn elf(&self) -> &Elf {
        &self.elf
    }

    /// The open file, for readers that outlive this value.
    pub fn share_elf(&self) -> Arc<Elf> {
        Arc::clone(&self.elf)
    }

    /// Address of the function table, before the load bias.
    pub fn function_table(&self) -> u64 {
        self.pclntab.address
    }

    pub fn function_count(&self) -> u64 {
        self.pclntab.function_count()
    }

    /// Looks up functions by name, and for a name with one of the prefixes, in one pass over the table.
    pub fn look_up(&self, names: &[&str], prefixes: &[&str]) -> Result<Found, BinaryError> {
        self.pclntab
            .look_up(&self.elf, self.text, names, prefixes)
            .map_err(|error| BinaryError::new(&self.path, error))
    }

    /// The module that the package comes from, and its version.
    pub fn module_of(&self, package: &str) -> Result<(&Module, ModuleVersion), ModuleUnknown> {
        module_of(self.modules.as_ref().ok_or(ModuleUnknown::NoList)?, package)
    }
}

/// The fields of `runtime.moduledata` that lie at the same place in every version since Go 1.19.
struct Moduledata {
    address: u64,
    text: u64,
}

impl Moduledata {
    /// Finds it by what it must contain: it begins with a pointer to the function table.
    fn find(elf: &Elf, pclntab: &Pclntab) -> Result<Option<Self>, ElfError> {
        if let Some(section) = elf.section(".go.module")
            && let Some(found) = Self::check(elf, pclntab, &[section.address])
        {
            return Ok(Some(found));
        }
        Ok(Self::check(elf, pclntab, &elf.pointers_to(pclntab.address, 16)?))
    }

    fn check(elf: &Elf, pclntab: &Pclntab, candidates: &[u64]) -> Option<Self> {
        candidates.iter().find_map(|address| {
            let address = *address;
            let mut bytes = [0; MODULEDATA_BYTES];
            elf.read_relocated(address, &mut bytes).ok()?;
            let (words, _) = bytes.as_chunks::<8>();
            let word = |offset: usize| words.get(offset / 8).map_or(0, |word| u64::from_le_bytes(*word));
            let (minpc, maxpc, text, etext) = (word(160), word(168), word(176), word(184));
            // `pclntable` and `ftab` are slices into the table, whose functions `ftab` counts (and one more).
            let inside = word(104) > pclntab.address && word(128) == word(104);
            let ordered = text <= minpc && minpc < maxpc && maxpc <= etext;
            let functions = word(136) == pclntab.function_count() + 1;
            let right = word(0) == pclntab.address && inside && functions && ordered;
            (right && elf.is_executable(minpc)).then_some(Self { address, text })
        })
    }
}

/// Where function entries count from. The section `.text` is no answer: with external linking C code lies before
/// Go's.
fn text_base(
    elf: &Elf,
    pclntab: &Pclntab,
    moduledata: Option<&Moduledata>,
    version: GoVersion,
) -> Result<u64, ElfError> {
    const UNKNOWN: ElfError =
        ElfError::Corrupted("where its code begins is not to be found (runtime.moduledata)");
    let header = (version < GoVersion::new(26, 0) && pclntab.text_start != 0).then_some(pclntab.text_start);
    let text = match (moduledata, header) {
        (Some(moduledata), Some(header)) if moduledata.text != header => return Err(UNKNOWN),
        (Some(moduledata), _) => moduledata.text,
        (None, Some(header)) => header,
        (None, None) => return Err(UNKNOWN),
    };
    if elf.is_executable(text) {
        Ok(text)
    } else {
        Err(UNKNOWN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::sample::{CLIENT, VARIANTS, build_variant};

    #[test]
    fn what_cannot_be_read_is_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let binary = build_variant(directory.path(), CLIENT, VARIANTS[2]);
        let whole = std::fs::read(&binary.path).unwrap();
        let told = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = whole.clone();
            change(&mut bytes);
            let error = GoBinary::from_bytes(Path::new("/srv/app"), bytes).err().unwrap();
            error.to_string()
        };
        let buildinfo = binary.elf().section(".go.buildinfo").unwrap().offset as usize;
        let version = |bytes: &mut Vec<u8>, text: &str| {
            bytes[buildinfo + 32] = text.len() as u8;
            bytes[buildinfo + 33..buildinfo + 33 + text.len()].copy_from_slice(text.as_bytes());
        };
        assert_eq!(
            told(&|bytes| version(bytes, "go1.17.8")),
            "/srv/app is built with go1.17.8; skyprobe knows Go 1.19 and later: rebuild it with a newer Go"
        );
        assert!(told(&|bytes| version(bytes, "devel x")).contains("it says \"devel x\""));
        let table = binary.elf().file_offset(binary.function_table()).unwrap() as usize;
        assert_eq!(
            told(&|bytes| bytes[table] = 0),
            "/srv/app is corrupted: the function table (gopclntab) is damaged"
        );
        assert_eq!(
            told(&|bytes| bytes[table] = 0xfa),
            "/srv/app is corrupted: the function table (gopclntab) has the form of Go 1.17 or older"
        );
        assert_eq!(
            told(&|bytes| bytes[table + 8] ^= 1),
            "/srv/app is corrupted: where its code begins is not to be found (runtime.moduledata)"
        );
        assert_eq!(told(&|bytes| bytes.truncate(0)), "/srv/app is not an ELF program");
        assert_eq!(
            told(&|bytes| bytes.truncate(70)),
            "/srv/app is corrupted: the program headers are outside the file"
        );
        assert_eq!(
            told(&|bytes| bytes[18] = 40),
            "/srv/app is built for 32-bit ARM; skyprobe knows 64-bit x86 and ARM"
        );
        // Not ourselves: what is looked for stands in our own constants, too, and where is up to the compiler.
        let shell = GoBinary::open(Path::new("/bin/sh")).err().unwrap().to_string();
        assert_eq!(
            shell,
            "/bin/sh is not a Go program: it has no Go build information"
        );
        let nowhere = GoBinary::open(Path::new("/does/not/exist"))
            .err()
            .unwrap()
            .to_string();
        assert_eq!(
            nowhere,
            "/does/not/exist cannot be opened: No such file or directory (os error 2)"
        );
    }
}
