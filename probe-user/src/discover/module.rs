//! Versions of Go modules, in the order that Go gives them.

use std::cmp::Ordering;

/// A release such as `v1.66.2`, a pre-release such as `v1.79.0-dev`, or the pseudo-version of a commit, such as
/// `v0.0.0-20260817212433-ac3dfec99bb1`: it comes before the release that it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleVersion {
    numbers: [u64; 3],
    /// What stands behind the numbers of all but releases.
    leading_to: Option<String>,
}

/// What stands between the dots behind the numbers: numbers by size, all of them before words.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Identifier<'a> {
    /// Its digits and how many: of numbers without leading zeros the longer one is greater.
    Number(usize, &'a str),
    Word(&'a str),
}

// === impl ModuleVersion ===

impl ModuleVersion {
    /// `None` for what is no version, and for a build from changed files (`+dirty`).
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('v')?;
        let text = text.strip_suffix("+incompatible").unwrap_or(text);
        if text.contains('+') {
            return None;
        }
        let (numbers, leading_to) = match text.split_once('-') {
            Some((numbers, leading_to)) => (numbers, Some(leading_to.to_owned())),
            None => (text, None),
        };
        let mut numbers = numbers.split('.').map(|number| number.parse().ok());
        let parsed = [numbers.next()??, numbers.next()??, numbers.next()??];
        numbers.next().is_none().then_some(Self {
            numbers: parsed,
            leading_to,
        })
    }

    /// Whether it is more than a step on the way to a release.
    pub const fn is_release(&self) -> bool {
        self.leading_to.is_none()
    }

    /// Major and minor number.
    pub const fn minor(&self) -> (u64, u64) {
        let [major, minor, _] = self.numbers;
        (major, minor)
    }
}

impl Ord for ModuleVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        let behind = || match (&self.leading_to, &other.leading_to) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(ours), Some(theirs)) => identifiers(ours).cmp(identifiers(theirs)),
        };
        self.numbers.cmp(&other.numbers).then_with(behind)
    }
}

impl PartialOrd for ModuleVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn identifiers(text: &str) -> impl Iterator<Item = Identifier<'_>> {
    text.split('.').map(|word| {
        if word.bytes().all(|byte| byte.is_ascii_digit()) {
            Identifier::Number(word.len(), word)
        } else {
            Identifier::Word(word)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_the_order_of_go() {
        // Each is older than the next.
        let ordered = [
            "v0.0.0-20190311183353-d8887717615a",
            "v0.0.0-20260817212433-ac3dfec99bb1",
            "v0.1.0",
            "v0.46.0",
            "v0.46.1-0.20251013234738-63d1a5100f82",
            "v0.46.1",
            "v1.79.0-dev",
            // Commits behind the tag above.
            "v1.79.0-dev.0.20251201000000-abcdefabcdef",
            "v1.79.0-dev.9.20251201000000-abcdefabcdef",
            "v1.79.0-dev.10.20251201000000-abcdefabcdef",
            "v1.79.0",
            "v1.79.10",
            "v2.0.0+incompatible",
        ];
        let versions: Vec<ModuleVersion> = ordered
            .iter()
            .map(|text| ModuleVersion::parse(text).unwrap())
            .collect();
        assert!(versions.is_sorted_by(|one, next| one < next));
        assert_eq!(versions[4].minor(), (0, 46));
        assert!(!versions[4].is_release() && versions[5].is_release());
    }

    #[test]
    fn what_is_no_version_is_none() {
        for text in [
            "",
            "(devel)",
            "1.2.3",
            "v1.2",
            "v1.2.3.4",
            "v1.x.3",
            "v1.85.1-0.20260901000000-abcdefabcdef+dirty",
        ] {
            assert_eq!(ModuleVersion::parse(text), None, "{text}");
        }
    }
}
