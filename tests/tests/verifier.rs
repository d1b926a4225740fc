//! Every kernel program of both objects loads here, and says how many instructions the verifier walked.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a test says where it fails"
)]

use probe_user::kernel::load::{self, LoadError};

/// The verifier gives up at a million, and what it walks is what a start takes.
const WALKED_MAX: u32 = 100_000;
/// Of programs with messages, which only their developers start.
const WALKED_LOGGING_MAX: u32 = 500_000;

#[test]
fn every_program_is_accepted() {
    accept_all(load::OBJECT, WALKED_MAX);
}

#[test]
fn so_is_every_one_that_logs() {
    accept_all(load::LOGGING_OBJECT, WALKED_LOGGING_MAX);
}

#[test]
fn the_shipped_object_has_no_messages() {
    let has_logs = |object| {
        load::from(object)
            .expect("the object's maps are created")
            .map("AYA_LOGS")
            .is_some()
    };
    assert!(!has_logs(load::OBJECT));
    assert!(has_logs(load::LOGGING_OBJECT));
}

fn accept_all(object: &[u8], walked_max: u32) {
    let mut ebpf = load::from(object).expect("the object's maps are created");
    let mut names: Vec<String> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
    names.sort();
    assert!(!names.is_empty());
    let mut refused = Vec::new();
    for name in &names {
        match load::program(&mut ebpf, name) {
            Ok(()) => {
                let info = ebpf.program(name).unwrap().info().unwrap();
                let walked = info.verified_instruction_count().unwrap_or(0);
                println!("{name}: {walked} instructions walked");
                assert!(
                    walked < walked_max,
                    "{name} takes too long to verify: {walked} instructions"
                );
            }
            Err(error) => refused.push(format!("{name}: {}", last_words(&error))),
        }
    }
    assert!(
        refused.is_empty(),
        "{} refused:\n{}",
        refused.len(),
        refused.join("\n----\n")
    );
}

/// The error with its causes; of the verifier's log, the end.
fn last_words(error: &LoadError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
