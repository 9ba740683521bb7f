//! Slices cut into rows whose length only the model knows.
//!
//! The standard library's `chunks` do the same, but divide to know how many there are, and panic where the length is zero: on
//! a microcontroller that is a tenth of the engine, and the panic is what a firmware must not link. Here a length of
//! zero counts as one.

/// Cuts a slice.
pub(crate) trait Cut<T> {
    /// Pieces of `length`; what is left over at the end is left out.
    fn pieces(&self, length: usize) -> Pieces<&[T]>;

    /// The same to write to.
    fn pieces_mut(&mut self, length: usize) -> Pieces<&mut [T]>;

    /// Pieces of `length`, the last one as short as it has to be.
    fn parts(&self, length: usize) -> Parts<'_, T>;
}

/// Pieces of one length.
pub(crate) struct Pieces<S> {
    rest: S,
    length: usize,
}

/// Pieces of one length and a shorter one.
pub(crate) struct Parts<'a, T>(Pieces<&'a [T]>);

impl<T> Cut<T> for [T] {
    #[inline(always)]
    fn pieces(&self, length: usize) -> Pieces<&[T]> {
        let length = length.max(1);
        Pieces { rest: self, length }
    }

    #[inline(always)]
    fn pieces_mut(&mut self, length: usize) -> Pieces<&mut [T]> {
        let length = length.max(1);
        Pieces { rest: self, length }
    }

    #[inline(always)]
    fn parts(&self, length: usize) -> Parts<'_, T> {
        Parts(self.pieces(length))
    }
}

impl<'a, T> Iterator for Pieces<&'a [T]> {
    type Item = &'a [T];

    #[cfg_attr(bitttt_micro, inline(never))]
    #[cfg_attr(not(bitttt_micro), inline(always))]
    fn next(&mut self) -> Option<Self::Item> {
        let (piece, rest) = self.rest.split_at_checked(self.length)?;
        self.rest = rest;
        Some(piece)
    }
}

impl<'a, T> Iterator for Pieces<&'a mut [T]> {
    type Item = &'a mut [T];

    #[cfg_attr(bitttt_micro, inline(never))]
    #[cfg_attr(not(bitttt_micro), inline(always))]
    fn next(&mut self) -> Option<Self::Item> {
        let (piece, rest) = core::mem::take(&mut self.rest).split_at_mut_checked(self.length)?;
        self.rest = rest;
        Some(piece)
    }
}

impl<'a, T> Iterator for Parts<'a, T> {
    type Item = &'a [T];

    #[cfg_attr(bitttt_micro, inline(never))]
    #[cfg_attr(not(bitttt_micro), inline(always))]
    fn next(&mut self) -> Option<Self::Item> {
        self.0.length = self.0.length.min(self.0.rest.len());
        self.0.next().filter(|part| !part.is_empty())
    }
}
