//! What training data looks like, by measures that are simple enough to be said in a line each. They say what *may* be learned, not what
//! will be.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use crate::data::{Batch, Dataset, Example};
use crate::session::batch;
use crate::session::evaluate::{Evaluator, TokenLosses};
use crate::text::Tokenizer;
use crate::{Error, Result};

/// Tokens in a piece of text that is looked for elsewhere. Shorter ones are found by chance, longer ones miss a change of one word.
const GRAM: usize = 4;
/// Records that the model itself is asked about, and their tokens in all: enough for a loss to two digits, a minute on a slow device.
const SAMPLED_RECORDS: usize = 48;
const SAMPLED_TOKENS: usize = 3072;
/// -ln 0.01: the model gave the token less than one chance in a hundred.
const SURPRISE: f64 = 4.605_170_185_988_091;

/// The measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Looks {
    pub records: usize,
    pub tokens: usize,
    /// Tokens that are learned.
    pub supervised_tokens: usize,
    /// Tokens of the longest record.
    pub longest: usize,
    /// Share of the 4-grams of tokens of all answers that stand in the record's own prompt.
    pub copied: f64,
    /// Share of the 4-grams of all answers that stand in a tenth of all answers or more, and in three at least.
    pub repeated: f64,
    /// Share of answers that are a JSON object or list.
    pub json: f64,
    /// Share of answers that have a fenced block of code, or three lines or more of which half look like code.
    pub code: f64,
    /// Records of which the model itself was asked.
    pub sampled: usize,
    /// Its mean of -log p over the answers' tokens, without any adapter.
    pub base_loss: f64,
    /// Share of these tokens to which it gave less than 1 %.
    pub surprising: f64,
}

/// What the data may teach. Data can be of several kinds, or of none that stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// What the model did not know.
    Facts,
    /// Answers of one form.
    Format,
    /// Program text.
    Code,
    /// Answers that are made of the prompt.
    Extraction,
}

/// One rule: the kind, the measure, and from where on it says so.
pub struct Rule {
    pub kind: Kind,
    pub measure: &'static str,
    pub value: f64,
    pub from: f64,
}

impl Rule {
    pub fn holds(&self) -> bool {
        self.value >= self.from
    }

    /// Whether a value a third lower or higher would say the opposite.
    pub fn is_near(&self) -> bool {
        (self.from * 0.67..self.from * 1.5).contains(&self.value)
    }
}

impl Looks {
    /// The measures that need no model.
    ///
    /// # Errors
    /// An answer's tokens are no text.
    pub fn of(data: &Dataset, tokenizer: &Tokenizer) -> Result<Self> {
        // In how many answers, and in which last.
        let mut seen: HashMap<[u32; GRAM], (usize, usize)> = HashMap::new();
        let (mut grams, mut copied, mut json, mut code) = (0_usize, 0_usize, 0_usize, 0_usize);
        for (number, example) in data.examples.iter().enumerate() {
            let prompt: HashSet<[u32; GRAM]> = spans(example, false).flat_map(grams_of).collect();
            let mut text = String::new();
            for answer in spans(example, true) {
                for gram in grams_of(answer) {
                    grams += 1;
                    copied += usize::from(prompt.contains(&gram));
                    let (answers, last) = seen.entry(gram).or_insert((0, usize::MAX));
                    *answers += usize::from(*last != number);
                    *last = number;
                }
                text += &tokenizer.decode(answer, true)?;
            }
            json += usize::from(is_json(&text));
            code += usize::from(is_code(&text));
        }
        let many = data.examples.len().div_ceil(10).max(3);
        let answers = data.examples.iter().flat_map(|example| spans(example, true)).flat_map(grams_of);
        let repeated = answers.filter(|gram| seen.get(gram).is_some_and(|(answers, _)| *answers >= many)).count();
        let share = |part: usize, of: usize| if of == 0 { 0.0 } else { part as f64 / of as f64 };
        Ok(Self {
            records: data.examples.len(),
            tokens: data.report.tokens,
            supervised_tokens: data.report.supervised_tokens,
            longest: data.report.longest,
            copied: share(copied, grams),
            repeated: share(repeated, grams),
            json: share(json, data.examples.len()),
            code: share(code, data.examples.len()),
            ..Self::default()
        })
    }

    /// Tokens of the largest batch that [`Looks::ask`] will run.
    pub fn most_tokens(data: &Dataset) -> usize {
        let longest = sample(data).into_iter().map(|at| data.examples[at].input_ids.len()).max();
        longest.unwrap_or(1).max(batch::TOKENS_A_BATCH)
    }

    /// Asks the model itself about some records, spread evenly over the data.
    ///
    /// # Errors
    /// The device is lost; the model's loss is not finite.
    pub fn ask(&mut self, data: &Dataset, evaluator: &mut Evaluator) -> Result<()> {
        let (mut losses, mut surprising) = (TokenLosses::default(), 0_usize);
        let chosen = sample(data);
        for &at in &chosen {
            let nll = evaluator.token_nll(&Batch::assemble(&data.examples, &[at]))?;
            losses.add(&nll);
            surprising += nll.iter().filter(|&&nll| f64::from(nll) > SURPRISE).count();
        }
        self.sampled = chosen.len();
        self.base_loss = if losses.tokens == 0 { 0.0 } else { losses.mean() };
        self.surprising = surprising as f64 / losses.tokens.max(1) as f64;
        match self.base_loss.is_finite() {
            true => Ok(()),
            false => {
                let proposal = "try --weights f32; if that does not help, the model file is damaged";
                Err(Error::failed(&data.report.path, "the model's loss on this data is not finite", proposal))
            }
        }
    }

