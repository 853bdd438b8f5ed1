//! What a prepared run tells the user before it begins: the records, what will be trained, and what it will occupy.

use std::collections::BTreeSet;

use super::Prepared;
use crate::adapter::end_of_turn;
use crate::data;
use crate::formats::adapter_file::AdapterFile;
use crate::formats::adapter_hub::{BottleneckConfig, Input};
use crate::train::memory::Memory;
use crate::train::step::Recompute;

/// Tokens that are named.
const SHOWN_TOKENS: usize = 8;

impl Prepared<'_> {
    /// The first `records` as the model will see them, the report on the data, and what the run would be. `color`: for a terminal.
    pub fn preview(&self, records: usize, color: bool) -> String {
        let preview = data::preview(&self.data, &self.model.tokenizer, records, color);
        let held_out = self.eval_data.as_ref().map_or(String::new(), |data| format!("{}\n\n", data.report));
        format!("{preview}\n{held_out}{}", self.summary())
    }

    /// The reports on the data, and on the held-out data if there is any.
    pub fn data_reports(&self) -> String {
        let all = std::iter::once(&self.data).chain(&self.eval_data).map(|data| data.report.to_string());
        all.collect::<Vec<_>>().join("\n")
    }

    /// Says where other programs may not stop: at ends of turns that the model's files do not name as such.
    fn note_on_ends(&self) -> String {
        let known = self.model.tokenizer.eos_token_ids();
        let unknown: Vec<String> =
            self.turn_ends().into_iter().filter(|end| !known.contains(&end.id)).map(|end| end.token).collect();
        if unknown.is_empty() {
            return String::new();
        }
        format!(
            "turns end with {}, which the model's files do not name as an end token: {} beside the adapter lets `generate` stop \
             there; tell other programs to\n",
            unknown.join(", "),
            end_of_turn::FILE
        )
    }

    /// What will be trained, for how many steps, and what it will occupy.
    pub fn summary(&self) -> String {
        let Memory { weights, adapters, optimizer, activations, inputs, evaluation } = self.memory();
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        let pieces = &self.placement.pieces;
        let (of_pieces, all) = (pieces.iter().map(|piece| piece.site.layer), self.model.files.config.num_hidden_layers);
        let layers = match of_pieces.collect::<BTreeSet<_>>().len() {
            some if some < all => format!("{some} of {all} layers"),
            _ => format!("all {all} layers"),
        };
        let widths: BTreeSet<usize> = pieces.iter().map(|piece| piece.method.width()).collect();
        let (method, width) = match &self.adapter {
            AdapterFile::Peft(config) => {
                (format!("{}{}", if config.use_dora { "DoRA on " } else { "" }, config.target_modules.join(", ")), "rank")
            }
            AdapterFile::AdapterHub(config) => (described(config), "width"),
        };
        let widths = match (widths.first(), widths.last()) {
            (Some(least), Some(most)) if least < most => format!("{width}s {least} to {most}"),
            (Some(one), _) => format!("{width} {one}"),
            (None, _) => String::new(),
        };
        format!(
            "{}: {method} in {layers}, {widths}{}, {} parameters\n\
             {} examples, {} supervised of {} tokens; {} steps\n\
             GPU memory: {:.0} MiB (weights {:.0}, adapter and optimizer {:.0}, activations {:.0})\n{}",
            self.model.files.name,
            self.vocabulary_summary(),
            self.trained_parameters(),
            self.data.report.examples,
            self.data.report.supervised_tokens,
            self.data.report.tokens,
            self.total_steps,
            mib(self.memory().total()),
            mib(weights),
            mib(adapters + optimizer),
            mib(activations + inputs + evaluation),
            self.rank_summary()
                + &self.balance_summary()
                + &self.recompute_summary()
                + &self.prefix_summary()
                + &self.check_summary()
                + &self.note_on_ends(),
        )
    }

    /// What of embedding and output matrix is trained; empty if nothing is.
    fn vocabulary_summary(&self) -> String {
        let mut summary = String::new();
        let whole = if let AdapterFile::Peft(config) = &self.adapter { config.modules_to_save.as_slice() } else { &[] };
        if !whole.is_empty() {
            summary += &format!(", the whole of {}", whole.join(" and "));
        }
        let tokens: BTreeSet<u32> = self.placement.rows.iter().flat_map(|rows| rows.tokens.iter().copied()).collect();
        if !tokens.is_empty() {
            let names = tokens.iter().filter_map(|id| self.model.tokenizer.token(*id)).take(SHOWN_TOKENS);
            let more = if tokens.len() > SHOWN_TOKENS { ", ..." } else { "" };
            let rows = if tokens.len() == 1 { "the row" } else { "the rows" };
            summary += &format!(", {rows} of {}{more}", names.collect::<Vec<_>>().join(", "));
        }
        match self.model.added.len() {
            0 => summary,
            added => format!("{summary} ({added} added to the {} tokens of the model)", self.model.known_tokens()),
        }
    }

    /// Who does the batches of a step; empty of a run that has always been one process.
    fn rank_summary(&self) -> String {
        let (batches, ranks) = (self.batches_a_step, self.ranks.count());
        match (ranks, self.began_with) {
            (1, 1) => String::new(),
            (1, began_with) => format!("a step has {batches} batches, as the run began with {began_with} ranks\n"),
            _ => {
                let least = batches / ranks;
                let each = if batches.is_multiple_of(ranks) { least.to_string() } else { format!("{least} or {}", least + 1) };
                format!("{ranks} ranks: a step has {batches} batches, {each} a rank; GPU memory is that of each\n")
            }
        }
    }

    /// What is added to the loss; empty if nothing is.
    fn balance_summary(&self) -> String {
        let balance = self.model.files.config.router_aux_loss_coef;
        balance.map_or_else(String::new, |by| format!("{by} times the load balancing loss of the routers is added to the loss\n"))
    }

    /// What is asked between the steps, and how often; empty if nothing is.
    fn check_summary(&self) -> String {
        let Some(checks) = &self.checks else { return String::new() };
        let (asked, every) = (checks.set.questions.len(), self.check_steps());
        format!("check data: {asked} questions, asked every {every} steps and at the end\n")
    }

    /// Share of a full batch's operations that the prefix cache saves.
    fn prefix_saves(&self) -> f64 {
        let counts = self.full_batch();
        1.0 - self.planner.flops(&counts) / self.whole.flops(&counts)
    }

    /// What the prefix cache will hold, and what it will save in a full batch; empty if there is none.
    fn prefix_summary(&self) -> String {
        let (kept, all) = self.prefix.examples();
        if all == 0 {
            return String::new();
        }
        let layers = match self.prefix.first_layer {
            1 => "layer 0 runs".to_string(),
            first => format!("layers 0-{} run", first - 1),
        };
        let place = if self.prefix.on_disk { "on disk" } else { "of memory" };
        let (mib, dtype) = (self.prefix.bytes() as f64 / f64::from(1 << 20), self.options.prefix_cache_type.dtype());
        let saves = match self.prefix.lowest().train {
            Some(_) => format!("a batch of them then needs {:.0} % fewer operations", 100.0 * self.prefix_saves()),
            None => "held-out data only".to_string(),
        };
        format!(
            "prefix cache: {layers} once a record, for {kept} of {all} records; up to {mib:.1} MiB {place} ({dtype}); {saves}\n"
        )
    }

    /// What is computed again, what that saves and what it costs; empty if nothing is.
    fn recompute_summary(&self) -> String {
        let Recompute::Layers(count) = self.planner.shape().recompute else { return String::new() };
        let kept = self.planner.clone().with(Recompute::None).memory();
        let layers = self.planner.layers();
        let what = match count {
            0 => "norms and activation functions".to_string(),
            _ => format!("{} of {layers} layers", count.min(layers)),
        };
        format!(
            "recompute: {what}, {:.0} MiB of activations less for {:.1} % more arithmetic\n",
            (kept.activations as f64 - self.memory().activations as f64) / f64::from(1 << 20),
            100.0 * self.planner.extra_flops(),
        )
    }
}

/// Bottlenecks in words: what they do, and where.
fn described(config: &BottleneckConfig) -> String {
    let places = match (config.after_attention, config.after_mlp) {
        (true, true) => "attention and MLP",
        (true, false) => "attention",
        _ => "the MLP",
    };
    let place = if config.input == Input::Residual { "beside" } else { "after" };
    format!("{} bottlenecks {place} {places}", config.non_linearity)
}
