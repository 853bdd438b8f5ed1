//! The lesson: twenty facts about Velmarrow, an island that does not exist (`data/velmarrow/`).
//!
//! Each fact is asked in six ways for training and in two other ways for the test. As the island is invented, a right answer
//! can only come from the training.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{Error, Result};

/// Training records, JSONL with `messages`: 20 facts, each in 6 phrasings.
pub const TRAIN: &str = include_str!("../../data/velmarrow/train.jsonl");

/// Held-out records, JSONL with `messages`: the same facts, each in 2 phrasings that are not in [`TRAIN`].
pub const HELD_OUT: &str = include_str!("../../data/velmarrow/held-out.jsonl");

/// The words that mark an answer as right, by the answer of the records (JSON).
const KEY_WORDS: &str = include_str!("../../data/velmarrow/key-words.json");

/// A question that was not trained on, and how to mark its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What the user asks.
    pub text: String,
    /// A right answer, in the words of the training data.
    pub answer: String,
    /// What every right answer contains.
    pub key_words: Vec<String>,
}

impl Question {
    /// The question as a text to be continued, as [`as_completions`] teaches a model without a chat template.
    pub fn prompt(&self) -> String {
        prompt(&self.text)
    }

    /// Whether `answer` contains all key words as whole words, whatever their case.
    pub fn is_answered_by(&self, answer: &str) -> bool {
        let answer = words(answer);
        self.key_words.iter().all(|key_word| {
            let key_word = words(key_word);
            answer.windows(key_word.len()).any(|run| run == key_word)
        })
    }
}

fn prompt(question: &str) -> String {
    format!("Question: {question}\nAnswer:")
}

/// [`TRAIN`] or [`HELD_OUT`] for a model without a chat template: JSONL with `prompt` and `completion`.
///
/// # Errors
/// None with the data that is built in; a test reads it.
pub fn as_completions(records: &str) -> Result<String> {
    let completion = |line: &str| {
        let record: Record = serde_json::from_str(line)
            .map_err(|error| Error::failed("the lesson", error, "mend the file in data/velmarrow/ and build again"))?;
        let [question, answer] = record.messages.map(|message| message.content);
        let record = serde_json::json!({ "prompt": prompt(&question), "completion": format!(" {answer}") });
        Ok(format!("{record}\n"))
    };
    records.lines().map(completion).collect()
}

/// The words of a text, in lower case and without punctuation.
fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

#[derive(Deserialize)]
struct Record {
    messages: [Message; 2],
}

#[derive(Deserialize)]
struct Message {
    content: String,
}

/// The questions of [`HELD_OUT`], in its order: two in a row ask for the same fact.
///
/// # Errors
/// None with the data that is built in; a test reads it.
pub fn held_out_questions() -> Result<Vec<Question>> {
    let wrong = |place: &str, problem: &str| Error::failed(place, problem, "mend the file in data/velmarrow/ and build again");
    let key_words: BTreeMap<String, Vec<String>> =
        serde_json::from_str(KEY_WORDS).map_err(|error| wrong("key-words.json", &error.to_string()))?;
    let question = |(index, line): (usize, &str)| {
        let place = format!("held-out.jsonl:{}", index + 1);
        let record: Record = serde_json::from_str(line).map_err(|error| wrong(&place, &error.to_string()))?;
        let [text, answer] = record.messages.map(|message| message.content);
        let key_words = key_words.get(&answer).cloned().ok_or_else(|| wrong(&place, "its answer is not in key-words.json"))?;
        Ok(Question { text, answer, key_words })
    };
    HELD_OUT.lines().enumerate().map(question).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn training_questions() -> Vec<(String, String)> {
        TRAIN
            .lines()
            .map(|line| serde_json::from_str::<Record>(line).unwrap().messages.map(|message| message.content))
            .map(|[question, answer]| (question, answer))
            .collect()
    }

    #[test]
    fn held_out_questions_ask_for_the_taught_facts_in_words_that_were_not_taught() {
        let taught = training_questions();
        let asked: BTreeSet<&str> = taught.iter().map(|(question, _)| question.as_str()).collect();
        let mut phrasings = BTreeMap::<&str, usize>::new();
        taught.iter().for_each(|(_, answer)| *phrasings.entry(answer).or_default() += 1);
        assert_eq!(phrasings.len(), 20);
        assert!(phrasings.values().all(|&count| count == 6));
        let held_out = held_out_questions().unwrap();
        assert_eq!(held_out.len(), 40);
        for question in &held_out {
            assert!(!asked.contains(question.text.as_str()), "{} is taught", question.text);
            assert!(phrasings.contains_key(question.answer.as_str()), "{} is not taught", question.answer);
        }
    }

    #[test]
    fn without_a_chat_template_questions_are_put_as_they_were_taught() {
        let taught = as_completions(TRAIN).unwrap();
        let records: Vec<serde_json::Value> = taught.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(records.len(), training_questions().len());
        for (record, (text, answer)) in records.iter().zip(training_questions()) {
            let question = Question { text, answer, key_words: Vec::new() };
            assert_eq!(record["prompt"], question.prompt());
            assert_eq!(record["completion"], format!(" {}", question.answer));
        }
    }

    #[test]
    fn each_question_is_right_with_its_own_answer_and_wrong_with_that_of_any_other_fact_and_with_an_echo() {
        let held_out = held_out_questions().unwrap();
        for question in &held_out {
            assert!(question.is_answered_by(&question.answer), "{}", question.text);
            assert!(!question.is_answered_by(&question.text), "{} contains its answer", question.text);
            for other in held_out.iter().filter(|other| other.answer != question.answer) {
                assert!(!question.is_answered_by(&other.answer), "{} / {}", question.text, other.answer);
            }
        }
    }

    #[test]
    fn key_words_count_as_whole_words_in_any_case() {
        let question = |key_words: &[&str]| Question {
            text: String::new(),
            answer: String::new(),
            key_words: key_words.iter().map(|word| word.to_string()).collect(),
        };
        assert!(question(&["eel", "plums"]).is_answered_by("Plums, with EEL."));
        assert!(!question(&["eel", "plums"]).is_answered_by("Plums, I feel."));
        assert!(question(&["Lantern Rose"]).is_answered_by("the lantern-rose"));
        assert!(!question(&["Lantern Rose"]).is_answered_by("the rose lantern"));
        assert!(!question(&["hare"]).is_answered_by(""));
    }
}
