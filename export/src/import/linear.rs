//! Linear layers of Hugging Face checkpoints: packed, to be ternarised, ternary already, or floats.
//!
//! What `transformers` computes is what is imported (its `integrations/bitnet.py`, 4.57).

use super::rows::{Elements, Rows, Tensor, Ternarised, absmean, in_runs};
use super::safetensors::{FloatRows, Stored, Tensors};
use super::{Fields, ImportError, Loss, Matrices, Options};
use crate::stream::Scale;
use safetensors::Dtype;

/// How a checkpoint's linear layers are to be read.
pub(super) struct Linears {
    quantiser: Option<Quantiser>,
    /// Modules with one of these in their name are not quantised.
    left_out: Vec<String>,
    matrices: Matrices,
}

/// `quantization_config` of method `bitnet`.
#[derive(Clone, Copy, PartialEq)]
enum Quantiser {
    /// Master weights, ternarised at each forward pass.
    Online,
    /// Ternary weights; the product is multiplied by `weight_scale`.
    Multiplies,
    /// Ternary weights; the product is divided by `weight_scale`.
    Divides,
}

pub(super) const WAYS_OUT: &str =
    "--ternarise rounds such weights and reports the loss, --float keeps them";

impl Linears {
    /// Linear layers that are nothing but that.
    pub fn plain(matrices: Matrices) -> Self {
        Self {
            quantiser: None,
            left_out: Vec::new(),
            matrices,
        }
    }

    /// What `config.json` says of them.
    pub fn of(fields: &Fields, options: &Options) -> Result<Self, ImportError> {
        let own = fields.object("quantization_config")?;
        let mut left_out = vec!["lm_head".to_owned()];
        if let Some(list) = own
            .as_ref()
            .and_then(|own| own.get("modules_to_not_convert"))
        {
            let names: Option<Vec<_>> = list
                .as_array()
                .map(|names| {
                    names
                        .iter()
                        .filter_map(|name| Some(name.as_str()?.to_owned()))
                })
                .map(Iterator::collect);
            let field = "quantization_config.modules_to_not_convert";
            left_out =
                names.ok_or_else(|| fields.wrong(field, format!("is {list}, not a list")))?;
        }
        Ok(Self {
            quantiser: own.as_ref().map(quantiser).transpose()?,
            left_out,
            matrices: options.matrices,
        })
    }

    /// Whether activations are quantised before linear layers.
    pub fn quantises_activations(&self) -> bool {
        self.quantiser.is_some()
    }

    /// Whether a module is quantised.
    pub fn converts(&self, module: &str) -> bool {
        self.quantiser.is_some() && !self.left_out.iter().any(|part| module.contains(part))
    }

    /// The weights `name` as a matrix of this shape.
    pub fn tensor<'t>(
        &self,
        tensors: &'t Tensors,
        name: &str,
        [rows, cols]: [usize; 2],
    ) -> Result<Tensor<'t>, ImportError> {
        let module = name.strip_suffix(".weight").unwrap_or(name);
        let quantiser = self.quantiser.filter(|_| self.converts(module));
        let stored = tensors.get(name)?;
        if stored.dtype == Dtype::U8 {
            return packed(tensors, name, stored, quantiser, [rows, cols]);
        }
        let stored = tensors.shaped(name, &[rows, cols])?;
        let (values, width) = stored.floats(cols)?;
        let floats = |elements, loss| Tensor {
            elements,
            bytes: stored.bytes,
            loss,
        };
        let ternary = |values, round: bool| {
            let (weights, scale) = rounded(values, rows)?;
            let loss = round.then(|| loss(&weights, scale, rows)).transpose()?;
            let elements = Elements::Ternary(Box::new(weights), Scale::Tensor(scale));
            Ok(floats(elements, loss))
        };
        match (quantiser, self.matrices) {
            (Some(Quantiser::Online), _) => ternary(values, false),
            (Some(Quantiser::Multiplies), _) => {
                let factor = weight_scale(tensors, name)?;
                let found = exactly_ternary(values, rows, factor)?;
                Ok(floats(found.map_err(|what| stored.wrong(what))?, None))
            }
            (Some(Quantiser::Divides), _) => Err(stored.wrong(format!(
                "holds {:?}, not packed weights as linear_class bitlinear has",
                stored.dtype
            ))),
            (None, Matrices::Ternarise) if self.quantiser.is_none() => ternary(values, true),
            (None, Matrices::AsTheyAre) if self.quantiser.is_none() => {
                let found = exactly_ternary(values, rows, 1.0)?;
                let wrong = |what| stored.wrong(format!("{what}; {WAYS_OUT}"));
                Ok(floats(found.map_err(wrong)?, None))
            }
            (None, _) => Ok(floats(Elements::Float(Box::new(values), width), None)),
        }
    }
}

