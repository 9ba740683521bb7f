//! Mixers: what carries information over time. One file a kind.

pub(crate) mod ttt_linear;
