//! Who may know whom in `probe-user`, and what only one place may do.

use super::{
    expect_none,
    source::{SourceFile, crate_modules, names, rust},
};

/// Each module of `probe-user` and the modules it may use. Who adds a module decides here where it stands.
const MAY_USE: &[(&str, &[&str])] = &[
    ("config", &["version"]),
    ("clock", &[]),
    ("version", &[]),
    ("telemetry", &["words"]),
    ("words", &[]),
    (
        "http",
        &["clock", "requests", "status", "telemetry", "trace", "version"],
    ),
    ("requests", &["trace"]),
    ("status", &["clock", "words"]),
    (
        "check",
        &[
            "app",
            "config",
            "discover",
            "export",
            "kubernetes",
            "naming",
            "status",
            "words",
        ],
    ),
    ("kubernetes", &["config", "discover", "telemetry"]),
    ("naming", &["config", "discover", "trace"]),
    ("discover", &["clock", "config", "telemetry"]),
    ("instrument", &["discover", "telemetry"]),
    ("propagation", &[]),
    ("kernel", &["discover", "instrument", "propagation", "telemetry"]),
    ("event", &[]),
    ("protocol", &[]),
    ("trace", &["event", "protocol"]),
    ("export", &["config", "trace", "telemetry", "version", "words"]),
    (
        "doctor",
        &["config", "discover", "instrument", "propagation", "kernel"],
    ),
    (
        "inspect",
        &["config", "discover", "instrument", "propagation", "kernel"],
    ),
];

/// These see everything that crosses the border to the user.
const WIRING: [&str; 3] = ["app", "main", "lib"];

/// From bytes to segments: no clock, no file, no environment, no socket, no kernel.
const PURE: [&str; 4] = ["event", "protocol", "trace", "propagation"];

/// What a pure module must not name.
const IMPURE: [&str; 10] = [
    "tokio",
    "aya",
    "libc",
    "rustix",
    "fs",
    "env",
    "thread",
    "Command",
    "Instant",
    "SystemTime",
];

/// A name, and the only modules of `probe-user` that may use it.
const ONLY: &[(&str, &[&str])] = &[
    ("aya", &["kernel"]),
    ("aya_log", &["kernel"]),
    ("aya_obj", &["kernel"]),
    ("proto", &["export/skywalking"]),
    ("env", &["config"]),
    ("SystemTime", &["clock"]),
];

/// A call, and the only modules of `probe-user` that may make it.
const ONLY_CALL: &[(&str, &[&str])] = &[("clock_gettime(", &["clock"]), ("tokio::spawn(", &["app"])];

#[test]
fn modules_use_only_what_they_may_know() {
    let mut faults = Vec::new();
    for file in rust() {
        let Some(place) = place(&file) else { continue };
        let module = place.split('/').next().unwrap_or(place);
        if WIRING.contains(&module) {
            continue;
        }
        let Some((_, may_use)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
            faults.push(format!(
                "{}: module {module} has no row in MAY_USE ({})",
                file.path,
                file!()
            ));
            continue;
        };
        let mut code = file.shipped();
        if place == module {
            // In `x.rs` the parent is the crate.
            code = code.replace("super::", "crate::");
        }
        for used in crate_modules(&code) {
            let known = MAY_USE.iter().any(|(name, _)| *name == used) || WIRING.contains(&used.as_str());
            if known && used != module && !may_use.contains(&used.as_str()) {
                faults.push(format!("{}: {module} must not know {used}", file.path));
            }
        }
        if PURE.contains(&module) {
            let impure = IMPURE.iter().filter(|name| names(&code, name));
            faults.extend(
                impure.map(|name| format!("{}: {module} is pure and must not know {name}", file.path)),
            );
        }
    }
    expect_none(&faults);
}

#[test]
fn some_things_are_done_in_one_place_only() {
    let mut faults = Vec::new();
    for file in rust() {
        let Some(place) = place(&file) else { continue };
        let code = file.shipped();
        let mut check = |what: &str, found: bool, places: &[&str]| {
            let allowed = places
                .iter()
                .any(|only| place == *only || place.starts_with(&format!("{only}/")));
            if found && !allowed {
                faults.push(format!(
                    "{}: only {} may use {what}",
                    file.path,
                    places.join(", ")
                ));
            }
        };
        for (name, places) in ONLY {
            check(name, names(&code, name), places);
        }
        for (call, places) in ONLY_CALL {
            check(call, code.contains(call), places);
        }
    }
    expect_none(&faults);
}

/// `probe-user/src/trace/span.rs` → `trace/span`.
fn place(file: &SourceFile) -> Option<&str> {
    file.path.strip_prefix("probe-user/src/")?.strip_suffix(".rs")
}
