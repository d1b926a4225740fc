//! The house, kept by tests: what stands where, who may know whom, and what the documents must say.
//!
//! Each test collects everything that is wrong and names file, fault and way out: one run, one list.

mod abi;
mod layers;
mod licences;
mod mirror;
mod object;
mod source;
mod text;

/// Fails with the list, unless it is empty.
fn expect_none(faults: &[String]) {
    assert!(
        faults.is_empty(),
        "{} to put right:\n{}",
        faults.len(),
        faults.join("\n")
    );
}
