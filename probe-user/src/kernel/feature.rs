//! What this kernel and our rights in it allow: read where it is written down, tried where it is not.

pub mod trial;

use std::{
    fmt::{Display, Formatter, Result as FormatResult},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    system::uname,
    thread::{CapabilitySet, capabilities},
};

/// The first kernel whose atomic instructions have results: by them spans are numbered and working memory is shared out.
pub const OLDEST: KernelVersion = KernelVersion {
    major: 5,
    minor: 12,
    patch: 0,
};
/// From here on uprobes want `CAP_SYS_ADMIN`, for one may be put into the middle of an instruction. Distributions
/// carried the change over to older kernels, in which only a trial shows it.
const UPROBES_WANT_SYS_ADMIN: KernelVersion = KernelVersion {
    major: 6,
    minor: 16,
    patch: 0,
};
/// The inode of the pid namespace that the machine starts with (`PROC_PID_INIT_INO`).
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;
/// The inode of a cgroup hierarchy's root, for those who see the root.
const CGROUP_ROOT_INODE: u64 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

impl KernelVersion {
    /// The numbers that `release` begins with, as in `6.1.0-13-amd64`.
    pub fn parse(release: &str) -> Option<Self> {
        let numbers = release
            .split(|character: char| !character.is_ascii_digit() && character != '.')
            .next()?;
        let mut numbers = numbers.split('.');
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?.parse().ok()?;
        let patch = numbers.next().and_then(|patch| patch.parse().ok()).unwrap_or(0);
        Some(Self { major, minor, patch })
    }
}

impl Display for KernelVersion {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> FormatResult {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

/// The running kernel, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    pub release: String,
    pub machine: String,
}

impl Kernel {
    pub fn running() -> Self {
        let name = uname();
        Self {
            release: name.release().to_string_lossy().into_owned(),
            machine: name.machine().to_string_lossy().into_owned(),
        }
    }

    pub fn version(&self) -> Option<KernelVersion> {
        KernelVersion::parse(&self.release)
    }
}

/// The rights that matter to tracing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capability {
    Bpf,
    Perfmon,
    SysPtrace,
    DacReadSearch,
    NetAdmin,
    SysAdmin,
    SysResource,
    Lease,
}

impl Capability {
    pub const ALL: [Self; 8] = [
        Self::Bpf,
        Self::Perfmon,
        Self::SysPtrace,
        Self::DacReadSearch,
        Self::NetAdmin,
        Self::SysAdmin,
        Self::SysResource,
        Self::Lease,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Bpf => "CAP_BPF",
            Self::Perfmon => "CAP_PERFMON",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::SysResource => "CAP_SYS_RESOURCE",
            Self::Lease => "CAP_LEASE",
        }
    }

    /// What it is for.
    pub const fn purpose(self) -> &'static str {
        match self {
            Self::Bpf => "loading kernel programs",
            Self::Perfmon => "reading memory from kernel programs",
            Self::SysPtrace => "looking at other users' processes, and taking hold of their sockets",
            Self::DacReadSearch => "listing the sockets that other users' processes have open",
            Self::NetAdmin => "the map of sockets whose requests get headers",
            Self::SysAdmin => "attaching uprobes, and loading kernel programs",
            Self::SysResource => "locking memory for maps on kernels before 5.11",
            Self::Lease => "holding other users' programs while hooks are in their files",
        }
    }

    pub(super) const fn set(self) -> CapabilitySet {
        match self {
            Self::Bpf => CapabilitySet::BPF,
            Self::Perfmon => CapabilitySet::PERFMON,
            Self::SysPtrace => CapabilitySet::SYS_PTRACE,
            Self::DacReadSearch => CapabilitySet::DAC_READ_SEARCH,
            Self::NetAdmin => CapabilitySet::NET_ADMIN,
            Self::SysAdmin => CapabilitySet::SYS_ADMIN,
            Self::SysResource => CapabilitySet::SYS_RESOURCE,
            Self::Lease => CapabilitySet::LEASE,
        }
    }
}

/// The capabilities in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities(Vec<Capability>);

