//! What the studio shows is what training and generation compute, side by side: bit for bit where it is the same computation, within
//! stated bounds where it is another way to the same number. `tools/reference/studio_numbers.py` compares the same views with transformers.

mod runs;

use std::path::{Path, PathBuf};

use graftling::formats::peft::{load_adapter, save_adapter};
use graftling::generate::{Generation, Generator, Sampler, Sampling};
use graftling::model::graph::Part;
use graftling::ops::registry;
use graftling::session::probe::{LayerValues, MOST_TOKENS, Probe, Probing, Subject, logits_value};
use graftling::session::{OpenModel, Session, SessionOptions};
use graftling::studio::api::{answer, attention, backward, embedding, fuse, lens, logits, lora, mlp, prove, sources};
use graftling::studio::early;
use graftling::studio::look::{Kept, Look, most_probable, rows_for};
use graftling::train::memory::StepShape;
use graftling::train::step::Recompute;
use graftling::train::trainer::Trainer;
use graftling::{Error, Result};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A model of the fixtures on the device, with a tokenizer of its own.
struct Opened {
    _folder: TempDir,
    model: OpenModel,
    adapter: Option<PathBuf>,
    session: Session,
}

fn reference(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/reference").join(name)
}

impl Opened {
    fn new(name: &str) -> Self {
        Self::with(name, Some(&reference(name).join("adapter")))
    }

    fn with(name: &str, adapter: Option<&Path>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(reference(name).join(file), folder.path().join(file)).unwrap();
        }
        std::fs::write(folder.path().join("tokenizer.json"), runs::tokenizer().to_string()).unwrap();
        let model = OpenModel::open(folder.path().to_str().unwrap()).unwrap();
        let options = SessionOptions {
            device: std::env::var("GRAFTLING_TEST_DEVICE").ok(),
            matmul: Default::default(),
            weights: Default::default(),
            autotune: false,
            cache: None,
        };
        let uses: [&dyn graftling::session::Use; 2] = [&Probing { tokens: 64 }, &Generation { context: 64 }];
        let session = Session::open(&model, adapter, &options, &uses, &()).unwrap();
        Self { _folder: folder, model, adapter: adapter.map(Path::to_path_buf), session }
    }

    fn look<T>(&self, view: impl FnOnce(&mut Look) -> T) -> T {
        let mut kept = Kept::default();
        let (model, folder) = (&self.model, self.adapter.as_deref());
        view(&mut Look { session: &self.session, model, folder, kept: &mut kept, pause: &|_, _, _| Ok(()) })
    }
}

const LLAMA: &str = "tiny/grouped_tied";

fn text(length: usize) -> Vec<u32> {
    (0..length as u32).map(|at| 3 + (at * 29 + at * at * 5) % 90).collect()
}

