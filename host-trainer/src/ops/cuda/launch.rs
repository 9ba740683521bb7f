//! A kernel with its grid and arguments, and the programs that kernels are compiled in.

use super::{Element, Span};

/// Warps of a block whose warps own a row each.
const ROWS_PER_BLOCK: usize = 8;
const WARP: usize = 32;

/// A set of kernels that is compiled at once; constants of the shape are part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Program {
    /// Kernels over rows of any width.
    Rows,
    /// TTT-Linear for one head width and mini-batch.
    Ttt {
        /// Width of a head.
        d_head: usize,
        /// Tokens of a mini-batch.
        mini_batch: usize,
        /// Threads of a block.
        threads: usize,
    },
}

impl Program {
    /// A name for caches.
    pub fn name(self) -> String {
        match self {
            Self::Rows => "bitttt-rows".to_owned(),
            Self::Ttt {
                d_head,
                mini_batch,
                threads,
            } => format!("bitttt-ttt-{d_head}-{mini_batch}-{threads}"),
        }
    }

    /// CUDA C++.
    pub fn source(self) -> String {
        let common = include_str!("kernels/common.cuh");
        match self {
            Self::Rows => common.to_owned() + include_str!("kernels/rows.cu"),
            Self::Ttt {
                d_head,
                mini_batch,
                threads,
            } => {
                let sizes = [
                    ("D_HEAD", d_head),
                    ("MINI_BATCH", mini_batch),
                    ("THREADS", threads),
                ];
                let define = |(name, value)| format!("#define {name} {value}\n");
                sizes.map(define).concat()
                    + common
                    + include_str!("kernels/ttt.cuh")
                    + include_str!("kernels/ttt_forward.cu")
                    + include_str!("kernels/ttt_backward.cu")
            }
        }
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// A pointer to values of the type of that name.
    Address(u64, &'static str),
    /// `int`
    Int(i32),
    /// `size_t`
    Len(u64),
    /// `float`
    Float(f32),
}

impl<T: Element> From<Span<'_, T>> for Arg {
    fn from(span: Span<'_, T>) -> Self {
        Self::Address(span.address, T::NAME)
    }
}

/// A null pointer where there is nothing.
impl<T: Element> From<Option<Span<'_, T>>> for Arg {
    fn from(span: Option<Span<'_, T>>) -> Self {
        Self::Address(span.map_or(0, |span| span.address), T::NAME)
    }
}

impl From<usize> for Arg {
    fn from(value: usize) -> Self {
        Self::Int(i32::try_from(value).expect("a dimension below 2^31"))
    }
}

impl From<bool> for Arg {
    fn from(value: bool) -> Self {
        Self::Int(value.into())
    }
}

impl From<f32> for Arg {
    fn from(value: f32) -> Self {
        Self::Float(value)
    }
}

/// Which kernel runs, on how many threads.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    /// Where the kernel is.
    pub program: Program,
    /// Its name.
    pub kernel: &'static str,
    /// Blocks.
    pub grid: [usize; 2],
    /// Threads of a block, whole warps.
    pub block: usize,
    /// Bytes of shared memory that the kernel gets.
    pub shared: usize,
}

impl Launch {
    /// A kernel of [`Program::Rows`].
    pub fn rows(kernel: &'static str, grid: [usize; 2], block: usize) -> Self {
        Self {
            program: Program::Rows,
            kernel,
            grid,
            block,
            shared: 0,
        }
    }

    /// A warp for each row.
    pub fn warps(kernel: &'static str, rows: usize) -> Self {
        let blocks = rows.div_ceil(ROWS_PER_BLOCK);
        Self::rows(kernel, [blocks, 1], ROWS_PER_BLOCK * WARP)
    }

    /// A thread for four elements of `rows` rows each.
    pub fn fours(kernel: &'static str, rows: usize, width: usize) -> Self {
        Self::elements(kernel, rows, width.div_ceil(4))
    }

    /// A block for each row, of up to `most` threads with four elements at a time.
    pub fn blocks(kernel: &'static str, rows: usize, width: usize, most: usize) -> Self {
        let threads = width.div_ceil(4).next_multiple_of(WARP).min(most);
        Self::rows(kernel, [rows, 1], threads)
    }

    /// A thread for each element of `rows` rows, a row a block.
    pub fn elements(kernel: &'static str, rows: usize, width: usize) -> Self {
        Self::rows(kernel, [rows, width.div_ceil(256)], 256)
    }
}
