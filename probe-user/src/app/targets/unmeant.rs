//! Processes that were looked at and are not meant. Most of a host's are: asking `/proc` for all of them every other
//! second would be what an idle probe costs.

use std::collections::HashMap;

use crate::discover::process::Entry;

/// How often all are looked at anew. A process that runs another program is told of by the kernel, and this is for
/// what was lost on that way.
const LOOKS: u32 = 15;

/// Those that need no look, by id, each with its node.
#[derive(Debug, Default)]
pub(super) struct Unmeant {
    nodes: HashMap<u32, u64>,
    looks: u32,
}

impl Unmeant {
    /// All processes are looked at now, `anew` those, too, that were found not to be meant.
    pub(super) fn begin(&mut self, anew: bool) {
        self.looks += 1;
        if anew || self.looks.is_multiple_of(LOOKS) {
            self.nodes.clear();
        }
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
    fn each_is_looked_at_again_in_time_and_another_with_its_id_at_once() {
        let entry = Entry { pid: 7, node: 1 };
        let mut unmeant = Unmeant::default();
        let mut asked = 0;
        for _ in 0..3 * LOOKS {
            unmeant.begin(false);
            if !unmeant.knows(entry) {
                asked += 1;
                unmeant.note(entry);
            }
            assert!(!unmeant.knows(Entry { node: 2, ..entry }));
        }
        assert_eq!(asked, 4, "at the first look, and then at each fifteenth");
        unmeant.begin(true);
        assert!(!unmeant.knows(entry));
    }
}