/// A record of `length` tokens, of which the first two are not learned.
fn record(length: usize) -> Map<String, Value> {
    let ids = text(length);
    let labels: Vec<i64> = ids.iter().enumerate().map(|(at, &id)| if at < 2 { -100 } else { i64::from(id) }).collect();
    json!({ "input_ids": ids, "labels": labels }).as_object().unwrap().clone()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn heads(look: &mut Look, asked: &attention::Asked) -> Vec<Vec<Vec<f32>>> {
    attention::attention(look, asked).unwrap().heads.into_iter().map(|head| head.rows).collect()
}

/// Full and sliding windows, soft caps, fused and separate projections, norms of query and key, layers without rotation, scales.
#[test]
fn what_a_token_reads_adds_up_to_one_and_is_nothing_outside_its_window() {
    for name in [LLAMA, "families/gemma2", "families/gemma3", "families/phi3_window", "families/smollm3", "families/olmo2"] {
        let opened = Opened::new(name);
        let config = opened.session.config();
        opened.look(|look| {
            for layer in 0..config.num_hidden_layers {
                let asked = attention::Asked { ids: text(19), layer, ..Default::default() };
                let view = attention::attention(look, &asked).unwrap();
                assert_eq!((view.heads.len(), view.window), (config.num_attention_heads, config.layers[layer].window));
                assert_eq!(view.rotated, config.layers[layer].rope.is_some());
                for (head, found) in view.heads.iter().enumerate() {
                    assert_eq!(found.kv_head, head * config.num_key_value_heads / config.num_attention_heads);
                    assert_eq!(found.rows.len(), 19);
                    for (i, row) in found.rows.iter().enumerate() {
                        assert_eq!(row.len(), i + 1, "nothing above the diagonal");
                        let sum: f64 = row.iter().map(|&p| f64::from(p)).sum();
                        // The kernel's log-sum-exp is within 1e-5 of what f64 gives (design section 12).
                        assert!((sum - 1.0).abs() < 1e-5, "{name}, layer {layer}, head {head}, row {i}: {sum}");
                        let unseen = (i + 1).saturating_sub(view.window.unwrap_or(usize::MAX));
                        assert!(
                            row[..unseen].iter().all(|&p| p == 0.0) && row[unseen..].iter().all(|&p| p > 0.0 && p < 1.0 + 1e-5)
                        );
                    }
                }
            }
        });
    }
}

/// With its own base the model is run as a whole, without a dial from the states that are kept: the same bits.
#[test]
fn states_that_are_kept_change_no_bit_and_rotations_are_relative() {
    let opened = Opened::new(LLAMA);
    opened.look(|look| {
        let ask = |look: &mut Look, rope| heads(look, &attention::Asked { ids: text(16), layer: 2, adapter: None, rope });
        let own = ask(look, attention::Dial::default());
        let base = opened.session.config().ropes[0].theta;
        assert_eq!(ask(look, attention::Dial { base: Some(base), ..Default::default() }), own);
        let distance = |other: Vec<Vec<Vec<f32>>>| {
            let pairs = own.iter().flatten().flatten().zip(other.iter().flatten().flatten());
            pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        };
        let shifted = distance(ask(look, attention::Dial { shift: Some(1000), ..Default::default() }));
        // Angles of a thousand turns in f32 cosines.
        assert!(shifted > 0.0 && shifted < 1e-5, "{shifted}");
        let other = distance(ask(look, attention::Dial { base: Some(20.0), ..Default::default() }));
        let stretched = distance(ask(look, attention::Dial { scaling: Some("linear:4".parse().unwrap()), ..Default::default() }));
        assert!(other > 1e-3 && stretched > 1e-3, "{other} {stretched}");
    });
}

#[test]
fn a_probe_costs_what_it_shows() {
    let opened = Opened::new(LLAMA);
    let probe = |layer| {
        let subject = Subject::whole(opened.session.adapter(), 32);
        let choose = |model: &_| LayerValues::of(model, layer).map(|values| (vec![values.lse], values));
        Probe::forward(&opened.session, subject, choose).unwrap().0
    };
    let (first, last) = (probe(0), probe(2));
    assert!(3 * first.nodes() < last.nodes(), "{} nodes of {}", first.nodes(), last.nodes());
    // No logits, which are the largest value of the whole model.
    let whole = Probe::forward(&opened.session, Subject::whole(opened.session.adapter(), 32), |model| {
        logits_value(model).map(|logits| (vec![logits], logits))
    });
    assert!(last.bytes() < whole.unwrap().0.bytes());
}

#[test]
fn strength_scales_the_update_and_0_is_the_base_model_bit_for_bit() {
    let (adapted, base) = (Opened::new(LLAMA), Opened::with(LLAMA, None));
    let logits = |opened: &Opened, strength| opened.look(|look| look.logits(&text(12), strength).unwrap());
    assert_eq!(bits(&logits(&adapted, Some(0.0))), bits(&logits(&base, None)));
    assert_eq!(bits(&logits(&base, Some(1.0))), bits(&logits(&base, None)), "without an adapter there is one model");
    let states = |opened: &Opened, strength| {
        opened.look(|look| look.stream(&text(12), strength).unwrap().states.iter().map(|state| bits(state)).collect::<Vec<_>>())
    };
    assert_eq!(states(&adapted, Some(0.0)), states(&base, None));
    assert_ne!(states(&adapted, Some(0.1)), states(&base, None));

    // Half the strength is half the alpha.
    let half = tempfile::tempdir().unwrap();
    let source = reference(LLAMA).join("adapter");
    std::fs::copy(source.join("adapter_model.safetensors"), half.path().join("adapter_model.safetensors")).unwrap();
    let mut config: Value = serde_json::from_slice(&std::fs::read(source.join("adapter_config.json")).unwrap()).unwrap();
    config["lora_alpha"] = json!(config["lora_alpha"].as_f64().unwrap() / 2.0);
    std::fs::write(half.path().join("adapter_config.json"), config.to_string()).unwrap();
    let half = Opened::with(LLAMA, Some(half.path()));
    assert_eq!(bits(&logits(&adapted, Some(0.5))), bits(&logits(&half, None)));
    assert_ne!(bits(&logits(&adapted, Some(0.5))), bits(&logits(&adapted, Some(1.0))));
    let before = adapted.session.weights().device().allocated().now;
    adapted.look(|look| look.adapter(Some(1.7)).unwrap().unwrap());
    assert_eq!(adapted.session.weights().device().allocated().now, before, "nothing is sent");
}

/// With an adapter, without, and with an output layer of the adapter's own.
#[test]
fn views_of_short_texts_run_what_was_compiled_early() {
    let whole = reference("adapters/whole_output/adapter");
    let adapters = [(LLAMA, Some(reference(LLAMA).join("adapter"))), ("families/gemma2", None), (LLAMA, Some(whole))];
    for (name, adapter) in adapters {
        let opened = Opened::with(name, adapter.as_deref());
        let device = opened.session.weights().device();
        let compiled = || device.created().pipelines;
        let before = compiled();
        early::compile(&opened.session, &|| true).unwrap();
        assert_eq!(compiled(), before, "it was stopped");
        early::compile(&opened.session, &|| false).unwrap();
        let all = compiled();
        assert!(all > before);
        opened.look(|look| {
            let ids = text(13);
            let asked = lens::Asked { ids: ids.clone(), adapter: None, k: 5, tokens: None };
            lens::lens(look, &asked).unwrap();
            look.logits(&ids, None).unwrap();
            look.layer(1, &ids, None).unwrap();
            backward::backward(look, &backward::Asked { record: record(13), max_length: None }).unwrap();
        });
        assert_eq!(compiled(), all, "{name}");
    }
}

#[test]
fn losses_and_gradients_are_those_of_a_training_step_bit_for_bit() {
    for name in [LLAMA, "families/gemma2", "families/phi3_window"] {
        let opened = Opened::new(name);
        let asked = backward::Asked { record: record(21), max_length: None };
        let adapter = opened.session.adapter().unwrap();
        let (mut step, _) = opened.look(|look| backward::Step::new(look, adapter, &asked)).unwrap();
        let loss = step.run().unwrap();
        let batch = step.batch.clone();
        let shape = StepShape { max_tokens: rows_for(21), accumulate: false, recompute: Recompute::None, held_out_tokens: 0 };
        let (weights, config) = (opened.session.weights().clone(), opened.session.config());
        let mut trainer = Trainer::new(weights, config, adapter.clone(), shape, 0, None).unwrap();
        let trained = trainer.accumulate(&batch, 1.0 / batch.targets.len() as f64, true).unwrap();
        assert_eq!(f64::from(loss), trained);
        let gradients = trainer.gradients().unwrap();
        assert_eq!(bits(&step.gradients().unwrap()), bits(&gradients));

        let view = opened.look(|look| backward::backward(look, &asked)).unwrap();
        assert_eq!((view.loss, view.tokens.len(), view.fresh), (trained, 21, false));
        for tensor in adapter.layout.unpack(&gradients) {
            let norm = tensor.values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
            let (site, own) = tensor.name.rsplit_once('.').unwrap();
            let found = view.sites.iter().find(|found| found.site == site).unwrap();
            let found = if own == "lora_a" { found.a_norm } else { found.b_norm };
            // The same squares, added up in another order.
            assert!(norm > 0.0 && (found - norm).abs() < 1e-14 * norm, "{}: {found} {norm}", tensor.name);
        }
        let shown: Vec<f32> = view.tokens.iter().filter_map(|token| token.nll).collect();
        let evaluated = opened.session.evaluator(batch.rows()).unwrap().token_nll(&batch).unwrap();
        assert_eq!(view.tokens.iter().take(2).filter(|token| token.nll.is_some()).count(), 0);
        assert_eq!(shown.len(), 19);
        // Evaluation does not fuse the adapter's products: sums in another order.
        assert!(shown.iter().zip(&evaluated).all(|(a, b)| (a - b).abs() < 1e-5), "{shown:?} {evaluated:?}");
    }
}

/// The adapter of the fixture without what it has in the lowest layer.
fn upper_layers() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (mut config, mut tensors) = load_adapter(&reference(LLAMA).join("adapter")).unwrap();
    config.layers_to_transform = Some(vec![1, 2]);
    tensors.retain(|tensor| !tensor.name.starts_with("layers.0."));
    save_adapter(folder.path(), &config, &tensors).unwrap();
    folder
}

