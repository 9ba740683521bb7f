//! Models for llama.cpp and Candle: a llama or BitNet of any shape with random weights, written as GGUF version 3.

use super::blocks::{Quant, Random};
use super::shape::Dims;
use anyhow::{Context, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Tensors start at multiples of this.
const ALIGNMENT: usize = 32;

/// Blocks that a tensor's weights are taken from, over and over: a prime, so that rows differ.
const POOL_BLOCKS: usize = 4099;

/// What llama.cpp takes a model for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// As Candle does too.
    Llama,
    /// With norms before the last matrix of attention and of the FFN, and the embedding as the head.
    Bitnet,
}

impl Architecture {
    const fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Bitnet => "bitnet",
        }
    }
}

/// One tensor; `dims` has the length of a row first.
struct Tensor {
    name: String,
    dims: Vec<usize>,
    quant: Quant,
}

impl Tensor {
    fn bytes(&self) -> usize {
        self.quant.bytes(self.dims.iter().product())
    }
}

/// Writes the model; a file that is there is complete.
///
/// # Errors
/// Where the file cannot be written.
pub fn write(path: &Path, architecture: Architecture, dims: &Dims, quant: Quant) -> Result<()> {
    let context = || format!("cannot write the model {}", path.display());
    let unfinished = path.with_extension("tmp");
    let file = File::create(&unfinished).with_context(context)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let tensors = tensors(architecture, dims, quant);
    out.write_all(&header(architecture, dims, &tensors))
        .with_context(context)?;
    for tensor in &tensors {
        write_weights(&mut out, tensor).with_context(context)?;
    }
    out.flush().with_context(context)?;
    std::fs::rename(&unfinished, path).with_context(context)
}

