//! Processes that were looked at and are not meant. Most of a host's are: asking `/proc` for each at every look would be
//! what an idle probe costs.

use std::collections::HashMap;

use crate::discover::process::Entry;

/// Those that need no look, by id, each with its node.
#[derive(Debug, Default)]
pub(super) struct Unmeant {
    nodes: HashMap<u32, u64>,
}

impl Unmeant {
    /// All are to be looked at anew.
    pub(super) fn clear(&mut self) {
        self.nodes.clear();
    }

    /// Whether this very process is known not to be meant.
    pub(super) fn knows(&self, entry: Entry) -> bool {
        self.nodes.get(&entry.pid) == Some(&entry.node)
    }

    pub(super) fn note(&mut self, entry: Entry) {
        self.nodes.insert(entry.pid, entry.node);
    }

    /// It runs another program now.
    pub(super) fn forget(&mut self, pid: u32) {
        self.nodes.remove(&pid);
    }

    /// Leaves those that are still `there`.
    pub(super) fn retain(&mut self, there: impl Fn(u32) -> bool) {
        self.nodes.retain(|pid, _| there(*pid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_with_its_id_is_not_known() {
        let entry = Entry { pid: 7, node: 1 };
        let mut unmeant = Unmeant::default();
        assert!(!unmeant.knows(entry));
        unmeant.note(entry);
        assert!(unmeant.knows(entry));
        assert!(!unmeant.knows(Entry { node: 2, ..entry }));
        unmeant.forget(7);
        assert!(!unmeant.knows(entry));
        unmeant.note(entry);
        unmeant.clear();
        assert!(!unmeant.knows(entry));
    }
}