#[test]
fn frozen_weights_have_no_gradient_and_below_the_lowest_adapter_there_is_no_backward() {
    let upper = upper_layers();
    let opened = Opened::with(LLAMA, Some(upper.path()));
    let lowest = 1;
    assert_eq!(opened.session.adapter().unwrap().placement.lowest_layer(), lowest);
    let asked = backward::Asked { record: record(9), max_length: None };
    let view = opened.look(|look| backward::backward(look, &asked)).unwrap().graph;
    let of = |state| view.nodes.iter().filter(move |node| node.state == state);
    assert!(
        of(backward::State::Backward)
            .all(|node| node.layer.is_none_or(|layer| layer >= lowest) && !node.name.ends_with(".weight"))
    );
    let skipped: Vec<_> = of(backward::State::Skipped).collect();
    let frozen =
        |name: &str| skipped.iter().any(|node| node.name == format!("d_model.{name}.weight") && node.why.contains("frozen"));
    assert!(frozen("layers.2.mlp.down_proj") && frozen(&format!("layers.{lowest}.mlp.down_proj")), "{skipped:#?}");
    let below = |node: &&&backward::Node| node.layer.is_some_and(|layer| layer < lowest);
    let forward_below = of(backward::State::Forward).filter(|node| node.layer.is_some_and(|layer| layer < lowest)).count();
    assert_eq!(skipped.iter().filter(below).count(), forward_below, "each node of a lower layer has none");
    assert!(skipped.iter().filter(below).all(|node| node.why.contains("no adapter below")));
    let counts = [backward::State::Forward, backward::State::Backward, backward::State::Skipped].map(|state| of(state).count());
    assert_eq!([view.counts.forward, view.counts.backward, view.counts.skipped], counts);
    assert_eq!(counts.iter().sum::<usize>(), view.nodes.len());

    // Without an adapter a fresh one stands in: B is zero, so that A has no gradient yet.
    let base = Opened::with(LLAMA, None);
    let view = base.look(|look| backward::backward(look, &asked)).unwrap();
    assert!(view.fresh && view.sites.iter().all(|site| site.a_norm == 0.0 && site.b_norm > 0.0));
}

