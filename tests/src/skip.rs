//! Tests that cannot run here say why.

use std::{fs::OpenOptions, io::Write as _, path::PathBuf, thread};

/// Prints the reason, and notes it where `cargo xtask test` counts skips.
#[expect(clippy::disallowed_methods, reason = "the harness has no config module")]
#[expect(clippy::print_stdout, reason = "what a test prints is its report")]
pub fn skip(reason: &str) {
    println!("SKIP {reason}");
    let Some(path) = std::env::var_os("SKYPROBE_TEST_SKIPS").map(PathBuf::from) else {
        return;
    };
    if let Ok(mut file) = OpenOptions::new().append(true).open(path) {
        let _ = writeln!(file, "{}: {reason}", thread::current().name().unwrap_or("a test"));
    }
}

/// Whether the long form of tests is wanted.
#[expect(clippy::disallowed_methods, reason = "the harness has no config module")]
pub fn full() -> bool {
    std::env::var_os("SKYPROBE_TEST_FULL").is_some()
}

/// Why nothing can be traced here, if so.
pub fn obstacle() -> Option<&'static str> {
    // SAFETY: it has no arguments and cannot fail.
    (unsafe { libc::geteuid() } != 0).then_some("needs root, to load programs into the kernel")
}

/// Ends the test with a printed reason where nothing can be traced.
#[macro_export]
macro_rules! needs_probe {
    () => {
        if let Some(reason) = $crate::skip::obstacle() {
            $crate::skip::skip(reason);
            return;
        }
    };
}

/// Ends the test with a printed reason where a program that it takes cannot be had: what tells where the program is.
#[macro_export]
macro_rules! needs {
    ($program:expr) => {
        if let Err(reason) = $program {
            $crate::skip::skip(&format!("{reason:#}"));
            return;
        }
    };
}
