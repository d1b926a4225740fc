//! The commands of bpf(2) by which programs come into the kernel and to their places, and what of perf_event_open(2)
//! that takes. aya 0.14 has them for itself, and not all.
#![expect(unsafe_code, reason = "system calls that no library has for us")]

use std::{
    ffi::{CStr, CString, c_int, c_long, c_ulong},
    fs, io, mem,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::{
    Function,
    generated::{
        PERF_EVENT_IOC_ENABLE, PERF_EVENT_IOC_SET_BPF, PERF_FLAG_FD_CLOEXEC, bpf_attach_type, bpf_attr,
        bpf_cmd, bpf_insn, bpf_prog_type, perf_event_attr,
    },
};

/// Room for all that the verifier says of a program that it refuses. What it leaves empty takes no memory.
const LOG_BYTES: usize = (u32::MAX >> 8) as usize;
/// `BPF_LOG_LEVEL1` and `BPF_LOG_STATS`: what it saw at each instruction, and how many they were.
const LOG_LEVEL: u32 = 1 | 4;
/// How much of that is kept: at its end is the reason.
const LOG_LINES: usize = 40;

/// A program that is to be loaded.
#[derive(Clone, Copy)]
pub(super) struct Code<'a> {
    pub(super) name: &'a str,
    pub(super) kind: bpf_prog_type,
    /// Where it will be attached, for the kinds that must say so before.
    pub(super) attach_type: Option<bpf_attach_type>,
    pub(super) license: &'a CStr,
    pub(super) instructions: &'a [bpf_insn],
    /// The object's types, and what they say of the code: by them the verifier knows global functions.
    pub(super) types: Option<(BorrowedFd<'a>, &'a Function)>,
}

/// Why the kernel did not take a program.
#[derive(Debug, thiserror::Error)]
#[error("{source}: {log}")]
pub struct Refused {
    source: io::Error,
    log: String,
}

/// Has the program verified.
pub(super) fn load_program(code: &Code<'_>) -> Result<OwnedFd, Refused> {
    let source = match try_to_load(code, &mut []) {
        Ok(program) => return Ok(program),
        Err(error) => error,
    };
    // It says why only a second time: writing that down takes the verifier a while.
    let mut log = vec![0; LOG_BYTES];
    // A signal may have come in between.
    if let Ok(program) = try_to_load(code, &mut log) {
        return Ok(program);
    }
    let log = log.split(|byte| *byte == 0).next().unwrap_or_default();
    let log = String::from_utf8_lossy(log);
    let lines: Vec<&str> = log.lines().collect();
    let end = lines.get(lines.len().saturating_sub(LOG_LINES)..);
    Err(Refused {
        source,
        log: end.unwrap_or_default().join("\n"),
    })
}

fn try_to_load(code: &Code<'_>, log: &mut [u8]) -> io::Result<OwnedFd> {
    let mut attributes = no_attributes();
    let mut name = [0; 16];
    // The last stays 0.
    for (to, from) in name.iter_mut().take(15).zip(code.name.bytes()) {
        *to = from.cast_signed();
    }
    attributes.__bindgen_anon_3.prog_name = name;
    attributes.__bindgen_anon_3.prog_type = code.kind as u32;
    attributes.__bindgen_anon_3.expected_attach_type = code.attach_type.map_or(0, |kind| kind as u32);
    attributes.__bindgen_anon_3.license = code.license.as_ptr() as u64;
    attributes.__bindgen_anon_3.insns = code.instructions.as_ptr() as u64;
    attributes.__bindgen_anon_3.insn_cnt = count(code.instructions.len());
    let (functions, lines);
    if let Some((types, function)) = code.types {
        functions = function.func_info.func_info_bytes();
        lines = function.line_info.line_info_bytes();
        attributes.__bindgen_anon_3.prog_btf_fd = number(types);
        attributes.__bindgen_anon_3.func_info = functions.as_ptr() as u64;
        attributes.__bindgen_anon_3.func_info_cnt = count(function.func_info.len());
        attributes.__bindgen_anon_3.func_info_rec_size = count(function.func_info_rec_size);
        attributes.__bindgen_anon_3.line_info = lines.as_ptr() as u64;
        attributes.__bindgen_anon_3.line_info_cnt = count(function.line_info.len());
        attributes.__bindgen_anon_3.line_info_rec_size = count(function.line_info_rec_size);
    }
    if !log.is_empty() {
        attributes.__bindgen_anon_3.log_level = LOG_LEVEL;
        attributes.__bindgen_anon_3.log_buf = log.as_mut_ptr() as u64;
        attributes.__bindgen_anon_3.log_size = count(log.len());
    }
    descriptor(bpf_cmd::BPF_PROG_LOAD, &mut attributes)
}