fn quantiser(own: &Fields) -> Result<Quantiser, ImportError> {
    let method = own.text("quant_method")?.unwrap_or_default();
    if method != "bitnet" {
        let what = format!("is `{method}`; only bitnet can be imported");
        return Err(own.wrong("quant_method", what));
    }
    own.refuse_flag(
        "use_rms_norm",
        "norms inside of every linear layer cannot be represented",
    )?;
    let class = own.text("linear_class")?.unwrap_or("bitlinear");
    let mode = own.text("quantization_mode")?.unwrap_or("offline");
    match (class, mode) {
        ("autobitlinear", "online") => Ok(Quantiser::Online),
        ("autobitlinear", "offline") => Ok(Quantiser::Multiplies),
        ("bitlinear", "online" | "offline") => Ok(Quantiser::Divides),
        ("bitlinear" | "autobitlinear", _) => {
            let what = format!("is `{mode}`, not online or offline");
            Err(own.wrong("quantization_mode", what))
        }
        _ => {
            let what = format!("is `{class}`, not bitlinear or autobitlinear");
            Err(own.wrong("linear_class", what))
        }
    }
}

/// The number in `NAME_scale`.
fn weight_scale(tensors: &Tensors, name: &str) -> Result<f32, ImportError> {
    let stored = tensors.get(&format!("{name}_scale"))?;
    match stored.shape.iter().product() {
        1usize => {}
        n => return Err(stored.wrong(format!("has {n} elements, not one"))),
    }
    match stored.to_vec()?[0] {
        scale if scale.is_finite() && scale != 0.0 => Ok(scale),
        scale => Err(stored.wrong(format!("is {scale}, no scale"))),
    }
}

fn packed<'t>(
    tensors: &'t Tensors,
    name: &str,
    stored: Stored<'t>,
    quantiser: Option<Quantiser>,
    [rows, cols]: [usize; 2],
) -> Result<Tensor<'t>, ImportError> {
    let scale = match quantiser {
        Some(Quantiser::Multiplies) => weight_scale(tensors, name)?,
        Some(Quantiser::Divides) => 1.0 / weight_scale(tensors, name)?,
        Some(Quantiser::Online) => {
            let what = "holds packed weights, but quantization_mode in config.json is online";
            return Err(stored.wrong(what));
        }
        None => {
            let what = "holds packed weights, but config.json has no quantization_config for it";
            return Err(stored.wrong(what));
        }
    };
    if !rows.is_multiple_of(4) || stored.shape != [rows / 4, cols] {
        let what = format!(
            "has shape {:?}; {rows} rows of {cols} weights, four a byte, were expected",
            stored.shape
        );
        return Err(stored.wrong(what));
    }
    let weights = Packed {
        tensor: stored,
        quarter: rows / 4,
        cols,
    };
    Ok(Tensor {
        elements: Elements::Ternary(Box::new(weights), Scale::Tensor(scale)),
        bytes: stored.bytes,
        loss: None,
    })
}

/// Four rows a byte row: with a quarter of R rows, bits `2i` and `2i + 1` of byte `[r][c]` hold weight `[i R + r][c]`
/// plus one.
struct Packed<'a> {
    tensor: Stored<'a>,
    quarter: usize,
    cols: usize,
}

