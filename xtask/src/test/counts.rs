//! Counting passes, failures and skips out of what test binaries print.

use std::fmt;

/// The sums over everything.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) passed: usize,
    pub(super) failed: usize,
    /// Each with its reason.
    pub(super) skips: Vec<String>,
    pub(super) failures: Vec<String>,
    /// Tests that failed and passed when they were run again; among the passed.
    pub(super) flaky: Vec<String>,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed,
            self.failed,
            self.skips.len()
        )
    }
}

impl Counts {
    /// A check that is not a test binary counts as one.
    pub(super) fn check(&mut self, name: &str, outcome: anyhow::Result<()>) {
        match outcome {
            Ok(()) => self.passed += 1,
            Err(error) => {
                self.failed += 1;
                self.failures.push(format!("{name}: {error:#}"));
            }
        }
    }

    pub(super) fn skip(&mut self, skip: String) {
        self.skips.push(skip);
    }

    /// Adds one test binary.
    pub(super) fn add(&mut self, name: &str, output: &Output, status: &str) {
        self.passed += output.passed;
        self.failed += output.failed;
        self.skips
            .extend(output.skips.iter().map(|skip| format!("{name} {skip}")));
        self.failures
            .extend(output.failures.iter().map(|failure| format!("{name} {failure}")));
        if output.results == 0 {
            // Without a result line it crashed, hung, or is no test binary at all.
            self.failed += 1;
            self.failures
                .push(format!("{name}: ended without a result ({status})"));
        }
    }
}

/// What one test binary said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Output {
    pub(super) passed: usize,
    pub(super) failed: usize,
    /// `name: reason`.
    pub(super) skips: Vec<String>,
    pub(super) failures: Vec<String>,
    /// Tests that passed by skipping themselves.
    skipped_in_passed: usize,
    /// How many lines `test result: …` there were: one a binary.
    pub(super) results: usize,
}

impl Output {
    /// Takes the failures that a second run has not seen again for passes, and says which they are.
    pub(super) fn forgive(&mut self, second: &Self) -> Vec<String> {
        // A second run that crashed, or ran something else, forgives nothing.
        // So does one whose failures do not all have a name, since what a test started has written into their lines.
        let ran_the_same = second.passed + second.failed == self.failures.len();
        if second.results == 0 || !ran_the_same || second.failures.len() != second.failed {
            return Vec::new();
        }
        let (failed, passed) = std::mem::take(&mut self.failures)
            .into_iter()
            .partition(|failure| second.failures.contains(failure));
        self.failures = failed;
        let passed: Vec<String> = passed;
        self.failed -= passed.len();
        self.passed += passed.len();
        passed
    }

    /// Reads what a test binary printed, run with `--show-output`.
    ///
    /// A test that finds out, running, that it cannot run here prints a line `SKIP reason` and returns; to its binary it
    /// has passed, to us it has not.
    pub(super) fn parse(text: &str) -> Self {
        let mut output = Self::default();
        let mut shown = "";
        for line in text.lines() {
            if let Some(result) = line.strip_prefix("test result: ") {
                output.results += 1;
                output.passed += count(result, "passed");
                output.failed += count(result, "failed");
            } else if let Some((name, outcome)) = test_line(line) {
                if let Some(reason) = outcome.strip_prefix("ignored") {
                    let reason = reason.strip_prefix(", ").unwrap_or("no reason given");
                    output.skips.push(format!("{name}: {reason}"));
                } else if outcome == "FAILED" {
                    output.failures.push(name.to_owned());
                }
            } else if let Some(name) = line
                .strip_prefix("---- ")
                .and_then(|line| line.strip_suffix(" stdout ----"))
            {
                shown = name;
            } else if let Some(reason) = line.strip_prefix("SKIP ") {
                let skip = format!("{shown}: {reason}");
                // A skip is counted once for each test, and not for one that failed afterwards.
                let counted = output
                    .skips
                    .iter()
                    .any(|other| other.starts_with(&format!("{shown}: ")));
                if !counted && !output.failures.iter().any(|failure| failure == shown) {
                    output.skips.push(skip);
                    output.skipped_in_passed += 1;
                }
            }
        }
        output.passed = output.passed.saturating_sub(output.skipped_in_passed);
        output
    }
}

/// `test name ... outcome`, taken apart.
fn test_line(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("test ")?.rsplit_once(" ... ")
}

/// The number before this word in `ok. 3 passed; 0 failed; …`.
fn count(result: &str, word: &str) -> usize {
    let mut words = result.split([' ', ';']);
    let mut last = "";
    loop {
        match words.next() {
            None => return 0,
            Some(this) if this == word => return last.parse().unwrap_or(0),
            Some(this) => last = this,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_passes_the_second_time_is_forgiven() {
        let first = "test a ... ok\ntest b ... FAILED\ntest c ... FAILED\n\
            test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let second = "test b ... ok\ntest c ... FAILED\n\
            test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 1 filtered out\n";
        let mut output = Output::parse(first);
        assert_eq!(output.forgive(&Output::parse(second)), ["b"]);
        assert_eq!((output.passed, output.failed), (2, 1));
        assert_eq!(output.failures, ["c"]);
        let mut output = Output::parse(first);
        assert!(output.forgive(&Output::parse("killed")).is_empty());
        let torn = "test b ... words\nFAILED\ntest c ... ok\n\
            test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 1 filtered out\n";
        assert!(output.forgive(&Output::parse(torn)).is_empty());
        assert_eq!((output.passed, output.failed), (1, 2));
    }

    const TEXT: &str = "
running 4 tests
test a::works ... ok
test a::breaks ... FAILED
test b::slow ... ignored, takes an hour
test c::skips_itself ... ok

successes:

---- a::works stdout ----
nothing of note
---- c::skips_itself stdout ----
SKIP no JDK here

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    #[test]
    fn a_binary_is_counted_with_names_and_reasons() {
        let mut counts = Counts::default();
        counts.add("x/y", &Output::parse(TEXT), "exit status: 101");
        assert_eq!(counts.to_string(), "1 passed, 1 failed, 2 skipped");
        assert_eq!(counts.failures, ["x/y a::breaks"]);
        assert_eq!(
            counts.skips,
            ["x/y b::slow: takes an hour", "x/y c::skips_itself: no JDK here"]
        );
    }

    #[test]
    fn a_binary_without_a_result_has_failed() {
        let mut counts = Counts::default();
        counts.add("x/y", &Output::parse("running 4 tests\n"), "signal: 11");
        assert_eq!(counts.failed, 1);
        assert_eq!(counts.failures, ["x/y: ended without a result (signal: 11)"]);
    }
}
