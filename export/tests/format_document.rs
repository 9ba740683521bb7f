//! docs/FORMAT.md against the code: its tables are the tests.

use bitttt_core::format::config::field as config;
use bitttt_core::format::header::{self, section_field as section};
use bitttt_core::format::layer::layer_field as layer;
use bitttt_core::format::tensor::field as tensor;
use bitttt_core::format::{DType, LayerConfig, MAJOR, MINOR, Mixer, Role, Section};
use bitttt_core::{snapshot, tokenizer};
use bitttt_export::pack::pack_row;

const DOCUMENT: &str = include_str!("../../docs/FORMAT.md");

/// Cells of the rows of the table behind `<!-- table: name -->`.
fn table(name: &str) -> Vec<Vec<String>> {
    let (_, rest) = DOCUMENT
        .split_once(&format!("<!-- table: {name} -->\n"))
        .unwrap_or_else(|| panic!("no table {name}"));
    let rows = rest
        .lines()
        .take_while(|line| line.starts_with('|'))
        .skip(2);
    let cells = |row: &str| {
        row.trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().to_owned())
            .collect()
    };
    let rows: Vec<Vec<String>> = rows.map(cells).collect();
    assert!(!rows.is_empty(), "table {name} has no rows");
    rows
}

/// Offsets in the document are those of the code, and fields do not overlap.
fn check_fields(name: &str, fields: &[(&str, usize)]) {
    let rows = table(name);
    let documented: Vec<(&str, usize)> = rows
        .iter()
        .map(|row| (row[2].as_str(), row[0].parse().unwrap()))
        .collect();
    assert_eq!(documented, fields, "table {name}");
    for pair in rows.windows(2) {
        let [from, bytes, next] =
            [&pair[0][0], &pair[0][1], &pair[1][0]].map(|cell| cell.parse::<usize>().unwrap());
        assert!(from + bytes <= next, "{name}: fields overlap at {from}");
    }
}

macro_rules! fields {
    ($module:ident: $($field:ident)*) => { &[$((stringify!($field), $module::$field)),*] };
}

#[test]
fn field_offsets_are_those_of_the_document() {
    use header::field as head;
    use snapshot::field as snap;
    use tokenizer::field as token;
    check_fields(
        "header",
        fields!(head: MAGIC MAJOR MINOR FILE_BYTES SECTION_COUNT CRC RESERVED),
    );
    check_fields("section", fields!(section: KIND CRC OFFSET BYTES));
    check_fields(
        "config",
        fields!(config: VOCAB_SIZE D_MODEL N_LAYERS D_FFN NORM_EPS ROPE_THETA LN_EPS TTT_BASE_LR MINI_BATCH N_HEADS ACTIVATION FLAGS DOCUMENT_TOKEN CONTEXT),
    );
    check_fields(
        "layer",
        fields!(layer: MIXER FLAGS KV_HEADS FIRST_TENSOR WINDOW MORE_FLAGS RESERVED),
    );
    check_fields(
        "tensor",
        fields!(tensor: ROLE DTYPE LAYER ROWS COLS SCALE OFFSET),
    );
    check_fields("tokenizer", fields!(token: TOKENS MERGES TEXT_BYTES FLAGS));
    check_fields(
        "snapshot",
        fields!(snap: MAGIC VERSION MODEL WORDS POSITION DROPPED CRC),
    );
}

#[test]
fn versions_are_those_of_the_document() {
    assert!(DOCUMENT.starts_with(&format!("# The `.bttt` blob, version {MAJOR}.{MINOR}\n")));
    let rows = table("header");
    assert_eq!(
        [&rows[1][3], &rows[2][3]],
        [&MAJOR.to_string(), &MINOR.to_string()]
    );
    assert_eq!(table("snapshot")[1][3], snapshot::VERSION.to_string());
}

#[test]
fn sections_roles_and_types_are_those_of_the_document() {
    let sections: Vec<_> = Section::ALL
        .iter()
        .map(|&s| vec![(s as u32).to_string(), s.name().to_owned()])
        .collect();
    assert_eq!(table("sections"), sections);
    let types = [DType::T2, DType::T5, DType::I8, DType::F16, DType::F32];
    let documented: Vec<_> = table("dtypes")
        .iter()
        .map(|row| row[..2].to_vec())
        .collect();
    assert_eq!(
        documented,
        types.map(|t| vec![(t as u8).to_string(), t.name().to_owned()])
    );
    let roles: Vec<Role> = Role::GLOBAL.into_iter().chain(Role::LAYER).collect();
    let rows = table("roles");
    assert_eq!(rows.len(), roles.len());
    for (row, role) in rows.iter().zip(roles) {
        let allowed: Vec<_> = types
            .into_iter()
            .filter(|&t| role.allows(t))
            .map(DType::name)
            .collect();
        assert_eq!(row[0], (role as u8).to_string());
        assert_eq!(row[1].split(' ').next(), Some(role.name()));
        assert_eq!(row[3], allowed.join(" "), "{}", role.name());
        assert_eq!(row[4], mixers_with(role), "{}", role.name());
    }
}

/// The mixers whose layers have this role when every flag is on that adds one, and none that takes one away.
fn mixers_with(role: Role) -> String {
    let heads = |mixer| matches!(mixer, Mixer::TttLinear | Mixer::TttMlp);
    let full = |mixer| LayerConfig {
        layer_norm: heads(mixer),
        pre_conv: heads(mixer),
        conv: true,
        ffn_conv: true,
        gate: mixer != Mixer::TttLite,
        decay: mixer != Mixer::Attention,
        ..LayerConfig::of(mixer)
    };
    let having = Mixer::ALL.into_iter().filter(|&mixer| {
        let shared_qk = heads(mixer);
        let full = full(mixer);
        full.has(role) || LayerConfig { shared_qk, ..full }.has(role) // the latter takes the key's away
    });
    having.map(Mixer::name).collect::<Vec<_>>().join(" ")
}

#[test]
fn mixers_and_their_flags_are_those_of_the_document() {
    let flags = |mixer: Mixer| {
        let bits = (0..16).filter(|bit| mixer.allowed_flags() >> bit & 1 == 1);
        bits.map(|bit: u16| bit.to_string())
            .collect::<Vec<_>>()
            .join(" ")
    };
    let mixers = Mixer::ALL.map(|m| vec![(m as u8).to_string(), m.name().into(), flags(m)]);
    assert_eq!(table("mixers"), mixers);
}

#[test]
fn row_lengths_are_those_of_the_document() {
    for n in 1..1500u64 {
        assert_eq!(
            DType::T2.row_bytes(n as u32),
            64 * (n / 256) + (n % 256).div_ceil(4)
        );
        assert_eq!(
            DType::T5.row_bytes(n as u32),
            64 * (n / 320) + (n % 320).div_ceil(5)
        );
    }
}

#[test]
fn packed_examples_are_those_of_the_document() {
    for (name, dtype) in [("t2", DType::T2), ("t5", DType::T5)] {
        for row in table(name) {
            let weights: Vec<i8> = row[0].split(' ').map(|w| w.parse().unwrap()).collect();
            let bytes: Vec<u8> = row[1]
                .split(' ')
                .map(|b| u8::from_str_radix(b, 16).unwrap())
                .collect();
            assert_eq!(pack_row(&weights, dtype), Some(bytes), "{name} {}", row[0]);
        }
    }
}
