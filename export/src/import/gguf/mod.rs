//! GGUF files, of llama.cpp and of its fork for BitNet: a llama-like model, its tokenizer and all in one file.
//!
//! Layer matrices become ternary where every weight is -s, 0 or s, with one scale a tensor or a row, in whatever type they
//! are stored; others are refused, ternarised or kept as floats, as the user says.

mod architecture;
mod decode;
mod file;
mod kind;
mod ternary;
mod tokenizer;
mod value;

use super::linear::{self, WAYS_OUT, rounded};
use super::{
    Elements, Foreign, HalfSplit, ImportError, Matrices, Options, Rows, Source, Tensor, Width,
    in_runs,
};
use crate::stream::{Outline, Place, Scale};
use architecture::Keys;
use bitttt_core::format::{Config, DType, LayerConfig, Role};
use file::{Gguf, Stored};
use kind::Kind;
use std::collections::BTreeSet;
use std::path::Path;
use ternary::{Signs, Values};

pub use super::options::I2sLayout;

/// Opens a file.
///
/// # Errors
/// A file that is damaged, a model that cannot be represented, or a tokenizer that is missing or cannot be converted.
pub fn open(path: &Path, options: &Options) -> Result<Foreign<'static>, ImportError> {
    let file = Gguf::open(path)?;
    refuse_split(&file)?;
    let keys = Keys::of(&file)?;
    let embedding = file.tensor("token_embd.weight");
    let rows = embedding.map_or(0, |embedding| embedding.rows);
    let vocab_size = u32::try_from(rows).ok().filter(|&rows| rows > 0);
    let vocab_size = vocab_size.ok_or_else(|| {
        let what = "is missing or too large: this is no language model";
        ImportError::tensor(path, "token_embd.weight", what)
    })?;
    let tied = file.tensor("output.weight").is_none();
    let (metadata, document_token) = tokenizer::metadata(&file, options, vocab_size)?;
    let config = keys.config(options, vocab_size, tied, document_token)?;
    let mut layer = keys.layer(&config)?;
    let is_f32 = file.tensors().all(|stored| stored.kind == Kind::F32);
    options.keep(&mut layer, is_f32);
    let half_split = keys.architecture.half_split();
    let model = Model {
        half_split,
        d_head: config.d_head() as usize,
        matrices: options.matrices,
        layout: options.i2s,
        file,
    };
    let layers = vec![layer; config.n_layers as usize];
    model.refuse_others(&outline(&config, &layers))?;
    Ok(Foreign {
        config,
        layers,
        metadata,
        source: Box::new(model),
    })
}

/// What the blob will be, as far as it says which tensors there are.
fn outline<'a>(config: &'a Config, layers: &'a [LayerConfig]) -> Outline<'a> {
    Outline {
        config,
        layers,
        tokenizer: None,
        metadata: "",
    }
}

/// Parts of a model, which `llama-gguf-split` joins.
fn refuse_split(file: &Gguf) -> Result<(), ImportError> {
    let key = "split.count";
    match file.value(key).map(|count| (count, count.as_u64())) {
        None | Some((_, Some(0 | 1))) => Ok(()),
        Some((count, _)) => {
            let what = format!(
                "is {count}: this is one of the files of a model; join them with `llama-gguf-split --merge`"
            );
            Err(ImportError::field(file.path(), key, what))
        }
    }
}

/// A model in a file.
struct Model {
    file: Gguf,
    /// Whether rotary pairs of queries and keys lie half a head apart.
    half_split: bool,
    d_head: usize,
    matrices: Matrices,
    layout: I2sLayout,
}

impl Model {
    /// Refuses tensors that no place of the blob is for: the model computes something with them.
    fn refuse_others(&self, outline: &Outline<'_>) -> Result<(), ImportError> {
        let known: BTreeSet<String> = outline.places().iter().map(name_of).collect();
        for stored in self.file.tensors() {
            let name = stored.name.as_str();
            let matrix = name.strip_suffix(".scale");
            let of_matrix =
                matrix.is_some_and(|matrix| known.contains(&format!("{matrix}.weight")));
            if known.contains(name) || of_matrix {
                continue;
            }
            if name == "rope_freqs.weight" && self.all_ones(stored)? {
                continue;
            }
            let what = "is of no known use: models with biases, scaled rotary positions, experts or adapters are not read";
            return Err(self.fault(name, what));
        }
        Ok(())
    }

    fn all_ones(&self, stored: &Stored) -> Result<bool, ImportError> {
        let mut ones = true;
        in_runs(&self.values(stored)?, stored.rows as usize, |_, values| {
            ones &= values.iter().all(|&x| x == 1.0);
            Ok(())
        })?;
        Ok(ones)
    }

    fn values<'a>(&'a self, stored: &'a Stored) -> Result<Values<'a>, ImportError> {
        Values::new(&self.file, stored, self.layout)
    }

    fn fault(&self, name: &str, what: impl Into<String>) -> ImportError {
        ImportError::tensor(self.file.path(), name, what)
    }

