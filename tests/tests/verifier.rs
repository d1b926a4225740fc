//! Every kernel program loads here, and says how many instructions the verifier walked.

use probe_user::kernel::load;

#[test]
fn every_program_is_accepted() {
    let mut ebpf = load::object().expect("the object's maps are created");
    let names: Vec<String> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
    assert!(!names.is_empty());
    let mut refused = Vec::new();
    for name in &names {
        match load::program(&mut ebpf, name) {
            Ok(()) => {
                let info = ebpf.program(name).unwrap().info().unwrap();
                println!(
                    "{name}: {:?} instructions verified",
                    info.verified_instruction_count()
                );
            }
            Err(error) => {
                let mut text = format!("{error}");
                let mut source = std::error::Error::source(&error);
                while let Some(cause) = source {
                    text.push_str(&format!(": {cause}"));
                    source = cause.source();
                }
                let tail: Vec<&str> = text.lines().rev().take(40).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                refused.push(format!("{name}: {}", tail.join("\n")));
            }
        }
    }
    assert!(
        refused.is_empty(),
        "{} refused:\n{}",
        refused.len(),
        refused.join("\n----\n")
    );
}
