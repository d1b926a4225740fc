//! Control groups of our own, named as those who run containers name theirs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use probe_user::kernel::feature::Cgroup as Cgroup2;

/// A group, and those above it that were made for it; all are gone with it.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    made: Vec<PathBuf>,
}

impl Cgroup {
    /// Of version 2; `path` begins below the hierarchy's root.
    pub fn new(path: &str) -> Result<Self> {
        Self::below(&root()?, path)
    }

    /// One that can say how many tasks may be in it, of either version.
    pub fn with_task_limit(path: &str) -> Result<Self> {
        let old = Path::new("/sys/fs/cgroup/pids");
        if old.join("cgroup.procs").exists() {
            return Self::below(old, path);
        }
        let root = root()?;
        fs::write(root.join("cgroup.subtree_control"), "+pids").context("count tasks by group")?;
        Self::below(&root, path)
    }

    /// From here on there may be as many tasks in it as there are, and no more.
    pub fn no_more_tasks(&self) -> Result<()> {
        let there = fs::read_to_string(self.path.join("pids.current"))?;
        fs::write(self.path.join("pids.max"), there).context("limit the tasks of a group")
    }

    fn below(root: &Path, path: &str) -> Result<Self> {
        let mut group = Self {
            path: root.join(path),
            made: Vec::new(),
        };
        let below: Vec<&Path> = group.path.ancestors().take_while(|path| *path != root).collect();
        let missing: Vec<PathBuf> = below
            .into_iter()
            .rev()
            .filter(|it| !it.exists())
            .map(Path::to_owned)
            .collect();
        for folder in missing {
            fs::create_dir(&folder).with_context(|| format!("make the group {}", folder.display()))?;
            group.made.push(folder);
        }
        Ok(group)
    }

    /// The file that who joins writes its id into.
    pub fn procs(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// A program that is in the group before it begins, as containers are.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(self.procs())
            .arg(program);
        command
    }

    /// Puts a process into it, with all its threads.
    pub fn add(&self, pid: u32) -> Result<()> {
        fs::write(self.procs(), pid.to_string())
            .with_context(|| format!("put process {pid} into {}", self.path.display()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that has just ended may be in it for a moment.
        for folder in self.made.iter().rev() {
            for _ in 0..100 {
                if fs::remove_dir(folder).is_ok() {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

fn root() -> Result<PathBuf> {
    let found = Cgroup2::find().context("no cgroup v2 hierarchy is mounted")?;
    Ok(found.path)
}
