//! Machines to try a monitor on where there is no sensor: vibrations, load cycles, drift and noise, every machine its
//! own.
//!
//! Invariant: the same seed and calls give the same samples on every target.

use core::f32::consts::TAU;
use rand_pcg::Pcg32;
use rand_pcg::rand_core::Rng;

/// What can go wrong with a [`Machine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It runs, or wanders, half as fast again.
    Speed,
    /// Something loose hits once in seven samples.
    Knock,
    /// Its noise is thrice as large, and not less than a tenth of its usual swing.
    Noise,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Speed, Self::Knock, Self::Noise];
}

const TONES: usize = 3;

#[derive(Clone, Copy, Debug, Default)]
struct Tone {
    amplitude: f32,
    /// Turns a sample.
    speed: f32,
    /// Turns, in `0..1`.
    phase: f32,
}

/// A machine with a normal of its own, drawn by a seed.
#[derive(Clone, Debug)]
pub struct Machine {
    random: Pcg32,
    level: f32,
    unit: f32,
    tones: [Tone; TONES],
    /// Samples of a load cycle, and how many of them under load.
    cycle: (u32, u32),
    idle: f32,
    drift: f32,
    /// How much of the drift is left after a sample, and how much comes.
    wander: (f32, f32),
    noise: f32,
    time: u32,
    fault: Option<Fault>,
}

impl Machine {
    /// Machine number `seed`.
    pub fn new(seed: u64) -> Self {
        let mut machine = Self {
            random: Pcg32::new(seed, 0x5E45_0400),
            level: 0.0,
            unit: 0.0,
            tones: [Tone::default(); TONES],
            cycle: (1, 1),
            idle: 1.0,
            drift: 0.0,
            wander: (0.0, 0.0),
            noise: 0.0,
            time: 0,
            fault: None,
        };
        machine.draw();
        machine
    }

    /// Breaks or repairs it from the next sample on.
    pub fn set_fault(&mut self, fault: Option<Fault>) {
        self.fault = fault;
    }

    /// The next sample, in a unit of the machine's own.
    pub fn sample(&mut self) -> f32 {
        self.time = self.time.wrapping_add(1);
        let (length, loaded) = self.cycle;
        let load = if self.time % length.max(1) < loaded {
            1.0
        } else {
            self.idle
        };
        let fault = self.fault;
        let faster = if fault == Some(Fault::Speed) {
            1.5
        } else {
            1.0
        };
        let mut x = load * self.turn(faster);
        if fault == Some(Fault::Knock) && self.time.is_multiple_of(7) {
            x += 1.0;
        }
        self.drift = self.drift * self.wander.0 + faster * self.wander.1 * self.normal();
        let noise = match fault {
            Some(Fault::Noise) => (self.noise * 3.0).max(0.1),
            _ => self.noise,
        };
        x += self.drift + noise * self.normal();
        self.level + self.unit * x
    }

    /// What kind of machine it is. Three of four turn, half of those under a load that comes and goes; the others only
    /// wander, as a temperature does.
    fn draw(&mut self) {
        self.level = self.between(-100.0, 100.0);
        self.unit = self.log_between(0.1, 50.0);
        self.noise = self.log_between(0.01, 0.3);
        let turns = self.uniform() < 0.75;
        if turns {
            self.draw_tones();
        }
        if turns && self.uniform() < 0.5 {
            let length = self.log_between(40.0, 800.0);
            self.cycle = (length as u32, (length * self.between(0.3, 0.8)) as u32);
            self.idle = self.between(0.0, 0.5);
        }
        if !turns || self.uniform() < 0.3 {
            let remains = 1.0 - 1.0 / self.log_between(20.0, 400.0);
            let size = if turns { 0.3 } else { 1.0 };
            self.wander = (remains, size * libm::sqrtf(1.0 - remains * remains));
        }
    }

    /// A tone, and two more that are harmonics of it or have a speed of their own.
    fn draw_tones(&mut self) {
        let first = 1.0 / self.log_between(5.0, 250.0);
        for i in 0..TONES {
            let speed = match self.uniform() < 0.7 {
                true => first * (i + 1) as f32,
                false => 1.0 / self.log_between(5.0, 250.0),
            };
            let amplitude = if i == 0 { 1.0 } else { self.between(0.0, 0.7) };
            let phase = self.uniform();
            if let Some(tone) = self.tones.get_mut(i) {
                *tone = Tone {
                    amplitude,
                    speed,
                    phase,
                };
            }
        }
    }

    /// Sum of the tones; no machine turns quite evenly.
    fn turn(&mut self, faster: f32) -> f32 {
        let step = faster * (1.0 + 0.01 * self.normal());
        let mut sum = 0.0;
        for tone in &mut self.tones {
            tone.phase += tone.speed * step;
            tone.phase -= libm::floorf(tone.phase);
            sum += tone.amplitude * libm::sinf(TAU * tone.phase);
        }
        sum
    }

    fn uniform(&mut self) -> f32 {
        (self.random.next_u32() >> 8) as f32 / 16_777_216.0
    }

    fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.uniform()
    }

    /// Between two positive numbers, every order of magnitude equally often.
    fn log_between(&mut self, low: f32, high: f32) -> f32 {
        libm::expf(self.between(libm::logf(low), libm::logf(high)))
    }

    /// Standard normal (Box and Muller).
    fn normal(&mut self) -> f32 {
        let radius = libm::sqrtf(-2.0 * libm::logf(1.0 - self.uniform()));
        radius * libm::cosf(TAU * self.uniform())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn samples(seed: u64, n: usize) -> Vec<f32> {
        let mut machine = Machine::new(seed);
        (0..n).map(|_| machine.sample()).collect()
    }

    #[test]
    fn a_seed_is_a_machine() {
        assert_eq!(samples(7, 100), samples(7, 100));
        assert_ne!(samples(7, 100), samples(8, 100));
    }

    #[test]
    fn every_machine_varies_and_stays_finite() {
        for seed in 0..300 {
            let all = samples(seed, 2000);
            assert!(all.iter().all(|x| x.is_finite() && x.abs() < 1000.0));
            assert!(crate::Quantizer::of(&all).is_some(), "machine {seed}");
        }
    }

    #[test]
    fn every_fault_changes_the_samples_and_a_repair_ends_it() {
        for fault in Fault::ALL {
            let (mut well, mut ill) = (Machine::new(5), Machine::new(5));
            ill.set_fault(Some(fault));
            let differ = (0..50).filter(|_| well.sample() != ill.sample()).count();
            assert!(differ >= 7, "{fault:?}: {differ}");
            ill.set_fault(None);
            let apart = (0..50).map(|_| (well.sample() - ill.sample()).abs());
            let apart = apart.fold(0.0, f32::max);
            assert!(fault == Fault::Speed || apart == 0.0, "{fault:?}: {apart}");
        }
    }
}
