#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bitttt_fuzz::import::safetensors(data));
