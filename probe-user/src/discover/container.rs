//! Where a process runs, by its control group: in which container of which pod, or as which systemd unit.
//!
//! Whoever starts containers names their groups, each in its own way; what all have in common is that an id of 64 hex
//! digits stands in the last part of the path, and a pod's uid in an earlier one.

use std::fs;

/// Hex digits of a container's id, as containerd, CRI-O, Docker and Podman make them.
const ID_DIGITS: usize = 64;
/// What stands before an id: `cri-containerd-ID.scope`, `crio-ID.scope`, `docker-ID.scope`, `libpod-ID.scope`; with the
/// cgroupfs driver mostly nothing.
const SCOPE: &str = ".scope";
const SERVICE: &str = ".service";
/// systemd's own slices: what it nests in them are units.
const SLICE: &str = ".slice";
/// The group that Podman puts a container into, directly below the unit that runs it and nothing else: that of a quadlet.
const PAYLOAD: &str = "libpod-payload-";

/// Where a process runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The container's id.
    pub container: Option<String>,
    /// The uid of the pod, with dashes, as Kubernetes writes it. Of pods that were read from a file by the kubelet
    /// (static ones), it is what the kubelet made up, without dashes.
    pub pod_uid: Option<String>,
    /// The unit of a service, such as `gateway.service`: outside containers, or one that a single container is.
    pub unit: Option<String>,
}

impl Place {
    /// Of the process `pid`; nothing is known of one that is gone.
    pub fn of(pid: u32) -> Self {
        fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .map_or_else(|_gone| Self::default(), |text| Self::parse(&text))
    }

    /// From `/proc/PID/cgroup`: a line for each hierarchy. On a machine with both versions the container may stand in
    /// one of the first only.
    pub fn parse(text: &str) -> Self {
        let paths = || text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
        let mut found = Self::default();
        for path in paths() {
            let place = Self::of_path(path);
            found.container = found.container.or(place.container);
            found.pod_uid = found.pod_uid.or(place.pod_uid);
            found.unit = found.unit.or(place.unit);
        }
        if found.container.is_some() || found.pod_uid.is_some() {
            // What runs containers is a unit as well, and theirs may lie below it.
            found.unit = paths().find_map(unit_of_container);
        }
        found
    }

    fn of_path(path: &str) -> Self {
        let parts = || path.split('/').filter(|part| !part.is_empty());
        Self {
            // The innermost: containers run within containers.
            container: parts().rev().find_map(container_id).map(str::to_owned),
            pod_uid: parts().rev().find_map(pod_uid),
            unit: unit(parts()),
        }
    }
}

/// The id in `cri-containerd-ID.scope`, `ID` and the like. CRI-O has a second group beside each, `crio-conmon-ID.scope`,
/// in which nothing of the container runs.
fn container_id(part: &str) -> Option<&str> {
    let part = part.strip_suffix(SCOPE).unwrap_or(part);
    // `cri-containerd:ID` is what containerd makes where it takes systemd's names for its own.
    let id = part.rsplit(['-', ':']).next()?;
    let is_id = id.len() == ID_DIGITS && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_id && !part.contains("conmon")).then_some(id)
}

/// The uid in `kubepods-burstable-pod0f1e_..._.slice` (systemd's driver, `_` for `-`) and `pod0f1e-...` (cgroupfs).
/// A slice's name begins with those of the slices around it, so one of a kubelet with a root of its own (kind) is
/// `kubelet-kubepods-...`.
fn pod_uid(part: &str) -> Option<String> {
    // containerd without systemd's driver on a machine where the kubelet has it: `SLICE:cri-containerd:ID`.
    let part = part.split(':').next()?;
    let uid = match part.strip_suffix(SLICE) {
        Some(slice) => {
            let (above, uid) = slice.rsplit_once("-pod")?;
            let is_pods = above.split('-').any(|name| name == "kubepods");
            is_pods.then(|| uid.replace('_', "-"))?
        }
        None => part.strip_prefix("pod")?.to_owned(),
    };
    let digits = uid.bytes().filter(|byte| *byte != b'-').count();
    let is_uid = digits == 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    is_uid.then_some(uid)
}

/// The service of the system that a process belongs to. What a user started, in a session or by a manager of their own,
/// is theirs, and the units there are not what an operator knows.
fn unit<'a>(parts: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut unit = None;
    for part in parts {
        if part == "user.slice" || part.starts_with("user@") {
            return None;
        }
        if part.ends_with(SERVICE) {
            unit = unit.or(Some(unescape(part)));
        }
    }
    unit
}

/// The unit whose only work is one container.
fn unit_of_container(path: &str) -> Option<String> {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    parts.find(|part| part.ends_with(SERVICE))?;
    let is_own = parts.next()?.starts_with(PAYLOAD);
    is_own.then(|| unit(path.split('/'))).flatten()
}

