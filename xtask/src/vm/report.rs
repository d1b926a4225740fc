//! The table of what works on which kernel.

use std::{fmt, fs, path::Path};

use anyhow::{Context as _, Result};

use super::{
    kernels::Kernel,
    machine::{Boot, Told},
    said::{Checked, Outcome},
};

/// Where the table stands in docs/compatibility.md.
const BEGIN: &str = "<!-- made by `cargo xtask vm --write`: begin -->";
const END: &str = "<!-- made by `cargo xtask vm --write`: end -->";

/// All boots.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) rows: Vec<Row>,
}

/// One boot.
#[derive(Debug)]
pub(super) struct Row {
    boot: Boot,
    told: Told,
}

impl Row {
    pub(super) fn of(kernel: &Kernel, boot: Boot, outcome: Result<Told>) -> Self {
        let mut told = outcome.unwrap_or_else(|error| Told {
            trouble: Some(format!("{error:#}")),
            ..Told::default()
        });
        // A boot that is not what was asked for tells of something else.
        let machine = &told.machine;
        if told.trouble.is_none()
            && (machine.release != kernel.release
                || machine.lockdown != boot.lockdown
                || machine.cgroups != boot.cgroups)
        {
            told.trouble = Some(format!("it is another machine than was asked for: {machine:?}"));
        }
        Self { boot, told }
    }

    fn failures(&self) -> impl Iterator<Item = String> {
        let failed = self
            .told
            .checks
            .iter()
            .filter(|checked| checked.outcome == Outcome::Failed);
        let checks = failed.map(|checked| format!("{}: {}: {}", self.boot, checked.check, checked.says));
        let trouble = self
            .told
            .trouble
            .iter()
            .map(|trouble| format!("{}: {trouble}", self.boot));
        checks.chain(trouble)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.boot)?;
        for Checked {
            check,
            outcome,
            says,
            detail,
            seconds,
        } in &self.told.checks
        {
            let mark = match outcome {
                Outcome::Works => "works",
                Outcome::Lacks => "lacks",
                Outcome::Failed => "FAILED",
            };
            writeln!(f, "  {mark:<6} {check:<10} {says} ({seconds} s)")?;
            for line in detail.lines() {
                writeln!(f, "         | {line}")?;
            }
        }
        match &self.told.trouble {
            Some(trouble) => writeln!(f, "  FAILED {trouble}"),
            None => Ok(()),
        }
    }
}

impl Report {
    pub(super) fn failures(&self) -> Vec<String> {
        self.rows.iter().flat_map(Row::failures).collect()
    }

    /// A row for each boot, a column for each check.
    pub(super) fn table(&self) -> String {
        let mut columns: Vec<&str> = Vec::new();
        for checked in self.rows.iter().flat_map(|row| &row.told.checks) {
            if !columns.contains(&checked.check.as_str()) {
                columns.push(&checked.check);
            }
        }
        let mut lines = vec![
            format!(
                "| kernel | lockdown | cgroups | kprobes | {} |",
                columns.join(" | ")
            ),
            format!("| --- | --- | --- | --- |{}", " --- |".repeat(columns.len())),
        ];
        for Row { boot, told } in &self.rows {
            let cells: Vec<String> = columns
                .iter()
                .map(|column| {
                    let checked = told.checks.iter().find(|checked| checked.check == *column);
                    checked.map_or("—".to_owned(), |checked| match checked.outcome {
                        Outcome::Works => checked.says.clone(),
                        Outcome::Lacks => format!("lacks: {}", checked.says),
                        Outcome::Failed => format!("**failed**: {}", checked.says),
                    })
                })
                .collect();
            lines.push(format!(
                "| {} | {} | {} | {} | {} |",
                boot.release,
                boot.lockdown,
                boot.cgroups,
                if told.machine.kprobes { "yes" } else { "no" },
                cells.join(" | ").replace('\n', " ")
            ));
        }
        lines.join("\n")
    }

    /// Puts the table between its marks.
    pub(super) fn write(&self, page: &Path) -> Result<()> {
        let text = fs::read_to_string(page).with_context(|| format!("read {}", page.display()))?;
        let (before, rest) = text
            .split_once(BEGIN)
            .context("the page has no mark for the table")?;
        let (_, after) = rest
            .split_once(END)
            .context("the page has no mark for the table's end")?;
        let text = format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", self.table());
        fs::write(page, text).with_context(|| format!("write {}", page.display()))
    }
}