/// Tells the kernel of an object's types.
pub(super) fn load_types(types: &[u8]) -> io::Result<OwnedFd> {
    let mut attributes = no_attributes();
    attributes.__bindgen_anon_7.btf = types.as_ptr() as u64;
    attributes.__bindgen_anon_7.btf_size = count(types.len());
    descriptor(bpf_cmd::BPF_BTF_LOAD, &mut attributes)
}

/// Puts an object's data into the one element of its map.
pub(super) fn fill(map: BorrowedFd<'_>, data: &[u8]) -> io::Result<()> {
    let first = 0_u32;
    update(map, (&raw const first).cast(), data.as_ptr())
}

/// From here on nobody writes into the map by system calls: the verifier may take what is in it for constant.
pub(super) fn freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = no_attributes();
    attributes.__bindgen_anon_2.map_fd = number(map);
    call(bpf_cmd::BPF_MAP_FREEZE, &mut attributes).map(drop)
}

/// Makes the program the one that programs call by this index of the map.
pub(super) fn put_program(map: BorrowedFd<'_>, index: u32, program: BorrowedFd<'_>) -> io::Result<()> {
    let program = number(program);
    update(map, (&raw const index).cast(), (&raw const program).cast())
}

fn update(map: BorrowedFd<'_>, key: *const u8, value: *const u8) -> io::Result<()> {
    let mut attributes = no_attributes();
    attributes.__bindgen_anon_2.map_fd = number(map);
    attributes.__bindgen_anon_2.key = key as u64;
    attributes.__bindgen_anon_2.__bindgen_anon_1.value = value as u64;
    call(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attributes).map(drop)
}

/// Runs the program whenever the kernel passes this tracepoint, as long as what it returns is open.
pub(super) fn attach_to_tracepoint(program: BorrowedFd<'_>, tracepoint: &CStr) -> io::Result<OwnedFd> {
    let mut attributes = no_attributes();
    attributes.raw_tracepoint.name = tracepoint.as_ptr() as u64;
    attributes.raw_tracepoint.prog_fd = number(program);
    descriptor(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attributes)
}

/// Runs the program for the sockets of a cgroup, as long as what it returns is open. Others may do so, too.
pub(super) fn attach_to_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: bpf_attach_type,
) -> io::Result<OwnedFd> {
    link(program, Some(cgroup), attach_type, no_attributes())
}

/// Runs the program for the sockets in a map, as long as that is open.
pub(super) fn attach_to_sockets(
    program: BorrowedFd<'_>,
    map: BorrowedFd<'_>,
    attach_type: bpf_attach_type,
) -> io::Result<()> {
    let mut attributes = no_attributes();
    attributes.__bindgen_anon_5.attach_bpf_fd = number(program);
    attributes.__bindgen_anon_5.__bindgen_anon_1.target_fd = number(map);
    attributes.__bindgen_anon_5.attach_type = attach_type as u32;
    call(bpf_cmd::BPF_PROG_ATTACH, &mut attributes).map(drop)
}

/// A place in a file, and what the program is told there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file_offset: u64,
    pub(super) cookie: u64,
}

/// Runs the program at all these places of a file, or at none, as long as what it returns is open: in all processes,
/// or in one.
pub(super) fn attach_to_places(
    program: BorrowedFd<'_>,
    file: &Path,
    places: &[Place],
    process: Option<u32>,
) -> io::Result<OwnedFd> {
    let file = path(file)?;
    let offsets: Vec<u64> = places.iter().map(|place| place.file_offset).collect();
    let cookies: Vec<u64> = places.iter().map(|place| place.cookie).collect();
    let mut attributes = no_attributes();
    attributes.link_create.__bindgen_anon_3.uprobe_multi.path = file.as_ptr() as u64;
    attributes.link_create.__bindgen_anon_3.uprobe_multi.offsets = offsets.as_ptr() as u64;
    attributes.link_create.__bindgen_anon_3.uprobe_multi.cookies = cookies.as_ptr() as u64;
    attributes.link_create.__bindgen_anon_3.uprobe_multi.cnt = count(places.len());
    attributes.link_create.__bindgen_anon_3.uprobe_multi.pid = process.unwrap_or(0);
    link(program, None, bpf_attach_type::BPF_TRACE_UPROBE_MULTI, attributes)
}

