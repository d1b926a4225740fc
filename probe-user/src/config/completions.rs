//! What completes our command line in a shell, made from the flags themselves.

use clap::{CommandFactory as _, ValueEnum, ValueHint, builder::PossibleValuesParser};
use clap_complete::{Shell as Script, generate};

use super::{
    Color, Export, Kubernetes, LogLevel, Propagate, Routes, flags::CommandLine, key::Key, sampling,
    value::Choice,
};

/// Who completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Values of which there are few. To the command line they are any text, for one answer to wrong ones whichever source
/// they come from.
fn choices() -> [(Key, Vec<&'static str>); 7] {
    [
        (Key::Export, words::<Export>()),
        (Key::Color, words::<Color>()),
        (Key::Kubernetes, words::<Kubernetes>()),
        (Key::Sampling, words::<sampling::Word>()),
        (Key::Propagate, words::<Propagate>()),
        (Key::Routes, words::<Routes>()),
        (Key::Log, words::<LogLevel>()),
    ]
}

fn words<T: Choice>() -> Vec<&'static str> {
    T::WORDS.iter().map(|(word, _)| *word).collect()
}

/// The script for this shell.
pub(super) fn script(shell: Shell) -> String {
    let choices = choices();
    let with_values = |argument: clap::Arg| {
        let id = argument.get_id().as_str();
        if let Some((_, words)) = choices.iter().find(|(key, _)| key.name() == id) {
            return argument.value_parser(PossibleValuesParser::new(words));
        }
        let names = argument.get_value_names().unwrap_or_default();
        let is_path = names
            .first()
            .is_some_and(|name| matches!(name.as_str(), "FILE" | "PATH" | "PATH|PID" | "GLOB"));
        let hint = if is_path {
            ValueHint::AnyPath
        } else {
            ValueHint::Other
        };
        // What is a flag, or has its values already, takes no hint.
        if argument.get_action().takes_values() && argument.get_possible_values().is_empty() {
            argument.value_hint(hint)
        } else {
            argument
        }
    };
    let mut command = CommandLine::command().mut_subcommands(|command| command.mut_args(with_values));
    let mut text = Vec::new();
    let script = match shell {
        Shell::Bash => Script::Bash,
        Shell::Zsh => Script::Zsh,
        Shell::Fish => Script::Fish,
    };
    generate(script, &mut command, "skyprobe", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_is_in_every_script_and_short_lists_of_values_are() {
        for shell in Shell::value_variants() {
            let script = script(*shell);
            for key in Key::ALL {
                // One key is no flag. The others are `--oap` here, `-l oap` there.
                let flag = key.flag();
                let fish = format!("-l {} ", flag.trim_start_matches('-'));
                let is_there = script.contains(&flag) || script.contains(&fish);
                assert!(is_there || key == Key::Authentication, "{shell:?}: {flag}");
            }
            for (key, words) in choices() {
                // Commas are escaped, each shell in its own way.
                for word in words.into_iter().filter(|word| !word.contains(',')) {
                    assert!(script.contains(word), "{shell:?}: {key:?} {word}");
                }
            }
        }
    }
}
