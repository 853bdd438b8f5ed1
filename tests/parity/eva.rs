//! The start `eva` against PEFT's `get_eva_state_dict` on the same batches.

use super::adapters::Case;
use super::*;
use graftling::adapter::start::{Base, Start, start};
use graftling::adapter::{AdapterLayout, Placement};
use graftling::train::eva::{Eva, Looked, MOST_BATCHES};
use std::collections::HashMap;
use std::ops::ControlFlow;

/// PEFT's singular values are approximate: its own vectors are 1 - 1.1e-4 from those of exact ones.
const COSINE: f64 = 0.9995;

struct Shop {
    case: Case,
    placement: Placement,
    batches: Vec<Batch>,
    longest: usize,
}

impl Shop {
    fn open(use_dora: bool) -> Self {
        let case = Case::of("adapters", "eva");
        let settings = &case.expected["settings"];
        let config = graftling::formats::peft::AdapterConfig {
            r: settings["r"].as_u64().unwrap() as usize,
            lora_alpha: settings["lora_alpha"].as_f64().unwrap(),
            target_modules: ALL.map(str::to_owned).into(),
            use_dora,
            ..Default::default()
        };
        let placement = Placement::from_peft("adapter", &config, &case.setup.files.config).unwrap().learning(Start::Eva, 1.0);
        let of = |records: &Value| batch(&records.as_array().unwrap().iter().collect::<Vec<_>>());
        let batches: Vec<Batch> = case.expected["batches"].as_array().unwrap().iter().map(of).collect();
        let longest = batches.iter().map(Batch::rows).max().unwrap();
        Self { case, placement, batches, longest }
    }

    fn begun(&self) -> (DeviceAdapter, Vec<AdapterTensor>) {
        let files = &self.case.setup.files;
        let base = Base { tensors: &*files.tensors, weight_type: WeightType::Lossless };
        let trained = start(&self.placement, &base, 0).unwrap().trained;
        let layout = AdapterLayout::new(&self.placement);
        let contents = layout.pack("adapter", &trained).unwrap();
        let device = self.case.setup.weights.device().clone();
        (DeviceAdapter::new(device, self.placement.clone(), layout, &contents).unwrap(), trained)
    }

    fn look(&self, batches: &[Batch], told: impl FnMut(Looked) -> ControlFlow<()>) -> Option<(Vec<AdapterTensor>, Looked)> {
        let (adapter, trained) = self.begun();
        let Setup { files, weights } = &self.case.setup;
        let eva = Eva::new(weights, &files.config, &adapter, self.longest).unwrap();
        eva.start(batches.iter().cloned(), trained, told).unwrap()
    }
}

/// The same directions, from as many batches: each input is done where PEFT's is. B is zero, and the model the base.
#[test]
fn the_directions_are_those_of_peft_after_as_many_batches() {
    let shop = Shop::open(false);
    let expected: HashMap<_, _> = tensors(&shop.case.folder.join("expected.safetensors"), "").into_iter().collect();
    let mut steps = Vec::new();
    let (found, looked) = shop.look(&shop.batches, |looked| (steps.push(looked), ControlFlow::Continue(())).1).unwrap();
    let tokens = numbers(&shop.case.expected["tokens"]);
    // The last input that is not done decides.
    let most = tokens.iter().copied().fold(0.0, f64::max);
    assert_eq!((looked.learned as f64, looked.settled, looked.inputs), (most, tokens.len(), tokens.len()));
    assert_eq!(steps.len(), looked.batches);
    for step in &steps {
        // An input is done with the batch after which PEFT had seen as many tokens.
        let done = tokens.iter().filter(|&&tokens| tokens <= step.learned as f64).count();
        assert_eq!(step.settled, done, "after {} batches", step.batches);
    }
    let mut compared = 0;
    for tensor in &found {
        if !tensor.name.ends_with(".lora_a") {
            assert!(tensor.values.iter().all(|&b| b == 0.0), "{}", tensor.name);
            continue;
        }
        for (k, (found, peft)) in
            tensor.values.chunks(tensor.shape[1]).zip(expected[&tensor.name].chunks(tensor.shape[1])).enumerate()
        {
            let product: f64 = found.iter().zip(peft).map(|(a, b)| f64::from(*a) * b).sum();
            assert!(product > COSINE && product < 1.0001, "{} {k}: {product}", tensor.name);
            compared += 1;
        }
    }
    assert_eq!(compared, 3 * 7 * 4);
    let layout = AdapterLayout::new(&shop.placement);
    let (adapter, _) = shop.begun();
    adapter.set(&layout.pack("adapter", &found).unwrap());
    let setup = &shop.case.setup;
    let [base, begun] = [None, Some(&adapter)].map(|adapter| setup.token_nll(adapter, &shop.batches[0]));
    assert_eq!(base, begun);
}

/// What enters the layers is the base model's, whichever method is to change it, and bit for bit the same again.
#[test]
fn dora_starts_from_the_same_directions() {
    let [lora, dora] = [false, true].map(|use_dora| {
        let shop = Shop::open(use_dora);
        let (found, _) = shop.look(&shop.batches[..3], |_| ControlFlow::Continue(())).unwrap();
        found.into_iter().filter(|tensor| tensor.name.ends_with(".lora_a")).collect::<Vec<_>>()
    });
    assert_eq!(lora, dora);
}

/// It ends with the batches, whether all has settled or not, where it is told to, and after so many batches.
#[test]
fn it_ends() {
    let shop = Shop::open(false);
    let (_, looked) = shop.look(&shop.batches[..2], |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((looked.batches, looked.settled), (2, 0));
    let mut told = 0;
    let tell = |looked: Looked| {
        told += 1;
        if looked.batches < 1 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    assert!(shop.look(&shop.batches, tell).is_none() && told == 2);
    // Batches of one token and one learned: 4 directions need five of them, and no more than so many are looked at.
    let one = |at: usize| {
        let ids = vec![3 + at as u32 % 90, 3 + (7 * at as u32) % 90];
        Batch::assemble(&[Example { labels: ids.iter().copied().map(Some).collect(), input_ids: ids, line: 1 }], &[0])
    };
    let small: Vec<Batch> = (0..4 * MOST_BATCHES).map(one).collect();
    let (_, looked) = shop.look(&small, |_| ControlFlow::Continue(())).unwrap();
    assert!(looked.batches <= MOST_BATCHES && looked.learned == looked.batches, "{looked:?}");
}
