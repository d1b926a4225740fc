//! Any bytes as a configuration file, and as flags or variables beside it: what comes out of them, or the sentence that
//! says why nothing does.
#![no_main]

use std::{
    ffi::OsString,
    fs::{self, File},
    os::{fd::AsRawFd as _, fd::FromRawFd as _, unix::ffi::OsStringExt as _},
    sync::OnceLock,
};

use libfuzzer_sys::fuzz_target;
use probe_user::config;

/// A file that lies in memory: a run writes some ten thousand of them.
fn file() -> &'static str {
    static FILE: OnceLock<(File, String)> = OnceLock::new();
    let (_, path) = FILE.get_or_init(|| {
        // SAFETY: the name ends with a zero, and the descriptor is ours alone.
        let file = unsafe { File::from_raw_fd(libc::memfd_create(c"config".as_ptr(), 0)) };
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        (file, path)
    });
    path
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let words: Vec<OsString> = rest
        .split(|byte| *byte == 0)
        .map(|word| OsString::from_vec(word.to_vec()))
        .collect();
    let (text, told) = if kind % 2 == 0 { (rest, &[][..]) } else { (&b""[..], &words[..]) };
    fs::write(file(), text).expect("memory takes it");
    let mut arguments: Vec<OsString> = ["skyprobe", "run", "--config", file()].map(OsString::from).into();
    if kind % 4 == 1 {
        arguments.extend_from_slice(told);
    }
    // Variables are asked for one after the other, so each gets a word.
    let next = std::cell::Cell::new(0);
    let lookup = |_: &str| {
        let at = next.replace(next.get() + 1);
        (kind % 4 == 3).then(|| told.get(at).cloned()).flatten()
    };
    match config::read(arguments, &lookup) {
        Ok(config) => drop(format!("{config:?}")),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
