//! What came of the runs: one `result.json` a run, all of them in `results.json`, and which arm is the best.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::arms::{Choose, SweepFile};
use super::run_folder;
use crate::files;
use crate::formats::atomic;
use crate::generate::answers::Tally;
use crate::{Error, Result};

/// The file's name in the folder of a run.
pub const RESULT_FILE: &str = "result.json";
/// The file's name in the folder of the sweep.
pub const RESULTS_FILE: &str = "results.json";
const FORMAT_VERSION: u32 = 1;

/// What one data set says about a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// Mean of -log p over the supervised tokens, natural logarithm.
    pub loss: f64,
    pub tokens: usize,
    /// How many answers are right, where records say what they expect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Tally>,
}

/// What the data sets of a sweep say about a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Measure>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<Measure>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub general: Option<Measure>,
}

/// What is known of an arm before it is trained.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Of the adapter where nothing else is said of a layer.
    pub rank: usize,
    /// Numbers that are trained.
    pub parameters: usize,
    /// Bytes on the device, as planned.
    pub planned_bytes: usize,
    pub steps: u64,
    /// Floating-point operations of all steps.
    pub flops: f64,
}

/// One run: an arm with a seed, finished.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    pub format_version: u32,
    pub arm: String,
    pub seed: u64,
    /// All that the numbers of the run and of its measures depend on, by name.
    pub recipe: BTreeMap<String, String>,
    pub plan: Plan,
    /// Why the run ended before its last step, if it left the numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diverged: Option<String>,
    /// Of the last step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_loss: Option<f64>,
    /// On the recipe's held-out data, after the last step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_loss: Option<f64>,
    #[serde(default)]
    pub measures: Measures,
    /// Median.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_a_step: Option<f64>,
    /// Most that the device held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
}

impl RunResult {
    /// A run of which nothing has been measured yet.
    pub fn new(arm: &str, seed: u64, recipe: BTreeMap<String, String>, plan: Plan) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            arm: arm.to_string(),
            seed,
            recipe,
            plan,
            diverged: None,
            train_loss: None,
            held_out_loss: None,
            measures: Measures::default(),
            seconds_a_step: None,
            peak_bytes: None,
        }
    }

    /// The result in the folder of a run; `None` if it has none.
    ///
    /// # Errors
    /// Bad input: the file is damaged, or of another version.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(RESULT_FILE);
        let bad =
            |problem: String| Error::bad_input(path.display(), problem, "remove the file, so that the run is measured again");
        let text = match files::read_to_string(&path, 1 << 24) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(bad(format!("cannot be read: {error}"))),
        };
        let result: Self = serde_json::from_str(&text).map_err(|error| bad(format!("is no result of a run: {error}")))?;
        match result.format_version == FORMAT_VERSION {
            true => Ok(Some(result)),
            false => Err(bad(format!("has format version {}, this graftling writes {FORMAT_VERSION}", result.format_version))),
        }
    }

    /// Writes it into the folder of the run.
    ///
    /// # Errors
    /// Failed: the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_json(&folder.join(RESULT_FILE), self)
    }

    /// That this is the result of the run that is asked for.
    ///
    /// # Errors
    /// Bad input, with each difference.
    pub fn check_same(&self, folder: &Path, recipe: &BTreeMap<String, String>) -> Result<()> {
        let none = "nothing".to_string();
        let mut names: Vec<&String> = self.recipe.keys().chain(recipe.keys()).collect();
        names.sort();
        names.dedup();
        let differences: Vec<String> = (names.into_iter())
            .map(|name| (name, self.recipe.get(name).unwrap_or(&none), recipe.get(name).unwrap_or(&none)))
            .filter(|(_, then, now)| then != now)
            .map(|(name, then, now)| format!("{name} was {then} and is {now}"))
            .collect();
        if differences.is_empty() {
            return Ok(());
        }
        let problem = format!("this run is finished and was another: {}", differences.join("; "));
        Err(Error::bad_input(folder.display(), problem, "give another --out, change the sweep file back, or remove this folder"))
    }

    /// The figures of this run, by name; `before`: those of the base model.
    fn figures(&self, before: &Measures) -> BTreeMap<String, f64> {
        let mut figures = BTreeMap::new();
        let mut add = |name: &str, value: Option<f64>| {
            figures.extend(value.filter(|value| value.is_finite()).map(|value| (name.to_string(), value)));
        };
        add("train_loss", self.train_loss);
        add("held_out_loss", self.held_out_loss);
        for (name, measure) in [("check", &self.measures.check), ("test", &self.measures.test)] {
            let Some(measure) = measure else { continue };
            add(&format!("{name}_loss"), Some(measure.loss));
            let Some(Tally { all, checks, groups }) = &measure.answers else { continue };
            add(&format!("{name}_share"), all.value());
            for (set, shares) in [("share", checks), ("group", groups)] {
                shares.iter().for_each(|(part, share)| add(&format!("{name}_{set}.{part}"), share.value()));
            }
        }
        if let (Some(after), Some(before)) = (&self.measures.general, &before.general) {
            add("forgetting", Some(after.loss - before.loss));
        }
        add("seconds_a_step", self.seconds_a_step);
        add("peak_bytes", self.peak_bytes.map(|bytes| bytes as f64));
        figures
    }
}

