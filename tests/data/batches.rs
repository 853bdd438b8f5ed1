//! Batches: examples end to end, in an order that depends on the seed and the epoch alone.

use std::collections::BTreeSet;

use graftling::data::{Batch, DataReport, Dataset, Example, Position, Sampler, SamplerOptions};
use proptest::prelude::*;

#[test]
fn a_batch_is_examples_end_to_end() {
    let example = |ids: &[u32], labels: &[i64], line| Example {
        input_ids: ids.to_vec(),
        labels: labels.iter().map(|label| u32::try_from(*label).ok()).collect(),
        line,
    };
    let examples = [
        example(&[10, 11, 12], &[10, -100, 12], 1),
        example(&[20], &[20], 2),
        example(&[30, 31, 32, 33], &[30, 31, -100, 99], 5),
    ];
    let batch = Batch::assemble(&examples, &[2, 1, 0]);
    assert_eq!(
        batch,
        Batch {
            input_ids: vec![30, 31, 32, 33, 20, 10, 11, 12],
            position: vec![0, 1, 2, 3, 0, 0, 1, 2],
            segment_start: vec![0, 0, 0, 0, 4, 5, 5, 5],
            supervised_rows: vec![0, 2, 6],
            targets: vec![31, 99, 12],
            examples: vec![2, 1, 0],
            lines: vec![5, 2, 1],
        }
    );
    assert_eq!(batch.rows_by_example().collect::<Vec<_>>(), [0..4, 4..5, 5..8]);
}

/// Examples that can be told apart by their ids.
fn dataset(lengths: &[usize]) -> Dataset {
    let example = |(index, &length): (usize, &usize)| {
        let input_ids: Vec<u32> = (0..length as u32).map(|at| index as u32 * 1000 + at).collect();
        let labels = input_ids.iter().map(|id| (id % 3 != 1).then_some(*id)).collect();
        Example { input_ids, labels, line: index + 1 }
    };
    Dataset { examples: lengths.iter().enumerate().map(example).collect(), report: DataReport::default() }
}

fn options() -> impl Strategy<Value = SamplerOptions> {
    (1usize..5, any::<bool>(), any::<bool>(), any::<u64>()).prop_map(|(batch_size, packing, shuffle, seed)| SamplerOptions {
        batch_size,
        max_length: 20,
        packing,
        shuffle,
        seed,
    })
}

proptest! {
    #[test]
    fn an_epoch_has_each_example_once(lengths in prop::collection::vec(2usize..=20, 1..60), options in options(), epoch in 0u64..4) {
        let data = dataset(&lengths);
        let mut sampler = Sampler::new(&data, options).unwrap();
        sampler.seek(Position { epoch, index: 0 }).unwrap();
        let mut lines = Vec::new();
        while sampler.position().epoch == epoch {
            let batch = sampler.next_batch(&data.examples);
            prop_assert!(batch.rows() > 0 && batch.rows() <= sampler.max_rows());
            if options.packing {
                prop_assert!(batch.rows() <= options.batch_size * options.max_length);
            } else {
                prop_assert!(batch.lines.len() <= options.batch_size);
            }
            lines.extend(batch.lines);
        }
        if !options.shuffle {
            prop_assert!(lines.is_sorted());
        }
        lines.sort();
        prop_assert_eq!(lines, (1..=lengths.len()).collect::<Vec<_>>());
    }

    #[test]
    fn segments_do_not_mix_and_targets_are_the_next_tokens(lengths in prop::collection::vec(2usize..=20, 1..40), options in options()) {
        let data = dataset(&lengths);
        let mut sampler = Sampler::new(&data, options).unwrap();
        for _ in 0..sampler.batches_in_epoch(0) {
            let batch = sampler.next_batch(&data.examples);
            let rows = batch.rows();
            prop_assert_eq!((batch.position.len(), batch.segment_start.len()), (rows, rows));
            let mut row = 0;
            let mut supervised = Vec::new();
            for line in &batch.lines {
                let example = &data.examples[line - 1];
                let start = row as u32;
                for at in 0..example.input_ids.len() {
                    prop_assert_eq!(batch.input_ids[row], example.input_ids[at]);
                    prop_assert_eq!((batch.position[row], batch.segment_start[row]), (at as u32, start));
                    if let Some(Some(next)) = example.labels.get(at + 1) {
                        supervised.push((row as u32, *next));
                    }
                    row += 1;
                }
            }
            prop_assert_eq!(row, rows);
            let given: Vec<_> = batch.supervised_rows.iter().copied().zip(batch.targets.iter().copied()).collect();
            prop_assert_eq!(given, supervised);
        }
    }

    #[test]
    fn a_run_can_be_continued_anywhere(lengths in prop::collection::vec(2usize..=20, 1..30), options in options(), before in 0usize..40) {
        let data = dataset(&lengths);
        let mut whole = Sampler::new(&data, options).unwrap();
        for _ in 0..before {
            whole.next_batch(&data.examples);
        }
        let stored = serde_json::to_string(&whole.position()).unwrap();
        let mut resumed = Sampler::new(&data, options).unwrap();
        resumed.seek(serde_json::from_str(&stored).unwrap()).unwrap();
        for _ in 0..20 {
            prop_assert_eq!(resumed.next_batch(&data.examples), whole.next_batch(&data.examples));
            prop_assert_eq!(resumed.position(), whole.position());
        }
    }

    /// No more than twice the batches that the tokens would fill without a gap, plus the ones that are still open.
    #[test]
    fn packing_wastes_little(lengths in prop::collection::vec(2usize..=20, 1..200), batch_size in 1usize..5, seed in any::<u64>()) {
        let options = SamplerOptions { batch_size, max_length: 20, packing: true, shuffle: true, seed };
        let batches = Sampler::new(&dataset(&lengths), options).unwrap().batches_in_epoch(0);
        let full = lengths.iter().sum::<usize>().div_ceil(20 * batch_size);
        prop_assert!(batches <= 2 * full + 1, "{} batches for {}", batches, full);
    }
}

