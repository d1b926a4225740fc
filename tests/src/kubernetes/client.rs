//! Somebody who talks to the API server, with a token.

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde_json::Value;
use xtask::http;

/// No answer takes longer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Who applies, to the server.
const MANAGER: &str = "skyprobe-tests";

/// What the server answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    pub status: u16,
    /// JSON, or the text of `/readyz`.
    pub body: Value,
}

impl Said {
    /// The object, if it is none that tells of a failure.
    pub fn object(self) -> Result<Value> {
        let message = self
            .body
            .get("message")
            .and_then(Value::as_str)
            .unwrap_or_default();
        ensure!(
            (200..300).contains(&self.status),
            "the API server answers {}: {message}",
            self.status
        );
        Ok(self.body)
    }
}

/// Whoever has a token.
pub struct Client {
    server: SocketAddr,
    token: String,
    tls: Arc<ClientConfig>,
    /// Of each `apiVersion` and kind its plural, and whether it lives in namespaces.
    kinds: Mutex<HashMap<(String, String), (String, bool)>>,
}

impl Client {
    pub(super) fn new(server: SocketAddr, authority: &Path, token: &str) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_file_iter(authority)
            .with_context(|| format!("read {}", authority.display()))?;
        for certificate in certificates {
            roots.add(certificate?)?;
        }
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            server,
            token: token.to_owned(),
            tls: Arc::new(tls),
            kinds: Mutex::default(),
        })
    }

    /// One request.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Said> {
        self.send(method, path, "application/json", body)
    }

    /// The object at a path.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.ask("GET", path, None)?.object()
    }

    /// Changes what `change` names of the object at a path.
    pub fn merge(&self, path: &str, change: &Value) -> Result<Value> {
        self.send("PATCH", path, "application/merge-patch+json", Some(change))?
            .object()
    }

    /// Server-side apply of one object, fields that do not exist refused; gives it as it is now.
    pub fn apply(&self, object: &Value) -> Result<Value> {
        let path = self.path_of(object)?;
        let path = format!("{path}?fieldManager={MANAGER}&fieldValidation=Strict&force=true");
        // JSON is YAML.
        self.send("PATCH", &path, "application/apply-patch+yaml", Some(object))?
            .object()
            .with_context(|| format!("apply {path}"))
    }

    /// Where an object lives, by what the server says of its kind.
    pub fn path_of(&self, object: &Value) -> Result<String> {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str);
        let version = text("/apiVersion").context("an object without apiVersion")?;
        let kind = text("/kind").context("an object without kind")?;
        let name = text("/metadata/name").context("an object without name")?;
        let (plural, namespaced) = self.kind(version, kind)?;
        let root = root(version);
        if !namespaced {
            return Ok(format!("{root}/{plural}/{name}"));
        }
        let namespace =
            text("/metadata/namespace").with_context(|| format!("{kind} {name} has no namespace"))?;
        Ok(format!("{root}/namespaces/{namespace}/{plural}/{name}"))
    }

    fn kind(&self, version: &str, kind: &str) -> Result<(String, bool)> {
        let key = (version.to_owned(), kind.to_owned());
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = kinds.get(&key) {
            return Ok(found.clone());
        }
        let listed = self.get(&root(version))?;
        let resources = listed.get("resources").and_then(Value::as_array);
        let found = resources.into_iter().flatten().find_map(|resource| {
            let plural = resource.get("name")?.as_str()?;
            // `pods/status` has the kind of a pod, too.
            let own = resource.get("kind")? == kind && !plural.contains('/');
            own.then(|| Some((plural.to_owned(), resource.get("namespaced")?.as_bool()?)))?
        });
        let found = found.with_context(|| format!("the API server knows no {kind} in {version}"))?;
        kinds.insert(key, found.clone());
        Ok(found)
    }

    fn send(&self, method: &str, path: &str, kind: &str, body: Option<&Value>) -> Result<Said> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\nauthorization: Bearer {}\r\n\
             content-type: {kind}\r\naccept: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.server,
            self.token,
            body.len()
        );
        let exchange = || -> Result<http::Answer> {
            let tcp = TcpStream::connect_timeout(&self.server, TIMEOUT)?;
            tcp.set_read_timeout(Some(TIMEOUT))?;
            let tls = ClientConnection::new(Arc::clone(&self.tls), self.server.ip().into())?;
            http::exchange_over(&mut StreamOwned::new(tls, tcp), &request)
        };
        let answer = exchange().with_context(|| format!("{method} {path}"))?;
        let body = serde_json::from_str(&answer.body).unwrap_or(Value::String(answer.body));
        Ok(Said {
            status: answer.status,
            body,
        })
    }
}

fn root(version: &str) -> String {
    if version.contains('/') {
        format!("/apis/{version}")
    } else {
        format!("/api/{version}")
    }
}
