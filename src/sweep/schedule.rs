//! A sweep's arms as the array job of a scheduler: each task is one arm, all of them write into one folder.

use std::path::{Path, PathBuf};

use super::run::Sweep;
use crate::formats::atomic;
use crate::terminal::quoted;
use crate::{Error, Result};

/// Who runs the arms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    Slurm,
    HyperQueue,
}

impl Scheduler {
    fn file_name(self) -> &'static str {
        match self {
            Self::Slurm => "sweep.slurm.sh",
            Self::HyperQueue => "sweep.hq.sh",
        }
    }

    /// What hands the script to the scheduler.
    fn command(self) -> &'static str {
        match self {
            Self::Slurm => "sbatch",
            Self::HyperQueue => "hq submit",
        }
    }

    /// The script for tasks 1 to `arms`. `program` and `arguments` run an arm in the folder `current`; logs go to `logs`.
    fn script(self, arms: usize, program: &str, arguments: &str, current: &str, logs: &Path) -> String {
        let logs = logs.display();
        let (head, task) = match self {
            Self::Slurm => (
                format!(
                    "#SBATCH --job-name=graftling-sweep\n\
                     #SBATCH --array=1-{arms}\n\
                     #SBATCH --ntasks=1\n\
                     #SBATCH --output={logs}/arm-%a.log\n\
                     #SBATCH --open-mode=append\n\
                     # A minute before the time limit the run saves a checkpoint; submit this again, and it goes on from there.\n\
                     #SBATCH --signal=B:TERM@60\n\
                     # On a cluster with GPUs take one # away:\n\
                     ##SBATCH --gres=gpu:1\n"
                ),
                "$SLURM_ARRAY_TASK_ID",
            ),
            Self::HyperQueue => (
                format!(
                    "#HQ --name=graftling-sweep\n\
                     #HQ --array=1-{arms}\n\
                     #HQ --stdout={logs}/arm-%{{TASK_ID}}.log\n\
                     #HQ --stderr={logs}/arm-%{{TASK_ID}}.log\n\
                     # With GPUs known to the workers add: #HQ --resource gpus/nvidia=1, and take this line's first # away with it.\n"
                ),
                "$HQ_TASK_ID",
            ),
        };
        format!("#!/bin/bash\n{head}cd {current} || exit 2\nexec {program} {arguments} --arm \"{task}\"\n")
    }
}

/// The arms for HyperQueue's Python package, which brings a server and workers with it, but not the program `hq`.
fn python(arms: usize, command: &[String], current: &str, logs: &str) -> String {
    // A list of texts is the same in JSON and Python.
    let [command, current, logs] = [serde_json::json!(command), serde_json::json!(current), serde_json::json!(logs)];
    format!(
        "\
\"\"\"The arms of a sweep on HyperQueue, by its Python package (pip install hyperqueue).

    python sweep.hq.py            on this machine, one arm at a time
    python sweep.hq.py N          on this machine, N arms at a time
    python sweep.hq.py FOLDER     on the server whose folder this is
\"\"\"

import os
import sys

from hyperqueue import Client, Job, LocalCluster
from hyperqueue.cluster import WorkerConfig

COMMAND = {command}
LOGS = {logs}


def run(client):
    job = Job(default_workdir={current}, max_fails=None, default_env=dict(os.environ), name=\"graftling-sweep\")
    for arm in range(1, {arms} + 1):
        log = f\"{{LOGS}}/arm-{{arm}}.log\"
        job.program(COMMAND + [\"--arm\", str(arm)], stdout=log, stderr=log, name=f\"arm-{{arm}}\")
    client.wait_for_jobs([client.submit(job)])


where = sys.argv[1] if len(sys.argv) > 1 else \"1\"
if where.isdigit():
    with LocalCluster(worker_config=WorkerConfig(cores=int(where))) as cluster:
        run(cluster.client())
else:
    run(Client(where))
"
    )
}

impl Sweep {
    /// Writes the array job into the output folder; gives its path and the command that submits it. It runs this program, in the
    /// current folder, for which the paths in the sweep file hold.
    ///
    /// # Errors
    /// The folder cannot be written to; a path that no scheduler reads.
    pub fn write_job(&self, scheduler: Scheduler) -> Result<(PathBuf, String)> {
        let failed = |what: &str, error: std::io::Error| Error::failed(what, error, "run it in a folder that is there");
        std::fs::create_dir_all(self.out.join("logs")).map_err(|error| failed(&self.out.display().to_string(), error))?;
        let current = std::env::current_dir().map_err(|error| failed("current folder", error))?;
        let program = std::env::current_exe().map_err(|error| failed("graftling", error))?;
        let out = current.join(&self.out);
        if out.display().to_string().contains(char::is_whitespace) {
            let problem = "has a space in it, which the directives of a job script cannot have";
            return Err(Error::bad_input(out.display(), problem, "give an --out without"));
        }
        let word = |path: &Path| quoted(&path.display().to_string());
        let arguments = format!("sweep --config {} --out {}", word(&current.join(&self.file.path)), word(&out));
        let script = scheduler.script(self.file.arms.len(), &word(&program), &arguments, &word(&current), &out.join("logs"));
        if scheduler == Scheduler::HyperQueue {
            let [program, config, out, current, logs] =
                [program, current.join(&self.file.path), out.clone(), current, out.join("logs")]
                    .map(|path| path.display().to_string());
            let command = [&program, "sweep", "--config", &config, "--out", &out].map(str::to_string);
            let script = python(self.file.arms.len(), &command, &current, &logs);
            atomic::write_atomically(&self.out.join("sweep.hq.py"), script.as_bytes())?;
        }
        let path = self.out.join(scheduler.file_name());
        atomic::write_atomically(&path, script.as_bytes())?;
        let command = format!("{} {}", scheduler.command(), word(&path));
        Ok((path, command))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_has_a_task_for_each_arm() {
        let script = |scheduler: Scheduler| scheduler.script(7, "graftling", "sweep --out 'a b'", "/home", Path::new("/logs"));
        let slurm = script(Scheduler::Slurm);
        assert!(slurm.starts_with("#!/bin/bash\n#SBATCH ") && slurm.contains("\n#SBATCH --array=1-7\n"), "{slurm}");
        assert!(
            slurm.ends_with("cd /home || exit 2\nexec graftling sweep --out 'a b' --arm \"$SLURM_ARRAY_TASK_ID\"\n"),
            "{slurm}"
        );
        let hq = script(Scheduler::HyperQueue);
        assert!(
            hq.starts_with("#!/bin/bash\n#HQ ") && hq.contains("#HQ --array=1-7\n") && hq.contains("/logs/arm-%{TASK_ID}.log")
        );
        assert!(hq.ends_with("--arm \"$HQ_TASK_ID\"\n"), "{hq}");
        let script = python(7, &["a \"b\"".to_string()], "/home", "/logs");
        assert!(script.contains("COMMAND = [\"a \\\"b\\\"\"]") && script.contains("range(1, 7 + 1)"), "{script}");
    }
}