/// Whether [`attach_to_places`] is to be had, and its processes are processes: at first, in 6.6, they were threads.
pub(super) fn can_attach_to_places() -> bool {
    // Does nothing: `r0 = 0; exit`.
    let instructions = [0xb7, 0x95].map(|code| {
        // SAFETY: numbers, of which zero is one.
        let mut instruction: bpf_insn = unsafe { mem::zeroed() };
        instruction.code = code;
        instruction
    });
    let code = Code {
        name: "trial",
        kind: bpf_prog_type::BPF_PROG_TYPE_KPROBE,
        attach_type: Some(bpf_attach_type::BPF_TRACE_UPROBE_MULTI),
        license: c"GPL",
        instructions: &instructions,
        types: None,
    };
    let Ok(program) = try_to_load(&code, &mut []) else {
        return false;
    };
    // No file of a program, so nothing is attached to. Who knows the command looks at the file after the process's
    // number, which since it is one is not to be negative.
    let refusal = |process| {
        let place = Place {
            file_offset: 0,
            cookie: 0,
        };
        let link = attach_to_places(program.as_fd(), Path::new("/"), &[place], process);
        link.err().and_then(|error| error.raw_os_error())
    };
    refusal(None) == Some(libc::EBADF) && refusal(Some(u32::MAX)) == Some(libc::EINVAL)
}

/// Runs the program at one place, by an event of perf: what kernels before 6.6 have.
pub(super) fn attach_to_place(
    program: BorrowedFd<'_>,
    file: &Path,
    place: Place,
    process: Option<u32>,
) -> io::Result<OwnedFd> {
    let event = open_uprobe(file, place.file_offset, process)?;
    if aya::features().bpf_perf_link() {
        let mut attributes = no_attributes();
        attributes.link_create.__bindgen_anon_3.perf_event.bpf_cookie = place.cookie;
        // The link keeps the event.
        return link(
            program,
            Some(event.as_fd()),
            bpf_attach_type::BPF_PERF_EVENT,
            attributes,
        );
    }
    if place.cookie != 0 {
        return Err(io::Error::other(
            "this kernel cannot tell a program where it runs",
        ));
    }
    control(&event, PERF_EVENT_IOC_SET_BPF, program.as_raw_fd())?;
    control(&event, PERF_EVENT_IOC_ENABLE, 0)?;
    Ok(event)
}

fn link(
    program: BorrowedFd<'_>,
    to: Option<BorrowedFd<'_>>,
    attach_type: bpf_attach_type,
    mut attributes: bpf_attr,
) -> io::Result<OwnedFd> {
    attributes.link_create.__bindgen_anon_1.prog_fd = number(program);
    attributes.link_create.__bindgen_anon_2.target_fd = to.map_or(0, number);
    attributes.link_create.attach_type = attach_type as u32;
    descriptor(bpf_cmd::BPF_LINK_CREATE, &mut attributes)
}

fn open_uprobe(file: &Path, file_offset: u64, process: Option<u32>) -> io::Result<OwnedFd> {
    const KIND: &str = "/sys/bus/event_source/devices/uprobe/type";
    let kind = fs::read_to_string(KIND)?;
    let file = path(file)?;
    // SAFETY: numbers, of which zero is one.
    let mut attributes: perf_event_attr = unsafe { mem::zeroed() };
    attributes.type_ = kind.trim().parse().map_err(io::Error::other)?;
    attributes.size = count(size_of::<perf_event_attr>());
    attributes.__bindgen_anon_3.uprobe_path = file.as_ptr() as u64;
    attributes.__bindgen_anon_4.probe_offset = file_offset;
    let (process, processor) = match process {
        Some(process) => (c_long::from(process), -1),
        // One processor stands for all.
        None => (-1, 0),
    };
    const NO_GROUP: c_long = -1;
    let attributes = &raw const attributes;
    // SAFETY: what the attributes point to outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attributes,
            process,
            processor,
            NO_GROUP,
            c_long::from(PERF_FLAG_FD_CLOEXEC),
        )
    };
    owned(checked(result)?)
}

fn control(event: &OwnedFd, request: u32, argument: c_int) -> io::Result<()> {
    // SAFETY: both requests that are used here take a number.
    let result = unsafe { libc::ioctl(event.as_raw_fd(), c_ulong::from(request), argument) };
    checked(result.into()).map(drop)
}

fn no_attributes() -> bpf_attr {
    // SAFETY: numbers, of which zero is one.
    unsafe { mem::zeroed() }
}

/// For commands that make a descriptor.
fn descriptor(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<OwnedFd> {
    owned(call(command, attributes)?)
}

fn call(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<c_long> {
    // SAFETY: what the attributes point to outlives the call: see the callers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as c_long,
            &raw mut *attributes,
            size_of::<bpf_attr>(),
        )
    };
    checked(result)
}

fn checked(result: c_long) -> io::Result<c_long> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

fn owned(descriptor: c_long) -> io::Result<OwnedFd> {
    let descriptor = descriptor.try_into().map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn number(descriptor: BorrowedFd<'_>) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}

/// What is counted here fits: an object is some megabytes.
fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn path(file: &Path) -> io::Result<CString> {
    Ok(CString::new(file.as_os_str().as_bytes())?)
}
