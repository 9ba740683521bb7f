//! GGUF files made piece by piece.

/// A GGUF file made piece by piece, for what no writer would write.
#[derive(Clone)]
pub struct Made {
    pub version: u32,
    pub values: Vec<(String, u32, Vec<u8>)>,
    pub tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

pub fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

pub fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

impl Made {
    /// A small `bitnet-b1.58` with two heads of four, whose matrices alternate -0.5, 0, 0.5.
    pub fn model() -> Self {
        let mut made = Self {
            version: 3,
            values: Vec::new(),
            tensors: Vec::new(),
        };
        made.value("general.architecture", 8, text("bitnet-b1.58"));
        for (key, value) in [
            ("context_length", 64u32),
            ("embedding_length", 8),
            ("block_count", 1),
            ("feed_forward_length", 12),
            ("attention.head_count", 2),
        ] {
            let key = format!("bitnet-b1.58.{key}");
            made.value(&key, 4, value.to_le_bytes().to_vec());
        }
        made.value(
            "bitnet-b1.58.attention.layer_norm_rms_epsilon",
            6,
            floats(&[1e-5]),
        );
        for (name, rows, cols) in [
            ("token_embd", 5, 8),
            ("output_norm", 1, 8),
            ("blk.0.attn_norm", 1, 8),
            ("blk.0.attn_q", 8, 8),
            ("blk.0.attn_k", 8, 8),
            ("blk.0.attn_v", 8, 8),
            ("blk.0.attn_output", 8, 8),
            ("blk.0.attn_sub_norm", 1, 8),
            ("blk.0.ffn_norm", 1, 8),
            ("blk.0.ffn_gate", 12, 8),
            ("blk.0.ffn_up", 12, 8),
            ("blk.0.ffn_sub_norm", 1, 12),
            ("blk.0.ffn_down", 8, 12),
        ] {
            let value = |i: u64| (i * 7 % 3) as f32 * 0.5 - 0.5;
            let values: Vec<f32> = (0..rows * cols).map(value).collect();
            let dims = if rows == 1 {
                vec![cols]
            } else {
                vec![cols, rows]
            };
            made.tensor(&format!("{name}.weight"), dims, 0, floats(&values));
        }
        made
    }

    pub fn value(&mut self, key: &str, code: u32, bytes: Vec<u8>) -> &mut Self {
        self.values.retain(|(own, ..)| own != key);
        self.values.push((key.to_owned(), code, bytes));
        self
    }

    pub fn tensor(&mut self, name: &str, dims: Vec<u64>, code: u32, data: Vec<u8>) -> &mut Self {
        self.tensors.retain(|(own, ..)| own != name);
        self.tensors.push((name.to_owned(), dims, code, data));
        self
    }

    pub fn without(&mut self, name: &str) -> &mut Self {
        self.values.retain(|(own, ..)| own != name);
        self.tensors.retain(|(own, ..)| own != name);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.values.len() as u64).to_le_bytes());
        for (key, code, bytes) in &self.values {
            out.extend([&text(key), &code.to_le_bytes()[..], bytes].concat());
        }
        let mut data = Vec::new();
        for (name, dims, code, bytes) in &self.tensors {
            out.extend(text(name));
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|n| out.extend(n.to_le_bytes()));
            out.extend(code.to_le_bytes());
            out.extend((data.len() as u64).to_le_bytes());
            data.extend(bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }
}
