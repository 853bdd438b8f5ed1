//! Follows a file of JSON lines that somebody else writes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::files;
use crate::train::metrics::{METRICS_FILE, StepMetrics};

/// Bytes that one look takes at most; a file of more is read in several.
const A_LOOK: u64 = 8 << 20;

/// What is new.
#[derive(Debug, Default, PartialEq)]
pub struct News {
    /// The file has been begun anew or cut: the steps are told from the first one on.
    pub again: bool,
    pub steps: Vec<StepMetrics>,
}

/// A place in the metrics of a run.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    /// Bytes read so far, whole lines.
    read: u64,
    /// Which file that was, as far as the system says.
    file: Option<u64>,
    /// The last step.
    step: u64,
}

impl Tail {
    /// At the beginning of the metrics in `folder`, which need not be there yet.
    pub fn of(folder: &Path) -> Self {
        Self { path: folder.join(METRICS_FILE), read: 0, file: None, step: 0 }
    }

    /// What has been written since. Lines of others are passed over, and the end of a line is waited for.
    pub fn news(&mut self) -> News {
        let mut news = News::default();
        let Ok(mut file) = files::open(&self.path) else { return news };
        let Ok(about) = file.metadata() else { return news };
        let identity = identity(&about);
        if about.len() < self.read || (self.file.is_some() && self.file != identity) {
            (self.read, self.step, news.again) = (0, 0, true);
        }
        self.file = identity;
        let Some(lines) = self.lines(&mut file) else { return news };
        for line in lines.split(|&byte| byte == b'\n') {
            if let Ok(metrics) = serde_json::from_slice::<StepMetrics>(line)
                && metrics.step > self.step
            {
                self.step = metrics.step;
                news.steps.push(metrics);
            }
        }
        news
    }

    /// The whole lines that come next.
    fn lines(&mut self, file: &mut File) -> Option<Vec<u8>> {
        file.seek(SeekFrom::Start(self.read)).ok()?;
        let mut bytes = Vec::new();
        file.take(A_LOOK).read_to_end(&mut bytes).ok()?;
        bytes.truncate(bytes.iter().rposition(|&byte| byte == b'\n')? + 1);
        self.read += bytes.len() as u64;
        Some(bytes)
    }
}

#[cfg(unix)]
fn identity(about: &std::fs::Metadata) -> Option<u64> {
    Some(std::os::unix::fs::MetadataExt::ino(about))
}

#[cfg(not(unix))]
fn identity(_: &std::fs::Metadata) -> Option<u64> {
    None
}

/// All steps of a run so far, as its folder has them.
pub fn all(folder: &Path) -> Vec<StepMetrics> {
    let (mut tail, mut steps) = (Tail::of(folder), Vec::new());
    loop {
        let before = tail.read;
        steps.extend(tail.news().steps);
        if tail.read == before {
            return steps;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::metrics::MetricsLog;

    fn metrics(step: u64) -> StepMetrics {
        StepMetrics::example(step, 1.0 / step as f64)
    }

    #[test]
    fn each_step_is_told_once_and_again_after_a_resume() {
        let folder = tempfile::tempdir().unwrap();
        let mut tail = Tail::of(folder.path());
        assert_eq!(tail.news(), News::default());
        let mut log = MetricsLog::open(folder.path(), 0).unwrap();
        (1..=3).for_each(|step| log.append(metrics(step)).unwrap());
        let steps = |news: &News| news.steps.iter().map(|metrics| metrics.step).collect::<Vec<_>>();
        let news = tail.news();
        assert_eq!((news.again, steps(&news)), (false, vec![1, 2, 3]));
        assert_eq!(tail.news(), News::default());
        // A torn line is waited for; a line of somebody else is passed over.
        let path = folder.path().join(METRICS_FILE);
        let line = format!("# a note\n{}\n", serde_json::to_string(&metrics(4)).unwrap());
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{whole}{}", &line[..20])).unwrap();
        assert_eq!(tail.news().steps, []);
        std::fs::write(&path, format!("{whole}{line}")).unwrap();
        assert_eq!(steps(&tail.news()), [4]);
        // The run goes on from step 2.
        let mut log = MetricsLog::open(folder.path(), 2).unwrap();
        log.append(metrics(3)).unwrap();
        let news = tail.news();
        assert_eq!((news.again, steps(&news)), (true, vec![1, 2, 3]));
        assert_eq!(all(folder.path()).len(), 3);
    }
}