#[test]
fn epochs_and_seeds_differ_and_file_order_is_one_record_a_step() {
    let data = dataset(&[5; 50]);
    let options = SamplerOptions { batch_size: 1, max_length: 20, packing: false, shuffle: true, seed: 7 };
    let sampler = Sampler::new(&data, options).unwrap();
    let other = Sampler::new(&data, SamplerOptions { seed: 8, ..options }).unwrap();
    let orders: BTreeSet<_> = [sampler.plan_of(0), sampler.plan_of(1), other.plan_of(0), other.plan_of(1)].into();
    assert_eq!(orders.len(), 4);
    // The order is part of what a checkpoint promises: it may not change with a version.
    assert_eq!(sampler.plan_of(0).concat()[..6], [23, 34, 2, 43, 29, 17]);

    let mut cycling = Sampler::new(&dataset(&[5; 3]), SamplerOptions { shuffle: false, ..options }).unwrap();
    let lines: Vec<_> = (0..7).flat_map(|_| cycling.next_batch(&data.examples).lines).collect();
    assert_eq!(lines, [1, 2, 3, 1, 2, 3, 1]);
    assert_eq!(cycling.position(), Position { epoch: 2, index: 1 });
}

#[test]
fn a_shuffle_is_even() {
    // Where the first of four examples goes, over 4000 epochs: 1000 each, standard deviation 27.
    let sampler =
        Sampler::new(&dataset(&[5; 4]), SamplerOptions { batch_size: 1, max_length: 20, packing: false, shuffle: true, seed: 0 })
            .unwrap();
    let mut counts = [0usize; 4];
    for epoch in 0..4000 {
        counts[sampler.plan_of(epoch).concat().iter().position(|number| *number == 0).unwrap()] += 1;
    }
    assert!(counts.iter().all(|count| count.abs_diff(1000) < 140), "{counts:?}");
}

#[test]
fn a_sampler_refuses_what_does_not_fit() {
    let options = SamplerOptions { batch_size: 1, max_length: 20, packing: true, shuffle: true, seed: 7 };
    assert!(Sampler::new(&dataset(&[21]), options).is_err());
    assert!(Sampler::new(&dataset(&[3]), SamplerOptions { batch_size: 0, ..options }).is_err());
    let mut sampler = Sampler::new(&dataset(&[3]), options).unwrap();
    assert!(sampler.seek(Position { epoch: 0, index: 1 }).is_err());
}
