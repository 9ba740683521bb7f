//! The committed model on machines that it never saw.

use bitttt_core::{Batch, Learning, Model, Session};
use bitttt_export::AlignedCopy;
use bitttt_sensor::{Fault, Machine, Monitor, MonitorError, Quantizer, Reading, Score};

/// Beyond the 4,000 machines of the training.
const UNSEEN: u64 = 2_000_000;
const USUAL: usize = 3000;

fn blob(file: &str) -> AlignedCopy {
    let path = format!("{}/../demo/{file}", env!("CARGO_MANIFEST_DIR"));
    AlignedCopy::of(&std::fs::read(path).unwrap())
}

/// The readings of a machine that works for `USUAL` samples and then has the fault.
fn watch(blob: &AlignedCopy, seed: u64, fault: Fault, learning: Learning) -> Vec<Reading> {
    let model = Model::from_bytes(blob.bytes()).unwrap();
    let mut memory = vec![0.0; model.memory(Batch::ONE).words()];
    let mut session = Session::new(model, Batch::ONE, &mut memory).unwrap();
    session.set_learning(learning);
    let mut machine = Machine::new(seed);
    let first: Vec<f32> = (0..512).map(|_| machine.sample()).collect();
    let quantizer = Quantizer::of(&first).unwrap();
    let mut monitor = Monitor::new(session, quantizer, Score::new(16, 1024, 5.0)).unwrap();
    let reading = |i| {
        machine.set_fault((i >= USUAL).then_some(fault));
        monitor.push(machine.sample()).unwrap()
    };
    (0..USUAL + 200).map(reading).collect()
}

fn bits(readings: &[Reading]) -> f32 {
    readings.iter().map(|r| r.bits).sum::<f32>() / readings.len() as f32
}

#[test]
fn learning_lowers_the_loss_on_an_unseen_machine() {
    let blob = blob("sensor.bttt");
    let last = |seed, learning| {
        let readings = watch(&blob, seed, Fault::Knock, learning);
        bits(&readings[USUAL / 2..USUAL])
    };
    let gains = (UNSEEN..UNSEEN + 6).map(|s| last(s, Learning::Frozen) - last(s, Learning::On));
    let gains: Vec<f32> = gains.collect();
    assert!(gains.iter().sum::<f32>() > 1.5, "{gains:?}");
}

#[test]
fn a_fault_soon_raises_the_alarm_on_most_unseen_machines() {
    let blob = blob("sensor.bttt");
    let delay = |seed| {
        let readings = watch(&blob, seed, Fault::Noise, Learning::On);
        assert!(!readings[USUAL - 1].alarm, "machine {seed}");
        readings[USUAL..].iter().position(|r| r.alarm)
    };
    let delays: Vec<_> = (UNSEEN..UNSEEN + 10).map(delay).collect();
    let soon = delays.iter().flatten().filter(|&&delay| delay < 50);
    assert!(soon.count() >= 7, "{delays:?}");
}

#[test]
fn a_monitor_goes_on_from_a_snapshot_to_the_same_readings() {
    let blob = blob("sensor.bttt");
    let model = Model::from_bytes(blob.bytes()).unwrap();
    let plan = model.memory(Batch::ONE);
    let (mut one, mut two) = (vec![0.0; plan.words()], vec![0.0; plan.words()]);
    let quantizer = Quantizer::new(0.0, 1.0).unwrap();
    let monitor = |session| Monitor::new(session, quantizer, Score::new(16, 64, 5.0)).unwrap();
    let mut before = monitor(Session::new(model, Batch::ONE, &mut one).unwrap());
    let sample = |i: usize| (i as f32 * 0.4).sin();
    (0..100).for_each(|i| _ = before.push(sample(i)).unwrap());
    let mut learned = vec![0; plan.snapshot_bytes()];
    before.session().snapshot(&mut learned).unwrap();
    let mut session = Session::new(model, Batch::ONE, &mut two).unwrap();
    session.restore(&learned).unwrap();
    let mut after = monitor(session);
    let pair = |i| {
        [
            before.push(sample(i)).unwrap(),
            after.push(sample(i)).unwrap(),
        ]
    };
    let pairs: Vec<_> = (100..150).map(pair).collect();
    // The prediction of the first sample is not in the snapshot; from the second on nothing is missing.
    assert!(
        pairs[1..]
            .iter()
            .all(|[a, b]| a.bits == b.bits && a.expected == b.expected)
    );
    assert_eq!(before.session().state_hash(), after.session().state_hash());
}

#[test]
fn a_sample_that_is_not_a_number_is_survived() {
    let blob = blob("sensor.bttt");
    let model = Model::from_bytes(blob.bytes()).unwrap();
    let mut memory = vec![0.0; model.memory(Batch::ONE).words()];
    let session = Session::new(model, Batch::ONE, &mut memory).unwrap();
    let quantizer = Quantizer::new(0.0, 1.0).unwrap();
    let mut monitor = Monitor::new(session, quantizer, Score::new(4, 16, 5.0)).unwrap();
    for sample in [f32::NAN, f32::INFINITY, 1e38, 0.0] {
        let reading = monitor.push(sample).unwrap();
        assert!(reading.bits.is_finite() && reading.expected.is_finite());
    }
}

#[test]
fn a_model_of_text_is_refused() {
    let blob = blob("demo.bttt");
    let model = Model::from_bytes(blob.bytes()).unwrap();
    let mut memory = vec![0.0; model.memory(Batch::ONE).words()];
    let session = Session::new(model, Batch::ONE, &mut memory).unwrap();
    let quantizer = Quantizer::new(0.0, 1.0).unwrap();
    let refused = Monitor::new(session, quantizer, Score::new(4, 16, 5.0));
    assert_eq!(refused.unwrap_err(), MonitorError::Alphabet);
}
