//! docs/FORMAT.md against the code.

use bitttt_sign::{Kind, SIGNATURE_BYTES, field};

const DOCUMENT: &str = include_str!("../../docs/FORMAT.md");

#[test]
fn the_record_is_as_the_document_says() {
    let (_, table) = DOCUMENT.split_once("<!-- table: signature -->\n").unwrap();
    let rows = table
        .lines()
        .take_while(|line| line.starts_with('|'))
        .skip(2);
    let rows: Vec<Vec<&str>> = rows
        .map(|row| row.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let number = |cell: &str| cell.parse::<usize>().unwrap();
    let documented: Vec<_> = rows.iter().map(|row| (row[2], number(row[0]))).collect();
    let fields = [
        ("MAGIC", field::MAGIC),
        ("VERSION", field::VERSION),
        ("KIND", field::KIND),
        ("KEY_ID", field::KEY_ID),
        ("SIGNATURE", field::SIGNATURE),
    ];
    assert_eq!(documented, fields);
    let end = rows.iter().fold(0, |end, row| {
        assert_eq!(number(row[0]), end, "no gaps");
        end + number(row[1])
    });
    assert_eq!(end, SIGNATURE_BYTES);
    let kinds = Kind::ALL.map(|kind| format!("{} {}", kind as u16, kind.name()));
    assert_eq!(rows[2][3], kinds.join(", "));
    for kind in Kind::ALL {
        assert!(DOCUMENT.contains(&format!("`bitttt signature 1: {}`", kind.name())));
    }
}
