//! The table of float kernels, and what is made of it: for each backend a copy of the shared bodies (`stamp`), and
//! one method a kernel that calls the chosen backend's (`dispatch`).

/// The list of float kernels and the modules of their bodies, handed to `$then` together with the target features of a backend.
macro_rules! float_kernels {
    ($then:ident, [$($features:tt)*]) => {
        $then! {
            [$($features)*]
            fn lanes::add(h: &mut [f32], x: &[f32]);
            fn lanes::hold(x: &mut [f32]);
            fn lanes::rms_norm(x: &mut [f32], gain: crate::model::Floats<'_>, eps: f32);
            fn lanes::layer_norm(x: &mut [f32], gain: crate::model::Floats<'_>, bias: crate::model::Floats<'_>, eps: f32);
            fn lanes::quantise(x: &[f32], codes: &mut [i8]) -> (f32, i32);
            fn lanes::conv(x: &mut [f32], history: &mut [f32], taps: crate::model::Floats<'_>);
            fn lanes::gate(y: &mut [f32], g: &[f32]);
            fn lanes::gelu_gate(y: &mut [f32], g: &[f32]);
            fn lanes::add_stored(h: &mut [f32], x: crate::model::Floats<'_>);
            fn lanes::activate(gate: &mut [f32], up: &[f32], activation: crate::format::Activation);
            fn lanes::dot_stored(weights: crate::model::Floats<'_>, x: &[f32]) -> f32;
            fn lanes::softmax_terms(x: &mut [f32], max: f32, temperature: f32);
            fn lanes::rotate(x: &mut [f32], row: &[f32]);
            fn attention::attend(tile: &attention::Tile<'_>, queries: &mut attention::Queries<'_>);
            fn halves::narrow(from: &[f32], to: &mut [u16]);
            fn halves::widen_tile(from: crate::model::Floats<'_>, to: &mut [f32]);
            fn ttt::ttt_step(head: &mut ttt::TttHead<'_, '_>, token: &ttt::TttToken<'_>, temp: &mut [f32], out: &mut [f32]);
            fn ttt::ttt_close(head: &mut ttt::TttHead<'_, '_>, tau: f32, temp: &mut [f32]) -> bool;
            fn lite::lite_step(w: &mut [f32], step: lite::LiteStep, f: &mut [f32], p: &mut [f32]) -> bool;
            fn wide::product_wide(p: &crate::kernel::Product<'_>, rows: core::ops::Range<usize>);
        }
    };
}

/// Compiles the shared bodies with a backend's target features.
#[cfg(target_arch = "x86_64")]
macro_rules! stamp {
    ([$features:literal] $(fn $module:ident::$name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        $(#[target_feature(enable = $features)] pub(crate) fn $name($($arg: $type),*) $(-> $result)? { $module::$name($($arg),*) })*
    };
}

/// One method a kernel, which calls the chosen backend's.
macro_rules! dispatch {
    ([] $(fn $module:ident::$name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        impl Backend {
            $(#[cfg_attr(bitttt_micro, inline(never))]
            pub(crate) fn $name(self, $($arg: $type),*) $(-> $result)? {
                match self.0 {
                    Kind::Scalar => $module::$name($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    // SAFETY: a `Kind::Avx2` exists only where `all` found AVX2.
                    Kind::Avx2 => unsafe { avx2::$name($($arg),*) },
                    #[cfg(target_arch = "x86_64")]
                    // SAFETY: a `Kind::Avx512` exists only where `all` found AVX-512 and VNNI.
                    Kind::Avx512 | Kind::Amx => unsafe { avx512::$name($($arg),*) },
                    // The shared bodies have these instructions already: they are part of the target.
                    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
                    Kind::Neon(_) => $module::$name($($arg),*),
                    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
                    Kind::Wasm => $module::$name($($arg),*),
                }
            })*
        }
    };
}
