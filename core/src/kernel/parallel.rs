//! Work in parts. The core has no threads; whoever has them lends them through [`Parallel`].
//!
//! Parts own whole rows, heads or columns, never a piece of a sum: the number of threads changes no bit.

use core::fmt::Debug;
use core::marker::PhantomData;
use core::ops::Range;

/// Runs the parts of a piece of work, at the same time where it can.
///
/// # Safety
/// [`Parallel::run`] calls `part(i)` at most once for each `i` in `0..parts` and returns only when all calls have.
pub unsafe trait Parallel: Sync + Debug {
    /// How many parts can run at the same time.
    fn width(&self) -> usize;

    /// Calls `part(i)` for every `i` in `0..parts`.
    fn run(&self, parts: usize, part: &(dyn Fn(usize) + Sync));
}

/// No threads: one part after the other.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

// SAFETY: a loop calls each part once.
unsafe impl Parallel for Alone {
    fn width(&self) -> usize {
        1
    }

    fn run(&self, parts: usize, part: &(dyn Fn(usize) + Sync)) {
        (0..parts).for_each(part);
    }
}

/// Whom to hand parts to. Without the feature `threads` nobody, which the compiler then knows: on a device with one core,
/// calls through pointers and what they pass are a tenth of the engine and of its stack.
#[cfg(feature = "threads")]
pub(crate) fn helpers(parallel: &dyn Parallel) -> &dyn Parallel {
    parallel
}

/// As above.
#[cfg(not(feature = "threads"))]
#[inline(always)]
pub(crate) fn helpers(_: &dyn Parallel) -> &'static Alone {
    &Alone
}

/// A slice that parts write to at the same time, each to its own elements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut [T]` that its users promise to cut into disjoint pieces.
unsafe impl<T: Send> Sync for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub fn new(all: &'a mut [T]) -> Self {
        Self {
            start: all.as_mut_ptr(),
            len: all.len(),
            borrow: PhantomData,
        }
    }

    /// The elements of `range`; none where it leaves the slice.
    ///
    /// # Safety
    /// No other live piece overlaps it.
    #[cfg_attr(bitttt_micro, inline(never))]
    #[cfg_attr(not(bitttt_micro), inline(always))]
    pub unsafe fn piece(&self, range: Range<usize>) -> &'a mut [T] {
        if range.start > range.end || range.end > self.len {
            return &mut [];
        }
        // SAFETY: inside the slice that `new` borrowed for 'a; the caller promises that it is disjoint.
        unsafe {
            core::slice::from_raw_parts_mut(self.start.add(range.start), range.end - range.start)
        }
    }
}

/// A slice to be cut, and how many of its elements (of each row, where it is a matrix) belong to a part.
pub(crate) struct Divided<'a> {
    all: Shared<'a, f32>,
    each: usize,
}

impl<'a> Divided<'a> {
    pub fn new(all: &'a mut [f32], each: usize) -> Self {
        let all = Shared::new(all);
        Self { all, each }
    }

    /// Piece `place`; nothing behind the end.
    ///
    /// # Safety
    /// No other live piece overlaps it.
    #[cfg_attr(bitttt_micro, inline(never))]
    #[cfg_attr(not(bitttt_micro), inline(always))]
    unsafe fn piece(&self, place: usize) -> &'a mut [f32] {
        // SAFETY: the caller's.
        unsafe { self.all.piece(place * self.each..(place + 1) * self.each) }
    }
}

/// One part's columns of several matrices.
pub(crate) struct Rows<'a, const M: usize> {
    matrices: &'a [Divided<'a>; M],
    parts: usize,
    part: usize,
}

impl<'a, const M: usize> Rows<'a, M> {
    /// The part's columns of row `t` of each matrix.
    #[inline(always)]
    pub fn rows(&mut self, t: usize) -> [&mut [f32]; M] {
        let place = t * self.parts + self.part;
        // SAFETY: only this part has these columns, and `&mut self` keeps two of its rows apart.
        unsafe { pieces(self.matrices, place) }
    }

