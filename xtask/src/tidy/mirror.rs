//! The mirror rule: a hook lives at the same relative path in each crate.

use std::collections::BTreeSet;

use super::{expect_none, source::all};

/// What crosses, who sends it, where it is attached, who provokes it.
const ROOMS: [&str; 4] = [
    "probe-common/src/event/go/",
    "probe-ebpf/src/go/",
    "probe-user/src/instrument/go/",
    "tests/targets/go/",
];

/// In one or more rooms, and not libraries: the Go runtime itself, the programs of the demo, what hooks share.
const NOT_LIBRARIES: [&str; 9] = [
    "runtime",
    "demo",
    "request",
    "call",
    "connection",
    "doubt",
    "header_fields",
    "map",
    "registers",
];

#[test]
fn each_go_library_has_its_four_rooms() {
    let files = all();
    let in_room = |room: &str| -> BTreeSet<String> {
        let inside = files.iter().filter_map(|file| file.path.strip_prefix(room));
        let names = inside
            .filter_map(|path| path.split(['/', '.']).next())
            .map(str::to_owned);
        names
            .filter(|name| !NOT_LIBRARIES.contains(&name.as_str()))
            .collect()
    };
    // A target alone is a program to trace, not yet a library we know.
    let hooks = &ROOMS[..3];
    let libraries: BTreeSet<String> = hooks.iter().flat_map(|room| in_room(room)).collect();
    assert!(!libraries.is_empty(), "no Go library found: the rooms have moved");
    let mut faults = Vec::new();
    for room in ROOMS {
        let present = in_room(room);
        faults.extend(
            libraries
                .difference(&present)
                .map(|library| format!("{room}{library} is missing")),
        );
    }
    expect_none(&faults);
}
