//! The sum of a step's gradients over ranks, in groups, while the backward pass goes on: every number once, and the bits of a sum at the end.

mod common;
mod runs;
#[path = "common/threads.rs"]
mod threads;

use std::sync::Arc;

use common::{device, device_with};
use graftling::Error;
use graftling::adapter::{DeviceAdapter, Placement};
use graftling::bench::step::random_batch;
use graftling::data::Batch;
use graftling::gpu::Device;
use graftling::model::weights::{DeviceWeights, WeightType};
use graftling::ops::Random;
use graftling::session::OpenModel;
use graftling::train::memory::StepShape;
use graftling::train::options::Recipe;
use graftling::train::prepare::placement_of;
use graftling::train::step::Recompute;
use graftling::train::sum::Sum;
use graftling::train::trainer::Trainer;
use runs::Workshop;
use threads::Thread;

/// Everything that can be trained at a time: LoRA at the linear layers and the experts, with another learning rate for B, routers, norms,
/// and whole matrices of the vocabulary.
struct Setup {
    model: OpenModel,
    weights: Arc<DeviceWeights>,
    placement: Placement,
}

impl Setup {
    fn on(device: Arc<Device>) -> Self {
        let shop = Workshop::new();
        shop.put_model("families", "mixtral");
        let recipe = Recipe {
            model: Some(shop.path("mixtral").display().to_string()),
            data: Some(vec![shop.path("train.jsonl")]),
            out: Some(shop.path("out")),
            lora_r: Some(4),
            lora_dropout: Some(0.1),
            loraplus_lr_ratio: Some(8.0),
            modules_to_save: Some(["embed_tokens", "gate", "norm", "lm_head"].map(str::to_string).to_vec()),
            ..Recipe::default()
        };
        let options = recipe.resolve().unwrap();
        let model = OpenModel::open(&options.model).unwrap();
        let placement = placement_of(&options, &model).unwrap();
        let (config, tensors) = (&model.files.config, &*model.files.tensors);
        let weights = Arc::new(DeviceWeights::upload(device, config, tensors, WeightType::Lossless, |_, _| {}).unwrap());
        Self { model, weights, placement }
    }

    fn trainer(&self, accumulate: bool) -> Trainer {
        let adapter = DeviceAdapter::fresh(self.weights.device().clone(), self.placement.clone(), 0).unwrap();
        // Nothing may be zero, or no gradient would arrive behind it.
        let mut random = Random(8);
        adapter.set(&(0..adapter.layout.elements()).map(|_| 0.3 * random.uniform() as f32).collect::<Vec<f32>>());
        let shape = StepShape { max_tokens: 48, accumulate, recompute: Recompute::Layers(1), held_out_tokens: 0 };
        Trainer::new(self.weights.clone(), &self.model.files.config, adapter, shape, 0, None).unwrap()
    }

    fn batches(&self, count: usize) -> Vec<Batch> {
        let shapes = [(3, 16), (2, 11), (1, 9), (2, 16), (4, 7)];
        let batch = |&(sequences, tokens): &(usize, usize)| random_batch(sequences, tokens, self.model.files.config.vocab_size);
        shapes[..count].iter().map(batch).collect()
    }
}

#[test]
fn groups_are_the_whole_adapter_in_the_order_of_the_backward_pass() {
    let trainer = Setup::on(device()).trainer(false);
    let layout = &trainer.adapter().layout;
    for least in [1, 5000, usize::MAX] {
        let groups = trainer.groups(least);
        let sizes: Vec<usize> = groups.iter().map(|group| group.iter().map(ExactSizeIterator::len).sum()).collect();
        let (_, full) = sizes.split_last().unwrap();
        assert!(full.iter().all(|&size| size >= least), "{least}: {sizes:?}");
        let mut bytes: Vec<_> = groups.iter().flatten().cloned().collect();
        bytes.sort_by_key(|range| range.start);
        assert!(bytes.windows(2).all(|pair| pair[0].end == pair[1].start), "{least}: {bytes:?}");
        assert_eq!((bytes[0].start, bytes[bytes.len() - 1].end), (0, 4 * layout.elements()));
        let group_of = |matrix: &str| {
            let at = 4 * layout.element(matrix, 0, 0).unwrap_or_else(|| panic!("there is no {matrix}"));
            groups.iter().position(|group| group.iter().any(|range| range.contains(&at))).unwrap()
        };
        let downwards = [
            "lm_head.weight",
            "norm.weight",
            "layers.1.block_sparse_moe.gate.weight",
            "layers.1.self_attn.o_proj.lora_b",
            "layers.1.self_attn.q_proj.lora_a",
            "layers.0.block_sparse_moe.gate.weight",
            "layers.0.self_attn.q_proj.lora_a",
            "embed_tokens.weight",
        ];
        let order = downwards.map(group_of);
        assert!(order.is_sorted(), "{least}: {order:?}");
        if least == 1 {
            assert_eq!(groups.len(), layout.tensors.iter().map(|tensor| tensor.parts.len()).sum::<usize>());
        }
    }
}

