//! One board's figures, what is wrong with them, and the table of all boards.

use crate::boards::Board;
use crate::elf::Image;
use crate::host::Outcome;
use crate::report::Report;
use anyhow::Result;
use bitttt_export::device::Device;
use serde::Serialize;
use std::fmt::Write;

/// One board's figures.
#[derive(Debug, Default, Serialize)]
pub struct Row {
    board: &'static str,
    /// File that was run.
    model: String,
    tokens_hash: Option<String>,
    state_hash: Option<String>,
    /// Mean over the generated tokens: reading one and choosing the next.
    instructions_per_token: Option<u64>,
    /// Session, other statics and the deepest stack.
    ram_bytes: Option<u64>,
    session_bytes: Option<u64>,
    /// The deepest stack.
    stack_bytes: Option<u64>,
    /// The whole firmware.
    flash_bytes: Option<u64>,
    /// The same without the blob, in whole lines as it lies there.
    engine_flash_bytes: Option<u64>,
    /// The same without vectors, start-up, clock, console and report.
    core_flash_bytes: Option<u64>,
    /// What is not compared with `bitttt plan`, and why.
    note: Option<String>,
    /// Names and bytes of functions and statics.
    #[serde(skip)]
    pub(super) symbols: Vec<(String, u64)>,
    ok: bool,
    /// What is wrong where it is not ok.
    faults: Vec<String>,
}

/// Bytes by which the same firmware differs from folder to folder: the compiler orders functions by names that depend on where
/// the sources lie, and with the order change the padding between functions and the calls that an interrupt meets.
const ORDER: u64 = 128;

impl Row {
    /// A row without figures.
    pub fn new(board: &'static str, model: String) -> Self {
        Self {
            board,
            model,
            ok: true,
            ..Self::default()
        }
    }