    /// The rules by which a kind is told. The bounds are rules of thumb; nobody has measured where they should be.
    pub fn rules(&self) -> [Rule; 5] {
        let rule = |kind, measure, value, from| Rule { kind, measure, value, from };
        [
            rule(Kind::Code, "answers that look like code", self.code, 0.5),
            rule(Kind::Format, "answers that are JSON", self.json, 0.5),
            rule(Kind::Format, "4-grams of the answers that a tenth of all answers have", self.repeated, 0.5),
            rule(Kind::Extraction, "4-grams of the answers that stand in the prompt", self.copied, 0.3),
            rule(Kind::Facts, "answer tokens to which the model gives less than 1 %", self.surprising, 0.1),
        ]
    }

    /// What the data may teach.
    pub fn kinds(&self) -> Vec<Kind> {
        let mut kinds: Vec<Kind> = self.rules().into_iter().filter(Rule::holds).map(|rule| rule.kind).collect();
        kinds.dedup();
        kinds
    }
}

/// Records by number: spread evenly, as many as the bounds allow, at least one.
fn sample(data: &Dataset) -> Vec<usize> {
    let all = data.examples.len();
    let every = all.div_ceil(SAMPLED_RECORDS).max(1);
    let mut tokens = 0;
    let fits = |at: &usize| {
        let first = tokens == 0;
        tokens += data.examples[*at].input_ids.len();
        first || tokens <= SAMPLED_TOKENS
    };
    (0..all).step_by(every).take_while(fits).collect()
}

/// Runs of tokens of a record that are learned, or that are not.
fn spans(example: &Example, learned: bool) -> impl Iterator<Item = &[u32]> {
    let labels = example.labels.chunk_by(|a, b| a.is_some() == b.is_some());
    let mut from = 0;
    labels.filter_map(move |run| {
        let ids = &example.input_ids[from..from + run.len()];
        from += run.len();
        (run[0].is_some() == learned).then_some(ids)
    })
}

fn grams_of(ids: &[u32]) -> impl Iterator<Item = [u32; GRAM]> {
    ids.windows(GRAM).filter_map(|window| window.try_into().ok())
}

fn is_json(answer: &str) -> bool {
    let answer = answer.trim();
    answer.starts_with(['{', '[']) && serde_json::from_str::<serde_json::Value>(answer).is_ok()
}

/// A fenced block, or lines as programs have them.
fn is_code(answer: &str) -> bool {
    if answer.contains("```") {
        return true;
    }
    let lines: Vec<&str> = answer.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let begins =
        ["def ", "class ", "import ", "from ", "fn ", "let ", "const ", "function ", "public ", "return ", "#include", "SELECT "];
    let looks = |line: &&&str| line.ends_with(['{', '}', ';']) || begins.iter().any(|begin| line.starts_with(begin));
    lines.len() >= 3 && 2 * lines.iter().filter(looks).count() >= lines.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(prompt: &[u32], answer: &[u32]) -> Example {
        let labels = prompt.iter().map(|_| None).chain(answer.iter().copied().map(Some)).collect();
        Example { input_ids: [prompt, answer].concat(), labels, line: 1 }
    }

    #[test]
    fn spans_are_what_is_learned_and_what_is_not() {
        let mut of = example(&[1, 2], &[3, 4, 5]);
        of.input_ids.extend([6, 7]);
        of.labels.extend([None, Some(7)]);
        assert_eq!(spans(&of, true).collect::<Vec<_>>(), [&[3, 4, 5][..], &[7]]);
        assert_eq!(spans(&of, false).collect::<Vec<_>>(), [&[1, 2][..], &[6]]);
    }

    #[test]
    fn json_and_code_are_told_from_prose() {
        assert!(
            is_json(" {\"a\": [1, 2]}\n") && is_json("[]") && !is_json("{a}") && !is_json("5") && !is_json("It is {\"a\": 1}.")
        );
        assert!(
            is_code("Here:\n```\nx\n```")
                && is_code("def f(x):\n    y = x;\n    return y\n")
                && is_code("int f() {\n  g();\n}\n")
        );
        assert!(!is_code("The island has one harbour.\nIts coin is the korvel.\nNobody\nknows more.") && !is_code("a;"));
    }

    #[test]
    fn the_sample_is_spread_and_bounded() {
        let data = |records: usize, length: usize| Dataset {
            examples: (0..records).map(|_| example(&[1], &vec![2; length])).collect(),
            report: crate::data::DataReport::default(),
        };
        assert_eq!(sample(&data(3, 5)), [0, 1, 2]);
        let many = sample(&data(480, 5));
        assert_eq!((many.len(), many[1]), (SAMPLED_RECORDS, 10));
        assert_eq!(sample(&data(4, 5000)), [0], "one record, however long");
        assert_eq!(sample(&data(100, 1000)).len(), 3);
    }

    #[test]
    fn kinds_follow_from_the_rules() {
        let looks = Looks { json: 0.9, repeated: 0.8, surprising: 0.2, ..Looks::default() };
        assert_eq!(looks.kinds(), [Kind::Format, Kind::Facts]);
        assert_eq!(Looks::default().kinds(), []);
        let near = Rule { kind: Kind::Facts, measure: "", value: 0.09, from: 0.1 };
        assert!(near.is_near() && !near.holds());
        assert!(!Rule { value: 0.3, ..near }.is_near());
    }
}