/// Everything in front of the weights.
fn header(architecture: Architecture, dims: &Dims, tensors: &[Tensor]) -> Vec<u8> {
    let metadata = metadata(architecture, dims);
    let mut out = b"GGUF".to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in &metadata {
        push_string(&mut out, key);
        value.push(&mut out);
    }
    let mut offset = 0;
    for tensor in tensors {
        push_string(&mut out, &tensor.name);
        out.extend((tensor.dims.len() as u32).to_le_bytes());
        for &len in &tensor.dims {
            out.extend((len as u64).to_le_bytes());
        }
        out.extend(tensor.quant.code().to_le_bytes());
        out.extend((offset as u64).to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    out
}

enum Value {
    U32(usize),
    F32(f32),
    String(&'static str),
}

impl Value {
    fn push(&self, out: &mut Vec<u8>) {
        match self {
            Self::U32(value) => {
                out.extend(4_u32.to_le_bytes());
                out.extend((*value as u32).to_le_bytes());
            }
            Self::F32(value) => {
                out.extend(6_u32.to_le_bytes());
                out.extend(value.to_le_bytes());
            }
            Self::String(value) => {
                out.extend(8_u32.to_le_bytes());
                push_string(out, value);
            }
        }
    }
}

fn push_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// The vocabulary is a number of nameless tokens: nothing is tokenized here.
fn metadata(architecture: Architecture, dims: &Dims) -> Vec<(std::string::String, Value)> {
    use Value::{F32, String, U32};
    let fields = [
        ("general.architecture", String(architecture.name())),
        ("general.name", String("random ternary weights")),
        ("{}.context_length", U32(4096)),
        ("{}.embedding_length", U32(dims.d_model)),
        ("{}.block_count", U32(dims.layers)),
        ("{}.feed_forward_length", U32(dims.d_ffn)),
        ("{}.attention.head_count", U32(dims.heads)),
        ("{}.attention.head_count_kv", U32(dims.kv_heads)),
        ("{}.attention.layer_norm_rms_epsilon", F32(1e-5)),
        ("{}.rope.dimension_count", U32(dims.d_model / dims.heads)),
        ("{}.rope.freq_base", F32(10_000.0)),
        ("{}.vocab_size", U32(dims.vocab)),
        ("tokenizer.ggml.model", String("no_vocab")),
    ];
    let named = fields.map(|(key, value)| (key.replace("{}", architecture.name()), value));
    named.into()
}

/// Embedding and head are Q6_K, as llama.cpp makes them beside ternary layers.
fn tensors(architecture: Architecture, dims: &Dims, quant: Quant) -> Vec<Tensor> {
    let mut tensors = Vec::new();
    let mut add = |name: String, dims: &[usize], quant| {
        let dims = dims.to_vec();
        tensors.push(Tensor { name, dims, quant });
    };
    let (d, d_kv, d_ffn) = (dims.d_model, dims.d_kv(), dims.d_ffn);
    add("token_embd.weight".into(), &[d, dims.vocab], Quant::Q6_K);
    for layer in 0..dims.layers {
        let mut part =
            |name, dims: &[usize], quant| add(format!("blk.{layer}.{name}.weight"), dims, quant);
        part("attn_norm", &[d], Quant::F32);
        part("attn_q", &[d, d], quant);
        part("attn_k", &[d, d_kv], quant);
        part("attn_v", &[d, d_kv], quant);
        part("attn_output", &[d, d], quant);
        part("ffn_norm", &[d], Quant::F32);
        part("ffn_gate", &[d, d_ffn], quant);
        part("ffn_up", &[d, d_ffn], quant);
        part("ffn_down", &[d_ffn, d], quant);
        if architecture == Architecture::Bitnet {
            part("attn_sub_norm", &[d], Quant::F32);
            part("ffn_sub_norm", &[d_ffn], Quant::F32);
        }
    }
    add("output_norm.weight".into(), &[d], Quant::F32);
    if !dims.tied && architecture == Architecture::Llama {
        add("output.weight".into(), &[d, dims.vocab], Quant::Q6_K);
    }
    tensors
}

/// A tensor's weights and the zeros up to the next one.
fn write_weights(out: &mut impl Write, tensor: &Tensor) -> std::io::Result<()> {
    let mut pool = Vec::new();
    let mut random = Random(tensor.bytes() as u64);
    (0..POOL_BLOCKS).for_each(|_| tensor.quant.push_block(&mut random, &mut pool));
    let mut left = tensor.bytes();
    while left > 0 {
        let piece = &pool[..left.min(pool.len())];
        out.write_all(piece)?;
        left -= piece.len();
    }
    let padding = tensor.bytes().next_multiple_of(ALIGNMENT) - tensor.bytes();
    out.write_all(&[0; ALIGNMENT][..padding])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::shape::Shape;

    #[test]
    fn a_file_is_as_long_as_its_tensor_table_says() {
        let folder = std::env::temp_dir().join(format!("bitttt-peers-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("tiny.gguf");
        let dims = Shape::Tiny.dims();
        write(&path, Architecture::Llama, &dims, Quant::Tq2_0).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(&bytes[..8], b"GGUF\x03\0\0\0");
        let tensors = tensors(Architecture::Llama, &dims, Quant::Tq2_0);
        let weights: usize = tensors
            .iter()
            .map(|tensor| tensor.bytes().next_multiple_of(ALIGNMENT))
            .sum();
        let header = header(Architecture::Llama, &dims, &tensors);
        assert_eq!(bytes.len(), header.len() + weights);
        let ternary: usize = tensors
            .iter()
            .filter(|tensor| tensor.quant == Quant::Tq2_0)
            .map(|tensor| tensor.dims.iter().product::<usize>())
            .sum();
        assert_eq!(ternary, dims.ternary_weights());
    }

    #[test]
    fn a_tied_model_has_no_matrix_of_its_own_for_the_head_nor_has_bitnet() {
        let has_head = |architecture, shape: Shape| {
            let tensors = tensors(architecture, &shape.dims(), Quant::Q4_0);
            tensors.iter().any(|tensor| tensor.name == "output.weight")
        };
        assert!(has_head(Architecture::Llama, Shape::OneB));
        assert!(!has_head(Architecture::Llama, Shape::TwoB4T));
        assert!(!has_head(Architecture::Bitnet, Shape::OneB));
    }
}