    /// Name of the board.
    pub fn board(&self) -> &'static str {
        self.board
    }

    /// Whether everything is as it should be.
    pub fn is_ok(&self) -> bool {
        self.ok
    }

    /// Notes that something is wrong.
    pub fn fault(&mut self, fault: String) {
        self.ok = false;
        self.faults.push(fault);
    }

    fn check(&mut self, holds: bool, fault: impl FnOnce() -> String) {
        if !holds {
            self.fault(fault());
        }
    }

    /// Takes what the linked firmware says, which contains a blob of `blob_bytes`.
    pub fn read_image(&mut self, board: &Board, image: &Image, blob_bytes: u64) {
        let engine = image.flash_bytes.saturating_sub(Device::blob(blob_bytes));
        let core = engine.saturating_sub(image.chip_bytes);
        self.core_flash_bytes = Some(core);
        self.flash_bytes = Some(image.flash_bytes);
        self.symbols.clone_from(&image.symbols);
        self.engine_flash_bytes = Some(engine);
        self.check(engine <= board.flash_limit, || {
            format!(
                "flash without the blob, {engine}, is above {}",
                board.flash_limit
            )
        });
        if let Some(limit) = board.core_limit {
            self.check(core <= limit, || {
                format!("flash of the engine, {core}, is above {limit}")
            });
        }
        self.check(image.panics.is_empty(), || {
            format!("it could panic: {}", image.panics.join(", "))
        });
    }

    /// Takes what `generate` reports, whose session should take the `planned` bytes.
    ///
    /// # Errors
    /// Figures that are missing.
    pub fn read_report(
        &mut self,
        board: &Board,
        report: &Report<'_>,
        expected: &Outcome,
        planned: u64,
    ) -> Result<()> {
        let (tokens, state) = (report.hash("tokens_hash")?, report.hash("state_hash")?);
        let (ram, session) = (report.count("ram_bytes")?, report.count("session_bytes")?);
        self.tokens_hash = Some(format!("{tokens:08x}"));
        self.state_hash = Some(format!("{state:08x}"));
        self.instructions_per_token = Some(report.count("instructions_per_token")?);
        self.ram_bytes = Some(ram);
        self.session_bytes = Some(session);
        self.stack_bytes = Some(report.count("stack_bytes")?);
        let hashes = (tokens, state) == (expected.tokens_hash, expected.state_hash);
        self.check(hashes, || {
            "the hashes differ from this machine's".to_owned()
        });
        self.check(session == planned, || {
            format!("a session takes {session} bytes, not {planned} as planned")
        });
        self.check(ram <= session + board.ram_limit, || {
            format!(
                "RAM without the session, {}, is above {}",
                ram.saturating_sub(session),
                board.ram_limit
            )
        });
        Ok(())
    }

    /// Takes what `self-test` reports.
    ///
    /// # Errors
    /// No hash.
    pub fn read_self_test(&mut self, report: &Report<'_>, expected: &Outcome) -> Result<()> {
        let state = report.hash("state_hash")?;
        self.check(state == expected.prompt_state_hash, || {
            format!(
                "state after the prompt is {state:08x}, not {:08x}",
                expected.prompt_state_hash
            )
        });
        Ok(())
    }

    /// What a plan for this board would have to be based on; 0 where it was not measured.
    pub fn device(&self) -> Device {
        let [ram, session, stack] =
            [self.ram_bytes, self.session_bytes, self.stack_bytes].map(Option::unwrap_or_default);
        Device {
            flash: self.engine_flash_bytes.unwrap_or_default(),
            statics: ram.saturating_sub(session + stack),
            stack,
            stack_of_others: stack,
        }
    }

    /// Compares with what `bitttt plan` says of the board; the stack only where it is known to the byte, since an interrupt
    /// adds to it or not.
    pub fn compare(&mut self, planned: &Device, stack: Option<u64>) {
        let found = self.device();
        let mut pairs = vec![
            ("flash without the blob", planned.flash, found.flash, ORDER),
            ("statics", planned.statics, found.statics, 0),
        ];
        pairs.extend(stack.map(|stack| ("stack", stack, found.stack, ORDER)));
        for (what, planned, found, slack) in pairs {
            self.check(planned.abs_diff(found) <= slack, || {
                format!(
                    "{what} takes {found} bytes, `bitttt plan` says {planned}: run `cargo xtask firmware --record`"
                )
            });
        }
    }

    /// Says what was left out.
    pub fn note(&mut self, note: String) {
        self.note = Some(note);
    }

    fn cells(&self) -> [String; 9] {
        let number = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
        [
            self.board.to_owned(),
            self.model.clone(),
            number(self.instructions_per_token),
            number(self.flash_bytes),
            number(self.engine_flash_bytes),
            number(self.core_flash_bytes),
            number(self.ram_bytes),
            number(self.stack_bytes),
            if self.ok { "ok" } else { "FAILED" }.to_owned(),
        ]
    }
}

/// All boards' figures, with what is wrong under each.
pub fn table(rows: &[Row]) -> String {
    let heads = [
        "board",
        "model",
        "instructions/token",
        "flash",
        "without blob",
        "engine",
        "RAM",
        "stack",
        "",
    ];
    let cells: Vec<_> = rows.iter().map(Row::cells).collect();
    let widths: Vec<usize> = (0..heads.len())
        .map(|column| {
            let cells = cells.iter().map(|row| row[column].len());
            cells.chain([heads[column].len()]).max().unwrap_or(0)
        })
        .collect();
    let mut table = line(&heads.map(str::to_owned), &widths);
    for (row, cells) in rows.iter().zip(&cells) {
        table.push_str(&line(cells, &widths));
        for fault in row.faults.iter().chain(&row.note) {
            let _ = writeln!(table, "  {fault}");
        }
    }
    table
}

