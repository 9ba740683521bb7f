//! Streams that are not text: a sensor's samples become tokens, a model that learns while it runs predicts the next
//! one, and what it did not expect becomes an anomaly score. No std, no heap, no panics.
//!
//! The data's way through: [`Quantizer`] makes one of [`SYMBOLS`] symbols of a sample; [`Monitor`] runs it through a
//! [`Session`](bitttt_core::Session) and tells how surprising it was; [`Score`] compares surprise with what has been
//! usual here and raises the alarm. [`Machine`] is a machine to try it on.
//!
//! ```
//! use bitttt_core::{Batch, Model, Session};
//! use bitttt_sensor::{Monitor, Quantizer, Score};
//! # fn demo(blob: &[u8], samples: &[f32]) -> Result<(), Box<dyn std::error::Error>> {
//! let model = Model::from_bytes(blob)?; // demo/sensor.bttt, or one of your own
//! let mut memory = vec![0.0; model.memory(Batch::ONE).words()]; // in firmware: a static array
//! let session = Session::new(model, Batch::ONE, &mut memory)?;
//! let quantizer = Quantizer::of(&samples[..256]).ok_or("the first samples are all the same")?;
//! let mut monitor = Monitor::new(session, quantizer, Score::new(16, 1024, 5.0))?;
//! for &sample in &samples[256..] {
//!     let reading = monitor.push(sample)?; // learns from it
//!     if reading.alarm {
//!         println!("{sample} where {} was expected", reading.expected);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod monitor;
mod quantizer;
mod score;
mod synthetic;

pub use monitor::{Monitor, MonitorError, Reading};
pub use quantizer::{ALPHABET, Quantizer, SYMBOLS};
pub use score::{Score, Verdict};
pub use synthetic::{Fault, Machine};
