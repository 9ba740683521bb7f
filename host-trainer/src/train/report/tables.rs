//! The page's tables.

use super::{Report, escape};
use crate::plot::number;
use crate::train::probe::Probe;

impl Report<'_> {
    /// All tables, each a section.
    pub(super) fn tables(&self) -> String {
        let probe = self.lines.iter().rev().find_map(|l| l.probe.as_ref());
        let (inner, zeros) = match probe {
            Some(probe) => (inner_loss(probe), self.zeros(probe)),
            None => (String::new(), String::new()),
        };
        inner + &zeros + &self.data()
    }

    /// Names of the ternary matrices, in the order of the data's way through a block.
    pub(super) fn matrices(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        let probes = self.lines.iter().filter_map(|l| l.probe.as_ref());
        for zeros in probes.flat_map(|p| &p.zero_weights) {
            if !names.contains(&zeros.matrix) {
                names.push(zeros.matrix.clone());
            }
        }
        names
    }

    fn zeros(&self, probe: &Probe) -> String {
        let names = self.matrices();
        let head: String = names
            .iter()
            .map(|n| format!("<th>{}</th>", escape(n)))
            .collect();
        let cell = |layer: usize, name: &String| {
            let mut zeros = probe.zero_weights.iter();
            let found = zeros.find(|z| z.layer == layer && z.matrix == *name);
            found.map_or("<td></td>".to_owned(), |z| {
                let shade = z.share.clamp(0.0, 1.0) * 0.8;
                let percent = 100.0 * z.share;
                format!(
                    "<td style=\"background: rgba(0, 114, 178, {shade:.2})\">{percent:.1}%</td>"
                )
            })
        };
        let row = |layer: usize| {
            let cells: String = names.iter().map(|name| cell(layer, name)).collect();
            format!("<tr><td>{layer}</td>{cells}</tr>\n")
        };
        let rows: String = (0..self.config.model.n_layers).map(row).collect();
        section(
            "Zero weights by matrix",
            "Share of zeros at the last validation.",
            &format!("<tr><th>block</th>{head}</tr>\n{rows}"),
        )
    }

    fn data(&self) -> String {
        let row = |(source, epochs): (&crate::data::batch::SourceInfo, &f64)| {
            format!(
                "<tr><td>{}</td><td>{:.1}%</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                escape(&source.name),
                100.0 * source.share,
                source.documents,
                number(source.train_tokens as f64),
                number(source.held_out_tokens as f64),
                number(*epochs)
            )
        };
        let rows: String = self.sources.iter().zip(&self.epochs).map(row).collect();
        section(
            "Data",
            "Files, their shares of the rows, and how often the run has gone through each.",
            &format!(
                "<tr><th>file</th><th>share</th><th>documents</th><th>training tokens</th><th>held-out tokens</th>\
                 <th>epochs</th></tr>\n{rows}"
            ),
        )
    }
}

fn inner_loss(probe: &Probe) -> String {
    let all = || probe.inner_loss.iter();
    if all().next().is_none() {
        return String::new();
    }
    let longest = all()
        .map(|b| b.before.max(b.after))
        .fold(f64::MIN_POSITIVE, f64::max);
    let bar = |class: &str, loss: f64| {
        let percent = 100.0 * loss / longest;
        format!("<div class=\"bar {class}\" style=\"width: {percent:.1}%\"></div>")
    };
    let row = |b: &crate::train::probe::BlockLoss| {
        format!(
            "<tr><td>{}</td><td class=\"bars\">{}{}</td><td>{}</td><td>{}</td><td>{:+.1}%</td></tr>\n",
            b.layer,
            bar("before", b.before),
            bar("after", b.after),
            number(b.before),
            number(b.after),
            100.0 * (b.after / b.before - 1.0)
        )
    };
    let rows: String = all().map(row).collect();
    section(
        "Inner loss by block",
        "At the last validation, on the tokens of a mini-batch: at the weights of its start, and at those that its update left.",
        &format!(
            "<tr><th>block</th><th></th><th>before</th><th>after</th><th>change</th></tr>\n{rows}"
        ),
    )
}

fn section(title: &str, what: &str, rows: &str) -> String {
    format!(
        "<section class=\"wide\"><h2>{title}</h2><p>{what}</p><div class=\"scroll\"><table>\n{rows}</table></div></section>\n"
    )
}
