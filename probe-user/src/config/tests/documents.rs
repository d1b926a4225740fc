//! What the documents say is so.

use clap::CommandFactory as _;

use super::{super::*, *};

const DOCUMENT: &str = include_str!("../../../../docs/configuration.md");

/// Each key has one row, with its flag, its variables and a default.
#[test]
fn the_document_has_a_row_for_each_key() {
    let rows = DOCUMENT.lines().filter(|line| line.starts_with("| `"));
    let mut keys = Vec::new();
    let mut conditions = Vec::new();
    for row in rows {
        let columns: Vec<_> = row.split('|').map(str::trim).collect();
        if let ["", name, holds_for, ""] = columns[..] {
            conditions.push((name.trim_matches('`'), holds_for));
            continue;
        }
        let ["", name, flag, environment, default, value, ""] = columns[..] else {
            panic!("{row}")
        };
        let key = Key::from_name(name.trim_matches('`')).unwrap_or_else(|| panic!("{row}"));
        let wanted = is_public(key).then(|| format!("`{}`", key.flag()));
        assert_eq!(flag, wanted.as_deref().unwrap_or("none"));
        let variables: Vec<_> = key.environment().iter().map(|name| format!("`{name}`")).collect();
        assert_eq!(environment, variables.join(", "));
        assert!(!default.is_empty() && !value.is_empty(), "{row}");
        keys.push(key);
    }
    keys.sort();
    assert_eq!(keys, Key::ALL);
    assert_eq!(conditions, rules::CONDITIONS);
}

/// The examples in the document are some.
#[test]
fn the_documents_examples_are_read() {
    let mut examples = DOCUMENT.split("```yaml\n").skip(1).map(|rest| {
        let (example, _) = rest.split_once("```").unwrap();
        run(&[], &[], Some(example)).unwrap()
    });
    let (rules, whole) = (examples.next().unwrap(), examples.next().unwrap());
    assert_eq!((rules.select.rules.len(), rules.select.all_go), (4, true));
    assert_eq!((whole.export, whole.oap.addresses.len()), (Export::SkyWalking, 2));
    assert_eq!(whole.propagate, Propagate { sw8: true, w3c: true });
    assert!(examples.next().is_none());
}

/// Where the document or the help says a value that is assumed, giving that value changes nothing.
#[test]
fn what_is_said_to_be_the_default_is_it() {
    let mut tried = 0;
    let command = flags::CommandLine::command();
    let run_command = command.find_subcommand("run").unwrap();
    for row in DOCUMENT.lines().filter(|line| line.starts_with("| `")) {
        let columns: Vec<_> = row.split('|').map(str::trim).collect();
        let ["", name, _, _, default, _, ""] = columns[..] else {
            continue;
        };
        let key = Key::from_name(name.trim_matches('`')).unwrap();
        let said = default.strip_prefix('`').and_then(|rest| rest.strip_suffix('`'));
        // The others are said in words, or are another key's.
        let Some(said) = said.filter(|said| !said.contains('`') && Key::from_name(said).is_none()) else {
            continue;
        };
        // What belongs to one way to sample would else choose it.
        let is_adaptive = [Key::AdaptiveThreshold, Key::AdaptiveCpuPercent].contains(&key);
        let company: &[&str] = if is_adaptive {
            &["--exe=x", "--sampling=adaptive"]
        } else {
            &["--exe=x"]
        };
        let (value, _) = samples(key);
        let assumed = value(&run(company, &[], None).unwrap());
        let given = value(&run(company, &[], Some(&format!("{}: {said}\n", key.name()))).unwrap());
        assert_eq!(given, assumed, "{row}");
        let argument = run_command.get_arguments().find(|it| it.get_id() == key.name());
        let help = argument.unwrap().get_help().unwrap().to_string();
        if let Some((_, in_help)) = help.split_once("[default: ") {
            let rest = in_help.strip_prefix(said);
            assert!(rest.is_some_and(|rest| rest.starts_with([']', ','])), "{help}");
        }
        tried += 1;
    }
    assert!(tried > 10, "{tried}");
}
