//! Pictures of figures, as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::engine::evaluate::Score;

/// A named line of points.
pub struct Line {
    /// Name in the legend.
    pub name: String,
    /// Points, by ascending x.
    pub points: Vec<(f64, f64)>,
}

impl Line {
    /// Points that are not finite are left out.
    pub fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        let finite = |(x, y): &(f64, f64)| x.is_finite() && y.is_finite();
        Self {
            name: name.into(),
            points: points.into_iter().filter(finite).collect(),
        }
    }
}

/// Lines over a linear or a logarithmic x axis.
pub struct Chart<'a> {
    /// Over the picture; nothing when empty.
    pub title: String,
    /// Name and unit of the x axis.
    pub x: &'a str,
    /// Name and unit of the y axis.
    pub y: &'a str,
    /// Whether the x axis is logarithmic.
    pub log_x: bool,
    /// What is drawn.
    pub lines: Vec<Line>,
}

/// Colours that people who see red and green alike tell apart (Okabe and Ito 2008).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];
const SIZE: (u32, u32) = (720, 400);
const TEXT: RGBColor = RGBColor(75, 85, 99);
const AXIS: RGBColor = RGBColor(156, 163, 175);
const GRID: RGBColor = RGBColor(232, 235, 239);
/// Lines with so few points show them.
const MARKED: usize = 16;

impl Chart<'_> {
    /// The picture.
    ///
    /// # Errors
    /// When it cannot be drawn.
    pub fn svg(&self) -> Result<String> {
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            self.draw(&area)
                .map_err(|e| anyhow!("cannot draw {}: {e}", self.title))?;
        }
        Ok(svg)
    }

    /// Writes the picture, whole or not at all.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        Ok(bitttt_export::save_atomically(
            path,
            self.svg()?.as_bytes(),
        )?)
    }

    fn draw(&self, area: &Area<'_>) -> DrawResult {
        area.fill(&WHITE)?;
        let (xs, ys) = (self.range(|p| p.0), self.range(|p| p.1));
        let mut builder = ChartBuilder::on(area);
        builder
            .margin(12)
            .margin_right(24)
            .x_label_area_size(46)
            .y_label_area_size(64);
        if !self.title.is_empty() {
            builder.caption(&self.title, ("sans-serif", 20).into_font().color(&TEXT));
        }
        // The two axes are different types in plotters; the macro draws the same on either.
        macro_rules! chart {
            ($x:expr) => {{
                let mut chart = builder.build_cartesian_2d($x, ys.0..ys.1)?;
                chart
                    .configure_mesh()
                    .x_desc(self.x)
                    .y_desc(self.y)
                    .label_style(("sans-serif", 14).into_font().color(&TEXT))
                    .axis_style(AXIS)
                    .bold_line_style(GRID)
                    .light_line_style(TRANSPARENT)
                    .x_label_formatter(&|x| number(*x))
                    .y_label_formatter(&|y| number(*y))
                    .draw()?;
                let drawn = self.lines.iter().filter(|l| !l.points.is_empty());
                for (line, colour) in drawn.zip(COLOURS.iter().cycle()) {
                    let points = || line.points.iter().copied();
                    chart
                        .draw_series(LineSeries::new(points(), colour.stroke_width(2)))?
                        .label(&line.name)
                        .legend(move |(x, y)| {
                            PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(3))
                        });
                    if line.points.len() <= MARKED {
                        let marks = points().map(|at| Circle::new(at, 3, colour.filled()));
                        chart.draw_series(marks)?;
                    }
                }
                if self.lines.len() > 1 {
                    chart
                        .configure_series_labels()
                        .position(SeriesLabelPosition::UpperRight)
                        .label_font(("sans-serif", 14).into_font().color(&TEXT))
                        .background_style(WHITE.mix(0.85))
                        .border_style(GRID)
                        .draw()?;
                }
            }};
        }
        if self.log_x {
            let low = xs.0.max(1.0);
            chart!((low..xs.1.max(2.0 * low)).log_scale())
        } else {
            chart!(xs.0..xs.1)
        }
        area.present()?;
        Ok(())
    }

    /// Smallest and largest value, widened a little so that no line lies on the frame.
    fn range(&self, value: impl Fn(&(f64, f64)) -> f64) -> (f64, f64) {
        let values = || self.lines.iter().flat_map(|l| &l.points).map(&value);
        let (low, high) = (
            values().fold(f64::MAX, f64::min),
            values().fold(f64::MIN, f64::max),
        );
        if low > high {
            return (0.0, 1.0);
        }
        let margin = ((high - low) * 0.05).max(high.abs() * 1e-3).max(1e-9);
        (low - margin, high + margin)
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type DrawResult = std::result::Result<(), Box<dyn std::error::Error>>;

/// A number as short as a reader wants it: 4 significant digits, thousands as k, millions as M.
pub fn number(x: f64) -> String {
    let (x, unit) = match x.abs() {
        a if a >= 1e9 => (x / 1e9, "G"),
        a if a >= 1e6 => (x / 1e6, "M"),
        a if a >= 1e4 => (x / 1e3, "k"),
        _ => (x, ""),
    };
    if x.abs() < 1e-9 {
        return "0".into();
    }
    let digits = (3 - x.abs().log10().floor() as i32).max(0) as usize;
    let text = format!("{x:.digits$}");
    let short = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{short}{unit}")
}

/// Loss by place in the document, learning on against frozen.
///
/// # Errors
/// A file that cannot be written.
pub fn loss_by_position(path: &Path, learning: Option<&Score>, frozen: &Score) -> Result<()> {
    let line = |name: &str, score: &Score| {
        let points = score.by_position.iter().map(|b| (b.middle(), b.loss));
        Line::new(name, points.collect())
    };
    let mut lines = vec![line("frozen", frozen)];
    lines.extend(learning.map(|score| line("learning on", score)));
    let chart = Chart {
        title: "Loss by position in the document".into(),
        x: "token",
        y: "nats a token",
        log_x: true,
        lines,
    };
    chart.save(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (x, text) in [
            (0.0, "0"),
            (0.004, "0.004"),
            (1.25, "1.25"),
            (-3.0, "-3"),
            (2000.0, "2000"),
            (12_340.0, "12.34k"),
            (0.912e6, "912k"),
            (1_400_000.0, "1.4M"),
            (0.000_123_44, "0.0001234"),
        ] {
            assert_eq!(number(x), text);
        }
    }

    #[test]
    fn a_chart_without_points_or_with_one_is_drawn() {
        for points in [vec![], vec![(3.0, 2.0)], vec![(1.0, f64::NAN), (2.0, 0.0)]] {
            for log_x in [false, true] {
                let lines = vec![Line::new("one", points.clone())];
                let title = String::new();
                let chart = Chart {
                    title,
                    x: "x",
                    y: "y",
                    log_x,
                    lines,
                };
                assert!(chart.svg().unwrap().starts_with("<svg"));
            }
        }
    }
}
