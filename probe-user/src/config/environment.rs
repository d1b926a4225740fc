//! The environment: the variables that SkyWalking's agents have.

use std::ffi::OsString;

use super::{
    ConfigError,
    key::{Given, Key, Origin, Settings},
    value::HIDDEN,
};

/// The command line of this process.
pub(super) fn process_arguments() -> impl Iterator<Item = OsString> {
    std::env::args_os()
}

/// The environment this process was started with.
pub(super) fn process_environment(name: &str) -> Option<OsString> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the environment"
    )]
    std::env::var_os(name)
}

/// What the environment says. An empty variable counts as not set, as it does for SkyWalking's agents.
pub(super) fn settings(lookup: &dyn Fn(&str) -> Option<OsString>) -> Result<Settings, ConfigError> {
    let mut settings = Settings::default();
    for key in Key::ALL {
        for &name in key.environment() {
            let Some(value) = lookup(name).filter(|value| !value.is_empty()) else {
                continue;
            };
            let origin = Origin::Environment(name);
            let text = value.into_string().map_err(|value| ConfigError::Value {
                // A secret stays one, however it is written.
                text: if key == Key::Authentication {
                    HIDDEN.to_owned()
                } else {
                    value.to_string_lossy().into_owned()
                },
                origin: origin.to_string(),
                allowed: "UTF-8 text".to_owned(),
            })?;
            settings.add(key, Given { text, origin });
            break;
        }
    }
    Ok(settings)
}

/// Whether the terminal or its user asked all programs for no colour.
pub(super) fn forbids_color(lookup: &dyn Fn(&str) -> Option<OsString>) -> bool {
    lookup("NO_COLOR").is_some_and(|value| !value.is_empty())
        || lookup("TERM").is_some_and(|value| value == "dumb")
}
