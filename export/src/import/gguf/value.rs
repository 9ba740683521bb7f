//! Metadata of a GGUF file: typed values under names.

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Any of the unsigned integers.
    Unsigned(u64),
    /// Any of the signed ones.
    Signed(i64),
    /// Either of the floats.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
    /// Values of one type, none of them an array.
    Array(Vec<Value>),
}

/// Type codes.
pub const TEXT: u32 = 8;
pub const ARRAY: u32 = 9;

/// Bytes of a value of this type, the fewest where they vary; `None`: no such type.
pub fn least_bytes(code: u32) -> Option<u64> {
    Some(match code {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        TEXT => 8,   // its length
        ARRAY => 12, // type and count
        _ => return None,
    })
}

impl Value {
    /// A value of a type of fixed size; `None`: not such a type, or a truth value that is neither 0 nor 1.
    pub fn fixed(code: u32, bytes: &[u8]) -> Option<Self> {
        let mut wide = [0; 8];
        wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
        let unsigned = u64::from_le_bytes(wide);
        Some(match code {
            0 | 2 | 4 | 10 => Self::Unsigned(unsigned),
            1 => Self::Signed(i64::from(unsigned as i8)),
            3 => Self::Signed(i64::from(unsigned as i16)),
            5 => Self::Signed(i64::from(unsigned as i32)),
            11 => Self::Signed(unsigned as i64),
            6 => Self::Float(f64::from(f32::from_bits(unsigned as u32))),
            12 => Self::Float(f64::from_bits(unsigned)),
            7 if unsigned < 2 => Self::Bool(unsigned == 1),
            _ => return None,
        })
    }

    /// A whole number that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(n) => Some(*n),
            Self::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// A number.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Unsigned(n) => Some(*n as f64),
            Self::Signed(n) => Some(*n as f64),
            Self::Float(x) => Some(*x),
            _ => None,
        }
    }

    /// A text.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Values of an array.
    pub fn as_array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(values) => Some(values),
            _ => None,
        }
    }
}

impl std::fmt::Display for Value {
    /// As errors say it; of what is long, the kind alone.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unsigned(n) => n.fmt(out),
            Self::Signed(n) => n.fmt(out),
            Self::Float(x) => x.fmt(out),
            Self::Bool(flag) => flag.fmt(out),
            Self::Text(text) if text.len() <= 64 => write!(out, "`{}`", text.escape_debug()),
            Self::Text(_) => write!(out, "a text"),
            Self::Array(values) => write!(out, "an array of {}", values.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_keep_their_sign_and_floats_their_value() {
        let fixed = |code, bytes: &[u8]| Value::fixed(code, bytes);
        assert_eq!(fixed(1, &[0xFF]), Some(Value::Signed(-1)));
        assert_eq!(fixed(0, &[0xFF]), Some(Value::Unsigned(255)));
        assert_eq!(fixed(3, &[0xFE, 0xFF]), Some(Value::Signed(-2)));
        assert_eq!(fixed(5, &(-3i32).to_le_bytes()), Some(Value::Signed(-3)));
        assert_eq!(fixed(11, &(-4i64).to_le_bytes()), Some(Value::Signed(-4)));
        assert_eq!(fixed(6, &1.5f32.to_le_bytes()), Some(Value::Float(1.5)));
        assert_eq!(fixed(12, &2.5f64.to_le_bytes()), Some(Value::Float(2.5)));
        assert_eq!(fixed(7, &[1]), Some(Value::Bool(true)));
        assert_eq!(fixed(7, &[2]), None);
        assert_eq!(fixed(8, &[0; 8]), None);
        assert_eq!(fixed(0, &[0; 9]), None);
    }

    #[test]
    fn negative_numbers_are_no_sizes() {
        assert_eq!(Value::Signed(7).as_u64(), Some(7));
        assert_eq!(Value::Signed(-7).as_u64(), None);
        assert_eq!(Value::Float(7.0).as_u64(), None);
        assert_eq!(Value::Unsigned(7).as_f64(), Some(7.0));
    }
}