/// Writes a value as indented JSON.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::failed(path.display(), format!("cannot be written as JSON: {error}"), "please report this"))?;
    atomic::write_atomically(path, format!("{text}\n").as_bytes())
}

/// A figure over the seeds of an arm.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    pub mean: f64,
    /// Standard deviation of the seeds' values, with n - 1; `None` of one seed.
    pub spread: Option<f64>,
    /// Seeds that have it.
    pub seeds: usize,
}

impl Figure {
    /// `None` of no value.
    pub fn of(values: &[f64]) -> Option<Self> {
        let seeds = values.len();
        let mean = values.iter().sum::<f64>() / seeds as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        (seeds > 0).then(|| Self { mean, spread: (seeds > 1).then(|| (squares / (seeds as f64 - 1.0)).sqrt()), seeds })
    }

    /// Square of the mean's standard error; `None` of one seed.
    fn error_squared(&self) -> Option<f64> {
        self.spread.map(|spread| spread * spread / self.seeds as f64)
    }
}

/// An arm with all its runs so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmResult {
    pub name: String,
    /// What it has of its own, by key, as the sweep file writes it.
    pub varies: BTreeMap<String, String>,
    /// Of its first run that is finished.
    pub plan: Plan,
    /// Whether every seed is finished.
    pub complete: bool,
    /// Seeds whose run left the numbers.
    pub diverged: Vec<u64>,
    pub figures: BTreeMap<String, Figure>,
    pub runs: Vec<RunResult>,
}

/// The arm that was chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    pub arm: String,
    /// The figure that it was chosen by.
    pub by: String,
    pub figure: Figure,
    /// The next arm by the same figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<(String, Figure)>,
    /// Whether it is ahead of the next arm by more than twice the standard error of the difference; `None` where an arm has one seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clear: Option<bool>,
}

/// All results of a sweep: `results.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    pub format_version: u32,
    pub choose: Choose,
    pub seeds: Vec<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<usize>,
    /// Whether every run of every arm is finished.
    pub complete: bool,
    /// The base model, without any adapter; by what the arms have for a base, where they differ in it.
    pub before: BTreeMap<String, Measures>,
    pub arms: Vec<ArmResult>,
    /// Arms that cannot be, by name, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub impossible: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
}

impl Results {
    /// What the folder `out` holds of the arms of `file`. `before`: the base models' measures, and of each arm which base it has;
    /// `impossible`: arms that cannot be.
    ///
    /// # Errors
    /// As [`RunResult::read`].
    pub fn gather(
        file: &SweepFile,
        out: &Path,
        before: BTreeMap<String, Measures>,
        base_of: &[String],
        impossible: BTreeMap<String, String>,
    ) -> Result<Self> {
        let nothing = Measures::default();
        let mut arms = Vec::new();
        for (arm, base) in file.arms.iter().zip(base_of).filter(|(arm, _)| !impossible.contains_key(&arm.name)) {
            let runs = file.seeds.iter().map(|&seed| RunResult::read(&run_folder(out, &arm.name, seed)));
            let runs: Vec<RunResult> = runs.filter_map(Result::transpose).collect::<Result<_>>()?;
            let before = before.get(base).unwrap_or(&nothing);
            let of_runs: Vec<BTreeMap<String, f64>> = runs.iter().map(|run| run.figures(before)).collect();
            let names: Vec<&String> = of_runs.iter().flat_map(BTreeMap::keys).collect();
            let figure = |name: &String| {
                let values: Vec<f64> = of_runs.iter().filter_map(|figures| figures.get(name)).copied().collect();
                Figure::of(&values).map(|figure| (name.clone(), figure))
            };
            arms.push(ArmResult {
                name: arm.name.clone(),
                varies: arm.varies.clone(),
                plan: runs.first().map(|run| run.plan.clone()).unwrap_or_default(),
                complete: runs.len() == file.seeds.len(),
                diverged: runs.iter().filter(|run| run.diverged.is_some()).map(|run| run.seed).collect(),
                figures: names.into_iter().filter_map(figure).collect(),
                runs,
            });
        }
        let best = best(&arms, file.choose);
        Ok(Self {
            format_version: FORMAT_VERSION,
            choose: file.choose,
            seeds: file.seeds.clone(),
            budget: file.budget,
            complete: arms.iter().all(|arm| arm.complete),
            before,
            arms,
            impossible,
            best,
        })
    }
}