impl Capabilities {
    /// Ours; none when the kernel does not tell.
    pub fn ours() -> Self {
        let effective = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
        Self(
            Capability::ALL
                .into_iter()
                .filter(|capability| effective.contains(capability.set()))
                .collect(),
        )
    }

    #[cfg(test)]
    pub(crate) fn of(capabilities: &[Capability]) -> Self {
        Self(capabilities.to_vec())
    }

    /// Whether what `capability` allows is allowed: `CAP_SYS_ADMIN` still stands in for those cut out of it.
    pub fn allow(&self, capability: Capability) -> bool {
        let stands_in = match capability {
            Capability::Bpf | Capability::Perfmon | Capability::NetAdmin => {
                self.0.contains(&Capability::SysAdmin)
            }
            Capability::SysPtrace
            | Capability::DacReadSearch
            | Capability::SysAdmin
            | Capability::SysResource
            | Capability::Lease => false,
        };
        stands_in || self.0.contains(&capability)
    }

    /// Those of `wanted` that are not in effect.
    pub fn missing(&self, wanted: &[Capability]) -> Vec<Capability> {
        wanted
            .iter()
            .copied()
            .filter(|capability| !self.allow(*capability))
            .collect()
    }
}

/// The capabilities without which nothing can be traced. The socket map wants `CAP_NET_ADMIN`.
pub fn needed(kernel: &Kernel) -> Vec<Capability> {
    if kernel
        .version()
        .is_some_and(|version| version >= UPROBES_WANT_SYS_ADMIN)
    {
        vec![Capability::SysAdmin]
    } else {
        vec![Capability::Bpf, Capability::Perfmon, Capability::NetAdmin]
    }
}

/// How far the kernel protects itself from root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lockdown {
    None,
    Integrity,
    Confidentiality,
    /// `securityfs` is not mounted, or the kernel has no lockdown: nobody says.
    Silent,
    Unknown(String),
}

impl Lockdown {
    pub fn current() -> Self {
        match fs::read_to_string("/sys/kernel/security/lockdown") {
            Ok(text) => Self::parse(&text),
            Err(_) => Self::Silent,
        }
    }

    /// The word in brackets, as in `none [integrity] confidentiality`.
    fn parse(text: &str) -> Self {
        let chosen = text
            .split_once('[')
            .and_then(|(_, rest)| rest.split_once(']'))
            .map(|(chosen, _)| chosen);
        match chosen {
            Some("none") => Self::None,
            Some("integrity") => Self::Integrity,
            Some("confidentiality") => Self::Confidentiality,
            _ => Self::Unknown(text.trim().to_owned()),
        }
    }
}

/// Where cgroup v2 is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    pub path: PathBuf,
    /// Beside v1 hierarchies, which have the controllers.
    pub is_hybrid: bool,
    /// The whole machine's hierarchy, and not only a container's part of it.
    pub is_root: bool,
}

impl Cgroup {
    /// The mount of cgroup v2 that shows all of the machine, else the first we see. In a container that shares the
    /// host's process ids the first process's mounts are the host's.
    pub fn find() -> Option<Self> {
        let seen_by = |process: &str, root: &str| {
            let mounts = fs::read_to_string(format!("/proc/{process}/mounts")).unwrap_or_default();
            let (paths, is_hybrid) = parse_mounts(&mounts);
            let cgroup = move |path: PathBuf| {
                let path = PathBuf::from(format!("{root}{}", path.display()));
                let inode = fs::metadata(&path).ok()?.ino();
                Some(Self {
                    path,
                    is_hybrid,
                    is_root: inode == CGROUP_ROOT_INODE,
                })
            };
            paths.into_iter().filter_map(cgroup).collect::<Vec<_>>()
        };
        let mut found = seen_by("self", "");
        if !found.iter().any(|cgroup| cgroup.is_root) {
            found.extend(seen_by("1", "/proc/1/root"));
        }
        let whole = found.iter().position(|cgroup| cgroup.is_root);
        found.into_iter().nth(whole.unwrap_or(0))
    }
}

