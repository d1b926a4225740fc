//! The kernel object in pieces: its maps, which are in the kernel, and its programs, which come there when something
//! wants them.
//!
//! aya-obj takes the object apart, and aya makes the maps and reads them. The programs are loaded and attached by us:
//! aya 0.14 knows no uprobes that are attached by the many, and it parses the kernel's own types on each start, to which
//! nothing in our object refers. (aya 0.15 does better; it wants Rust 1.98.)

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ffi::CString,
    fs,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    str::FromStr,
    sync::Arc,
};

use aya::maps::{Map, MapData};
use aya_obj::{
    EbpfSectionKind, Function, ProgramSection,
    generated::{bpf_attach_type, bpf_prog_type},
};
use tracing::warn;

use super::{
    bpf::{self, Code, Refused},
    load::LoadError,
};

/// The maps, and the programs by their names.
pub struct Object {
    uprobes: Uprobes,
    programs: BTreeMap<String, Program>,
    maps: HashMap<String, Map>,
}

/// A program, loaded or not.
#[derive(Debug)]
pub struct Program {
    kind: Kind,
    license: CString,
    types: Option<Arc<OwnedFd>>,
    function: Function,
    loaded: Option<OwnedFd>,
}

/// What runs a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Places in programs' files, attached to as said.
    Hook(Uprobes),
    Tracepoint,
    /// Sockets, of a cgroup or in a map.
    Socket(bpf_prog_type, bpf_attach_type),
}

/// How uprobes are attached. A program is loaded for the one or the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uprobes {
    /// All places that a program has in a file, by one link: since Linux 6.6.
    ByTheMany,
    /// Each by an event of perf.
    OneByOne,
}

// === impl Object ===

impl Object {
    /// Makes the maps.
    pub(super) fn load(bytes: &[u8], uprobes: Uprobes) -> Result<Self, LoadError> {
        let unreadable = |error: Box<dyn std::error::Error + Send + Sync>| LoadError::Object(error);
        let mut object = aya_obj::Object::parse(bytes).map_err(|error| unreadable(error.into()))?;
        let types = load_types(&mut object)?.map(Arc::new);
        let map_types = types.as_ref().map(|types| types.as_fd());
        let mut maps = HashMap::new();
        let definitions = std::mem::take(&mut object.maps);
        for (name, definition) in &definitions {
            let map = MapData::create(definition.clone(), name, map_types)
                .map_err(|error| unreadable(error.into()))?;
            if !definition.data().is_empty() {
                bpf::fill(map.fd().as_fd(), definition.data()).map_err(|error| unreadable(error.into()))?;
            }
            if definition.section_kind() == EbpfSectionKind::Rodata {
                bpf::freeze(map.fd().as_fd()).map_err(|error| unreadable(error.into()))?;
            }
            maps.insert(name.clone(), map);
        }
        let code: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        let made = maps.iter().filter_map(|(name, map)| {
            Some((
                name.as_str(),
                map.fd().as_fd().as_raw_fd(),
                definitions.get(name)?,
            ))
        });
        object
            .relocate_maps(made, &code)
            .and_then(|()| object.relocate_calls(&code))
            .map_err(|error| unreadable(error.into()))?;
        let programs = std::mem::take(&mut object.programs);
        let programs = programs.into_iter().filter_map(|(name, program)| {
            let kind = kind(&program.section, uprobes);
            let function = object.functions.remove(&program.function_key());
            let (Some(kind), Some(function)) = (kind, function) else {
                warn!(name, "Kernel program of an unknown kind");
                return None;
            };
            let program = Program {
                kind,
                license: program.license,
                types: types.clone(),
                function,
                loaded: None,
            };
            Some((name, program))
        });
        let programs = programs.collect();
        let maps = maps
            .into_iter()
            .map(|(name, map)| Ok((name, Map::from_map_data(map)?)))
            .collect::<Result<_, aya::maps::MapError>>()
            .map_err(|error| unreadable(error.into()))?;
        Ok(Self {
            uprobes,
            programs,
            maps,
        })
    }

    /// How its hooks are attached.
    pub fn uprobes(&self) -> Uprobes {
        self.uprobes
    }

    pub fn map(&self, name: &str) -> Option<&Map> {
        self.maps.get(name)
    }

    pub(super) fn map_mut(&mut self, name: &str) -> Option<&mut Map> {
        self.maps.get_mut(name)
    }

    pub(super) fn take_map(&mut self, name: &str) -> Option<Map> {
        self.maps.remove(name)
    }

