//! Turns of long conversations: what was found for one turn holds for the others that stand between the same texts.
//!
//! To find a turn, the template is rendered two or three times (`conversation`), so to find each by itself takes time that grows with
//! the square of the turns. But templates write message after message, so a turn's place is known from where its content begins and
//! ends, and what stands before and after it. The places of all contents come of one further rendering, in which each content is
//! put between marks with its number: private characters, that are then taken out again. What is left must be the same text.
//!
//! Of the turns between the same texts, the first is looked for by itself, and so are the second, fourth, eighth ... and the last.
//! If one of them is found otherwise than the first, this way is closed, as it is where the template reacts to the marks.

use std::collections::HashMap;
use std::ops::Range;

use super::conversation::{Turn, View};
use super::marked::PRIVATE;
use crate::Result;
use crate::text::Message;

/// What a turn stands between: the texts from the content before it and to the content after it, and who speaks these.
type Surroundings<'a> = (&'a str, &'a str, Option<&'a str>, Option<&'a str>);

/// The turns of the messages `learned`; `None` if each must be looked for by itself.
///
/// # Errors
/// As [`View::turn`].
pub(super) fn turns(view: &View<'_>, learned: &[usize]) -> Result<Option<Vec<Turn>>> {
    let Some(places) = places(view) else { return Ok(None) };
    let surroundings: Vec<Option<Surroundings<'_>>> = learned.iter().map(|&index| surroundings(view, &places, index)).collect();
    let mut last = HashMap::new();
    for (at, between) in surroundings.iter().enumerate() {
        last.insert(between, at);
    }
    let mut seen: HashMap<&Surroundings<'_>, (usize, Option<Found>)> = HashMap::new();
    let mut turns = Vec::with_capacity(learned.len());
    for (at, (&index, between)) in learned.iter().zip(&surroundings).enumerate() {
        let (Some(between_these), Some(place)) = (between, &places[index]) else {
            turns.push(view.turn(index)?);
            continue;
        };
        let (count, found) = seen.entry(between_these).or_insert((0, None));
        *count += 1;
        let checked = count.is_power_of_two() || last.get(between) == Some(&at);
        match found {
            Some(found) if !checked => turns.push(found.at(place)),
            _ => {
                let turn = view.turn(index)?;
                let this = Found::of(&turn, place);
                if *count > 1 && this != *found {
                    return Ok(None);
                }
                *found = this;
                turns.push(turn);
            }
        }
    }
    Ok(Some(turns))
}

/// How a turn was found, by bytes before and after its content.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Exact(usize, usize),
    Placed(usize, usize),
}

impl Found {
    /// `None` if the turn is not the content and what is around it.
    fn of(turn: &Turn, place: &Range<usize>) -> Option<Self> {
        let around = |span: &Range<usize>| Some((place.start.checked_sub(span.start)?, span.end.checked_sub(place.end)?));
        match turn {
            Turn::Exact(span) => around(span).map(|(before, after)| Self::Exact(before, after)),
            Turn::Placed(span) => around(span).map(|(before, after)| Self::Placed(before, after)),
            Turn::Rewritten => None,
        }
    }

    fn at(self, place: &Range<usize>) -> Turn {
        match self {
            Self::Exact(before, after) => Turn::Exact(place.start - before..place.end + after),
            Self::Placed(before, after) => Turn::Placed(place.start - before..place.end + after),
        }
    }
}

fn surroundings<'a>(view: &'a View<'_>, places: &[Option<Range<usize>>], index: usize) -> Option<Surroundings<'a>> {
    let role = |index: usize| Some(view.messages.get(index)?.role.as_str());
    let place = places[index].as_ref()?;
    let before = match index.checked_sub(1) {
        Some(before) => places[before].as_ref()?.end,
        None => 0,
    };
    let after = match places.get(index + 1) {
        Some(after) => after.as_ref()?.start,
        None => view.text.len(),
    };
    Some((
        view.text.get(before..place.start)?,
        view.text.get(place.end..after)?,
        index.checked_sub(1).and_then(role),
        role(index + 1),
    ))
}