    /// The part's columns of row `t` of matrix `I`.
    #[cfg_attr(bitttt_micro, inline(never))]
    #[cfg_attr(not(bitttt_micro), inline(always))]
    pub fn row<const I: usize>(&mut self, t: usize) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { self.matrices[const { index::<I, M>() }].piece(t * self.parts + self.part) }
    }

    /// The same to read.
    #[inline(always)]
    pub fn read<const I: usize>(&self, t: usize) -> &[f32] {
        // SAFETY: only this part has these columns, and `&self` keeps `row` from handing them out meanwhile.
        unsafe { self.matrices[const { index::<I, M>() }].piece(t * self.parts + self.part) }
    }
}

/// `I`, where there is such an element; else it does not compile.
const fn index<const I: usize, const M: usize>() -> usize {
    assert!(I < M);
    I
}

/// Piece `place` of each slice.
///
/// # Safety
/// No other live piece overlaps them.
unsafe fn pieces<'a, const N: usize>(of: &[Divided<'a>; N], place: usize) -> [&'a mut [f32]; N] {
    core::array::from_fn(|i| match of.get(i) {
        // SAFETY: the caller's.
        Some(cut) => unsafe { cut.piece(place) },
        None => &mut [],
    })
}

/// What [`split`] runs: part number, its chunks, its columns.
type Part<'f, const C: usize, const M: usize> =
    dyn Fn(usize, [&mut [f32]; C], Rows<'_, M>) + Sync + 'f;

/// Cuts `owned` slices into chunks and `matrices` into columns (the last parts get none where a slice is short), and runs
/// `part(i, chunks, columns)` on them. They are passed by reference, because arrays of slices are most of what it takes
/// of a device's stack.
#[inline(always)]
pub(crate) fn split<const C: usize, const M: usize>(
    parallel: &dyn Parallel,
    parts: usize,
    owned: &mut [Divided<'_>; C],
    matrices: &mut [Divided<'_>; M],
    part: &Part<'_, C, M>,
) {
    let (owned, matrices) = (&*owned, &*matrices);
    helpers(parallel).run(parts, &|i| {
        // SAFETY: `run` calls each i once, and chunks of different parts do not overlap.
        let chunks = unsafe { pieces(owned, i) };
        let rows = Rows {
            matrices,
            parts,
            part: i,
        };
        part(i, chunks, rows);
    });
}

/// Part `i`'s share of `total` things. Without parts there is nothing, rather than a division that could panic.
pub(crate) fn share(i: usize, parts: usize, total: usize) -> Range<usize> {
    let before = |i: usize| (i * total).checked_div(parts).unwrap_or(0);
    before(i)..before(i + 1)
}

/// Fewest tokens of a part: their norms and functions are worth a hand-off, those of a single token are not.
const MIN_TOKENS: usize = 8;

/// No slice, where [`split_tokens`] takes one.
pub(crate) fn nothing() -> (&'static mut [f32], usize) {
    (&mut [], 0)
}

/// Cuts slices of `each` elements a token into ranges of tokens and runs `part(first token, slices)` on them.
#[cfg_attr(bitttt_micro, inline(never))]
pub(crate) fn split_tokens(
    parallel: &dyn Parallel,
    tokens: usize,
    owned: [(&mut [f32], usize); 3],
    part: &(dyn Fn(usize, [&mut [f32]; 3]) + Sync),
) {
    let parallel = helpers(parallel);
    let parts = parallel.width().min(tokens / MIN_TOKENS);
    if parts < 2 {
        return part(0, owned.map(|(all, _)| all));
    }
    let owned = owned.map(|(all, each)| (Shared::new(all), each));
    parallel.run(parts, &|i| {
        let own = share(i, parts, tokens);
        // SAFETY: `run` calls each i once, and ranges of different parts do not overlap.
        part(
            own.start,
            owned.map(|(all, each)| unsafe { all.piece(own.start * each..own.end * each) }),
        );
    });
}
