//! What Go's linker writes of a build: the version of Go, the modules, the settings.

use std::{fmt, ops::ControlFlow};

use thiserror::Error;

use crate::discover::{
    elf::{Elf, ElfError},
    module::ModuleVersion,
};

/// What the build information starts with.
const BUILDINFO_MAGIC: &[u8; 14] = b"\xff Go buildinf:";
/// Bytes of build information that are read: every module of a large program is some 100 bytes.
const BUILDINFO_MAX: u64 = 1024 * 1024;
/// What brackets the module list.
const MODULES_START: [u8; 16] = [
    0x30, 0x77, 0xaf, 0x0c, 0x92, 0x74, 0x08, 0x02, 0x41, 0xe1, 0xc1, 0x07, 0xe6, 0xd6, 0x18, 0xe6,
];
const MODULES_END_BYTES: usize = 16;

/// A Go 1 release. Pre-releases and development versions count as the first release of what they lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoVersion {
    pub minor: u16,
    pub patch: u16,
}

impl GoVersion {
    pub const fn new(minor: u16, patch: u16) -> Self {
        Self { minor, patch }
    }

    /// Reads `go1.26.8`, `go1.26rc1`, `devel go1.28-4a7f1b2`, `go1.22.5 X:nocoverageredesign`, `1.19.8`.
    pub fn parse(text: &str) -> Option<Self> {
        let numbers = match text.split_once("go1.") {
            Some((_, numbers)) => numbers,
            None => text.strip_prefix("1.")?,
        };
        let number = |text: &str| -> Option<u16> {
            let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            text.get(..digits)?.parse().ok()
        };
        let minor = number(numbers)?;
        let rest = numbers.trim_start_matches(|c: char| c.is_ascii_digit());
        let patch = rest.strip_prefix('.').and_then(number).unwrap_or(0);
        Some(Self { minor, patch })
    }
}

impl fmt::Display for GoVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}.{}", self.minor, self.patch)
    }
}

/// A module that the program is built from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    pub path: String,
    /// `(devel)` or empty where the build did not know.
    pub version: String,
    /// Another module's code was put in its place.
    pub replaced: bool,
}

/// Why it is not known of which version a package is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ModuleUnknown {
    #[error("the build information lists no modules")]
    NoList,
    #[error("the build information does not list it")]
    NotListed,
    #[error("the build information does not say it")]
    NoVersion,
    #[error("the build has put other code in its place")]
    Replaced,
    #[error("the build has taken a commit that is no release")]
    NoRelease,
}

/// The build information as it stands there.
pub(super) struct Buildinfo {
    pub(super) version: String,
    pub(super) modules: Option<String>,
}

impl Buildinfo {
    pub(super) fn find(elf: &Elf) -> Result<Option<Self>, ElfError> {
        if let Some(section) = elf.section(".go.buildinfo") {
            return Self::read(elf, section.address);
        }
        // Data that can be written first: that is where Go's linker puts it.
        let mut segments: Vec<_> = elf
            .segments
            .iter()
            .filter(|segment| !segment.executable)
            .collect();
        segments.sort_by_key(|segment| !segment.writable);
        for segment in segments {
            let found = elf.scan(segment.offset, segment.file_bytes, |at, chunk| {
                let blocks = chunk.as_chunks::<16>().0;
                match blocks.iter().position(|block| block.starts_with(BUILDINFO_MAGIC)) {
                    Some(index) => ControlFlow::Break(segment.address + at + index as u64 * 16),
                    None => ControlFlow::Continue(()),
                }
            })?;
            if let Some(address) = found {
                // Whoever reads Go programs has these bytes among its own, and something else behind them.
                let is_its_own = |found: &Self| found.version.contains(char::is_control);
                return Ok(Self::read(elf, address)?.filter(|found| !is_its_own(found)));
            }
        }
        Ok(None)
    }

