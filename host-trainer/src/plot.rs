//! Pictures of figures, as SVG.

use std::ops::Range;
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

/// Colours that people who see red and green alike tell apart (the first six: Okabe and Ito 2008).
const COLOURS: [RGBColor; 10] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
    RGBColor(136, 34, 85),
    RGBColor(153, 153, 51),
    RGBColor(170, 170, 170),
];
const SIZE: (u32, u32) = (620, 360);
/// Height of a row of the legend, and about how wide a letter is.
const LEGEND: (i32, i32) = (20, 7);
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
        let area = match self.title.is_empty() {
            true => area.clone(),
            false => area.titled(&self.title, font(19))?,
        };
        let area = self.legend(&area)?;
        let (xs, ys) = (self.range(|p| p.0), self.range(|p| p.1));
        let mut builder = ChartBuilder::on(&area);
        builder
            .margin(8)
            .margin_right(24)
            .x_label_area_size(44)
            .y_label_area_size(62);
        // The two axes are different types in plotters; the macro draws the same on either.
        macro_rules! chart {
            ($x:expr) => {{
                let mut chart = builder.build_cartesian_2d($x, ys.0..ys.1)?;
                chart
                    .configure_mesh()
                    .x_desc(self.x)
                    .y_desc(self.y)
                    .label_style(font(14))
                    .x_labels(8)
                    .axis_style(AXIS)
                    .bold_line_style(GRID)
                    .light_line_style(TRANSPARENT)
                    .x_label_formatter(&|x| number(*x))
                    .y_label_formatter(&|y| number(*y))
                    .draw()?;
                for (line, colour) in self.drawn() {
                    let points = || line.points.iter().copied();
                    chart.draw_series(LineSeries::new(points(), colour.stroke_width(2)))?;
                    if line.points.len() <= MARKED {
                        let marks = points().map(|at| Circle::new(at, 3, colour.filled()));
                        chart.draw_series(marks)?;
                    }
                }
            }};
        }
        if self.log_x {
            // Buckets double in width: so do the marks of the axis.
            chart!(self.log_range().log_scale().base(2.0))
        } else {
            chart!(xs.0..xs.1)
        }
        area.present()?;
        Ok(())
    }

    /// Lines that have points, and their colours.
    fn drawn(&self) -> impl Iterator<Item = (&Line, &RGBColor)> {
        let drawn = self.lines.iter().filter(|l| !l.points.is_empty());
        drawn.zip(COLOURS.iter().cycle())
    }

    /// Names the lines above the picture, where no line can hide a name; returns the rest of the area.
    fn legend<'a>(
        &self,
        area: &Area<'a>,
    ) -> std::result::Result<Area<'a>, Box<dyn std::error::Error>> {
        if self.lines.len() < 2 {
            return Ok(area.clone());
        }
        let (left, right) = (70, area.dim_in_pixel().0 as i32 - 24);
        let (mut x, mut y) = (left, LEGEND.0 / 2 + 2);
        let mut entries = Vec::new();
        for (line, colour) in self.drawn() {
            let width = 40 + LEGEND.1 * line.name.chars().count() as i32;
            if x > left && x + width > right {
                (x, y) = (left, y + LEGEND.0);
            }
            entries.push((line, colour, (x, y)));
            x += width;
        }
        let (head, rest) = area.split_vertically(y + LEGEND.0 / 2);
        for (line, colour, (x, y)) in entries {
            head.draw(&PathElement::new(
                [(x, y), (x + 16, y)],
                colour.stroke_width(3),
            ))?;
            head.draw(&Text::new(line.name.clone(), (x + 22, y - 7), font(14)))?;
        }
        Ok(rest)
    }

    /// Smallest and largest x that a logarithm has, widened by a tenth.
    fn log_range(&self) -> Range<f64> {
        let xs = || self.lines.iter().flat_map(|l| &l.points).map(|p| p.0);
        let low = xs().filter(|x| *x > 0.0).fold(f64::MAX, f64::min);
        let high = xs().fold(f64::MIN, f64::max);
        if low > high {
            return 1.0..2.0;
        }
        low / 1.1..high * 1.1
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

fn font(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&TEXT)
}

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
