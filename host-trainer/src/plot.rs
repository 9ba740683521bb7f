//! Pictures of figures, as SVG.

use crate::engine::evaluate::Score;
use anyhow::{Result, anyhow};
use plotters::prelude::*;
use std::path::Path;

/// A named line of points.
pub struct Line<'a> {
    /// Name in the legend.
    pub name: &'a str,
    /// Points, by ascending x.
    pub points: Vec<(f64, f64)>,
}

const COLOURS: [RGBColor; 4] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
];

/// Draws lines over a linear or a logarithmic x axis and writes the picture, whole or not at all.
///
/// # Errors
/// A file that cannot be written.
pub fn lines(
    path: &Path,
    title: &str,
    x: &str,
    y: &str,
    log_x: bool,
    lines: &[Line<'_>],
) -> Result<()> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (800, 480)).into_drawing_area();
        draw(&area, title, [x, y], log_x, lines)
            .map_err(|e| anyhow!("cannot draw {}: {e}", path.display()))?;
    }
    Ok(bitttt_export::save_atomically(path, svg.as_bytes())?)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type DrawResult = std::result::Result<(), Box<dyn std::error::Error>>;

fn draw(
    area: &Area<'_>,
    title: &str,
    labels: [&str; 2],
    log_x: bool,
    lines: &[Line<'_>],
) -> DrawResult {
    area.fill(&WHITE)?;
    let (xs, ys) = (range(lines, |p| p.0), range(lines, |p| p.1));
    let mut builder = ChartBuilder::on(area);
    builder
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(56);
    // The two axes are different types in plotters; the macro draws the same on either.
    macro_rules! chart {
        ($x:expr) => {{
            let mut chart = builder.build_cartesian_2d($x, ys.0..ys.1)?;
            chart
                .configure_mesh()
                .x_desc(labels[0])
                .y_desc(labels[1])
                .light_line_style(WHITE)
                .draw()?;
            for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
                chart
                    .draw_series(LineSeries::new(
                        line.points.iter().copied(),
                        colour.stroke_width(2),
                    ))?
                    .label(line.name)
                    .legend(move |(x, y)| {
                        PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2))
                    });
            }
            chart
                .configure_series_labels()
                .background_style(WHITE.mix(0.8))
                .border_style(BLACK.mix(0.3))
                .draw()?;
        }};
    }
    if log_x {
        chart!((xs.0.max(1.0)..xs.1).log_scale())
    } else {
        chart!(xs.0..xs.1)
    }
    area.present()?;
    Ok(())
}

/// Smallest and largest value, widened a little so that no line lies on the frame.
fn range(lines: &[Line<'_>], value: impl Fn(&(f64, f64)) -> f64) -> (f64, f64) {
    let values = || {
        lines
            .iter()
            .flat_map(|l| &l.points)
            .map(&value)
            .filter(|v| v.is_finite())
    };
    let (low, high) = (
        values().fold(f64::MAX, f64::min),
        values().fold(f64::MIN, f64::max),
    );
    if low > high {
        return (0.0, 1.0);
    }
    let margin = ((high - low) * 0.05).max(1e-6);
    (low - margin, high + margin)
}

/// Loss by place in the document, learning on against frozen.
///
/// # Errors
/// A file that cannot be written.
pub fn loss_by_position(path: &Path, learning: Option<&Score>, frozen: &Score) -> Result<()> {
    let points = |score: &Score| {
        let middle = |from: usize, to: usize| ((from.max(1) * to.max(1)) as f64).sqrt();
        score
            .by_position
            .iter()
            .map(|b| (middle(b.from, b.to), b.loss))
            .collect()
    };
    let mut all = vec![Line {
        name: "frozen",
        points: points(frozen),
    }];
    all.extend(learning.map(|score| Line {
        name: "learning on",
        points: points(score),
    }));
    lines(
        path,
        "Loss by position in the document",
        "token",
        "nats a token",
        true,
        &all,
    )
}