    fn read(elf: &Elf, address: u64) -> Result<Option<Self>, ElfError> {
        const BROKEN: ElfError = ElfError::Corrupted("the Go build information is damaged");
        let Some(segment) = elf.segment(address) else {
            return Err(BROKEN);
        };
        let at = address - segment.address;
        let (offset, left) = (segment.offset.saturating_add(at), segment.file_bytes - at);
        let available = elf.size_bytes().saturating_sub(offset);
        let bytes = elf.bytes(
            offset,
            left.min(available).min(BUILDINFO_MAX),
            "the Go build information",
        )?;
        let pointers = |at| -> Option<u64> {
            let mut word = [0; 8];
            elf.read_relocated(at, &mut word).ok()?;
            Some(u64::from_le_bytes(word))
        };
        parse_buildinfo(&bytes, |pointer| {
            // Before Go 1.18: a pointer to a Go string.
            let (text, length) = (pointers(pointer)?, pointers(pointer.checked_add(8)?)?);
            let mut bytes = vec![0; usize::try_from(length).ok().filter(|length| *length <= 256)?];
            elf.read_address(text, &mut bytes).ok()?;
            String::from_utf8(bytes).ok()
        })
        .map(Some)
        .ok_or(BROKEN)
    }
}

/// Takes build information apart. `resolve` reads the Go string behind a pointer.
fn parse_buildinfo(bytes: &[u8], resolve: impl FnOnce(u64) -> Option<String>) -> Option<Buildinfo> {
    let (head, rest) = bytes.split_first_chunk::<32>()?;
    if !head.starts_with(BUILDINFO_MAGIC) {
        return None;
    }
    let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, flags, pointer @ ..] = head;
    if flags & 2 == 0 {
        let version = resolve(u64::from_le_bytes(*pointer.first_chunk()?))?;
        return Some(Buildinfo {
            version,
            modules: None,
        });
    }
    let (version, rest) = take_string(rest)?;
    let modules = take_string(rest).and_then(|(modules, _)| {
        let end = modules.len().checked_sub(MODULES_END_BYTES)?;
        modules.get(..end)?.strip_prefix(&MODULES_START)
    });
    Some(Buildinfo {
        version: String::from_utf8_lossy(version.get(..version.len().min(256))?).into_owned(),
        modules: modules.map(|modules| String::from_utf8_lossy(modules).into_owned()),
    })
}

/// A string after its length as a varint.
fn take_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = take_varint(bytes)?;
    rest.split_at_checked(usize::try_from(length).ok()?)
}

/// A number, seven bits a byte, the lowest first.
pub(crate) fn take_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(9).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}

/// The modules, and the build's settings.
pub(super) fn parse_modules(text: &str) -> (Option<Vec<Module>>, Vec<(String, String)>) {
    let mut modules: Vec<Module> = Vec::new();
    let mut settings = Vec::new();
    for line in text.lines() {
        let mut columns = line.split('\t');
        match (columns.next(), columns.next(), columns.next()) {
            (Some("mod" | "dep"), Some(path), version) => modules.push(Module {
                path: path.to_owned(),
                version: version.unwrap_or_default().to_owned(),
                replaced: false,
            }),
            (Some("=>"), Some(_), _) => {
                if let Some(module) = modules.last_mut() {
                    module.replaced = true;
                }
            }
            (Some("build"), Some(setting), _) => {
                if let Some((key, value)) = setting.split_once('=') {
                    settings.push((key.to_owned(), value.trim_matches('"').to_owned()));
                }
            }
            _ => {}
        }
    }
    ((!modules.is_empty()).then_some(modules), settings)
}

