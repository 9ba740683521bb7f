//! The table of float kernels, and what is made of it: for each backend a copy of the shared bodies (`stamp`), and
//! one method a kernel that calls the chosen backend's (`dispatch`).

/// The list of float kernels, handed to `$then` together with the target features of a backend.
macro_rules! float_kernels {
    ($then:ident, [$($features:tt)*]) => {
        $then! {
            [$($features)*]
            fn add(h: &mut [f32], x: &[f32]);
            fn rms_norm(x: &mut [f32], gain: &[f32], eps: f32);
            fn quantise(x: &[f32], codes: &mut [i8]) -> (f32, i32);
            fn conv(x: &mut [f32], history: &mut [f32], taps: &[f32]);
            fn gate(y: &mut [f32], g: &[f32]);
            fn activate(gate: &mut [f32], up: &[f32], activation: crate::format::Activation);
            fn dot_stored(weights: crate::model::Floats<'_>, x: &[f32]) -> f32;
            fn softmax_terms(x: &mut [f32], max: f32, temperature: f32);
            fn rotate(x: &mut [f32], row: &[f32]);
            fn ttt_step(head: &mut lanes::TttHead<'_, '_>, token: &lanes::TttToken<'_>, temp: &mut [f32], out: &mut [f32]);
            fn ttt_close(head: &mut lanes::TttHead<'_, '_>, tau: f32, temp: &mut [f32]) -> bool;
        }
    };
}

/// Compiles the shared bodies with a backend's target features.
#[cfg(target_arch = "x86_64")]
macro_rules! stamp {
    ([$features:literal] $(fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        $(#[target_feature(enable = $features)] pub(crate) fn $name($($arg: $type),*) $(-> $result)? { lanes::$name($($arg),*) })*
    };
}

/// One method a kernel, which calls the chosen backend's.
macro_rules! dispatch {
    ([] $(fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        impl Backend {
            $(pub(crate) fn $name(self, $($arg: $type),*) $(-> $result)? {
                match self.0 {
                    Kind::Scalar => lanes::$name($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    // SAFETY: a `Kind::Avx2` exists only where `all` found AVX2.
                    Kind::Avx2 => unsafe { avx2::$name($($arg),*) },
                }
            })*
        }
    };
}
