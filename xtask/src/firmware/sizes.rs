//! Where a firmware's flash goes, by module.

use super::Row;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Bytes by crate and module, the largest first; modules of less than a hundred bytes are not named.
pub fn table(row: &Row) -> String {
    let mut modules = BTreeMap::<String, u64>::new();
    for (name, bytes) in &row.symbols {
        *modules.entry(module(name)).or_default() += bytes;
    }
    let mut modules: Vec<_> = modules
        .into_iter()
        .filter(|(_, bytes)| *bytes >= 100)
        .collect();
    modules.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let mut table = format!(
        "flash of {} by module; what is inlined counts where it is used\n",
        row.board()
    );
    for (module, bytes) in modules {
        let _ = writeln!(table, "{bytes:>8}  {module}");
    }
    table
}

/// Crate and first module of a symbol; of an `impl`, those of the type.
fn module(name: &str) -> String {
    let path = match name.trim_start_matches(['<', '&']) {
        "" => "constants",
        anonymous if anonymous.starts_with(".Lanon") => "constants",
        path => path,
    };
    let path = path.split([' ', '>']).next().unwrap_or(path);
    let mut parts = path.split("::").map(|part| {
        let end = part.find(|c: char| !c.is_alphanumeric() && c != '_');
        part.get(..end.unwrap_or(part.len())).unwrap_or(part)
    });
    let first = parts.next().unwrap_or(path);
    match parts.next() {
        Some(second) if second.starts_with(char::is_lowercase) => format!("{first}::{second}"),
        _ => first.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::module;

    #[test]
    fn symbols_belong_to_the_module_of_their_type() {
        for (name, expected) in [
            (
                "bitttt_core::session::Session::pass",
                "bitttt_core::session",
            ),
            ("<bitttt_core::model::Model>::verify", "bitttt_core::model"),
            ("<&mut T as core::fmt::Write>::write_str", "mut"),
            ("__aeabi_memcpy", "__aeabi_memcpy"),
            ("libm::math::powf::powf", "libm::math"),
        ] {
            assert_eq!(module(name), expected);
        }
    }
}
