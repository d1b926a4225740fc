//! The token that each call carries. Its file may be written anew at any time, as Kubernetes does with a secret.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
};
use tracing::{info, warn};

use super::SettingsError;

/// How old what was read of the file may be. It is short, and calls are two a second at most.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The authentication token of OAP. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    pub fn new(token: impl Into<String>) -> Self {
        Self(token.into())
    }

    /// What the file holds, without the white space around it.
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        let text = fs::read_to_string(path).map_err(|source| SettingsError::Read {
            what: "authentication token",
            path: path.to_owned(),
            source,
        })?;
        match text.trim() {
            "" => Err(SettingsError::NoToken {
                path: path.to_owned(),
            }),
            token => Ok(Self::new(token)),
        }
    }

    /// As a call carries it.
    fn metadata(&self) -> Result<MetadataValue<Ascii>, SettingsError> {
        // The error would show the token.
        let mut value: MetadataValue<Ascii> = self.0.parse().map_err(|_shows_it| SettingsError::Token)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Where the token comes from.
#[derive(Clone, Debug)]
pub enum Authentication {
    Token(Token),
    /// A file that holds nothing else.
    File(PathBuf),
}

impl Authentication {
    fn token(&self) -> Result<Token, SettingsError> {
        match self {
            Self::Token(token) => Ok(token.clone()),
            Self::File(path) => Token::read(path),
        }
    }
}

/// Puts the token on every call.
#[derive(Clone)]
pub(super) struct Credentials(Arc<Shared>);

struct Shared {
    file: Option<PathBuf>,
    known: Mutex<Known>,
}

struct Known {
    token: Option<Token>,
    value: Option<MetadataValue<Ascii>>,
    /// Counts tokens.
    version: u64,
    looked: Instant,
    /// That the file cannot be used has been said.
    is_failure_said: bool,
}

impl Credentials {
    pub(super) fn new(authentication: Option<&Authentication>) -> Result<Self, SettingsError> {
        let token = authentication.map(Authentication::token).transpose()?;
        let file = match authentication {
            Some(Authentication::File(path)) => Some(path.clone()),
            Some(Authentication::Token(_)) | None => None,
        };
        let known = Known {
            value: token.as_ref().map(Token::metadata).transpose()?,
            token,
            version: 0,
            looked: Instant::now(),
            is_failure_said: false,
        };
        Ok(Self(Arc::new(Shared {
            file,
            known: Mutex::new(known),
        })))
    }

    pub(super) fn has_token(&self) -> bool {
        self.known().token.is_some()
    }

    /// To be given to [`Self::is_renewed_since`].
    pub(super) fn version(&self) -> u64 {
        self.known().version
    }

    /// Whether there is another token now: what was refused with the old one may be taken with this one.
    pub(super) fn is_renewed_since(&self, version: u64) -> bool {
        let mut known = self.known();
        self.look(&mut known);
        known.version > version
    }

    /// Reads the file anew. One that cannot be used changes nothing: it may be on its way.
    fn look(&self, known: &mut Known) {
        let Some(file) = &self.0.file else { return };
        known.looked = Instant::now();
        let read = Token::read(file).and_then(|token| Ok((token.metadata()?, token)));
        match read {
            Ok((value, token)) => {
                known.is_failure_said = false;
                if known.token.as_ref() != Some(&token) {
                    info!(file = %file.display(), "The authentication token has changed");
                    known.version += 1;
                    known.token = Some(token);
                    known.value = Some(value);
                }
            }
            Err(_) if known.is_failure_said => {}
            Err(error) if error.is_denied() => {
                info!(
                    file = %file.display(),
                    "Only the start may read the authentication token: another one counts from the next start on"
                );
                known.is_failure_said = true;
            }
            Err(error) => {
                let error = crate::chain(&error);
                warn!(
                    error,
                    "The authentication token cannot be read anew: the old one is used"
                );
                known.is_failure_said = true;
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let mut known = self.known();
        if known.looked.elapsed() >= LOOK_AGAIN {
            self.look(&mut known);
        }
        if let Some(value) = &known.value {
            request.metadata_mut().insert("authentication", value.clone());
        }
        drop(known);
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(credentials: &mut Credentials) -> Option<String> {
        let request = credentials.call(Request::new(())).unwrap();
        assert!(!format!("{request:?}").contains("s3cret"));
        let value = request.metadata().get("authentication")?;
        Some(value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_token_that_cannot_be_sent_is_refused_without_being_shown() {
        let token = Authentication::Token(Token::new("s3cret\n"));
        let error = Credentials::new(Some(&token)).err().expect("a line end");
        assert!(!error.to_string().contains("s3cret"), "{error}");
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    }

    #[test]
    fn every_call_carries_the_token() {
        let token = Authentication::Token(Token::new("s3cret"));
        let mut credentials = Credentials::new(Some(&token)).unwrap();
        assert_eq!(sent(&mut credentials).as_deref(), Some("s3cret"));
        assert!(!credentials.is_renewed_since(0));
        assert_eq!(sent(&mut Credentials::new(None).unwrap()), None);
    }

    #[test]
    fn a_token_is_read_from_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        assert!(matches!(Token::read(&path), Err(SettingsError::Read { .. })));
        fs::write(&path, " \n").unwrap();
        assert!(matches!(Token::read(&path), Err(SettingsError::NoToken { .. })));
        fs::write(&path, "s3cret\n").unwrap();
        assert!(Token::read(&path).unwrap() == Token::new("s3cret"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_token_is_taken_from_the_file_and_a_broken_file_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, "s3cret-1").unwrap();
        let mut credentials = Credentials::new(Some(&Authentication::File(path.clone()))).unwrap();
        fs::write(&path, "s3cret-2").unwrap();
        assert_eq!(sent(&mut credentials).as_deref(), Some("s3cret-1"));
        tokio::time::advance(LOOK_AGAIN).await;
        assert_eq!(sent(&mut credentials).as_deref(), Some("s3cret-2"));
        let version = credentials.version();
        fs::remove_file(&path).unwrap();
        assert!(!credentials.is_renewed_since(version));
        assert_eq!(sent(&mut credentials).as_deref(), Some("s3cret-2"));
        fs::write(&path, "s3cret-3").unwrap();
        assert!(credentials.is_renewed_since(version), "without waiting");
        assert_eq!(sent(&mut credentials).as_deref(), Some("s3cret-3"));
    }
}