impl Rows<i8> for Packed<'_> {
    fn cols(&self) -> usize {
        self.cols
    }

    fn read(&self, first: usize, out: &mut [i8]) -> Result<(), ImportError> {
        let mut bytes = Vec::new();
        let (mut row, mut rest) = (first, out);
        while !rest.is_empty() {
            let (shift, at) = (2 * (row / self.quarter), row % self.quarter);
            let rows = (rest.len() / self.cols).min(self.quarter - at);
            let (now, later) = rest.split_at_mut(rows * self.cols);
            bytes.resize(now.len(), 0);
            self.tensor
                .read_bytes((at * self.cols) as u64, &mut bytes)?;
            for (weight, byte) in now.iter_mut().zip(&bytes) {
                *weight = (byte >> shift & 3) as i8 - 1;
            }
            (row, rest) = (row + rows, later);
        }
        Ok(())
    }
}

/// Weights as BitNet b1.58 rounds them, and their scale.
pub(super) fn rounded<R: Rows<f32>>(
    values: R,
    rows: usize,
) -> Result<(Ternarised<R>, f32), ImportError> {
    let scale = absmean(&values, rows)?.max(1e-5);
    let inverse = 1.0 / scale;
    let weights = Ternarised {
        rows: values,
        inverse,
        round: f32::round_ties_even,
    };
    Ok((weights, scale))
}

/// What rounding loses.
pub(super) fn loss<R: Rows<f32>>(
    weights: &Ternarised<R>,
    scale: f32,
    rows: usize,
) -> Result<Loss, ImportError> {
    let mut loss = Loss::default();
    let mut rounded = Vec::new();
    in_runs(&weights.rows, rows, |first, values| {
        rounded.resize(values.len(), 0);
        weights.read(first, &mut rounded)?;
        for (&value, &weight) in values.iter().zip(&rounded) {
            loss.error += f64::from(value - f32::from(weight) * scale).powi(2);
            loss.value += f64::from(value).powi(2);
        }
        Ok(())
    })?;
    Ok(loss)
}

/// Weights of which each row has one magnitude besides zero, times `factor`; or why they are not such.
fn exactly_ternary(
    values: FloatRows<'_>,
    rows: usize,
    factor: f32,
) -> Result<Result<Elements<'_>, String>, ImportError> {
    let cols = values.cols().max(1);
    let (mut scales, mut fault) = (Vec::with_capacity(rows), None);
    in_runs(&values, rows, |first, values| {
        for (row, values) in (first..).zip(values.chunks(cols)) {
            let scale = values.iter().fold(0f32, |l, x| l.max(x.abs()));
            let odd = values.iter().find(|x| **x != 0.0 && x.abs() != scale);
            if let (Some(odd), None) = (odd, &fault) {
                let odd = odd.abs();
                fault = Some(format!(
                    "is not ternary: row {row} holds both {odd} and {scale}"
                ));
            }
            scales.push(scale * factor);
        }
        Ok(())
    })?;
    let common = scales.iter().copied().fold(0f32, f32::max);
    let scale = match scales.iter().all(|&scale| scale == common || scale == 0.0) {
        true => Scale::Tensor(common),
        false => Scale::Rows(scales),
    };
    Ok(match fault {
        Some(fault) => Err(fault),
        None => Ok(Elements::Ternary(Box::new(Signs(values)), scale)),
    })
}

/// Signs of values that are ternary times a scale.
struct Signs<'a>(FloatRows<'a>);

impl Rows<i8> for Signs<'_> {
    fn cols(&self) -> usize {
        self.0.cols()
    }

    fn read(&self, first: usize, out: &mut [i8]) -> Result<(), ImportError> {
        let mut values = vec![0.0; out.len()];
        self.0.read(first, &mut values)?;
        for (out, value) in out.iter_mut().zip(values) {
            *out = i8::from(value > 0.0) - i8::from(value < 0.0);
        }
        Ok(())
    }
}