/// systemd writes `\x2d` for a dash that is none of its own.
fn unescape(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, after)) = rest.split_once("\\x") {
        text.push_str(before);
        let byte = after
            .get(..2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte.filter(u8::is_ascii_graphic) {
            Some(byte) => {
                text.push(char::from(byte));
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                text.push_str("\\x");
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f1c8a5e2b7d4960a1b2c3d4e5f60718293a4b5c6d7e8f90112233445566778a";
    const UID: &str = "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0";

    fn place(container: Option<&str>, pod_uid: Option<&str>, unit: Option<&str>) -> Place {
        Place {
            container: container.map(str::to_owned),
            pod_uid: pod_uid.map(str::to_owned),
            unit: unit.map(str::to_owned),
        }
    }

    /// The paths as runtimes, drivers and versions make them.
    #[test]
    fn containers_of_pods() {
        let systemd_uid = UID.replace('-', "_");
        for path in [
            format!(
                "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{systemd_uid}.slice/cri-containerd-{ID}.scope"
            ),
            format!("0::/kubepods.slice/kubepods-pod{systemd_uid}.slice/crio-{ID}.scope"),
            format!("0::/kubepods.slice/kubepods-pod{systemd_uid}.slice/crio-{ID}.scope/container"),
            format!("0::/kubepods/besteffort/pod{UID}/{ID}"),
            format!("0::/kubepods/pod{UID}/{ID}"),
            format!(
                "12:memory:/kubepods/burstable/pod{UID}/{ID}\n1:name=systemd:/kubepods/burstable/pod{UID}/{ID}\n0::/"
            ),
            format!(
                "11:cpu,cpuacct:/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{systemd_uid}.slice/docker-{ID}.scope"
            ),
            // Seen from within a namespace of groups.
            format!("0::/../../kubepods-burstable-pod{systemd_uid}.slice/cri-containerd-{ID}.scope"),
            format!(
                "1:name=systemd:/system.slice/containerd.service/kubepods-burstable-pod{systemd_uid}.slice:cri-containerd:{ID}"
            ),
            // kind: a node is a container itself, and its kubelet has a root of its own.
            format!(
                "0::/system.slice/docker-{}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{systemd_uid}.slice/cri-containerd-{ID}.scope",
                "a".repeat(64)
            ),
            format!(
                "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{systemd_uid}.slice/cri-containerd-{ID}.scope"
            ),
        ] {
            assert_eq!(Place::parse(&path), place(Some(ID), Some(UID), None), "{path}");
        }
    }

    #[test]
    fn containers_without_pods() {
        for path in [
            format!("0::/system.slice/docker-{ID}.scope"),
            format!("0::/docker/{ID}"),
            format!("0::/machine.slice/libpod-{ID}.scope/container"),
            format!("0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope"),
        ] {
            assert_eq!(Place::parse(&path), place(Some(ID), None, None), "{path}");
        }
    }

    #[test]
    fn units_that_are_a_container() {
        for path in [
            format!("0::/system.slice/web.service/libpod-payload-{ID}"),
            format!("0::/system.slice/web.service/libpod-payload-{ID}/init.scope"),
            format!(
                "9:pids:/system.slice/web.service\n1:name=systemd:/system.slice/web.service/libpod-payload-{ID}"
            ),
        ] {
            let found = Place::parse(&path);
            assert_eq!(found, place(Some(ID), None, Some("web.service")), "{path}");
        }
        // What lies deeper is the work of whoever runs containers, and a user's units are their own.
        for path in [
            format!("0::/system.slice/engine.service/group/libpod-payload-{ID}"),
            format!("0::/system.slice/engine.service/group/web.service/libpod-payload-{ID}"),
            format!(
                "0::/user.slice/user-1000.slice/user@1000.service/app.slice/web.service/libpod-payload-{ID}"
            ),
        ] {
            assert_eq!(Place::parse(&path), place(Some(ID), None, None), "{path}");
        }
    }

    #[test]
    fn units_of_the_system() {
        let unit = |path: &str| Place::parse(path).unit;
        assert_eq!(
            unit("0::/system.slice/gateway.service").as_deref(),
            Some("gateway.service")
        );
        assert_eq!(
            unit("0::/system.slice/system-shop.slice/shop@eu\\x2dwest.service/sub").as_deref(),
            Some("shop@eu-west.service")
        );
        assert_eq!(
            unit("5:devices:/system.slice/a.service\n1:name=systemd:/system.slice/a.service\n0::/")
                .as_deref(),
            Some("a.service")
        );
        for path in [
            "0::/",
            "",
            "0::/init.scope",
            "0::/user.slice/user-0.slice/session-3.scope",
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.service",
        ] {
            assert_eq!(Place::parse(path), Place::default(), "{path}");
        }
    }

    #[test]
    fn what_only_looks_like_an_id() {
        for path in [
            format!("0::/kubepods.slice/crio-conmon-{ID}.scope"),
            format!("0::/{}", &ID[1..]),
            format!("0::/{}", ID.replace('3', "g")),
            "0::/podman".to_owned(),
            format!("0::/pods/pod{}", &UID[1..]),
            format!(
                "0::/mykubepods.slice/mykubepods-pod{}.slice",
                UID.replace('-', "_")
            ),
        ] {
            assert_eq!(Place::parse(&path), Place::default(), "{path}");
        }
    }
}