/// Two columns of names, then numbers, then a word.
fn line(cells: &[String; 9], widths: &[usize]) -> String {
    let mut line = String::new();
    for (column, (cell, &width)) in cells.iter().zip(widths).enumerate() {
        let _ = match column {
            2..=7 => write!(line, "{cell:>width$}  "),
            _ => write!(line, "{cell:width$}  "),
        };
    }
    line.truncate(line.trim_end().len());
    line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boards::BOARDS;

    fn read(tokens_hash: u32, ram_bytes: u64) -> Row {
        let expected = Outcome {
            tokens_hash: 1,
            state_hash: 2,
            prompt_state_hash: 3,
        };
        let output = format!(
            "Ada\n--- report\ntokens_hash={tokens_hash:08x}\nstate_hash=00000002\ninstructions_per_token=5\n\
             session_bytes=1000\nstack_bytes=10\nram_bytes={ram_bytes}\nok\n"
        );
        let mut row = Row::new("a board", "a model".to_owned());
        let report = Report::parse(&output).unwrap();
        row.read_report(&BOARDS[0], &report, &expected, 1000)
            .unwrap();
        row
    }

    #[test]
    fn a_board_whose_session_is_not_as_planned_is_not_ok() {
        let output = "--- report\ntokens_hash=00000001\nstate_hash=00000002\ninstructions_per_token=5\n\
             session_bytes=1004\nstack_bytes=10\nram_bytes=1014\nok\n";
        let expected = Outcome {
            tokens_hash: 1,
            state_hash: 2,
            prompt_state_hash: 3,
        };
        let mut row = Row::new("a board", "a model".to_owned());
        let report = Report::parse(output).unwrap();
        row.read_report(&BOARDS[0], &report, &expected, 1000)
            .unwrap();
        assert!(!row.is_ok());
    }

    #[test]
    fn a_board_that_comes_to_other_tokens_is_not_ok() {
        assert!(read(1, 1010).is_ok());
        assert!(!read(9, 1010).is_ok());
    }

    #[test]
    fn a_board_that_takes_more_ram_than_its_limit_is_not_ok() {
        let limit = 1000 + BOARDS[0].ram_limit;
        assert!(read(1, limit).is_ok());
        assert!(!read(1, limit + 1).is_ok());
    }

    #[test]
    fn a_firmware_that_could_panic_or_is_too_large_is_not_ok() {
        let check = |flash_bytes, panics: &[&str]| {
            let image = Image {
                flash_bytes,
                chip_bytes: 0,
                symbols: Vec::new(),
                panics: panics.iter().map(|&panic| panic.to_owned()).collect(),
            };
            let mut row = Row::new("a board", String::new());
            row.read_image(&BOARDS[0], &image, 100); // two lines
            row.is_ok()
        };
        let limit = BOARDS[0].flash_limit + 128;
        assert!(check(limit, &[]));
        assert!(!check(limit + 1, &[]));
        assert!(!check(limit, &["panic_fmt"]));
    }

    #[test]
    fn a_board_that_takes_more_than_planned_is_not_ok() {
        let mut row = read(1, 1018);
        let planned = Device {
            statics: 8,
            stack: 10,
            ..row.device()
        };
        row.compare(&planned, Some(10));
        row.compare(&planned, Some(10 + ORDER));
        assert!(row.is_ok());
        row.compare(&planned, Some(11 + ORDER));
        assert!(!row.is_ok());
    }

    #[test]
    fn an_engine_above_its_promise_is_not_ok() {
        let board = BOARDS.iter().find(|board| board.core_limit.is_some());
        let board = board.unwrap();
        let check = |chip_bytes| {
            let image = Image {
                flash_bytes: board.core_limit.unwrap() + 65,
                chip_bytes,
                symbols: Vec::new(),
                panics: Vec::new(),
            };
            let mut row = Row::new("a board", String::new());
            row.read_image(board, &image, 1);
            row.faults.iter().any(|fault| fault.contains("engine"))
        };
        assert!(check(0) && !check(1));
    }

    #[test]
    fn the_table_shows_what_is_wrong_under_its_board() {
        let mut wrong = Row::new("other", "m".to_owned());
        wrong.fault("no emulator".to_owned());
        let table = table(&[read(1, 1010), wrong]);
        let lines: Vec<_> = table.lines().collect();
        assert!(lines[1].starts_with("a board  a model") && lines[1].ends_with("ok"));
        assert!(lines[2].starts_with("other    m") && lines[2].ends_with("FAILED"));
        assert_eq!(lines[3], "  no emulator");
    }
}