#[test]
fn logits_and_answers_are_those_of_generate() {
    let opened = Opened::new(LLAMA);
    let ids = text(14);
    let mut generator = Generator::of(&opened.session, Generation { context: 64 }).unwrap();
    let expected = generator.read(&ids).unwrap();
    let asked =
        logits::Asked { ids: ids.clone(), temperature: Some(0.7), top_k: Some(9), top_p: Some(0.8), ..Default::default() };
    opened.look(|look| {
        let shown = look.logits(&ids, None).unwrap();
        // Generation has its keys in a cache, which on a GPU may be other kernels.
        match opened.session.weights().device().facts.cpu_driver {
            true => assert_eq!(bits(&shown), bits(&expected)),
            false => assert!(shown.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5)),
        }
        let view = logits::logits(look, &asked).unwrap();
        assert_eq!(view.top[0].text, format!("w{}", view.top[0].id));
        assert!(view.top.iter().all(|token| token.logit == shown[token.id as usize]));
        assert!((1..=9).contains(&view.kept) && view.top.iter().filter(|token| token.kept).count() == view.kept);
        let before: f64 = view.top[..view.kept - 1].iter().map(|token| token.p).sum();
        let of_nine: f64 = view.top[..9].iter().map(|token| token.p).sum();
        assert!(before < 0.8 * of_nine && before + view.top[view.kept - 1].p >= 0.8 * of_nine - 1e-12);
        // What is drawn is what is kept.
        let mut sampler = Sampler::new(Sampling { temperature: 0.7, top_k: Some(9), top_p: Some(0.8), seed: 4 }).unwrap();
        let kept: Vec<u32> = view.top.iter().filter(|token| token.kept).map(|token| token.id).collect();
        assert!((0..200).all(|_| kept.contains(&sampler.sample(&expected).unwrap())));

        for (temperature, seed) in [(0.0, 0), (1.3, 5)] {
            let prompt = "w5 w9 w44 w17";
            let sampling = Sampling { temperature, seed, ..Sampling::default() };
            let encoded = opened.model.tokenizer.encode(prompt, true).unwrap();
            let spoken = generator.generate(&encoded, &mut Sampler::new(sampling).unwrap(), 10, &[], |_| Ok(())).unwrap();
            let asked = answer::Asked {
                prompt: Some(prompt.to_owned()),
                temperature: Some(temperature),
                seed,
                max_tokens: Some(10),
                ..Default::default()
            };
            let view = answer::answer(look, &asked).unwrap();
            assert_eq!(view.tokens.iter().map(|token| token.id).collect::<Vec<_>>(), spoken);
            assert_eq!((view.stopped, view.prompt_tokens), ("length", 4));
            assert!(view.tokens.iter().all(|token| token.p > 0.0 && token.p <= token.top[0].p && token.top.len() == 5));
            if temperature == 0.0 {
                assert!(view.tokens.iter().all(|token| token.id == token.top[0].id));
            }
        }
    });
}

/// What a token is does not depend on what follows it: of a text that is kept, no beginning is computed again.
#[test]
fn the_beginning_of_a_text_is_read_from_the_whole() {
    for name in [LLAMA, "families/gemma2", "families/phi3_window"] {
        let opened = Opened::new(name);
        let device = opened.session.weights().device();
        let states = |look: &mut Look, length| {
            let stream = look.stream(&text(length), None).unwrap();
            stream.states.iter().map(|state| bits(state)).collect::<Vec<_>>()
        };
        let alone = opened.look(|look| states(look, 13));
        opened.look(|look| {
            states(look, 45);
            let before = device.created();
            assert_eq!(states(look, 13), alone, "{name}");
            assert_eq!(device.created(), before);
        });
    }
}

