//! What a process holds of the kernel's BPF objects: programs, maps and links by their descriptors, and how full
//! its maps are.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, ensure};

/// How many objects of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    pub programs: usize,
    pub maps: usize,
    pub links: usize,
    /// Descriptors of any kind.
    pub descriptors: usize,
}

/// Counts what the process `pid` holds.
pub fn objects(pid: u32) -> Result<Objects> {
    let mut objects = Objects::default();
    for text in fdinfo(pid)? {
        objects.descriptors += 1;
        let has = |key: &str| text.lines().any(|line| line.starts_with(key));
        if has("link_type:") {
            objects.links += 1;
        } else if has("prog_type:") {
            objects.programs += 1;
        } else if has("map_type:") {
            objects.maps += 1;
        }
    }
    Ok(objects)
}

/// Entries of each map that the process `pid` holds, by name; maps that cannot be walked are left out.
pub fn map_entries(pid: u32) -> Result<BTreeMap<String, usize>> {
    let mut entries = BTreeMap::new();
    for text in fdinfo(pid)? {
        let Some(id) = text.lines().find_map(|line| line.strip_prefix("map_id:")) else {
            continue;
        };
        let map = map_by_id(id.trim().parse()?)?;
        let (kind, key_size, name) = info(&map)?;
        if matches!(kind, MAP_HASH | MAP_LRU_HASH | MAP_SOCKHASH | MAP_PERCPU_HASH) {
            entries.insert(name, count(&map, key_size)?);
        }
    }
    Ok(entries)
}

fn fdinfo(pid: u32) -> Result<Vec<String>> {
    let folder = format!("/proc/{pid}/fdinfo");
    let entries = fs::read_dir(&folder).with_context(|| format!("read {folder}"))?;
    // A descriptor may be closed while we read.
    Ok(entries
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok())
        .collect())
}

const MAP_HASH: u32 = 1;
const MAP_PERCPU_HASH: u32 = 5;
const MAP_LRU_HASH: u32 = 9;
const MAP_SOCKHASH: u32 = 18;

const BPF_MAP_GET_NEXT_KEY: libc::c_int = 4;
const BPF_MAP_GET_FD_BY_ID: libc::c_int = 14;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;

/// Room for the attributes of the commands used here.
type Attributes = [u64; 4];

fn bpf(command: libc::c_int, attributes: &mut Attributes) -> std::io::Result<libc::c_long> {
    let size = size_of::<Attributes>();
    // SAFETY: the attributes outlive the call, and so does what they point to: see the callers.
    match unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size) } {
        result @ 0.. => Ok(result),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn map_by_id(id: u32) -> Result<OwnedFd> {
    let fd =
        bpf(BPF_MAP_GET_FD_BY_ID, &mut [u64::from(id), 0, 0, 0]).with_context(|| format!("open map {id}"))?;
    // SAFETY: the kernel has just made the descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })
}

fn raw(map: &OwnedFd) -> u64 {
    u64::try_from(map.as_raw_fd()).unwrap_or(u64::MAX)
}

/// Kind, size of a key, name.
fn info(map: &OwnedFd) -> Result<(u32, usize, String)> {
    // `struct bpf_map_info`: type, id, key size, value size, entries, flags, 16 bytes of name, …
    let mut info = [0_u8; 64];
    let len = info.len() as u64;
    bpf(
        BPF_OBJ_GET_INFO_BY_FD,
        &mut [raw(map) | len << 32, info.as_mut_ptr() as u64, 0, 0],
    )
    .context("map info")?;
    let word = |at: usize| {
        let bytes = info
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .unwrap_or_default();
        u32::from_ne_bytes(bytes)
    };
    let name = info.get(24..40).unwrap_or_default();
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    Ok((
        word(0),
        word(8) as usize,
        String::from_utf8_lossy(name).into_owned(),
    ))
}

fn count(map: &OwnedFd, key_size: usize) -> Result<usize> {
    let mut key = vec![0_u8; key_size];
    let mut next = vec![0_u8; key_size];
    let mut count = 0;
    loop {
        let from = if count == 0 { 0 } else { key.as_ptr() as u64 };
        match bpf(
            BPF_MAP_GET_NEXT_KEY,
            &mut [raw(map), from, next.as_mut_ptr() as u64, 0],
        ) {
            Ok(_) => count += 1,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(count),
            Err(error) => return Err(error).context("walk a map"),
        }
        // A map that others change while we walk may send us around.
        ensure!(count < 1_000_000, "a map without end");
        std::mem::swap(&mut key, &mut next);
    }
}

/// Resident memory of the process `pid`.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("status of {pid}"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes * 1024)
}
