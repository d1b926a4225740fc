//! `docs/abi.md` changes with the code it describes.

use std::fs;

use super::{expect_none, source::rust};
use crate::build::root;

const PAGE: &str = "docs/abi.md";
const MARK: &str = "Describes `probe-common/src` at hash ";

#[test]
#[expect(clippy::disallowed_methods, reason = "a switch for whoever runs the test")]
fn the_abi_page_is_of_this_code() {
    let page = fs::read_to_string(root().join(PAGE)).expect("docs/abi.md");
    let hash = format!("{:016x}", hash());
    let start = page.find(MARK).expect("the page says which code it describes") + MARK.len();
    let written = &page[start..start + hash.len()];
    if written != hash && std::env::var_os("UPDATE_EXPECT").is_some_and(|value| value == "1") {
        fs::write(root().join(PAGE), page.replace(written, &hash)).expect("write docs/abi.md");
        return;
    }
    assert_eq!(
        written, hash,
        "probe-common has changed: read {PAGE}, make it true again, then run the test with UPDATE_EXPECT=1"
    );
}

#[test]
fn the_abi_page_has_each_size() {
    let page = fs::read_to_string(root().join(PAGE)).expect("docs/abi.md");
    let mut faults = Vec::new();
    let mut sizes = 0;
    for file in rust()
        .into_iter()
        .filter(|file| file.path.starts_with("probe-common/src/"))
    {
        for line in file.text.lines() {
            let Some(rest) = line.strip_prefix("const _: () = assert!(size_of::<") else {
                continue;
            };
            let Some((name, rest)) = rest.split_once(">() == ") else {
                continue;
            };
            let size = rest.trim_end_matches(");");
            sizes += 1;
            if !page.contains(&format!("| `{name}` | {size} |")) {
                faults.push(format!("{PAGE}: no row | `{name}` | {size} | ({})", file.path));
            }
        }
    }
    assert!(sizes > 0, "no size assertions found: their form has changed");
    expect_none(&faults);
}

/// FNV-1a over paths and texts: it only has to notice a change.
fn hash() -> u64 {
    let mut files = rust();
    files.retain(|file| file.path.starts_with("probe-common/src/"));
    files.sort_by(|left, right| left.path.cmp(&right.path));
    let bytes = files
        .iter()
        .flat_map(|file| file.path.bytes().chain(file.text.bytes()));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