#[test]
fn the_lens_begins_with_the_embedding_and_ends_with_the_models_answer() {
    for name in [LLAMA, "families/gemma2", "families/granite"] {
        let opened = Opened::new(name);
        let ids = text(11);
        opened.look(|look| {
            let asked = lens::Asked { ids: ids.clone(), adapter: None, k: 3, tokens: Some(vec![0, 10]) };
            let view = lens::lens(look, &asked).unwrap();
            let vectors = embedding::embedding(look, &embedding::Asked { ids: ids.clone() }).unwrap();
            let depth = opened.session.config().num_hidden_layers;
            let layers = view.layers.as_ref().unwrap();
            assert_eq!((layers.len(), view.shown.as_slice()), (depth + 1, &[0, 10][..]));
            let norms: Vec<f64> = layers[0].tokens.iter().map(|token| token.norm).collect();
            assert_eq!(norms, vectors.norms);
            for (of, strength) in [(layers, 0.0), (view.adapted.as_ref().unwrap(), 1.0)] {
                let last = &of[depth].tokens;
                assert!(last[1].top.is_empty() && last[0].top.len() == 3);
                let expected = most_probable(&look.logits(&ids, Some(strength)).unwrap(), 3, 1.0);
                for (top, (id, p)) in last[10].top.iter().zip(expected) {
                    // Generation has keys in a cache and one row of logits: other kernels.
                    assert!(top.id == id && (top.p - p).abs() < 1e-5, "{name}: {top:?} {id} {p}");
                }
            }
        });
    }
}

#[test]
fn an_mlp_shows_the_numbers_that_its_kernel_made() {
    for (name, activation) in [(LLAMA, "silu"), ("families/gemma2", "gelu_tanh"), ("families/phi3_window", "silu")] {
        let opened = Opened::new(name);
        let view = opened.look(|look| mlp::mlp(look, &mlp::Asked { ids: text(7), layer: 1, adapter: None })).unwrap();
        assert_eq!((view.activation, view.width), (activation, opened.session.config().intermediate_size));
        assert_eq!(view.gate.histogram.counts.iter().sum::<usize>(), 7 * view.width);
        assert_eq!(
            (view.curve[0][0], view.curve[128][0]),
            (f64::from(view.gate.histogram.from), f64::from(view.gate.histogram.to))
        );
        let act = |g: f64| match activation {
            "silu" => g / (1.0 + (-g).exp()),
            _ => 0.5 * g * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (g + 0.044715 * g.powi(3))).tanh()),
        };
        assert!(view.curve.iter().all(|[x, y]| (y - act(*x)).abs() < 1e-12));
        let strongest: Vec<f32> = view.tokens.iter().map(|token| token.neurons[0].value.abs()).collect();
        for token in &view.tokens {
            assert!(token.neurons.windows(2).all(|pair| pair[0].value.abs() >= pair[1].value.abs()));
            for neuron in &token.neurons {
                let expected = act(f64::from(neuron.gate)) * f64::from(neuron.up);
                let scale = f64::from(strongest.iter().copied().fold(0.0, f32::max));
                assert!((f64::from(neuron.value) - expected).abs() < 1e-6 * scale, "{name}: {neuron:?} {expected}");
            }
        }
    }
}

#[test]
fn merged_and_unmerged_differ_by_rounding_alone() {
    let adapters = ["adapters/dora/adapter", "adapters/dora_rslora/adapter", "adapters/pissa/adapter"];
    let others = adapters.map(|adapter| Opened::with(LLAMA, Some(&reference(adapter))));
    let own = [LLAMA, "families/gemma2", "families/phi3_window", "families/qwen2"].map(Opened::new);
    for opened in own.into_iter().chain(others) {
        let name = opened.adapter.as_ref().unwrap().display().to_string();
        for strength in [None, Some(0.5), Some(2.0)] {
            let view = opened.look(|look| fuse::fuse(look, &fuse::Asked { ids: text(13), adapter: strength })).unwrap();
            // A few layers of f32, relative to the largest logit; and far from what the adapter does.
            assert!(view.largest_difference <= 1e-5 * view.largest_logit, "{name} {strength:?}: {view:?}");
            assert!(view.largest_effect > 1e3 * view.largest_difference, "{name} {strength:?}: {view:?}");
            assert_eq!((view.ids.len(), view.merged.len()), (40, 40));
        }
    }
}

