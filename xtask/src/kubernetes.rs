//! A real Kubernetes API server on the loopback address, with RBAC and nothing behind it: no scheduler, no controllers,
//! no kubelet. What is written to it stays as it was written.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    child::Tied,
    debian,
    go::programs::Programs,
    http,
    process::{self, check},
    scratch,
    step::{step, wait_until},
};

/// The release of Kubernetes.
pub const RELEASE: &str = "v1.34.4";

/// What writes, renders and takes manifests, all of one release of Kubernetes: Helm is built with the same libraries,
/// so that together they take little longer to compile than the server alone.
const PROGRAMS: Programs = Programs {
    modules: &[
        ("k8s.io/kubernetes", RELEASE),
        ("helm.sh/helm/v3", "v3.19.5"),
        ("sigs.k8s.io/kustomize/kustomize/v5", "v5.7.1"),
    ],
    parts: Some("v0.34.4"),
    // Neither inlined nor with debug information: a third less to compile, and they are quick enough.
    flags: &["-gcflags=all=-l -dwarf=false", "-ldflags=-s -w"],
    programs: &[
        ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
        ("helm", "helm.sh/helm/v3/cmd/helm"),
        ("kustomize", "sigs.k8s.io/kustomize/kustomize/v5"),
    ],
};

/// A boot takes 3 s on two idle cores; a loaded machine may take much longer.
const BOOT_PATIENCE: Duration = Duration::from_secs(120);

/// Who may do everything.
const ADMINISTRATOR: &str = "administrator";

/// The folder with `kube-apiserver`, `helm` and `kustomize`, built from their Go modules: some minutes the first time.
pub fn programs() -> Result<PathBuf> {
    PROGRAMS.built()
}

/// A running API server with a store of its own, in which is what each new cluster has. It ends with this value.
pub struct ApiServer {
    address: SocketAddr,
    folder: PathBuf,
    server: Tied,
    _store: Tied,
}

impl ApiServer {
    /// Gets it, starts it and waits until it listens; what a new cluster has may come some moments later, see `/readyz`.
    pub fn start() -> Result<Self> {
        let program = programs()?.join("kube-apiserver");
        let etcd = debian::unpacked("etcd-server")?.join("usr/bin/etcd");
        let folder = scratch::folder("kubernetes")?;
        let [address, store, peers] = http::free_addresses()?;
        step(format_args!("starting a Kubernetes API server on {address}"));
        let store_arguments = [
            format!("--data-dir={}", folder.join("etcd").display()),
            format!("--listen-client-urls=http://{store}"),
            format!("--advertise-client-urls=http://{store}"),
            format!("--listen-peer-urls=http://{peers}"),
            format!("--initial-advertise-peer-urls=http://{peers}"),
            format!("--initial-cluster=default=http://{peers}"),
        ];
        let held = Tied::start(etcd.as_os_str(), &store_arguments, &[], &folder.join("etcd.log"))?;
        make_keys(&folder)?;
        // As secret as the folder: the server listens to this machine only, and holds nothing.
        fs::write(
            folder.join("tokens.csv"),
            format!("{ADMINISTRATOR},{ADMINISTRATOR},0,system:masters\n"),
        )
        .context("write the administrator's token")?;
        let arguments = server_arguments(&folder, address, store);
        let log = folder.join("kube-apiserver.log");
        let mut server = Self {
            address,
            server: Tied::start(program.as_os_str(), &arguments, &[], &log)?,
            _store: held,
            folder,
        };
        server.wait_until_listening()?;
        server.write_kubeconfig(ADMINISTRATOR, ADMINISTRATOR)?;
        Ok(server)
    }

    /// Where it listens, with TLS.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate of its authority, as PEM: it makes both when it starts.
    pub fn authority(&self) -> PathBuf {
        self.folder.join("certificates/apiserver.crt")
    }

    /// The token of who may do everything.
    pub fn administrator(&self) -> &'static str {
        ADMINISTRATOR
    }

    /// The file by which who may do everything reaches it.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join(format!("{ADMINISTRATOR}.kubeconfig"))
    }

    /// Writes such a file for whoever has `token`, and says where.
    pub fn write_kubeconfig(&self, name: &str, token: &str) -> Result<PathBuf> {
        let file = self.folder.join(format!("{name}.kubeconfig"));
        let text = format!(
            "apiVersion: v1\n\
             kind: Config\n\
             current-context: test\n\
             clusters:\n\
             - name: test\n  \
               cluster:\n    \
                 server: https://{}\n    \
                 certificate-authority: {}\n\
             users:\n\
             - name: test\n  \
               user:\n    \
                 token: {token}\n\
             contexts:\n\
             - name: test\n  \
               context:\n    \
                 cluster: test\n    \
                 user: test\n",
            self.address,
            self.authority().display(),
        );
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        Ok(file)
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        self.server.output()
    }

    fn wait_until_listening(&mut self) -> Result<()> {
        let mut ended = false;
        let listens = wait_until(BOOT_PATIENCE, || {
            ended = !self.server.running();
            ended || (self.authority().exists() && TcpStream::connect(self.address).is_ok())
        });
        if listens && !ended {
            return Ok(());
        }
        ensure!(!process::stopping(), "interrupted");
        let log = self.log();
        let mut last: Vec<&str> = log.lines().rev().take(15).collect();
        last.reverse();
        let how = if ended { "ended" } else { "did not listen" };
        bail!(
            "the Kubernetes API server {how}; its last words:\n{}",
            last.join("\n")
        )
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        // The log is what one wants after a failure.
        if !thread::panicking() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// The keys that tokens of service accounts are signed and checked with.
fn make_keys(folder: &Path) -> Result<()> {
    debian::ensure_program("openssl", "openssl", "keys for the tokens of service accounts")?;
    let (private, public) = (folder.join("accounts.key"), folder.join("accounts.pub"));
    let mut make = Command::new("openssl");
    make.args([
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-out",
    ]);
    check(make.arg(&private).stderr(Stdio::null()))?;
    let mut show = Command::new("openssl");
    show.args(["pkey", "-pubout", "-in"]).arg(&private);
    check(show.arg("-out").arg(&public).stderr(Stdio::null()))
}

fn server_arguments(folder: &Path, address: SocketAddr, store: SocketAddr) -> Vec<String> {
    let of = |name: &str| folder.join(name).display().to_string();
    vec![
        format!("--etcd-servers=http://{store}"),
        format!("--bind-address={}", address.ip()),
        format!("--advertise-address={}", address.ip()),
        format!("--secure-port={}", address.port()),
        format!("--cert-dir={}", of("certificates")),
        format!("--token-auth-file={}", of("tokens.csv")),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-signing-key-file={}", of("accounts.key")),
        format!("--service-account-key-file={}", of("accounts.pub")),
        "--authorization-mode=RBAC".to_owned(),
        "--anonymous-auth=false".to_owned(),
        // As every cluster that has a network plugin.
        "--allow-privileged=true".to_owned(),
        "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
        // It has no address that a cluster could reach.
        "--endpoint-reconciler-type=none".to_owned(),
    ]
}

/// `cargo xtask kubernetes`: runs one in the foreground until it is interrupted.
pub fn run() -> Result<()> {
    let mut running = ApiServer::start()?;
    step("it listens; Ctrl-C ends it, nothing is kept");
    println!("export KUBECONFIG={}", running.kubeconfig().display());
    while running.server.running() {
        if process::stopping() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
    }
    ensure!(
        process::stopping(),
        "the API server ended by itself:\n{}",
        running.log()
    );
    Ok(())
}
