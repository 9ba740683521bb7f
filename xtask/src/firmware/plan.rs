//! What `bitttt plan` says of a board, and what a run of its firmware measures: the same, but for what depends on the folder.

use super::{PROMPT, Row, TOKENS, rows};
use crate::blob;
use crate::boards::{BOARDS, Board, Engine};
use crate::command::{command, output, root};
use crate::firmware::task::Task;
use crate::host::Job;
use anyhow::{Context, Result, bail};
use bitttt_core::format::DType;
use bitttt_export::device::Measured;
use bitttt_export::save_atomically;
use std::path::PathBuf;

/// Compares a row with what is checked in, where the same compiler made it.
pub fn compare(board: &Board, task: &Task<'_>, row: &mut Row) -> Result<()> {
    let (measured, compiler) = (Measured::checked_in()?, compiler()?);
    if measured.compiler != compiler {
        row.note(format!(
            "not compared with `bitttt plan`, which knows the code of {}",
            measured.compiler
        ));
        return Ok(());
    }
    let known = measured.boards.get(board.name);
    let planned = known.with_context(|| {
        format!(
            "`bitttt plan` does not know {}: run `cargo xtask firmware --record`",
            board.name
        )
    })?;
    let reference = task.job.prompt == PROMPT
        && task.job.tokens == usize::from(TOKENS)
        && [blob::choose(None)?, blob::small()?].contains(&task.job.blob.to_path_buf());
    row.compare(planned, reference.then_some(planned.stack));
    Ok(())
}

/// Measures all boards and writes what is checked in.
pub fn record() -> Result<bool> {
    let path = root().join("firmware-example/measured.json");
    let mut measured = Measured {
        compiler: compiler()?,
        ..Measured::default()
    };
    let boards: Vec<_> = BOARDS.iter().collect();
    for row in run(&boards, blob::choose(None)?)? {
        measured.boards.insert(row.board().to_owned(), row.device());
    }
    let text: Vec<_> = boards
        .iter()
        .copied()
        .filter(|board| board.engine > Engine::Minimal && board.ram > 16 << 10)
        .collect();
    let mixers: Vec<_> = text
        .iter()
        .copied()
        .filter(|board| board.engine == Engine::Full)
        .collect();
    for (boards, blob) in [(text, blob::random(DType::T2)?), (mixers, blob::mixers()?)] {
        for row in run(&boards, blob)? {
            if let Some(device) = measured.boards.get_mut(row.board()) {
                device.stack_of_others = device.stack_of_others.max(row.device().stack);
            }
        }
    }
    let mut json = serde_json::to_string_pretty(&measured)?;
    json.push('\n');
    save_atomically(&path, json.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("wrote {}", path.display());
    Ok(true)
}

/// Rows that are right, whatever was planned.
fn run(boards: &[&'static Board], blob: PathBuf) -> Result<Vec<Row>> {
    let job = Job {
        blob: &blob,
        prompt: PROMPT,
        tokens: TOKENS.into(),
    };
    let rows = rows(boards, &job, |_, _, _| Ok(()))?;
    if !rows.iter().all(Row::is_ok) {
        bail!("a board is not ok: see above");
    }
    Ok(rows)
}

fn compiler() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    output(command(rustc).arg("--version")).context("`rustc --version` does not say what it is")
}
