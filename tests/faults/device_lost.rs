//! A device that is lost at any moment: the run opens it again, and its losses and its adapter are bitwise those of an undisturbed run.

use std::sync::Arc;

use graftling::gpu::Device;
use graftling::session::{OpenModel, send};
use graftling::train::Outcome;
use graftling::train::interrupt::Interrupt;
use graftling::train::options::{Recipe, TrainOptions};
use graftling::train::prepare::Prepared;
use graftling::train::progress::Progress;
use graftling::{Error, Result};

use super::runs::Workshop;

const STEPS: u64 = 6;

/// Two batches a step, a checkpoint every 2 steps, an evaluation every 3; dropout, shuffling and packing on.
fn options(shop: &Workshop, out: &str) -> TrainOptions {
    let recipe = Recipe {
        model: Some(shop.path("model").display().to_string()),
        data: Some(vec![shop.path("train.jsonl")]),
        eval_data: Some(vec![shop.path("held-out.jsonl")]),
        out: Some(shop.path(out)),
        resume: Some(true),
        lora_r: Some(4),
        lora_dropout: Some(0.1),
        max_length: Some(32),
        batch_size: Some(2),
        gradient_accumulation_steps: Some(2),
        learning_rate: Some(5e-3),
        max_steps: Some(STEPS),
        save_steps: Some(2),
        eval_steps: Some(3),
        ..Recipe::default()
    };
    recipe.resolve().unwrap()
}

/// Trains into `out`, on a device that is destroyed after so many submissions, then (opened again) after so many, and so on. Says
/// how it ended, and whether the device at the end is the one of the beginning.
fn train(shop: &Workshop, out: &str, losses: &[u64]) -> Result<(Outcome, bool)> {
    let options = options(shop, out);
    let model = OpenModel::open(&options.model)?;
    let prepared = Prepared::new(options, &model)?;
    let device = Arc::new(Device::open(std::env::var("GRAFTLING_TEST_DEVICE").ok().as_deref())?);
    let first = Arc::downgrade(&device);
    let weights = send(&model, device.clone(), prepared.weight_type(), &())?;
    let output = prepared.open_output()?;
    let run = prepared.start(weights, output, Interrupt::default(), Progress::hidden())?;
    device.destroy_after(losses);
    drop(device);
    let (outcome, run) = run.train_to_the_end()?;
    let same = std::ptr::eq(first.as_ptr(), Arc::as_ptr(run.trainer().weights().device()));
    assert!(same || first.strong_count() == 0, "the lost device is still held");
    Ok((outcome, same))
}

#[test]
fn lost_at_any_moment_a_run_goes_on_bit_by_bit() {
    let shop = Workshop::new();
    let (undisturbed, _) = train(&shop, "whole", &[]).unwrap();
    let expected = shop.result("whole");
    assert_eq!(expected.0.len() as u64, STEPS);
    // From the first submission of the run to beyond its last one, so before the first checkpoint, after it, between the batches of
    // a step, in evaluations and while a checkpoint is read from the device. Eleven is no divisor of what a step submits.
    let mut losses = 0;
    for moment in (0..).step_by(11) {
        let out = format!("lost-{moment}");
        let (outcome, same_device) = train(&shop, &out, &[moment]).unwrap();
        assert_eq!(outcome, undisturbed, "lost at submission {moment}");
        assert_eq!(shop.result(&out), expected, "lost at submission {moment}");
        if same_device {
            break;
        }
        losses += 1;
        std::fs::remove_dir_all(shop.path(&out)).unwrap();
    }
    assert!(losses >= 6, "{losses} moments");
    eprintln!("{losses} devices were lost");
}

#[test]
fn several_losses_in_one_run_are_survived_if_it_gets_further_in_between() {
    let shop = Workshop::new();
    let (undisturbed, _) = train(&shop, "whole", &[]).unwrap();
    // A run of six steps on devices of which none does three, uploads of the weights included.
    let (outcome, same_device) = train(&shop, "lost", &[30, 75, 75, 75, 75]).unwrap();
    assert_eq!((outcome, same_device), (undisturbed, false));
    assert_eq!(shop.result("lost"), shop.result("whole"));
}

#[test]
fn a_device_that_is_lost_again_and_again_ends_the_run_and_it_can_be_resumed() {
    let shop = Workshop::new();
    train(&shop, "whole", &[]).unwrap();
    // The second and third time while the weights are sent.
    let error = train(&shop, "lost", &[40, 3, 0, 60, 5, 5, 5, 5, 5]).unwrap_err();
    assert!(matches!(error, Error::DeviceLost { .. }), "{error:?}");
    assert_eq!(error.exit_code(), 1);
    let message = error.to_string();
    assert!(
        message.contains("the device was lost (destroyed), 4 times before step") && message.contains("--resume"),
        "{message}"
    );
    let (_, same_device) = train(&shop, "lost", &[]).unwrap();
    assert!(same_device);
    assert_eq!(shop.result("lost"), shop.result("whole"));
}

#[test]
fn what_is_no_loss_is_told_as_it_was() {
    let device = Device::open(std::env::var("GRAFTLING_TEST_DEVICE").ok().as_deref()).unwrap();
    let error = device.allocate("too much", usize::MAX / 4).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { .. }), "{error:?}");
    device.wait().unwrap();
    let slice = device.allocate("a little", 256).unwrap();
    device.destroy_after(&[0]);
    assert!(matches!(device.read::<u32>(&slice, 4), Err(Error::DeviceLost { .. })));
    assert!(matches!(
        device.allocate("more", 256).and_then(|slice| device.read::<u32>(&slice, 4)),
        Err(Error::DeviceLost { .. })
    ));
    assert!(matches!(device.check(), Err(Error::DeviceLost { .. })));
}