#[test]
fn differences_on_the_device_agree_with_gradients_and_leave_the_adapter_as_it_was() {
    let dora = Opened::with(LLAMA, Some(&reference("adapters/dora/adapter")));
    for opened in [LLAMA, "families/gemma2", "families/phi3_window"].map(Opened::new).into_iter().chain([dora]) {
        let name = opened.adapter.as_ref().unwrap().display().to_string();
        let adapter = opened.session.adapter().unwrap();
        let before = adapter.contents().unwrap();
        let asked = backward::Asked { record: record(25), max_length: None };
        let (mut step, _) = opened.look(|look| backward::Step::new(look, adapter, &asked)).unwrap();
        step.run().unwrap();
        let gradients = adapter.layout.unpack(&step.gradients().unwrap());
        opened.look(|look| {
            for tensor in gradients.iter().step_by(2) {
                let largest = (0..tensor.values.len()).max_by(|a, b| tensor.values[*a].abs().total_cmp(&tensor.values[*b].abs()));
                let at = largest.unwrap();
                let (site, own) = tensor.name.rsplit_once('.').unwrap();
                let asked = prove::Asked {
                    record: record(25),
                    max_length: None,
                    site: site.to_owned(),
                    matrix: match own {
                        "lora_a" => prove::Matrix::A,
                        "lora_b" => prove::Matrix::B,
                        _ => prove::Matrix::Magnitude,
                    },
                    row: at / tensor.shape[1],
                    column: at % tensor.shape[1],
                };
                let proof = prove::prove(look, &asked).unwrap();
                assert_eq!(proof.gradient, f64::from(tensor.values[at]));
                let distance = (proof.gradient - proof.difference).abs();
                // gradcheck's rtol 1e-3 is for f64; here losses are f32 of some layers.
                assert!(proof.relative < 1e-2 && distance <= 3.0 * proof.uncertainty, "{name}, {}: {proof:?}", tensor.name);
            }
        });
        assert_eq!(bits(&adapter.contents().unwrap()), bits(&before));
    }
}

#[test]
fn singular_values_sizes_and_pictures_are_those_of_the_product() {
    let opened = Opened::new(LLAMA);
    let adapter = opened.session.adapter().unwrap();
    let tensors = adapter.tensors().unwrap();
    opened.look(|look| {
        let view = lora::lora(look).unwrap();
        assert_eq!(view.sites.len(), 21);
        for found in &view.sites {
            let find = |own: &str| tensors.iter().find(|tensor| tensor.name == format!("{}.{own}", found.site)).unwrap();
            let (a, b) = (find("lora_a"), find("lora_b"));
            let [rank, columns] = a.shape;
            let rows = b.shape[0];
            let product = |i: usize, j: usize| {
                let sum =
                    (0..rank).map(|k| f64::from(b.values[i * rank + k]) * f64::from(a.values[k * columns + j])).sum::<f64>();
                found.scale * sum
            };
            let norm = (0..rows * columns).map(|at| product(at / columns, at % columns).powi(2)).sum::<f64>().sqrt();
            assert!((found.norm - norm).abs() < 1e-9 * norm, "{found:?} {norm}");
            assert!((found.alpha, found.rank) == (8.0, 4) && found.singular.len() == 4);
            assert!(found.effective_rank > 1.0 && found.effective_rank <= 4.0);
            let mut weight = vec![0.0f32; rows * columns];
            opened.model.files.tensors.read_rows_f32(&format!("model.{}.weight", found.site), 0..rows, &mut weight).unwrap();
            let size = weight.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
            assert!((found.relative - norm / size).abs() < 1e-9);
            let pictures = lora::site(look, &lora::SiteAsked { name: found.site.clone() }).unwrap();
            assert_eq!((pictures.a.of, pictures.b.of, pictures.ba.of), (a.shape, b.shape, [rows, columns]));
            assert_eq!(pictures.a.values, a.values, "small enough to be shown as it is");
            let close = |(at, &value): (usize, &f32)| (f64::from(value) - product(at / columns, at % columns)).abs() < 1e-6;
            assert!(!pictures.ba.averaged && pictures.ba.values.iter().enumerate().all(close));
        }
    });
}

#[test]
fn every_op_has_its_formula_its_gradient_its_reference_and_its_kernels() {
    let ops = registry();
    let listed = sources::sources().unwrap().ops;
    assert_eq!(listed.len(), ops.len());
    for (entry, summary) in ops.iter().zip(listed) {
        let source = sources::source(&sources::Asked { op: entry.name.to_owned() }, None).unwrap();
        assert!(!summary.what.is_empty() && source.formula.len() > 40 && source.gradient.len() > 10, "{}", entry.name);
        assert!(source.reference.starts_with("fn reference(") && source.reference.ends_with('}'), "{}", source.reference);
        assert_eq!(source.kernels.len(), entry.kernels.len());
        for kernel in &source.kernels {
            assert!(kernel.files.iter().all(|file| source.wgsl.iter().any(|known| known.name == *file)));
        }
        assert!(source.wgsl.iter().any(|file| file.text.contains("@compute")), "{}", entry.name);
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (name, text) in source.wgsl.iter().map(|file| (&file.name, file.text)) {
            assert_eq!(std::fs::read_to_string(root.join(name)).unwrap(), text, "{name} is the file itself");
        }
        let file = std::fs::read_to_string(root.join(&source.path)).unwrap();
        let lines: Vec<&str> = file.lines().collect();
        let [first, last] = source.repository_lines;
        assert!(lines[first - 1].starts_with("impl Op for") && lines[last - 1] == "    }", "{}", entry.name);
        assert!(source.time.is_none());
    }
    assert!(sources::source(&sources::Asked { op: "glue".to_owned() }, None).unwrap_err().to_string().contains("glu,"));

    let run = tempfile::tempdir().unwrap();
    let event = |op: &str, microseconds: f64| json!({ "name": "kernel", "cat": op, "ph": "X", "dur": microseconds });
    let trace = json!({ "traceEvents": [event("glu", 250.0), event("rope", 500.0), event("glu", 250.0)] });
    std::fs::write(run.path().join("trace.json"), trace.to_string()).unwrap();
    let time = sources::source(&sources::Asked { op: "glu".to_owned() }, Some(run.path())).unwrap().time.unwrap();
    assert_eq!(time, sources::Time { calls: 2, share: 0.5, ms: 0.5 });
}