/// Where the content of each message stands in the text, without white space around it. `None` if the template writes anything else
/// when it is given marks.
fn places(view: &View<'_>) -> Option<Vec<Option<Range<usize>>>> {
    let messages = &view.marked.messages;
    let is_free = |mark: &char| !view.text.contains(*mark) && !messages.iter().any(|message| message.content.contains(*mark));
    let free: Vec<char> = PRIVATE.filter_map(char::from_u32).filter(is_free).take(12).collect();
    let [open, close, digits @ ..] = free.as_slice() else { return None };
    let number = |index: usize| {
        index.to_string().bytes().map(|digit| digits.get(usize::from(digit - b'0')).copied()).collect::<Option<String>>()
    };
    let mut numbered: Vec<Message> = messages.clone();
    for (index, message) in numbered.iter_mut().enumerate().filter(|(_, message)| !message.content.trim().is_empty()) {
        let inner = message.content.trim();
        let start = message.content.len() - message.content.trim_start().len();
        let (before, after) = (&message.content[..start], &message.content[start + inner.len()..]);
        message.content = format!("{before}{open}{}{inner}{close}{after}", number(index)?);
    }
    let rendered = view.render(&numbered, view.generation).ok()?;
    let mut places = vec![None; messages.len()];
    let mut plain = String::with_capacity(view.text.len());
    // The number that is being read, and where it stands.
    let mut opened: Option<(usize, usize)> = None;
    for character in rendered.chars() {
        if character == *open {
            opened = Some((0, plain.len()));
        } else if let Some(digit) = digits.iter().position(|one| *one == character) {
            let (number, at) = opened?;
            opened = Some((number.checked_mul(10)?.checked_add(digit)?, at));
        } else if character == *close {
            if let Some((number, start)) = opened.take() {
                let place = places.get_mut(number)?;
                // A content that is written twice has no one place.
                if place.replace(start..plain.len()).is_some() {
                    return None;
                }
            }
        } else {
            plain.push(character);
        }
    }
    (plain == view.text).then_some(places)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::formats::{GgufTokenizer, TextSource, TokenizerSource};
    use crate::text::{ChatTemplate, TemplateInputs, Tokenizer};

    fn tokenizer() -> Tokenizer {
        let fixture: Value = serde_json::from_str(include_str!("../../tests/fixtures/text/vocabularies.json")).unwrap();
        let list = |key: &str| serde_json::from_value(fixture["byte_level"][key].clone()).unwrap();
        let token_types = serde_json::from_value(fixture["byte_level"]["token_types"].clone()).unwrap();
        let (model, pre) = ("gpt2".to_string(), Some("smollm".to_string()));
        let gguf =
            GgufTokenizer { model, pre, tokens: list("tokens"), merges: list("merges"), token_types, ..Default::default() };
        Tokenizer::from_source(&TextSource::of(TokenizerSource::Gguf(gguf))).unwrap()
    }

    /// Turns with white space around them, one that repeats another, thoughts, and the name of a special token.
    fn conversation(turns: usize) -> Vec<Message> {
        let answers = ["one", " two\n", "<think>\nof\n</think>\n\nthree", "one", "a <|im_end|> b", "four\n\nfive"];
        let turn = |index: usize| match index % 2 {
            0 => Message::new("user", format!("question {index}")),
            _ => Message::new("assistant", answers[index / 2 % answers.len()]),
        };
        (0..turns).map(turn).collect()
    }

    #[test]
    fn each_turn_is_where_it_is_when_looked_for_by_itself() {
        let fixture: Value = serde_json::from_str(include_str!("../../tests/fixtures/text/templates.json")).unwrap();
        let (tokenizer, messages, inputs) = (tokenizer(), conversation(60), TemplateInputs::default());
        let learned: Vec<usize> = (1..60).step_by(2).collect();
        let mut together = 0;
        for (family, described) in fixture["templates"].as_object().unwrap() {
            let token = |key: &str| described[key].as_str().map(str::to_string);
            let source = described["template"].as_str().unwrap();
            let template = ChatTemplate::compile("test", source, token("bos_token"), token("eos_token")).unwrap();
            let view = View::new(&tokenizer, &template, &messages, &inputs, false).unwrap();
            let each: Result<Vec<Turn>> = learned.iter().map(|&index| view.turn(index)).collect();
            let Ok(each) = each else { continue };
            if let Some(found) = turns(&view, &learned).unwrap() {
                assert_eq!(found, each, "{family}");
                together += 1;
            }
        }
        assert!(together >= 4, "{together}");
    }

    #[test]
    fn a_template_that_sees_the_marks_is_looked_at_turn_by_turn() {
        let (tokenizer, messages, inputs) = (tokenizer(), conversation(8), TemplateInputs::default());
        let source = "{% for m in messages %}{{ m.role }}{{ m.content|length }}{{ m.content }}\n{% endfor %}";
        let template = ChatTemplate::compile("test", source, None, None).unwrap();
        let view = View::new(&tokenizer, &template, &messages, &inputs, false).unwrap();
        assert_eq!(turns(&view, &[1, 3, 5, 7]).unwrap(), None);
        let messages = conversation(10);
        // Written otherwise from the sixth message on: a check between the same texts finds it.
        let source = "{% for m in messages %}<{{ m.content }}>{% endfor %}{% if add_generation_prompt and messages|length < 6 %}<{% endif %}";
        let template = ChatTemplate::compile("test", source, None, None).unwrap();
        let view = View::new(&tokenizer, &template, &messages, &inputs, false).unwrap();
        assert_eq!(turns(&view, &[1, 3, 5, 7, 9]).unwrap(), None);
    }
}