    /// The matrix of a layer: ternary, or what the user wants of others.
    fn matrix<'a>(&'a self, place: &Place, stored: &'a Stored) -> Result<Tensor<'a>, ImportError> {
        let values = self.values(stored)?;
        let factor = self.factor(stored)?;
        let (mut loss, rows) = (None, place.rows as usize);
        let elements = match (values.scale()?, self.matrices) {
            (Ok(scale), _) => {
                let mut scale = scaled(scale, factor);
                if self.is_split(place) {
                    scale = scale.half_split(self.d_head);
                }
                Elements::Ternary(self.in_order(place, Signs(values)), scale)
            }
            (Err(_), Matrices::Ternarise) => {
                let (weights, scale) = rounded(values, rows)?;
                loss = Some(linear::loss(&weights, scale, rows)?);
                let scale = Scale::Tensor(scale * factor);
                Elements::Ternary(self.in_order(place, weights), scale)
            }
            (Err(_), Matrices::Float) if factor == 1.0 => {
                Elements::Float(self.in_order(place, values), width(stored.kind))
            }
            (Err(_), Matrices::Float) => {
                return Err(self.fault(&stored.name, "has a scale, which floats have no place for"));
            }
            (Err(row), Matrices::AsTheyAre) => {
                let what = format!(
                    "({}) is not ternary: row {row} has more than one absolute value beside 0; {WAYS_OUT}",
                    stored.kind.name()
                );
                return Err(self.fault(&stored.name, what));
            }
        };
        Ok(Tensor {
            elements,
            bytes: stored.bytes,
            loss,
        })
    }

    /// What llama.cpp multiplies a matrix's outputs by.
    fn factor(&self, stored: &Stored) -> Result<f32, ImportError> {
        let name = stored.name.replace(".weight", ".scale");
        let Some(scale) = self.file.tensor(&name).filter(|_| name != stored.name) else {
            return Ok(1.0);
        };
        if (scale.rows, scale.cols) != (1, 1) {
            let what = format!("is {} x {}, not one number", scale.rows, scale.cols);
            return Err(self.fault(&name, what));
        }
        let mut value = [0.0];
        Rows::read(&self.values(scale)?, 0, &mut value)?;
        Ok(value[0])
    }

    /// Rows in the order of the blob.
    fn in_order<'a, T, R: Rows<T> + 'a>(&self, place: &Place, rows: R) -> Box<dyn Rows<T> + 'a> {
        let d_head = self.d_head;
        match self.is_split(place) {
            true => Box::new(HalfSplit { rows, d_head }),
            false => Box::new(rows),
        }
    }

    fn is_split(&self, place: &Place) -> bool {
        self.half_split && matches!(place.role, Role::Query | Role::Key)
    }
}

impl Source for Model {
    fn tensor(&self, place: &Place) -> Result<Tensor<'_>, ImportError> {
        let name = name_of(place);
        let Some(stored) = self.file.tensor(&name) else {
            return Err(self.fault(&name, "is missing: the file is incomplete"));
        };
        let (rows, cols) = (u64::from(place.rows), u64::from(place.cols));
        if (stored.rows, stored.cols) != (rows, cols) {
            let what = format!(
                "is {} x {}, the metadata calls for {rows} x {cols}",
                stored.rows, stored.cols
            );
            return Err(self.fault(&name, what));
        }
        if !matches!(place.role, Role::Embed | Role::Head) && place.role.allows(DType::T2) {
            return self.matrix(place, stored);
        }
        Ok(Tensor {
            elements: Elements::Float(Box::new(self.values(stored)?), width(stored.kind)),
            bytes: stored.bytes,
            loss: None,
        })
    }

    fn bytes(&self) -> u64 {
        self.file.tensors().map(|stored| stored.bytes).sum()
    }
}

fn scaled(scale: Scale, factor: f32) -> Scale {
    match scale {
        Scale::Tensor(scale) => Scale::Tensor(scale * factor),
        Scale::Rows(scales) => Scale::Rows(scales.iter().map(|scale| scale * factor).collect()),
    }
}

/// What holds the values of this type exactly.
fn width(kind: Kind) -> Width {
    match kind {
        Kind::F16 => Width::F16,
        Kind::Bf16 => Width::Bf16,
        _ => Width::F32,
    }
}

/// The name in such files of the tensor for a place.
fn name_of(place: &Place) -> String {
    let part = match place.role {
        Role::Embed => "token_embd",
        Role::Head => "output",
        Role::Norm => "output_norm",
        Role::MixerNorm => "attn_norm",
        Role::Query => "attn_q",
        Role::Key => "attn_k",
        Role::Value => "attn_v",
        Role::Output => "attn_output",
        Role::OutNorm => "attn_sub_norm",
        Role::FfnNorm => "ffn_norm",
        Role::FfnGate => "ffn_gate",
        Role::FfnUp => "ffn_up",
        Role::FfnSubNorm => "ffn_sub_norm",
        Role::FfnDown => "ffn_down",
        _ => return place.name(), // of no layer that is made here
    };
    match place.layer {
        Some(layer) => format!("blk.{layer}.{part}.weight"),
        None => format!("{part}.weight"),
    }
}