    pub fn program(&self, name: &str) -> Option<&Program> {
        self.programs.get(name)
    }

    pub(super) fn program_mut(&mut self, name: &str) -> Option<&mut Program> {
        self.programs.get_mut(name)
    }

    /// Sorted by name.
    pub fn programs(&self) -> impl Iterator<Item = (&str, &Program)> {
        self.programs
            .iter()
            .map(|(name, program)| (name.as_str(), program))
    }

    pub(super) fn programs_mut(&mut self) -> impl Iterator<Item = (&str, &mut Program)> {
        self.programs
            .iter_mut()
            .map(|(name, program)| (name.as_str(), program))
    }
}

/// Tells the kernel of the object's types, as far as it knows such.
fn load_types(object: &mut aya_obj::Object) -> Result<Option<OwnedFd>, LoadError> {
    let Some(features) = aya::features().btf() else {
        return Ok(None);
    };
    let types = object
        .fixup_and_sanitize_btf(features)
        .map_err(|error| LoadError::Object(error.into()))?;
    Ok(types.and_then(|types| {
        // Programs may be accepted without.
        bpf::load_types(&types.to_bytes())
            .inspect_err(|error| warn!(%error, "Types of the kernel object refused by the kernel"))
            .ok()
    }))
}

fn kind(section: &ProgramSection, uprobes: Uprobes) -> Option<Kind> {
    use bpf_attach_type::{BPF_CGROUP_SOCK_OPS, BPF_SK_MSG_VERDICT};
    use bpf_prog_type::{
        BPF_PROG_TYPE_CGROUP_SOCK, BPF_PROG_TYPE_SK_MSG, BPF_PROG_TYPE_SK_SKB, BPF_PROG_TYPE_SOCK_OPS,
    };
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "aya's enum; ours has these kinds of programs"
    )]
    Some(match section {
        ProgramSection::UProbe { sleepable: false } => Kind::Hook(uprobes),
        ProgramSection::RawTracePoint => Kind::Tracepoint,
        ProgramSection::CgroupSock { attach_type } => {
            Kind::Socket(BPF_PROG_TYPE_CGROUP_SOCK, (*attach_type).into())
        }
        ProgramSection::SockOps => Kind::Socket(BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS),
        ProgramSection::SkMsg => Kind::Socket(BPF_PROG_TYPE_SK_MSG, BPF_SK_MSG_VERDICT),
        ProgramSection::SkSkbStream { kind } => Kind::Socket(BPF_PROG_TYPE_SK_SKB, (*kind).into()),
        _ => return None,
    })
}

// === impl Program ===

impl Program {
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// How many instructions it has.
    pub(super) fn length(&self) -> usize {
        self.function.instructions.len()
    }

    /// Its descriptor, once it is loaded.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.loaded.as_ref().map(|loaded| loaded.as_fd())
    }

    /// What the kernel tells of it once it is loaded: `prog_id`, `verified_insns`, `run_cnt`.
    pub fn number<Number: FromStr>(&self, what: &str) -> Option<Number> {
        let descriptor = self.loaded.as_ref()?.as_raw_fd();
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).ok()?;
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(name, _)| *name == what)?.1.trim().parse().ok()
    }

    /// Has it verified, if it is not loaded already; its descriptor.
    pub(super) fn load(&mut self, name: &str) -> Result<BorrowedFd<'_>, Refused> {
        let loaded = match self.loaded.take() {
            Some(loaded) => loaded,
            None => self.verify(name)?,
        };
        let loaded: &OwnedFd = self.loaded.insert(loaded);
        Ok(loaded.as_fd())
    }

    fn verify(&self, name: &str) -> Result<OwnedFd, Refused> {
        let (kind, attach_type) = match self.kind {
            Kind::Hook(Uprobes::ByTheMany) => (
                bpf_prog_type::BPF_PROG_TYPE_KPROBE,
                Some(bpf_attach_type::BPF_TRACE_UPROBE_MULTI),
            ),
            Kind::Hook(Uprobes::OneByOne) => (bpf_prog_type::BPF_PROG_TYPE_KPROBE, None),
            Kind::Tracepoint => (bpf_prog_type::BPF_PROG_TYPE_RAW_TRACEPOINT, None),
            Kind::Socket(kind, attach_type) => (kind, Some(attach_type)),
        };
        bpf::load_program(&Code {
            name,
            kind,
            attach_type,
            license: &self.license,
            instructions: &self.function.instructions,
            types: self.types.as_ref().map(|types| (types.as_fd(), &self.function)),
        })
    }
}