/// Where hierarchies of version 2 are mounted, and whether there are some of version 1.
fn parse_mounts(mounts: &str) -> (Vec<PathBuf>, bool) {
    let mut paths = Vec::new();
    let mut has_v1 = false;
    for mount in mounts.lines() {
        let mut fields = mount.split(' ').skip(1);
        let (Some(place), Some(kind)) = (fields.next(), fields.next()) else {
            continue;
        };
        match kind {
            "cgroup2" => paths.push(PathBuf::from(place)),
            "cgroup" => has_v1 = true,
            _ => {}
        }
    }
    (paths, has_v1)
}

/// Whether the kernel describes its own types.
pub fn has_btf() -> bool {
    Path::new("/sys/kernel/btf/vmlinux").exists()
}

/// Whether we are outside all containers as far as process ids go: the kernel knows processes by those.
pub fn is_in_initial_pid_namespace() -> bool {
    fs::metadata("/proc/self/ns/pid").is_ok_and(|metadata| metadata.ino() == INITIAL_PID_NAMESPACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions() {
        let parse = |release| KernelVersion::parse(release).map(|it| (it.major, it.minor, it.patch));
        assert_eq!(parse("6.1.0-13-amd64"), Some((6, 1, 0)));
        assert_eq!(parse("5.14.0-362.8.1.el9_3.x86_64"), Some((5, 14, 0)));
        assert_eq!(parse("6.18.44-fc-v669"), Some((6, 18, 44)));
        assert_eq!(parse("7.2-rc1"), Some((7, 2, 0)));
        assert_eq!(parse("4.19.0"), Some((4, 19, 0)));
        assert_eq!(parse("Linux"), None);
        assert!(KernelVersion::parse("5.10.0-46-amd64").unwrap() < OLDEST);
        assert!(KernelVersion::parse("5.14.0").unwrap() > OLDEST);
        assert!(Kernel::running().version().is_some());
    }

    #[test]
    fn sys_admin_stands_in_for_what_was_cut_out_of_it() {
        let rights = Capabilities::of(&[Capability::SysAdmin]);
        let missing = rights.missing(&Capability::ALL);
        assert_eq!(
            missing,
            [
                Capability::SysPtrace,
                Capability::DacReadSearch,
                Capability::SysResource,
                Capability::Lease
            ]
        );
        let rights = Capabilities::of(&[Capability::Bpf]);
        assert_eq!(
            rights.missing(&[Capability::Bpf, Capability::Perfmon]),
            [Capability::Perfmon]
        );
    }

    #[test]
    fn our_capabilities_are_those_of_proc() {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let effective = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .unwrap()
            .trim();
        let effective = u64::from_str_radix(effective, 16).unwrap();
        let ours = Capabilities::ours();
        // Numbers from linux/capability.h.
        for (capability, bit) in [
            (Capability::Bpf, 39),
            (Capability::Perfmon, 38),
            (Capability::SysPtrace, 19),
            (Capability::DacReadSearch, 2),
            (Capability::NetAdmin, 12),
            (Capability::SysAdmin, 21),
            (Capability::SysResource, 24),
            (Capability::Lease, 28),
        ] {
            assert_eq!(
                ours.0.contains(&capability),
                effective >> bit & 1 == 1,
                "{}",
                capability.name()
            );
        }
    }

    #[test]
    fn lockdown_is_the_word_in_brackets() {
        assert_eq!(
            Lockdown::parse("none [integrity] confidentiality\n"),
            Lockdown::Integrity
        );
        assert_eq!(
            Lockdown::parse("[none] integrity confidentiality\n"),
            Lockdown::None
        );
        assert_eq!(Lockdown::parse("odd\n"), Lockdown::Unknown("odd".to_owned()));
    }

    #[test]
    fn cgroup_mounts_of_all_kinds() {
        let pure = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(parse_mounts(pure), (paths(&["/sys/fs/cgroup"]), false));
        let hybrid = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(parse_mounts(hybrid), (paths(&["/sys/fs/cgroup/unified"]), true));
        let both = format!("{pure}cgroup2 /host/cgroup cgroup2 rw 0 0\n");
        assert_eq!(
            parse_mounts(&both),
            (paths(&["/sys/fs/cgroup", "/host/cgroup"]), false)
        );
        assert_eq!(
            parse_mounts("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n"),
            (Vec::new(), true)
        );
        assert_eq!(parse_mounts("\nproc\n"), (Vec::new(), false));
    }
}
