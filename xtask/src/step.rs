//! One line for each step, with the time since the start: who waits wants to know for what.
#![expect(
    clippy::disallowed_methods,
    reason = "the tools have no pure part that time could spoil"
)]

use std::{
    fmt::Display,
    sync::OnceLock,
    time::{Duration, Instant},
};

static START: OnceLock<Instant> = OnceLock::new();

/// Says what begins now.
pub fn step(what: impl Display) {
    let elapsed = START.get_or_init(Instant::now).elapsed();
    eprintln!("[{:6.1} s] {what}", elapsed.as_secs_f64());
}

/// Calls `done` every 50 ms until it holds, or until the time is over, or until somebody wants us to stop. Says whether
/// it held.
pub fn wait_until(timeout: Duration, mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if done() {
            return true;
        }
        if start.elapsed() >= timeout || crate::process::stopping() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