/// A package may have moved from one module to another: it is of the one whose path is the longest beginning of its
/// own, as Go has it.
pub(super) fn module_of<'a>(
    modules: &'a [Module],
    package: &str,
) -> Result<(&'a Module, ModuleVersion), ModuleUnknown> {
    let holds = |module: &&Module| {
        let rest = package.strip_prefix(&module.path);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let module = modules
        .iter()
        .filter(holds)
        .max_by_key(|module| module.path.len())
        .ok_or(ModuleUnknown::NotListed)?;
    if module.replaced {
        return Err(ModuleUnknown::Replaced);
    }
    let version = ModuleVersion::parse(&module.version).ok_or(ModuleUnknown::NoVersion)?;
    Ok((module, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_go_writes_them() {
        let cases = [
            ("go1.26.8", Some((26, 8))),
            ("go1.19", Some((19, 0))),
            ("go1.26rc1", Some((26, 0))),
            ("devel go1.28-4a7f1b2c3d Tue Aug 4", Some((28, 0))),
            ("go1.28-devel_4a7f1b2c3d", Some((28, 0))),
            ("go1.22.5 X:nocoverageredesign", Some((22, 5))),
            ("go1.21.1b5", Some((21, 1))),
            ("go1.22.7 (Red Hat 1.22.7-1.el9)", Some((22, 7))),
            ("1.23.4", Some((23, 4))),
            ("devel +b7a85e0003 linux/amd64", None),
            ("unknown", None),
            ("go1.", None),
            ("go1.99999999", None),
        ];
        for (text, expected) in cases {
            let expected = expected.map(|(minor, patch)| GoVersion::new(minor, patch));
            assert_eq!(GoVersion::parse(text), expected, "{text}");
        }
        assert!(
            GoVersion::new(26, 8) < GoVersion::new(26, 11) && GoVersion::new(9, 9) < GoVersion::new(19, 0)
        );
    }

    #[test]
    fn modules_are_listed_with_what_replaced_them() {
        let text = "path\texample/web\nmod\texample/web\t(devel)\t\ndep\tgolang.org/x/net\tv0.30.0\th1:x\n\
            dep\tgoogle.golang.org/grpc\tv1.60.0\n=>\t../grpc\t(devel)\t\nbuild\tCGO_ENABLED=1\nbuild\t-ldflags=\"-s -w\"\n";
        let (modules, settings) = parse_modules(text);
        let modules = modules.unwrap();
        let seen: Vec<_> = modules
            .iter()
            .map(|m| (m.path.as_str(), m.version.as_str(), m.replaced))
            .collect();
        assert_eq!(
            seen,
            [
                ("example/web", "(devel)", false),
                ("golang.org/x/net", "v0.30.0", false),
                ("google.golang.org/grpc", "v1.60.0", true)
            ]
        );
        assert_eq!(settings[0], ("CGO_ENABLED".to_owned(), "1".to_owned()));
        assert_eq!(settings[1], ("-ldflags".to_owned(), "-s -w".to_owned()));
        assert_eq!(parse_modules("path\tcommand-line-arguments\n").0, None);
    }

    #[test]
    fn a_package_is_of_the_module_that_holds_it() {
        let text = "mod\texample/web\t(devel)\t\ndep\tgolang.org/x/net\tv0.30.0\th1:x\n\
            dep\tgoogle.golang.org/genproto\tv0.0.0-20230410155749-daa745c078e1\th1:x\n\
            dep\tgoogle.golang.org/genproto/googleapis/rpc\tv0.0.0-20240604185151-ef581f913117\th1:x\n\
            dep\tgoogle.golang.org/grpc\tv1.60.0\n=>\t../grpc\t(devel)\t\n";
        let modules = parse_modules(text).0.unwrap();
        let found = |package| module_of(&modules, package).map(|(module, _)| module.version.as_str());
        assert_eq!(found("golang.org/x/net/http2"), Ok("v0.30.0"));
        assert_eq!(
            found("google.golang.org/genproto/googleapis/rpc/status"),
            Ok("v0.0.0-20240604185151-ef581f913117")
        );
        assert_eq!(
            found("google.golang.org/genproto/googleapis/rpcs"),
            Ok("v0.0.0-20230410155749-daa745c078e1")
        );
        assert_eq!(found("google.golang.org/grpc"), Err(ModuleUnknown::Replaced));
        assert_eq!(found("example/web/part"), Err(ModuleUnknown::NoVersion));
        assert_eq!(found("golang.org/x/netip"), Err(ModuleUnknown::NotListed));
    }

    #[test]
    fn build_information_may_end_anywhere() {
        let mut bytes = BUILDINFO_MAGIC.to_vec();
        bytes.extend([8, 2]);
        bytes.extend([0; 16]);
        bytes.extend([8]);
        bytes.extend(b"go1.26.8");
        let modules = "mod\texample/web\tv1.0.0\t\n";
        bytes.push((modules.len() + 32) as u8);
        bytes.extend(MODULES_START);
        bytes.extend(modules.as_bytes());
        bytes.extend([7; 16]);
        let whole = parse_buildinfo(&bytes, |_| None).unwrap();
        assert_eq!(
            (whole.version.as_str(), whole.modules.as_deref()),
            ("go1.26.8", Some(modules))
        );
        for length in 0..bytes.len() {
            let part = parse_buildinfo(&bytes[..length], |_| None);
            assert!(part.is_none_or(|part| part.version == "go1.26.8" && part.modules.is_none()));
        }
    }

    #[test]
    fn a_varint_without_end_is_none() {
        assert_eq!(take_varint(&[0xff; 20]), None);
        assert_eq!(take_varint(&[0xac, 0x02, 9]), Some((300, &[9][..])));
    }
}
