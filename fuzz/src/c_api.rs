//! Any sequence of calls of the C interface, with pointers that are right, null, misaligned, too short or foreign.
#![allow(unsafe_code)] // the calls are C's

use crate::blob::mended;
use crate::models::{layers, tiny_blob};
use arbitrary::{Arbitrary, Result, Unstructured};
use bitttt_c::blob::{Options, bitttt_memory_size, bitttt_plan, bitttt_verify};
use bitttt_c::sampler::{Sampler, Sampling, bitttt_sample, bitttt_sampler_init};
use bitttt_c::session::*;
use bitttt_c::status::Status;
use bitttt_c::text::{bitttt_decode, bitttt_encode};
use bitttt_core::format::DType;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr::{from_mut, from_ref, null, null_mut};

/// One call.
#[derive(Arbitrary, Debug)]
enum Call {
    Init,
    Step(u32, bool),
    Prefill([u8; 9], u8, bool),
    Reset,
    Learning(i32),
    Ask,
    Save(u8),
    Restore(bool),
    Encode([u8; 12], u8),
    Decode(u32),
    Sampler(u32, u32, u32, u64),
    Sample(u8),
}

/// Most calls that one input makes.
const CALLS: usize = 40;
/// Bytes of session memory; a model that needs more is refused by the call under test.
const ROOM: usize = 1 << 20;

/// Everything that the calls point to.
struct World {
    blob: Vec<u64>,
    blob_len: usize,
    options: Options,
    memory: Vec<u64>,
    /// What the caller says that the memory has.
    room: usize,
    session: *mut Session,
    sampler: MaybeUninit<Sampler>,
    has_sampler: bool,
    snapshot: Vec<u8>,
    text: Vec<u8>,
    logits: (*mut f32, usize),
}

/// A blob, then calls.
pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    if let Ok(mut world) = World::new(&mut input) {
        for _ in 0..CALLS {
            match Call::arbitrary(&mut input) {
                Ok(call) if !input.is_empty() => world.call(&call),
                _ => return,
            };
        }
    }
}

impl World {
    fn new(input: &mut Unstructured<'_>) -> Result<Self> {
        let valid = tiny_blob(input.choose_index(layers().len())?, DType::T2);
        let mut bytes = valid.bytes().to_vec();
        for _ in 0..input.int_in_range(0..=3)? {
            let at = input.choose_index(bytes.len())?;
            bytes[at] = input.arbitrary()?;
        }
        if input.arbitrary()? {
            bytes = mended(&bytes);
        }
        let mut blob = vec![0u64; bytes.len().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut blob)[..bytes.len()].copy_from_slice(&bytes);
        Ok(Self {
            blob,
            blob_len: bytes.len(),
            options: Options {
                batch: *input.choose(&[0, 1, 3, usize::MAX])?,
                context: *input.choose(&[0, 1, 50, usize::MAX])?,
            },
            memory: vec![0; ROOM / 8],
            room: *input.choose(&[ROOM, ROOM, 4096, 7, 0])?,
            session: null_mut(),
            sampler: MaybeUninit::uninit(),
            has_sampler: false,
            snapshot: Vec::new(),
            text: Vec::new(),
            logits: (null_mut(), 0),
        })
    }

    /// Makes the call; before `Call::Init` the session is a null pointer.
    fn call(&mut self, call: &Call) -> Status {
        let (mut count, mut small, mut large) = (0usize, 0u32, 0u64);
        let blob = self.blob.as_ptr().cast::<u8>();
        // SAFETY: every pointer leads to as much as the call says, or is null, which is refused; the session is null or what
        // `bitttt_session_init` made in memory that lives as long as `self`.
        unsafe {
            match *call {
                Call::Init => {
                    let (mut plan, mut bytes) = (MaybeUninit::uninit(), 0);
                    bitttt_verify(blob, self.blob_len);
                    bitttt_plan(blob, self.blob_len, &self.options, plan.as_mut_ptr());
                    bitttt_memory_size(blob, self.blob_len, null(), &mut bytes);
                    let memory = self.memory.as_mut_ptr().cast::<c_void>();
                    let session = from_mut(&mut self.session);
                    bitttt_session_init(
                        blob,
                        self.blob_len,
                        &self.options,
                        memory,
                        self.room,
                        session,
                    )
                }
                Call::Step(token, keep) => {
                    let (logits, count) = self.outputs(keep);
                    bitttt_step(self.session, token % 300, logits, count)
                }
                Call::Prefill(bytes, count, keep) => {
                    let tokens = bytes.map(u32::from);
                    let given = usize::from(count) % (tokens.len() + 1);
                    let (logits, count) = self.outputs(keep);
                    bitttt_prefill(self.session, tokens.as_ptr(), given, logits, count)
                }
                Call::Reset => bitttt_reset(self.session),
                Call::Learning(on) => bitttt_set_learning(self.session, on),
                Call::Ask => {
                    bitttt_position(self.session, &mut large);
                    bitttt_dropped_updates(self.session, &mut small);
                    bitttt_snapshot_size(self.session, &mut count);
                    bitttt_state_hash(self.session, &mut small)
                }
                Call::Save(less) => {
                    bitttt_snapshot_size(self.session, &mut count);
                    self.snapshot = vec![0; count.saturating_sub(usize::from(less / 64))];
                    let (to, len) = (self.snapshot.as_mut_ptr(), self.snapshot.len());
                    bitttt_snapshot(self.session, to, len, &mut count)
                }
                Call::Restore(null_bytes) => {
                    let from = if null_bytes {
                        null()
                    } else {
                        self.snapshot.as_ptr()
                    };
                    bitttt_restore(self.session, from, self.snapshot.len())
                }
                Call::Encode(text, room) => {
                    self.text = text.to_vec();
                    let mut tokens = [0; 12];
                    let room = usize::from(room) % (tokens.len() + 1);
                    let text = self.text.as_ptr().cast();
                    bitttt_encode(
                        self.session,
                        text,
                        self.text.len(),
                        tokens.as_mut_ptr(),
                        room,
                        &mut count,
                    )
                }
                Call::Decode(token) => {
                    let mut text = null();
                    bitttt_decode(self.session, token, &mut text, &mut count)
                }
                Call::Sampler(temperature, top_p, top_k, seed) => {
                    let settings = Sampling {
                        temperature: f32::from_bits(temperature),
                        top_p: f32::from_bits(top_p),
                        top_k,
                        seed,
                    };
                    let status =
                        bitttt_sampler_init(self.sampler.as_mut_ptr(), from_ref(&settings));
                    self.has_sampler |= status == Status::Ok;
                    status
                }
                Call::Sample(less) => {
                    let sampler = if self.has_sampler {
                        self.sampler.as_mut_ptr()
                    } else {
                        null_mut()
                    };
                    let (logits, count) = self.logits;
                    let status = bitttt_sample(
                        sampler,
                        logits,
                        count.saturating_sub(less.into()),
                        &mut small,
                    );
                    assert!(status != Status::Ok || (small as usize) < count.max(1));
                    status
                }
            }
        }
    }

    /// Where logits go: kept for the sampler, or nowhere.
    fn outputs(&mut self, keep: bool) -> (*mut *mut f32, *mut usize) {
        match keep {
            true => (from_mut(&mut self.logits.0), from_mut(&mut self.logits.1)),
            false => (null_mut(), null_mut()),
        }
    }
}
