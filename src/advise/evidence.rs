//! What our own sweeps measured: `data/sweeps/measured.tsv`, which `data/sweeps/measured.py` makes of their results, one row an arm. The page
//! docs/placement.md shows it and says how it came about; advice cites it.

use std::borrow::Cow;

/// The table. Its columns are named in its first line.
const TABLE: &str = include_str!("../../data/sweeps/measured.tsv");

/// A mean over the seeds and their standard deviation, `None` of one seed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    pub mean: f64,
    pub spread: Option<f64>,
}

impl Figure {
    fn of(cell: &str) -> Option<Self> {
        let mut numbers = cell.split(' ').map_while(|number| number.parse().ok());
        Some(Self { mean: numbers.next()?, spread: numbers.next() })
    }

    /// A share: `63 +- 18 %`; one that all seeds have in common: `17 % (each seed)`.
    pub fn share(&self) -> String {
        let Self { mean, spread } = self;
        match spread {
            None => format!("{:.0} %", 100.0 * mean),
            Some(0.0) => format!("{:.0} % (each seed)", 100.0 * mean),
            Some(spread) => format!("{:.0} +- {:.0} %", 100.0 * mean, 100.0 * spread),
        }
    }

    /// A loss, or a difference of two: `0.655 +- 0.004`.
    pub fn loss(&self) -> String {
        let spread = self.spread.map_or(String::new(), |spread| format!(" +- {spread:.3}"));
        format!("{:.3}{spread}", self.mean)
    }
}

/// What came of an arm.
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    /// The file in data/sweeps, without its ending.
    pub sweep: &'static str,
    pub name: &'static str,
    pub seeds: usize,
    pub rank: usize,
    /// Numbers that were trained.
    pub parameters: usize,
    /// By column of the table; those that the sweep has.
    pub figures: Vec<(&'static str, Figure)>,
}

impl Arm {
    /// The figure of a column, if the sweep has it.
    pub fn figure(&self, column: &str) -> Option<Figure> {
        self.figures.iter().find(|(name, _)| *name == column).map(|(_, figure)| *figure)
    }
}

/// All arms, in the order of the table.
pub fn measured() -> Vec<Arm> {
    let mut lines = TABLE.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let head = lines.next().unwrap_or_default();
    let arm = |cells: Vec<&'static str>| {
        let number = |at: usize| cells.get(at).and_then(|cell| cell.parse().ok());
        let figures = head.iter().zip(&cells).skip(5).filter_map(|(name, cell)| Some((*name, Figure::of(cell)?)));
        Some(Arm {
            sweep: cells.first()?,
            name: cells.get(1)?,
            seeds: number(2)?,
            rank: number(3)?,
            parameters: number(4)?,
            figures: figures.collect(),
        })
    };
    lines.filter_map(arm).collect()
}

/// What others have measured, and after it what a sweep of ours says, if it has been run: `...; our sweep thirds on SmolLM2-135M
/// (docs/placement.md), facts learned: early 8 %, middle 0 %`. `told`: an arm and its figure for people; `None` leaves it out.
pub fn with_ours(others: &'static str, sweep: &str, what: &str, told: impl Fn(&Arm) -> Option<String>) -> Cow<'static, str> {
    let words: Vec<String> = measured().iter().filter(|arm| arm.sweep == sweep).filter_map(told).collect();
    match words.is_empty() {
        true => Cow::Borrowed(others),
        false => format!("{others}; our sweep {sweep} on SmolLM2-135M (docs/placement.md), {what}: {}", words.join(", ")).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_an_arm_with_figures() {
        let arms = measured();
        assert_eq!(arms.len(), TABLE.lines().count() - 1);
        for arm in &arms {
            assert!(arm.figure("check loss").is_some() && arm.figure("trained").is_some(), "{arm:?}");
            assert!(arm.figures.iter().all(|(_, figure)| figure.spread.is_some() == (arm.seeds > 1)), "{arm:?}");
        }
        let told = |arm: &Arm| Some(format!("{} {}", arm.name, arm.figure("trained")?.share()));
        let cited = |sweep| with_ours("others", sweep, "facts", told);
        let text = cited("mlp-or-attention");
        assert!(
            text.starts_with("others; our sweep") && text.contains("facts: attention ") && text.contains(", all-linear "),
            "{text}"
        );
        assert_eq!(cited("not-run"), "others");
    }

    #[test]
    fn figures_are_told_with_their_spread() {
        let told = |cell: &str| Figure::of(cell).map(|figure| [figure.share(), figure.loss()]);
        assert_eq!(told("0.6250 0.1768"), Some(["62 +- 18 %".to_string(), "0.625 +- 0.177".to_string()]));
        assert_eq!(told("0.1667 0.0000").map(|[share, _]| share).as_deref(), Some("17 % (each seed)"));
        assert_eq!(told("0.2500").map(|[share, _]| share).as_deref(), Some("25 %"));
        assert_eq!(told("-"), None);
    }
}