#[test]
fn what_is_out_of_range_is_refused_by_its_name() {
    let opened = Opened::new(LLAMA);
    opened.look(|look| {
        let refused = |result: Result<()>, place: &str| match result {
            Err(Error::BadInput { place: found, proposal, .. }) => {
                assert!(found.starts_with(place) && !proposal.is_empty(), "{found}, where {place} was expected")
            }
            other => panic!("{place}: {other:?}"),
        };
        let mut ask = |ids: Vec<u32>, layer, adapter, rope| {
            attention::attention(look, &attention::Asked { ids, layer, adapter, rope }).map(drop)
        };
        let none = attention::Dial::default();
        refused(ask(vec![], 0, None, none), "ids");
        refused(ask(vec![96], 0, None, none), "ids");
        refused(ask(vec![5; MOST_TOKENS + 1], 0, None, none), "ids");
        refused(ask(text(4), 3, None, none), "layer");
        for strength in [f64::NAN, f64::INFINITY, -0.5, 2.5] {
            refused(ask(text(4), 0, Some(strength), none), "adapter");
        }
        for base in [f64::NAN, 0.0, -3.0, f64::INFINITY] {
            refused(ask(text(4), 0, None, attention::Dial { base: Some(base), ..none }), "rope.base");
        }
        refused(ask(text(4), 0, None, attention::Dial { shift: Some(usize::MAX), ..none }), "rope.shift");
        let lens =
            |look: &mut Look, k, tokens| lens::lens(look, &lens::Asked { ids: text(4), adapter: None, k, tokens }).map(drop);
        refused(lens(look, 0, None), "k");
        refused(lens(look, 5, Some(vec![4])), "tokens");
        refused(lens(look, 5, Some(vec![2, 1])), "tokens");
        let answer = |look: &mut Look, asked| answer::answer(look, &asked).map(drop);
        let prompt = || Some("w4 w5".to_owned());
        refused(answer(look, answer::Asked::default()), "request");
        refused(answer(look, answer::Asked { prompt: prompt(), max_tokens: Some(0), ..Default::default() }), "max_tokens");
        refused(
            answer(look, answer::Asked { prompt: prompt(), temperature: Some(f64::NAN), ..Default::default() }),
            "--temperature",
        );
        refused(answer(look, answer::Asked { prompt: Some(String::new()), ..Default::default() }), "prompt");
        let turn = answer::Turn { role: "user".to_owned(), content: "w4".to_owned() };
        refused(answer(look, answer::Asked { messages: Some(vec![turn]), ..Default::default() }), "messages");
        let backward =
            |look: &mut Look, record, max_length| backward::backward(look, &backward::Asked { record, max_length }).map(drop);
        refused(backward(look, Map::new(), None), "record");
        refused(backward(look, record(9), Some(1)), "max_length");
        refused(backward(look, record(9), Some(2)), "record");
        let prove = |look: &mut Look, site: &str, row| {
            let (record, site) = (record(9), site.to_owned());
            let asked = prove::Asked { record, max_length: None, site, matrix: prove::Matrix::A, row, column: 0 };
            prove::prove(look, &asked).map(drop)
        };
        refused(prove(look, "layers.9.mlp.up_proj", 0), "site");
        refused(prove(look, "layers.1.mlp.up_proj", 4), "row, column");
        refused(lora::site(look, &lora::SiteAsked { name: "lm_head".to_owned() }).map(drop), "site");
    });
    let base = Opened::with(LLAMA, None);
    base.look(|look| {
        assert!(lora::lora(look).unwrap_err().to_string().contains("no adapter is open"));
        assert!(fuse::fuse(look, &fuse::Asked { ids: text(3), adapter: None }).is_err());
    });
}

