//! Two programs nobody here wrote: Debian's Prometheus, which scrapes Debian's node exporter.

use std::{fs, net::SocketAddr, thread, time::Duration};

use anyhow::{Result, bail};
use tempfile::TempDir;
use xtask::{child::Tied, http, peers};

/// The pair, running and at work.
pub struct Scrape {
    pub prometheus: SocketAddr,
    /// What Prometheus calls its target, and so the peer of its calls.
    pub exporter: SocketAddr,
    programs: [Tied; 2],
    _folder: TempDir,
}

impl Scrape {
    /// Starts both and waits until the first scrape has come: the connection between them is open from then on.
    pub fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let [prometheus, exporter] = http::free_addresses()?;
        let config = folder.path().join("prometheus.yml");
        fs::write(
            &config,
            format!(
                "global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}\n\
                 scrape_configs: [{{job_name: node, static_configs: [{{targets: ['{exporter}']}}]}}]\n"
            ),
        )?;
        let exporting = Tied::start(
            peers::node_exporter()?.as_os_str(),
            &[format!("--web.listen-address={exporter}")],
            &[],
            &folder.path().join("exporter.log"),
        )?;
        let scraping = Tied::start(
            peers::prometheus()?.as_os_str(),
            &[
                format!("--config.file={}", config.display()),
                format!("--storage.tsdb.path={}", folder.path().join("series").display()),
                format!("--web.listen-address={prometheus}"),
            ],
            &[],
            &folder.path().join("prometheus.log"),
        )?;
        let mut scrape = Self {
            prometheus,
            exporter,
            programs: [scraping, exporting],
            _folder: folder,
        };
        scrape.wait_for_data()?;
        Ok(scrape)
    }

    /// Prometheus first.
    pub fn pids(&self) -> [u32; 2] {
        self.programs.each_ref().map(Tied::pid)
    }

    fn wait_for_data(&mut self) -> Result<()> {
        for _ in 0..600 {
            let up = http::get(self.prometheus, "/api/v1/query?query=up");
            // The value is a text beside its time: `[1795348731.424,"1"]`.
            if up.is_ok_and(|answer| answer.body.contains(r#","1"]"#)) {
                return Ok(());
            }
            if let Some(ended) = self
                .programs
                .iter_mut()
                .find_map(|program| (!program.running()).then(|| program.output()))
            {
                bail!("a program ended: {ended}");
            }
            thread::sleep(Duration::from_millis(100));
        }
        bail!(
            "Prometheus has no data: {}",
            self.programs.each_ref().map(Tied::output).join("\n")
        )
    }
}
