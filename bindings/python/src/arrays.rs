//! Tokens from Python's sequences and numpy's arrays, and logits into arrays.

use crate::error::input;
use numpy::{
    PyArray1, PyArray2, PyArrayDyn, PyArrayMethods, PyReadwriteArray1, PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// Integers in an array of any number of dimensions.
pub struct Integers {
    /// In the order of the last dimension.
    pub values: Vec<i64>,
    /// Length of every dimension.
    pub shape: Vec<usize>,
}

impl Integers {
    /// Copies what numpy makes of `object`.
    ///
    /// # Errors
    /// `TypeError` where the elements are not integers, and numpy's own errors.
    pub fn of(object: &Bound<'_, PyAny>, name: &str) -> PyResult<Self> {
        let py = object.py();
        static ASARRAY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let asarray = ASARRAY.import(py, "numpy", "asarray")?;
        let array = asarray.call1((object,))?;
        let dtype = array.getattr(intern!(py, "dtype"))?;
        let kind: String = dtype.getattr(intern!(py, "kind"))?.extract()?;
        let empty = array.getattr(intern!(py, "size"))?.extract::<usize>()? == 0;
        if !matches!(kind.as_str(), "i" | "u") && !empty {
            return Err(PyTypeError::new_err(format!(
                "{name} must be integers, not {dtype}"
            )));
        }
        let wide = array.call_method1(intern!(py, "astype"), (intern!(py, "int64"),))?;
        let wide = wide.cast::<PyArrayDyn<i64>>()?.try_readonly()?;
        Ok(Self {
            shape: wide.shape().to_vec(),
            values: wide.as_array().iter().copied().collect(),
        })
    }

    /// As tokens of a vocabulary.
    ///
    /// # Errors
    /// One that is out of range.
    pub fn into_tokens(self, vocab_size: u32) -> PyResult<Vec<u32>> {
        let token = |value: i64| match u32::try_from(value) {
            Ok(token) if token < vocab_size => Ok(token),
            _ => Err(out_of_range(value, vocab_size)),
        };
        self.values.into_iter().map(token).collect()
    }
}

/// The core's sentence, for what does not fit into the core's type.
fn out_of_range(token: impl std::fmt::Display, vocab_size: u32) -> PyErr {
    input(format_args!(
        "token {token} is out of range: this model has {vocab_size} tokens; use its own tokenizer"
    ))
}

/// Tokens in one dimension, copied: another thread may change the array while they are read.
///
/// # Errors
/// Another number of dimensions, and those of [`Integers`].
pub fn tokens(object: &Bound<'_, PyAny>, vocab_size: u32) -> PyResult<Vec<u32>> {
    if let Ok(array) = object.cast::<PyArray1<u32>>() {
        let tokens = array.try_readonly()?.as_array().to_vec();
        return match tokens.iter().find(|&&token| token >= vocab_size) {
            Some(token) => Err(out_of_range(token, vocab_size)),
            None => Ok(tokens),
        };
    }
    let integers = Integers::of(object, "tokens")?;
    match integers.shape.len() {
        1 => integers.into_tokens(vocab_size),
        n => Err(input(format_args!(
            "tokens must have one dimension, [n], these have {n}"
        ))),
    }
}

/// One token.
///
/// # Errors
/// `TypeError` where it is no integer; one that is out of range.
pub fn token(object: &Bound<'_, PyAny>, vocab_size: u32) -> PyResult<u32> {
    match object.extract::<u32>() {
        Ok(token) => Ok(token), // the session looks at the range
        Err(error) if error.is_instance_of::<PyOverflowError>(object.py()) => {
            Err(out_of_range(object, vocab_size))
        }
        Err(error) => Err(error),
    }
}

/// Where logits go: into the caller's array, or a new one.
pub enum Out<'py> {
    /// The caller's.
    Given(PyReadwriteArray1<'py, f32>),
    /// A new one.
    New,
}

impl<'py> Out<'py> {
    /// Checks the caller's array before anything is read.
    ///
    /// # Errors
    /// Another type or shape, or an array that cannot be written in one piece.
    pub fn of(out: Option<&Bound<'py, PyAny>>, vocab_size: u32) -> PyResult<Self> {
        let Some(out) = out else {
            return Ok(Self::New);
        };
        let wrong = || {
            input(format_args!(
                "out must be a writeable, contiguous numpy array of {vocab_size} float32, one for each token"
            ))
        };
        let array = out.cast::<PyArray1<f32>>().map_err(|_| wrong())?;
        let mut array = array.try_readwrite().map_err(|_| wrong())?;
        match array.as_slice_mut() {
            Ok(place) if place.len() == vocab_size as usize => Ok(Self::Given(array)),
            _ => Err(wrong()),
        }
    }

    /// Copies the logits, which the session's next token overwrites.
    pub fn take(self, py: Python<'py>, logits: &[f32]) -> PyResult<Bound<'py, PyArray1<f32>>> {
        match self {
            Self::New => Ok(PyArray1::from_slice(py, logits)),
            Self::Given(mut array) => {
                array.as_slice_mut()?.copy_from_slice(logits);
                Ok(Bound::clone(&array))
            }
        }
    }
}

/// A new array of zeros `[rows, cols]`, which the system gives page by page.
///
/// # Errors
/// `MemoryError`.
pub fn zeros<'py>(
    py: Python<'py>,
    rows: usize,
    cols: usize,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    static ZEROS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let zeros = ZEROS.import(py, "numpy", "zeros")?;
    let array = zeros.call1(((rows, cols), intern!(py, "float32")))?;
    Ok(array.cast_into::<PyArray2<f32>>()?)
}
