//! Results as pictures: what an arm is worth against its parameters, what it remembers against how well it keeps the form, and what it
//! forgot.

use super::result::{ArmResult, Figure, Results};
use crate::picture::{Axis, COLOURS, Picture};

/// The pictures that there are figures for, by file name.
pub fn all(results: &Results) -> Vec<(&'static str, String)> {
    let Some((score, name)) = score(results) else { return Vec::new() };
    let mut pictures = vec![("score-parameters.svg", against_parameters(results, score, name))];
    if let Some((recall, format)) = recall_and_format(results) {
        let names = [recall, format].map(|figure| figure.replace('_', " ").replace('.', ", "));
        pictures.extend(scatter(results, recall, format, [&names[0], &names[1]]).map(|svg| ("recall-format.svg", svg)));
    }
    let forgetting = ["forgetting: rise of the loss on general text (nats)", name];
    pictures.extend(scatter(results, "forgetting", score, forgetting).map(|svg| ("forgetting.svg", svg)));
    pictures
}

/// The figure that arms are compared by, and its name for people.
fn score(results: &Results) -> Option<(&'static str, &'static str)> {
    let has = |figure: &str| results.arms.iter().any(|arm| arm.figures.contains_key(figure));
    [
        ("check_share", "share of the check data that is right"),
        ("check_loss", "loss on the check data (nats)"),
        ("held_out_loss", "loss on held-out data (nats)"),
        ("train_loss", "loss of the last step (nats)"),
    ]
    .into_iter()
    .find(|(figure, _)| has(figure))
}

/// The kind of check that asks what was learned, and the one that asks for its form: of the test data, or else of the check data.
fn recall_and_format(results: &Results) -> Option<(&str, &str)> {
    let figures = || results.arms.iter().flat_map(|arm| arm.figures.keys());
    let kind = |set: &str, kinds: &[&str]| {
        let wanted = |figure: &&String| figure.split_once('.').is_some_and(|(of, kind)| of == set && kinds.contains(&kind));
        figures().find(wanted).map(String::as_str)
    };
    let both = |set: &str| Some((kind(set, &["contains", "exact"])?, kind(set, &["json_schema", "regex"])?));
    both("test_share").or_else(|| both("check_share"))
}

fn spread(figure: &Figure) -> f64 {
    figure.spread.unwrap_or(0.0)
}

/// From the lowest to the highest that a spread reaches.
fn reach<'a>(results: &'a Results, figure: &'a str) -> impl Iterator<Item = f64> + Clone + 'a {
    let figures = results.arms.iter().filter_map(move |arm| arm.figures.get(figure));
    figures.flat_map(|figure| [figure.mean - spread(figure), figure.mean + spread(figure)])
}

fn colour(at: usize) -> &'static str {
    COLOURS[at % COLOURS.len()]
}

fn against_parameters(results: &Results, score: &str, name: &str) -> String {
    let there = || results.arms.iter().filter(|arm| arm.figures.contains_key(score));
    let x = Axis::logarithmic(there().map(|arm| arm.plan.parameters as f64));
    let mut picture = Picture::new(x, Axis::around(reach(results, score)), "trained parameters", name);
    for (at, arm) in there().enumerate() {
        let figure = &arm.figures[score];
        let point = (arm.plan.parameters as f64, figure.mean);
        mark(&mut picture, arm, point, (0.0, spread(figure)), colour(at));
    }
    picture.finish()
}

fn scatter(results: &Results, x: &str, y: &str, names: [&str; 2]) -> Option<String> {
    let both = |arm: &&ArmResult| arm.figures.contains_key(x) && arm.figures.contains_key(y);
    let there: Vec<&ArmResult> = results.arms.iter().filter(both).collect();
    if there.is_empty() {
        return None;
    }
    let mut picture = Picture::new(Axis::around(reach(results, x)), Axis::around(reach(results, y)), names[0], names[1]);
    for (at, arm) in there.into_iter().enumerate() {
        let (x, y) = (&arm.figures[x], &arm.figures[y]);
        mark(&mut picture, arm, (x.mean, y.mean), (spread(x), spread(y)), colour(at));
    }
    Some(picture.finish())
}

fn mark(picture: &mut Picture, arm: &ArmResult, point: (f64, f64), by: (f64, f64), colour: &str) {
    picture.spread(point, by, colour);
    picture.dot(point, colour);
    picture.name(point, &arm.name);
}