/// DoRA, whole matrices and biases too: 0 is the base, 1 what was trained, and the way between has no jumps. A move of the slider runs what
/// was made for another strength, with other parameters, and gives what a new look gives, bit for bit.
#[test]
fn every_kind_of_adapter_has_strengths_between_none_and_all_of_it() {
    let kinds = [
        (LLAMA, "tiny/grouped_tied/adapter"),
        (LLAMA, "adapters/dora/adapter"),
        ("families/qwen2", "adapters/dora_biases/adapter"),
        (LLAMA, "adapters/whole_output/adapter"),
        (LLAMA, "adapters/whole_modules/adapter"),
        (LLAMA, "adapters/lora_bias/adapter"),
        (LLAMA, "adapters/pissa/adapter"),
    ];
    let ids = text(7);
    for (model, name) in kinds {
        let opened = Opened::with(model, Some(&reference(name)));
        let fresh = |strength| opened.look(|look| look.logits(&ids, Some(strength)).unwrap());
        let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let (base, whole) = (fresh(0.0), fresh(1.0));
        let effect = distance(&base, &whole);
        assert!(effect > 1e-2, "{name}: {effect}");
        // A thousandth of the strength is about a thousandth of the effect.
        for (strength, near) in [(1e-3, &base), (0.999, &whole), (1.001, &whole)] {
            let step = distance(&fresh(strength), near);
            assert!(step > 0.0 && step < 2e-2 * effect, "{name} at {strength}: {step} of {effect}");
        }
        opened.look(|look| {
            for strength in [1.5, 0.5, 0.0, 1.0, 0.25] {
                let moved = look.logits(&ids, Some(strength)).unwrap();
                assert_eq!(bits(&moved), bits(&fresh(strength)), "{name} at {strength}");
                let states = look.stream(&ids, Some(strength)).unwrap();
                let (again, last) = opened.look(|other| {
                    let asked = lens::Asked { ids: ids.clone(), adapter: Some(strength), k: 1, tokens: Some(vec![6]) };
                    (other.stream(&ids, Some(strength)).unwrap(), lens::lens(other, &asked).unwrap())
                });
                let of = |states: &[Vec<f32>]| states.iter().map(|state| bits(state)).collect::<Vec<_>>();
                assert_eq!(of(&states.states), of(&again.states), "{name} at {strength}");
                let layers = last.adapted.or(last.layers).unwrap();
                let (top, (id, p)) = (&layers.last().unwrap().tokens[6].top[0], most_probable(&moved, 1, 1.0)[0]);
                assert!(top.id == id && (top.p - p).abs() < 1e-5, "{name} at {strength}: {top:?}, {p}");
            }
        });
        // What is trained of them has its gradients.
        let view =
            opened.look(|look| backward::backward(look, &backward::Asked { record: record(8), max_length: None })).unwrap();
        assert!(view.loss.is_finite() && view.sites.iter().all(|site| site.b_norm > 0.0), "{name}: {:?}", view.sites);
    }
}

/// Nothing is compiled, bound or allocated where the slider moves.
#[test]
fn a_move_of_the_slider_builds_nothing() {
    for name in ["tiny/grouped_tied/adapter", "adapters/dora/adapter"] {
        let opened = Opened::with(LLAMA, Some(&reference(name)));
        let device = opened.session.weights().device();
        let ids = text(9);
        opened.look(|look| {
            let ask = |look: &mut Look, strength| {
                look.logits(&ids, Some(strength)).unwrap();
                look.layer(1, &ids, Some(strength)).unwrap();
                lens::lens(look, &lens::Asked { ids: ids.clone(), adapter: Some(strength), k: 3, tokens: None }).unwrap();
            };
            [0.0, 0.75].into_iter().for_each(|strength| ask(look, strength));
            let before = (device.created(), device.allocated().now);
            [0.5, 1.25, 2.0, 0.0, 0.1].into_iter().for_each(|strength| ask(look, strength));
            assert_eq!((device.created(), device.allocated().now), before, "{name}");
        });
    }
}

/// A part of a model has some of the adapter's matrices only: each leaf gets its own.
#[test]
fn layers_one_by_one_are_the_model() {
    let opened = Opened::new("families/phi3_window");
    let ids = text(10);
    opened.look(|look| {
        let stream = look.stream(&ids, None).unwrap();
        for layer in 0..2 {
            let subject = Subject { part: Part::From(layer), ..Subject::whole(opened.session.adapter(), 32) };
            let choose = |model: &_| LayerValues::of(model, layer).map(|values| (vec![values.output], values.output));
            let (mut probe, output) = Probe::forward(&opened.session, subject, choose).unwrap();
            probe.run_hidden(&stream.states[layer], ids.len(), &[]).unwrap();
            assert_eq!(bits(&probe.read(output).unwrap()), bits(&stream.states[layer + 1]));
        }
    });
}
