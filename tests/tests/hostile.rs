//! Programs and clients that mean harm, or look like it: binaries that claim huge tables, headers without end, names
//! without number, descriptors that never stay.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::{
    collections::HashSet,
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::PathBuf,
    process::{Command, Output},
    time::Duration,
};

use object::{
    Endianness, FileKind,
    read::elf::{FileHeader as _, SectionHeader as _},
};
use tests::{
    bpf,
    client::{self, Connection},
    needs_probe,
    probe::{self, Probe},
    scene::truth_program,
    skip::full,
    target::{Go, GoBuild, Target},
};

/// A terabyte that takes no room on the disk.
const HUGE: u64 = 1 << 40;

/// What a file may claim at most, and the probe may take for it.
const FILE_MAX: u64 = 1 << 30;
const MEMORY_MAX: u64 = 1 << 30;
const SECONDS_MAX: u64 = 20;

fn hostile(arguments: &[&str]) -> (Target, String) {
    let program = GoBuild::new("hostile").build(&Go::system().unwrap()).unwrap();
    let target = Target::start(&program, arguments).unwrap();
    let host = target.address().unwrap();
    (target, host)
}

/// `skyprobe inspect` within a bound of memory and of processor time, beyond which the kernel ends it.
fn inspect(bytes: &[u8], size: u64) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("crafted");
    fs::write(&path, bytes).unwrap();
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(size.max(bytes.len() as u64))
        .unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(probe::binary().unwrap());
    command.arg("inspect").arg(&path);
    // SAFETY: between fork and exec the closure makes system calls only.
    unsafe {
        command.pre_exec(|| {
            for (what, most) in [(libc::RLIMIT_AS, MEMORY_MAX), (libc::RLIMIT_CPU, SECONDS_MAX)] {
                let limit = libc::rlimit {
                    rlim_cur: most,
                    rlim_max: most,
                };
                if libc::setrlimit(what, &raw const limit) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    command.output().unwrap()
}

/// It was read, or refused in one sentence that names the file.
#[track_caller]
fn is_answered(what: &str, output: &Output) {
    let words = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(0) {
        return;
    }
    assert_eq!(
        output.status.code(),
        Some(1),
        "{what}: {:?}: {words}",
        output.status
    );
    assert_eq!(words.lines().count(), 1, "{what}: {words}");
    assert!(words.contains("crafted is corrupted: "), "{what}: {words}");
}

fn put(bytes: &mut [u8], at: u64, value: u64) {
    let at = usize::try_from(at).unwrap();
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn binaries_that_claim_huge_tables() {
    let whole = fs::read(truth_program().unwrap()).unwrap();
    assert_eq!(FileKind::parse(&*whole).unwrap(), FileKind::Elf64);
    let header = object::elf::FileHeader64::<Endianness>::parse(&*whole).unwrap();
    let endian = header.endian().unwrap();
    let sections = header.sections(endian, &*whole).unwrap();
    let (segments_at, sections_at) = (header.e_phoff(endian), header.e_shoff(endian));
    assert_eq!(inspect(&whole, 0).status.code(), Some(0));

    // Each section, and each segment with the sections and without, as large as the file says it is: within what is
    // read at all, and beyond.
    for size in [FILE_MAX, HUGE] {
        for (index, section) in sections.iter().enumerate() {
            let name = String::from_utf8_lossy(sections.section_name(endian, section).unwrap()).into_owned();
            let mut bytes = whole.clone();
            put(&mut bytes, sections_at + 64 * index as u64 + 32, size);
            is_answered(&format!("section {name} of {size} bytes"), &inspect(&bytes, size));
        }
        for index in 0..u64::from(header.e_phnum(endian)) {
            let mut bytes = whole.clone();
            for field in [32, 40] {
                put(&mut bytes, segments_at + 56 * index + field, size);
            }
            is_answered(
                &format!("segment {index} of {size} bytes"),
                &inspect(&bytes, size),
            );
            put(&mut bytes, 40, 0);
            is_answered(
                &format!("segment {index} of {size} bytes, without sections"),
                &inspect(&bytes, size),
            );
        }
    }
    // The words that the function table begins with: how many functions, and where the parts are.
    let table = sections
        .section_by_name(endian, b".gopclntab")
        .unwrap()
        .1
        .sh_offset(endian);
    for at in (8..72).step_by(8) {
        for value in [u64::MAX, i64::MAX as u64, 1 << 40, 1 << 31, 0, at] {
            let mut bytes = whole.clone();
            put(&mut bytes, table + at, value);
            is_answered(
                &format!("{value:#x} at {at} of the function table"),
                &inspect(&bytes, 0),
            );
        }
    }
    // Five hundred segments over the whole file.
    let mut bytes = whole.clone();
    let first_load = (0..u64::from(header.e_phnum(endian)))
        .map(|index| usize::try_from(segments_at + 56 * index).unwrap())
        .find(|at| whole[*at..*at + 4] == [1, 0, 0, 0])
        .unwrap();
    let mut load = whole[first_load..first_load + 56].to_vec();
    put(&mut load, 8, 0);
    put(&mut load, 32, FILE_MAX);
    put(&mut load, 40, FILE_MAX);
    let at = bytes.len() as u64;
    bytes.extend(load.repeat(500));
    put(&mut bytes, 32, at);
    put(&mut bytes, 40, 0);
    bytes[56..58].copy_from_slice(&500_u16.to_le_bytes());
    let output = inspect(&bytes, FILE_MAX);
    assert_eq!(output.status.code(), Some(1));
    is_answered("many segments", &output);
}

#[test]
fn headers_of_a_megabyte() {
    needs_probe!();
    let (target, host) = hostile(&[]);
    let probe = Probe::of_pids(&[target.pid()], &[]).unwrap();
    let big = "a".repeat(1_000_000);
    let count = 5;
    for _ in 0..count {
        let mut connection = Connection::open(&host).unwrap();
        connection
            .send(format!("GET /big?bytes=1000000 HTTP/1.1\r\nHost: test\r\nX-Big: {big}\r\n\r\n").as_bytes())
            .unwrap();
        let response = connection.receive().unwrap();
        assert_eq!((response.status, response.head.len() > 1_000_000), (200, true));
        // A longer one than Go takes, which no handler sees.
        let mut connection = Connection::open(&host).unwrap();
        let endless = big.repeat(2);
        let _closed = connection
            .send(format!("GET /big HTTP/1.1\r\nHost: test\r\nX-Big: {endless}\r\n\r\n").as_bytes());
        let response = client::get(&host, "/call?bytes=1000000").unwrap();
        assert_eq!(response.text(), "200 1000000");
    }
    // A request from outside, one that calls, and the one that this call makes.
    let spans = 4 * count;
    let _all = probe.wait_for("the spans", |segments| {
        segments.iter().map(|segment| segment.spans.len()).sum::<usize>() >= spans
    });
    let ended = probe.stop().unwrap();
    println!("{}", ended.stderr);
    assert_eq!(ended.spans(), spans as u64, "{}", ended.stderr);
    for segment in &ended.segments {
        for span in &segment.spans {
            assert_eq!(span.tag("http.status_code"), Some("200"), "{span:#?}");
        }
    }
    // Their heads are read in many pieces, of which the last is there when the request begins: that the header with the
    // parent may have been lost is in the account, once for each.
    let losses: Vec<&str> = ended.losses().collect();
    assert_eq!(losses.len(), 1, "{losses:?}");
    assert!(
        losses[0].contains(&format!("head_incomplete {} ", 2 * count)),
        "{losses:?}"
    );
}

#[test]
fn paths_without_number() {
    needs_probe!();
    const NAMES_MAX: usize = 2_000;
    const GROWTH_MAX_BYTES: u64 = 4 << 20;
    let count = if full() { 100_000 } else { 20_000_u32 };
    let (target, host) = hostile(&[]);
    let probe = Probe::of_pids(&[target.pid()], &[]).unwrap();
    // Words, which are not taken for identifiers.
    let word = |mut number: u32| {
        let mut word = String::from("/word-");
        for _ in 0..6 {
            word.push(char::from(b'g' + u8::try_from(number % 10).unwrap()));
            number /= 10;
        }
        word
    };
    let mut connection = Connection::open(&host).unwrap();
    let mut ask = |range: std::ops::Range<u32>| {
        for number in range {
            assert_eq!(connection.get(&word(number)).unwrap().status, 200);
        }
        std::thread::sleep(Duration::from_millis(300));
        bpf::resident_bytes(probe.pid()).unwrap()
    };
    let memory = ask(0..count / 4);
    let memory_after = ask(count / 4..count);
    let ended = probe.stop().unwrap();
    println!(
        "{} KiB, then {} KiB\n{}",
        memory >> 10,
        memory_after >> 10,
        ended.stderr
    );
    assert!(memory_after < memory + GROWTH_MAX_BYTES);
    assert_eq!(ended.spans(), u64::from(count));
    let names: HashSet<&str> = ended
        .segments
        .iter()
        .flat_map(|segment| &segment.spans)
        .map(|span| span.operation_name.as_str())
        .collect();
    assert_eq!(names.len(), NAMES_MAX + 1);
    assert!(names.contains("GET:/{other}"));
    let overflown = format!("name_overflow {}", count as usize - NAMES_MAX);
    assert!(
        ended.losses().any(|line| line.contains(&overflown)),
        "{}",
        ended.stderr
    );
}

#[test]
fn descriptors_that_never_stay() {
    needs_probe!();
    let (mut target, host) = hostile(&["-churn"]);
    for round in 0..4 {
        // Each start looks at all its descriptors.
        let probe = Probe::of_pids(&[target.pid()], &[]).unwrap();
        for _ in 0..10 {
            assert_eq!(client::get(&host, "/call?bytes=10").unwrap().text(), "200 10");
        }
        let ended = probe.stop().unwrap();
        assert!(
            ended.status.success() && target.runs(),
            "{round}: {}",
            ended.stderr
        );
        assert_eq!(ended.spans(), 30, "{}", ended.stderr);
        let links = ended
            .segments
            .iter()
            .flat_map(|segment| &segment.spans)
            .map(|span| span.refs.len())
            .sum::<usize>();
        assert_eq!(links, 10, "{}", ended.stderr);
    }
}
