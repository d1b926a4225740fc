//! Every kernel program of both objects loads here, and says how many instructions the verifier walked.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says where it fails"
)]

use probe_user::kernel::load;

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
    let mut object = load::from(object).expect("the object's maps are created");
    let names: Vec<String> = object.programs().map(|(name, _)| name.to_owned()).collect();
    assert!(!names.is_empty());
    let mut refused = Vec::new();
    for name in &names {
        match load::program(&mut object, name) {
            Ok(_) => {
                let walked: u32 = object.program(name).unwrap().number("verified_insns").unwrap();
                println!("{name}: {walked} instructions walked");
                assert!(
                    walked < walked_max,
                    "{name} takes too long to verify: {walked} instructions"
                );
            }
            Err(error) => refused.push(format!("{name}: {:#}", anyhow::Error::from(error))),
        }
    }
    assert!(
        refused.is_empty(),
        "{} refused:\n{}",
        refused.len(),
        refused.join("\n----\n")
    );
}
