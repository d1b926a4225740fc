//! The configuration file with every key in it, made from what the program itself says of its flags: the reference that
//! cannot lag behind.

use std::{fmt::Write as _, fs, path::Path};

use clap::{ArgAction, CommandFactory as _};

use super::{flags::CommandLine, key::Key, rules::CONDITIONS};

const HEAD: &str = "\
# Every setting of `skyprobe run` as a key of its configuration file, from what the program says of its flags.
# A flag has the same name with dashes. docs/configuration.md says more, and what comes before what.
# Made anew by: UPDATE_EXPECT=1 cargo test -p probe-user --lib config::example
";

/// What has no flag, since a flag can be read by everybody, or cannot say it.
const WITHOUT_FLAG: &str = "
## Without a flag

# The token each call to the OAP carries; better in a file of its own, see authentication_file
# In the environment: SW_AGENT_AUTHENTICATION, SW_AGENT_REPORTER_GRPC_AUTHENTICATION
#authentication: TOKEN

# What is traced and what is not, the first rule that fits decides: see docs/configuration.md
#rules:
#  - exclude: {namespace: kube-system}
#  - include: {unit: \"gateway*\"}
# The conditions of a rule all have to hold; each has one value or a list of them:
";

/// All keys, each as a comment with its help before it.
pub(super) fn text() -> String {
    let mut text = HEAD.to_owned();
    let mut heading = None;
    let command = CommandLine::command();
    let Some(run) = command.find_subcommand("run") else {
        return text;
    };
    for argument in run.get_arguments() {
        let Some(key) = Key::from_name(argument.get_id().as_str()) else {
            continue;
        };
        if argument.get_help_heading() != heading {
            heading = argument.get_help_heading();
            let _infallible = write!(text, "\n## {}\n", heading.unwrap_or_default());
        }
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let names = argument.get_value_names().unwrap_or_default();
        let value = names.first().map_or("", |name| name.as_str());
        let value = if matches!(argument.get_action(), ArgAction::Append) {
            format!("[{value}]")
        } else {
            value.to_owned()
        };
        let _infallible = write!(text, "\n# {help}\n{}#{}: {value}\n", variables(key), key.name());
    }
    text.push_str(WITHOUT_FLAG);
    for (name, holds_for) in CONDITIONS {
        let _infallible = writeln!(text, "#   {name}: {holds_for}");
    }
    text
}

/// The line with what it is called in the environment, if it can be given there.
fn variables(key: Key) -> String {
    match key.environment() {
        [] => String::new(),
        names => format!("# In the environment: {}\n", names.join(", ")),
    }
}

/// Fails unless this page of the documentation is what the program says; writes it anew if asked to.
pub(super) fn assert_is(page: &str, said: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
    #[expect(clippy::disallowed_methods, reason = "how expected files are rewritten")]
    let is_update = std::env::var_os("UPDATE_EXPECT").is_some();
    if is_update {
        fs::write(&path, said).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap();
    assert_eq!(
        written, said,
        "docs/{page} lags behind: UPDATE_EXPECT=1 writes it anew"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_what_the_program_says() {
        assert_is("skyprobe.yaml", &text());
    }

    #[test]
    fn every_key_stands_in_it_once() {
        let text = text();
        for key in Key::ALL {
            let line = format!("#{}:", key.name());
            let count = text.lines().filter(|other| other.starts_with(&line)).count();
            assert_eq!(count, 1, "{line}");
        }
        for line in text.lines() {
            assert!(line.is_empty() || line.starts_with('#'), "{line}");
        }
    }
}
