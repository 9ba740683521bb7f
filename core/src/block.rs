//! One block of a model: its tensors by role, looked up in the blob where they are used.
//!
//! Nothing is looked up ahead: views of all of a block's tensors are half a kilobyte of stack, and a look-up costs less than
//! a row of a matrix. The functions that look up are never inlined, which would cost 3 kB of flash.

use crate::format::{Entry, LayerConfig, Mixer, Role};
use crate::model::{Floats, Matrix, Model, cast};

/// A block of a model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block<'m, 'a> {
    model: &'m Model<'a>,
    pub record: LayerConfig,
}

/// Views of what a TTT-Linear or TTT-MLP mixer learns by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ttt<'a> {
    pub tau: &'a [f32],
    pub ln_scale: &'a [f32],
    pub ln_bias: &'a [f32],
    /// `W0` and `u0`; absent where they are the identity and zeros.
    pub start: Option<[Floats<'a>; 2]>,
    pub decay: Option<&'a [f32]>,
    /// `W1` and `u1` of TTT-MLP.
    pub second: Option<[Floats<'a>; 2]>,
}

impl<'m, 'a> Block<'m, 'a> {
    /// The block of a record of this model.
    pub fn new(model: &'m Model<'a>, record: LayerConfig) -> Self {
        Self { model, record }
    }

    #[inline(never)]
    fn entry(&self, role: Role) -> Option<Entry> {
        let index = self.record.first_tensor + self.record.place(role)?;
        Some(self.model.entry(index))
    }

    /// A matrix; nothing where the layer has none of that role.
    #[inline(never)]
    pub fn matrix(&self, role: Role) -> Option<Matrix<'a>> {
        Some(self.model.matrix(self.entry(role)?))
    }

    /// A matrix that the layer has; the check of the table has seen it.
    pub fn own(&self, role: Role) -> Matrix<'a> {
        self.matrix(role).unwrap_or(Matrix::EMPTY)
    }

    /// Gains, taps, starts and the like; nothing where the layer has none of that role.
    #[inline(never)]
    pub fn floats(&self, role: Role) -> Option<Floats<'a>> {
        Some(self.model.floats(self.entry(role)?))
    }

    /// Gains of a norm that the layer has.
    pub fn gain(&self, role: Role) -> Floats<'a> {
        self.floats(role).unwrap_or(Floats::F32(&[]))
    }

    /// Numbers that are always stored as f32.
    #[inline(never)]
    pub fn vector(&self, role: Role) -> Option<&'a [f32]> {
        Some(cast(self.model.data(&self.entry(role)?)))
    }

    fn both(&self, first: Role, second: Role) -> Option<[Floats<'a>; 2]> {
        Some([self.floats(first)?, self.floats(second)?])
    }

    /// What a TTT-Linear or TTT-MLP mixer learns by.
    #[inline(never)]
    pub fn ttt(&self) -> Option<Ttt<'a>> {
        Some(Ttt {
            tau: self.vector(Role::Tau)?,
            ln_scale: self.vector(Role::LnScale)?,
            ln_bias: self.vector(Role::LnBias)?,
            start: self.start(),
            decay: self.vector(Role::Decay),
            second: self.second_start(),
        })
    }

    /// `W0` and `u0` of such a mixer; nothing where they are the identity and zeros.
    pub fn start(&self) -> Option<[Floats<'a>; 2]> {
        self.both(Role::W0, Role::U0)
    }

    /// `W1` and `u1` of TTT-MLP.
    pub fn second_start(&self) -> Option<[Floats<'a>; 2]> {
        let second = Mixer::TttMlp
            .is_built()
            .then(|| self.both(Role::W1, Role::U1));
        second.flatten()
    }
}
