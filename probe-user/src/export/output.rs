//! What `text` and `json` have in common: a handle they write to, and what is said when it fails.

use std::io;

/// The output could not be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    #[error("the output's reader has gone away: what follows has nowhere to go")]
    Closed(#[source] io::Error),
    #[error("no space is left for the output: free some, or name another place with --output")]
    Full(#[source] io::Error),
    #[error("the output cannot be written")]
    Write(#[source] io::Error),
}

impl From<io::Error> for OutputError {
    fn from(error: io::Error) -> Self {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "the list is the standard library's"
        )]
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed(error),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::Full(error)
            }
            _ => Self::Write(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn each_failure_says_what_it_is() {
        let message = |number| OutputError::from(io::Error::from_raw_os_error(number)).to_string();
        assert_eq!(
            message(32),
            "the output's reader has gone away: what follows has nowhere to go"
        );
        assert_eq!(
            message(28),
            "no space is left for the output: free some, or name another place with --output"
        );
        assert_eq!(message(5), "the output cannot be written");
        assert!(
            OutputError::from(io::Error::from_raw_os_error(5))
                .source()
                .is_some()
        );
    }
}
