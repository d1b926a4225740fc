//! Tables in the documents whose rows a test has measured.

use std::{fs, ops::Range};

use anyhow::{Context as _, Result, ensure};

/// Checks that each row stands in the table with this head, in a page named from the root of the workspace. If `whole`,
/// the rows are all there are, and `UPDATE_EXPECT=1` puts them into the page.
#[expect(clippy::disallowed_methods, reason = "a switch for whoever runs the test")]
pub fn check_rows(page: &str, head: &str, rows: &[String], whole: bool) -> Result<()> {
    let path = xtask::build::root().join(page);
    let text = fs::read_to_string(&path).with_context(|| format!("read {page}"))?;
    let body = body(&text, head).with_context(|| format!("{page} has no table with the head {head}"))?;
    if whole && std::env::var_os("UPDATE_EXPECT").is_some_and(|value| value == "1") {
        return fs::write(&path, with_rows(&text, body, rows)).with_context(|| format!("write {page}"));
    }
    let faults = faults(text.get(body).unwrap_or_default(), rows, whole);
    ensure!(faults.is_empty(), "{page} says otherwise:\n{}", faults.join("\n"));
    Ok(())
}

/// Where the rows of the table are, between the line under its head and the first line that is no row.
fn body(text: &str, head: &str) -> Option<Range<usize>> {
    let table = text.find(&format!("{head}\n"))?;
    let mut lines = text.get(table..)?.split_inclusive('\n');
    let start = table + lines.next()?.len() + lines.next()?.len();
    let rows = lines.take_while(|line| line.starts_with('|'));
    Some(start..start + rows.map(str::len).sum::<usize>())
}

fn with_rows(text: &str, body: Range<usize>, rows: &[String]) -> String {
    let mut written = text.to_owned();
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    written.replace_range(body, &lines);
    written
}

fn faults(written: &str, rows: &[String], whole: bool) -> Vec<String> {
    let missing = rows
        .iter()
        .filter(|row| !written.lines().any(|line| line == *row))
        .map(|row| format!("missing: {row}"));
    let left = written
        .lines()
        .filter(|line| whole && !rows.iter().any(|row| row == line))
        .map(|line| format!("no more: {line}"));
    missing.chain(left).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Page\n\n| a | b |\n| --- | --- |\n| 1 | x |\n| 2 | y |\n\nMore.\n";

    fn rows(rows: &[&str]) -> Vec<String> {
        rows.iter().map(|row| (*row).to_owned()).collect()
    }

    #[test]
    fn the_rows_of_the_right_table_are_replaced() {
        let two = format!("| a | c |\n| --- | --- |\n| 0 | z |\n\n{PAGE}");
        let body = body(&two, "| a | b |").unwrap();
        assert_eq!(&two[body.clone()], "| 1 | x |\n| 2 | y |\n");
        let written = with_rows(&two, body, &rows(&["| 3 | w |"]));
        assert_eq!(written, two.replace("| 1 | x |\n| 2 | y |\n", "| 3 | w |\n"));
        assert_eq!(super::body(PAGE, "| b | a |"), None);
    }

    #[test]
    fn a_table_at_the_end_of_the_page_ends_with_it() {
        let short = PAGE.strip_suffix("\nMore.\n").unwrap();
        assert_eq!(body(short, "| a | b |"), body(PAGE, "| a | b |"));
    }

    #[test]
    fn what_is_missing_is_a_fault_and_what_is_left_over_only_of_the_whole() {
        let written = "| 1 | x |\n| 2 | y |\n";
        assert!(faults(written, &rows(&["| 2 | y |"]), false).is_empty());
        assert_eq!(
            faults(written, &rows(&["| 2 | y |"]), true),
            ["no more: | 1 | x |"]
        );
        assert_eq!(
            faults(written, &rows(&["| 2 | z |"]), false),
            ["missing: | 2 | z |"]
        );
    }
}
