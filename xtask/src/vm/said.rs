//! What the guest says on its console and the host reads: lines of JSON behind a mark.

use serde::{Deserialize, Serialize};

/// What such a line begins with: a console has other lines, too.
const MARK: &str = "skyprobe-vm ";

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// The first one.
    Machine(Machine),
    /// A check begins: should it never end, it is known which.
    Begins(String),
    Checked(Checked),
    /// The last one.
    Over,
}

/// What was booted, by its own words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub release: String,
    /// `none`, `integrity`, `confidentiality`.
    pub lockdown: String,
    /// `v2`, `hybrid`.
    pub cgroups: String,
    /// Whether kprobes can be set.
    pub kprobes: bool,
}

/// How a check turned out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    pub check: String,
    pub outcome: Outcome,
    /// A few words for a table.
    pub says: String,
    /// Everything there is to know of a failure.
    pub detail: String,
    pub seconds: u64,
}

/// Whether it is as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Works,
    /// The kernel lacks something, and the probe has said so.
    Lacks,
    Failed,
}

impl Said {
    /// As a line for the console.
    #[must_use]
    pub fn line(&self) -> String {
        // Of strings and numbers there is always JSON.
        format!("{MARK}{}", serde_json::to_string(self).unwrap_or_default())
    }

    /// What a line of the console says, if it is one of ours. The kernel may have written something before it.
    #[must_use]
    pub fn read(line: &str) -> Option<Self> {
        let (_, json) = line.split_once(MARK)?;
        serde_json::from_str(json.trim_end()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard() {
        let said = Said::Checked(Checked {
            check: "http1".to_owned(),
            outcome: Outcome::Lacks,
            says: "no headers".to_owned(),
            detail: "line\nof \"log\"".to_owned(),
            seconds: 3,
        });
        assert_eq!(Said::read(&format!("[ 2.1] noise {}\r", said.line())), Some(said));
        assert_eq!(Said::read("skyprobe-vm {"), None);
        assert_eq!(Said::read("Linux version 6.1"), None);
    }
}