/// A group is summed when the slice after it has been submitted, and a slice ends where a group is made.
#[test]
fn groups_are_summed_while_the_backward_pass_goes_on() {
    let setup = Setup::on(device());
    for accumulate in [false, true] {
        let mut trainer = setup.trainer(accumulate);
        let groups = trainer.groups(5000);
        let count = groups.len();
        trainer.sum_in(groups).unwrap();
        let mut all = Vec::new();
        for batch in &setup.batches(2) {
            trainer.begin(batch, 0.02).unwrap();
            let mut left = Vec::new();
            trainer.complete_summed(true, |_, dispatches| left.push(dispatches)).unwrap().wait_for_one().unwrap();
            all.push(left);
        }
        assert_eq!(all[0], all[1], "it does not depend on the time that slices take");
        let left = &all[0];
        assert!(left.len() == count && left.is_sorted_by(|before, after| before >= after), "{left:?}");
        // What the last two slices make is summed when all is submitted.
        assert!(left[count - 3] > 0 && left[0] > left[count - 3], "{left:?}");
    }
}

/// Also where ranks have more than one batch, where one has none, and where each group is one matrix.
#[test]
fn a_sum_in_groups_has_the_bits_of_one_at_the_end() {
    let setup = Setup::on(device());
    for (count, accumulate, least) in [(3, false, 1), (2, false, 5000), (5, true, 5000), (2, true, 1)] {
        let batches = setup.batches(count);
        let found = Thread::run(3, |ranks| {
            let (mut at_the_end, mut in_groups) = (setup.trainer(accumulate), setup.trainer(accumulate));
            let mut sum = Sum::new(ranks.clone(), false, least, &mut in_groups).unwrap();
            for (number, batch) in ranks.mine(&batches) {
                for trainer in [&mut at_the_end, &mut in_groups] {
                    trainer.count_from(number as u32);
                    trainer.begin(batch, 0.02).unwrap();
                }
                let plain = at_the_end.complete(number < 3).unwrap().wait_for_one().unwrap();
                let loss = sum.complete(&mut in_groups, number, count).unwrap().wait_for_one().unwrap();
                assert_eq!(loss, plain);
            }
            sum.finish(&mut in_groups, count).unwrap();
            let mut expected = at_the_end.step_gradients().unwrap();
            if ranks.mine(&batches).next().is_none() {
                expected.fill(0.0);
            }
            let own = expected.clone();
            ranks.sum(&mut expected);
            assert!(own != expected && expected.iter().all(|gradient| gradient.is_finite()));
            let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert!(
                bits(in_groups.step_gradients().unwrap()) == bits(expected.clone()),
                "{count} batches, rank {}",
                ranks.rank()
            );
            bits(expected)
        });
        assert!(found.iter().all(|one| *one == found[0]), "every rank has the same");
    }
}

/// The run is not over when the first group is summed: there is work that a lost device does not do any more.
#[test]
fn a_device_that_is_lost_between_two_groups_is_an_error() {
    // A device of its own, which nobody else loses.
    let own = device_with(device().facts.clone());
    let setup = Setup::on(own.clone());
    let mut trainer = setup.trainer(true);
    trainer.sum_in(trainer.groups(1)).unwrap();
    trainer.begin(&setup.batches(1)[0], 0.02).unwrap();
    let (count, mut summed) = (trainer.groups(1).len(), 0);
    let lost = trainer.complete_summed(true, |_, _| {
        own.destroy_after(&[0]);
        summed += 1;
    });
    assert!(matches!(lost, Err(Error::DeviceLost { .. })), "{:?}", lost.err());
    assert!(0 < summed && summed < count, "{summed} of {count}");
}
