//! Single products on boards: exact, and counted.

use super::emulate;
use crate::boards::{self, Board};
use crate::host::Job;
use crate::report::Report;
use crate::setup::toolchain;
use anyhow::{Result, ensure};
use std::path::Path;

/// Most instructions that a ternary weight may take in a product with 256 rows on a Cortex-M4, in thousandths.
const T5_LIMIT: u64 = 900;

/// Runs the firmware `kernels` on some boards and shows what it counts.
pub fn run(blob: &Path) -> Result<()> {
    let job = Job {
        blob,
        prompt: "Ada",
        tokens: 1,
    };
    eprintln!("instructions a weight of a matrix-vector product");
    for board in boards::with_kernels() {
        measure(board, &job)?;
    }
    Ok(())
}

fn measure(board: &Board, job: &Job<'_>) -> Result<()> {
    let output = emulate(board, toolchain(board.target)?, job, "kernels")?;
    let report = Report::parse(&output)?;
    let mut line = format!("{:14}", board.name);
    for kind in ["t5", "i8", "t2"] {
        for shape in ["256x256", "256x1024"] {
            let name = format!("{kind}_{shape}");
            let count = report.count(&name)?;
            line += &format!("  {kind} {shape} {:.3}", count as f64 / 1000.0);
            ensure!(
                kind != "t5" || !board.is_cortex_m4() || count <= T5_LIMIT,
                "{name} takes {count} thousandths of an instruction a weight on {}, above {T5_LIMIT}",
                board.name
            );
        }
    }
    eprintln!("{line}");
    Ok(())
}
