//! Lines over a few places, as SVG.

use std::{error::Error, path::Path};

use plotters::{prelude::*, style::FontFamily};

use super::Failure;

/// A plot.
#[derive(Debug)]
pub(crate) struct Plot {
    pub(crate) file: &'static str,
    pub(crate) title: &'static str,
    pub(crate) x_label: &'static str,
    /// The places, evenly apart.
    pub(crate) places: Vec<String>,
    pub(crate) y_label: &'static str,
    /// Whether equal distances are equal ratios.
    pub(crate) is_logarithmic: bool,
    pub(crate) lines: Vec<Line>,
}

/// What is drawn, a figure for each place.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) figures: Vec<Option<f64>>,
}

const HEIGHT: u32 = 440;
const CHART_WIDTH: u32 = 740;
/// Beside the chart, where it hides nothing.
const LEGEND_WIDTH: u32 = 220;
/// Told apart by the colour-blind too.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    BLACK,
];
const FONT: FontFamily<'_> = FontFamily::SansSerif;

impl Plot {
    pub(crate) fn write(&self, folder: &Path) -> Result<(), Failure> {
        let path = folder.join(self.file);
        // What plotters fails with cannot be sent to another thread.
        self.draw(&path)
            .map_err(|error| format!("{}: {error}", path.display()).into())
    }

    fn draw(&self, path: &Path) -> Result<(), Box<dyn Error>> {
        let area = SVGBackend::new(path, (CHART_WIDTH + LEGEND_WIDTH, HEIGHT)).into_drawing_area();
        area.fill(&WHITE)?;
        let (left, right) = area.split_horizontally(CHART_WIDTH);
        let last = self.places.len().saturating_sub(1) as f64;
        let mut chart = ChartBuilder::on(&left)
            .caption(self.title, (FONT, 20))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(72)
            .build_cartesian_2d(-0.1..last + 0.1, self.y_range())?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .label_style((FONT, 14))
            .axis_desc_style((FONT, 15))
            .x_desc(self.x_label)
            .y_desc(self.y_label)
            .x_labels(self.places.len())
            .x_label_formatter(&|x| self.place(*x))
            .y_label_formatter(&|y| short(self.unscaled(*y)))
            .draw()?;
        for (number, (line, colour)) in (1_i32..).zip(self.lines.iter().zip(COLOURS.iter().cycle())) {
            let style = colour.stroke_width(2);
            let points = (0_u32..).zip(&line.figures);
            let points =
                points.filter_map(|(place, figure)| Some((f64::from(place), self.scaled((*figure)?))));
            chart.draw_series(LineSeries::new(points.collect::<Vec<_>>(), style).point_size(4))?;
            let y = 36 + number * 20;
            right.draw(&PathElement::new([(0, y), (20, y)], style))?;
            right.draw(&Text::new(line.name.as_str(), (28, y - 7), (FONT, 14)))?;
        }
        area.present()?;
        Ok(())
    }

    fn scaled(&self, figure: f64) -> f64 {
        if self.is_logarithmic {
            figure.log10()
        } else {
            figure
        }
    }

    fn unscaled(&self, figure: f64) -> f64 {
        if self.is_logarithmic {
            10_f64.powf(figure)
        } else {
            figure
        }
    }

    fn y_range(&self) -> std::ops::Range<f64> {
        let figures = self.lines.iter().flat_map(|line| &line.figures);
        let figures = figures.filter_map(|figure| figure.map(|figure| self.scaled(figure)));
        let (low, high) = figures.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), figure| {
            (low.min(figure), high.max(figure))
        });
        let low = if self.is_logarithmic { low.floor() } else { 0.0 };
        low..high + (high - low) * 0.05
    }

    /// The label of what is at a place, if something is.
    fn place(&self, x: f64) -> String {
        let mut places = (0_u32..).zip(&self.places);
        let here = places.find(|(place, _)| (f64::from(*place) - x).abs() < 1e-6);
        here.map(|(_, name)| name.clone()).unwrap_or_default()
    }
}

fn short(figure: f64) -> String {
    match figure {
        figure if figure >= 10_000.0 => format!("{:.0}k", figure / 1e3),
        figure if figure >= 1_000.0 => format!("{:.1}k", figure / 1e3),
        figure if figure >= 10.0 || figure == 0.0 => format!("{figure:.0}"),
        _ => format!("{figure:.1}"),
    }
}
