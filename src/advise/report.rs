//! Advice for people.

use std::fmt::Write;

use super::Advice;
use crate::byte_size::ByteSize;
use crate::picture::count;
use crate::terminal::duration;
use crate::train::memory::Memory;

/// The data, the choices with their reasons, the costs, the command, and the sweep where there is one.
pub fn text(advice: &Advice) -> String {
    let Advice { looks, kinds, choices, memory, .. } = advice;
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    let mut text = format!(
        "The data: {} records, {} tokens, of which {} are learned; the longest record has {}\n\
         Without an adapter the model's loss on the answers is {:.3} ({} records asked)\n",
        looks.records, looks.tokens, looks.supervised_tokens, looks.longest, looks.base_loss, looks.sampled
    );
    // Writing to a String cannot fail; the results are dropped for that reason.
    for rule in looks.rules() {
        let said = if rule.holds() { "so it may teach" } else { "too few to say that it teaches" };
        let near = if rule.is_near() { ", but it is near the bound" } else { "" };
        let kind = format!("{:?}", rule.kind).to_lowercase();
        let _ =
            writeln!(text, "  {:>5}  {} ({said} {kind}: from {}{near})", percent(rule.value), rule.measure, percent(rule.from));
    }
    let kinds: Vec<String> = kinds.iter().map(|kind| format!("{kind:?}").to_lowercase()).collect();
    let _ = writeln!(
        text,
        "It looks like {}\n",
        if kinds.is_empty() { "nothing that stands out".to_string() } else { kinds.join(" and ") }
    );
    for choice in choices {
        let sweep = if choice.thin { "  <- the evidence is thin: sweep this" } else { "" };
        let _ = writeln!(text, "{} = {}{sweep}", choice.option, choice.value.plain());
        let _ = writeln!(text, "  why       {}\n  evidence  {}\n  if wrong  {}", choice.why, choice.evidence, choice.if_wrong);
    }
    let Memory { weights, adapters, optimizer, activations, inputs, evaluation } = *memory;
    let [total, adapter, others] = [memory.total(), adapters + optimizer, activations + inputs + evaluation].map(ByteSize);
    let budget = advice.budget.map_or(String::new(), |budget| format!(", of {}", ByteSize(budget)));
    let _ = writeln!(
        text,
        "\n{} trained parameters, {} steps\n\
         GPU memory: {total}{budget} (weights {}, adapter and optimizer {adapter}, activations {others})\n\
         Time: about {} on {}, by a step that was timed ({}FLOP/s)\n\n{}",
        advice.parameters,
        advice.steps,
        ByteSize(weights),
        duration(advice.seconds),
        advice.device,
        count(advice.flops_per_second),
        advice.command
    );
    if let Some(sweep) = &advice.sweep {
        let _ = writeln!(
            text,
            "\nTo find out what the evidence leaves open: `graftling sweep --config sweep.toml --out sweep-1` with this sweep.toml\n\n{sweep}"
        );
    }
    text
}