/// The figures that an arm may be chosen by, the first that all candidates have; true where more is better. The test set is none of them.
fn criteria(choose: Choose) -> &'static [(&'static str, bool)] {
    match choose {
        Choose::Check => &[("check_share", true), ("check_loss", false), ("held_out_loss", false)],
        Choose::Loss => &[("check_loss", false), ("held_out_loss", false)],
    }
}

/// The best of the arms that are complete and that never left the numbers. Between equals: the lower loss on the check data, then fewer
/// parameters.
fn best(arms: &[ArmResult], choose: Choose) -> Option<Best> {
    let candidates: Vec<&ArmResult> = arms.iter().filter(|arm| arm.complete && arm.diverged.is_empty()).collect();
    let has = |name: &str| !candidates.is_empty() && candidates.iter().all(|arm| arm.figures.contains_key(name));
    let &(by, more) = criteria(choose).iter().find(|(name, _)| has(name))?;
    let mean = |arm: &ArmResult, name: &str| arm.figures.get(name).map_or(f64::INFINITY, |figure| figure.mean);
    let key = |arm: &ArmResult| {
        let value = mean(arm, by);
        [if more { -value } else { value }, mean(arm, "check_loss"), arm.plan.parameters as f64]
    };
    let mut ranked = candidates;
    ranked.sort_by(|a, b| {
        let order = key(a).into_iter().zip(key(b)).map(|(a, b)| a.total_cmp(&b));
        order.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
    });
    let first = ranked.first()?;
    let figure = first.figures[by];
    let next = ranked.get(1).map(|next| (next.name.clone(), next.figures[by]));
    let clear = next.as_ref().and_then(|(_, next)| {
        let error = (figure.error_squared()? + next.error_squared()?).sqrt();
        Some((figure.mean - next.mean).abs() > 2.0 * error)
    });
    Some(Best { arm: first.name.clone(), by: by.to_string(), figure, next, clear })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::answers::Share;

    fn arm(name: &str, parameters: usize, runs: &[(f64, f64, usize, f64)]) -> ArmResult {
        let run = |(seed, &(check_loss, test_loss, right, general)): (usize, &(f64, f64, usize, f64))| {
            let plan = Plan { parameters, ..Plan::default() };
            let mut run = RunResult::new(name, seed as u64, BTreeMap::new(), plan);
            let share = Share { right, of: 10 };
            let named = |name: &str| BTreeMap::from([(name.to_string(), share)]);
            let answers = Some(Tally { all: share, checks: named("exact"), groups: named("easy") });
            run.measures.check = Some(Measure { loss: check_loss, tokens: 5, answers: answers.clone() });
            run.measures.test = Some(Measure { loss: test_loss, tokens: 5, answers });
            run.measures.general = Some(Measure { loss: general, tokens: 5, answers: None });
            run
        };
        let runs: Vec<RunResult> = runs.iter().enumerate().map(run).collect();
        let before = Measures { general: Some(Measure { loss: 2.0, ..Measure::default() }), ..Measures::default() };
        let names: Vec<String> = runs[0].figures(&before).keys().cloned().collect();
        let values = |name: &String| runs.iter().map(|run| run.figures(&before)[name]).collect::<Vec<_>>();
        let figures = names.iter().map(|name| (name.clone(), Figure::of(&values(name)).unwrap())).collect();
        let (plan, complete, diverged, varies) = (runs[0].plan.clone(), true, Vec::new(), BTreeMap::new());
        ArmResult { name: name.to_string(), varies, plan, complete, diverged, figures, runs }
    }

    #[test]
    fn figures_have_mean_and_sample_deviation() {
        let figure = Figure::of(&[1.0, 2.0, 6.0]).unwrap();
        assert_eq!((figure.mean, figure.seeds), (3.0, 3));
        // ((1-3)^2 + (2-3)^2 + (6-3)^2) / 2 = 7
        assert!((figure.spread.unwrap() - 7f64.sqrt()).abs() < 1e-12);
        assert_eq!(Figure::of(&[4.0]).unwrap().spread, None);
        assert_eq!(Figure::of(&[]), None);
        let forgot = arm("a", 1, &[(1.0, 1.0, 3, 2.5), (1.0, 1.0, 5, 2.1)]).figures;
        assert!((forgot["forgetting"].mean - 0.3).abs() < 1e-12);
        assert!((forgot["check_share.exact"].mean - 0.4).abs() < 1e-12);
        assert!((forgot["check_group.easy"].mean - 0.4).abs() < 1e-12);
    }

    /// The test set says the opposite of the check set; it has no say.
    #[test]
    fn the_best_is_chosen_by_check_or_loss_and_never_by_the_test_set() {
        let arms = [
            arm("answers", 10, &[(2.0, 0.1, 9, 2.0), (2.0, 0.1, 9, 2.0)]),
            arm("likes", 10, &[(1.0, 9.0, 3, 2.0), (1.0, 9.0, 3, 2.0)]),
            arm("tested", 10, &[(3.0, 0.0, 1, 2.0), (3.0, 0.0, 1, 2.0)]),
        ];
        let chosen = best(&arms, Choose::Check).unwrap();
        assert_eq!((chosen.arm.as_str(), chosen.by.as_str(), chosen.clear), ("answers", "check_share", Some(true)));
        assert_eq!(chosen.next.unwrap().0, "likes");
        assert_eq!(best(&arms, Choose::Loss).unwrap().arm, "likes");
        assert!(criteria(Choose::Check).iter().chain(criteria(Choose::Loss)).all(|(name, _)| !name.starts_with("test")));
    }

    #[test]
    fn equals_go_to_the_smaller_arm_and_a_lead_within_the_spread_is_not_clear() {
        let arms = [arm("large", 99, &[(1.0, 0.0, 5, 2.0)]), arm("small", 10, &[(1.0, 0.0, 5, 2.0)])];
        let chosen = best(&arms, Choose::Check).unwrap();
        assert_eq!((chosen.arm.as_str(), chosen.clear), ("small", None));
        let noisy =
            [arm("a", 1, &[(1.0, 0.0, 9, 2.0), (1.0, 0.0, 1, 2.0)]), arm("b", 1, &[(1.0, 0.0, 8, 2.0), (1.0, 0.0, 1, 2.0)])];
        assert_eq!(best(&noisy, Choose::Check).unwrap().clear, Some(false));
        let mut broken = arms.clone();
        broken[1].diverged = vec![1];
        assert_eq!(best(&broken, Choose::Check).unwrap().arm, "large");
        broken.iter_mut().for_each(|arm| arm.complete = false);
        assert_eq!(best(&broken, Choose::Check), None);
    }

    #[test]
    fn a_result_comes_back_as_it_was_written_and_another_recipe_is_named() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(RunResult::read(folder.path()).unwrap(), None);
        let recipe = BTreeMap::from([("learning_rate".to_string(), "0.1".to_string()), ("seed".to_string(), "1".to_string())]);
        let result = RunResult::new("a", 1, recipe.clone(), Plan { rank: 3, flops: 1e12, ..Plan::default() });
        result.write(folder.path()).unwrap();
        assert_eq!(RunResult::read(folder.path()).unwrap().unwrap(), result);
        result.check_same(folder.path(), &recipe).unwrap();
        let other = BTreeMap::from([("learning_rate".to_string(), "0.2".to_string())]);
        let error = result.check_same(folder.path(), &other).unwrap_err().to_string();
        assert!(error.contains("learning_rate was 0.1 and is 0.2; seed was 1 and is nothing"), "{error}");
        std::fs::write(folder.path().join(RESULT_FILE), "{").unwrap();
        assert_eq!(RunResult::read(folder.path()).unwrap_err().exit_code(), 2);
    }
}
