//! Pictures: SVG files that need nothing else, with axes whose ticks stand at round numbers. What is drawn on them is in x and y of the
//! axes.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
/// The plot's frame: left, top, right, bottom.
const LEFT: f64 = 68.0;
const TOP: f64 = 46.0;
const RIGHT: f64 = WIDTH - 22.0;
const BOTTOM: f64 = HEIGHT - 54.0;

/// Colours that stay apart in grey and for most eyes, in the order in which they are taken.
pub const COLOURS: [&str; 6] = ["#1f5fa8", "#c8501e", "#2f8f5b", "#8a4fa3", "#a8861f", "#4f7f8f"];

/// A range with ticks at round numbers.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    first: f64,
    last: f64,
    /// `None`: a logarithmic axis, with ticks at 1, 2 and 5 times the powers of ten.
    spacing: Option<f64>,
}

impl Axis {
    /// Covers `first..=last` with about `ticks` ticks; `last` is rounded up to a tick.
    pub fn over(first: f64, last: f64, ticks: f64) -> Self {
        let rough = ((last - first) / ticks).max(f64::MIN_POSITIVE);
        let power = 10f64.powf(rough.log10().floor());
        let spacing = [1.0, 2.0, 5.0, 10.0].into_iter().map(|round| round * power).find(|&spacing| spacing >= rough * 0.999);
        let spacing = spacing.unwrap_or(10.0 * power);
        let last = first + spacing * ((last - first) / spacing).ceil().max(1.0);
        Self { first, last, spacing: Some(spacing) }
    }

    /// Covers these values with a margin, from and to round numbers; without any, 0 to 1.
    pub fn around(values: impl Iterator<Item = f64> + Clone) -> Self {
        let finite = values.filter(|value| value.is_finite());
        let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if low > high {
            return Self::over(0.0, 1.0, 5.0);
        }
        // Of one value alone the margin is a tenth of it.
        let span = if high > low { high - low } else { (high.abs() * 0.2).max(1e-3) };
        let Some(spacing) = Self::over(0.0, 1.2 * span, 5.0).spacing else { return Self::over(0.0, 1.0, 5.0) };
        let first = ((low - 0.1 * span) / spacing).floor() * spacing;
        let last = ((high + 0.1 * span) / spacing).ceil() * spacing;
        Self { first, last, spacing: Some(spacing) }
    }

    /// Covers these positive values on a logarithmic scale, with a margin; without any, 1 to 10.
    pub fn logarithmic(values: impl Iterator<Item = f64>) -> Self {
        let positive = values.filter(|value| value.is_finite() && *value > 0.0);
        let (low, high) = positive.fold((f64::INFINITY, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
        match low > high {
            true => Self { first: 1.0, last: 10.0, spacing: None },
            false => Self { first: low / 1.5, last: high * 1.5, spacing: None },
        }
    }

    /// The same axis that ends at `last`, which need not be a tick.
    #[must_use]
    pub fn ending(self, last: f64) -> Self {
        Self { last: last.max(self.first + f64::MIN_POSITIVE), ..self }
    }

    /// Where the ticks stand.
    fn ticks(&self) -> Vec<f64> {
        match self.spacing {
            Some(spacing) => {
                // A tick that rounding puts past the end is one.
                let count = ((self.last - self.first) / spacing + 1e-6).floor() as u64;
                (0..=count).map(|tick| self.first + tick as f64 * spacing).collect()
            }
            None => {
                let powers = self.first.log10().floor() as i32..=self.last.log10().ceil() as i32;
                let ticks = powers.flat_map(|power| [1.0, 2.0, 5.0].map(|round| round * 10f64.powi(power)));
                ticks.filter(|tick| (self.first..=self.last).contains(tick)).collect()
            }
        }
    }

    /// On a linear axis as many decimals as the spacing has; on a logarithmic one thousands and millions by letter.
    fn label(&self, tick: f64) -> String {
        match self.spacing {
            Some(spacing) => {
                let decimals = (-spacing.log10().floor()).max(0.0) as usize;
                // No `-0`.
                format!("{:.decimals$}", if tick.abs() < spacing / 1e6 { 0.0 } else { tick })
            }
            None => count(tick),
        }
    }

    /// Where a value stands between the ends, 0 to 1.
    fn share(&self, value: f64) -> f64 {
        match self.spacing {
            Some(_) => (value - self.first) / (self.last - self.first),
            None => (value / self.first).ln() / (self.last / self.first).ln(),
        }
    }

    /// The value at a share of the way between the ends.
    fn at(&self, share: f64) -> f64 {
        match self.spacing {
            Some(_) => self.first + share * (self.last - self.first),
            None => self.first * (self.last / self.first).powf(share),
        }
    }
}

/// A number with at most three digits and a letter for thousands, millions, billions.
pub fn count(number: f64) -> String {
    let (scaled, letter) = match number.abs() {
        large if large >= 1e9 => (number / 1e9, "G"),
        large if large >= 1e6 => (number / 1e6, "M"),
        large if large >= 1e3 => (number / 1e3, "k"),
        _ => (number, ""),
    };
    let decimals = match scaled.abs() {
        few if few < 10.0 && scaled.fract() != 0.0 => 2,
        few if few < 100.0 && scaled.fract() != 0.0 => 1,
        _ => 0,
    };
    let digits = format!("{scaled:.decimals$}");
    let digits = if decimals > 0 { digits.trim_end_matches('0').trim_end_matches('.') } else { &digits };
    format!("{digits}{letter}")
}

/// A picture in the making.
pub struct Picture {
    svg: String,
    x: Axis,
    y: Axis,
    /// Where the next entry of the legend begins.
    legend: f64,
}

impl Picture {
    /// The frame, ticks and names of the axes.
    pub fn new(x: Axis, y: Axis, x_name: &str, y_name: &str) -> Self {
        let mut picture = Self { svg: String::new(), x, y, legend: LEFT + 6.0 };
        picture.add(&format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
             font-family=\"system-ui, 'DejaVu Sans', sans-serif\" font-size=\"13\" fill=\"#333\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>"
        ));
        for tick in y.ticks() {
            let down = BOTTOM - (BOTTOM - TOP) * y.share(tick);
            picture.add(&format!(
                "<path d=\"M{LEFT} {down:.1}H{RIGHT}\" stroke=\"#e4e4e4\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 9.0,
                down + 4.5,
                y.label(tick)
            ));
        }
        for tick in x.ticks() {
            let right = LEFT + (RIGHT - LEFT) * x.share(tick);
            picture.add(&format!(
                "<path d=\"M{right:.1} {BOTTOM}v5\" stroke=\"#888\"/>\
                 <text x=\"{right:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                BOTTOM + 21.0,
                x.label(tick)
            ));
        }
        picture.add(&format!("<path d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\" fill=\"none\" stroke=\"#888\"/>"));
        picture.add(&format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text transform=\"translate(20 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            (LEFT + RIGHT) / 2.0,
            HEIGHT - 13.0,
            escaped(x_name),
            (TOP + BOTTOM) / 2.0,
            escaped(y_name)
        ));
        picture
    }

    fn add(&mut self, element: &str) {
        self.svg.push_str(element);
        self.svg.push('\n');
    }

    /// Where a point stands in the picture: right, down.
    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (LEFT + (RIGHT - LEFT) * self.x.share(x), BOTTOM - (BOTTOM - TOP) * self.y.share(y))
    }

    /// A line through these points.
    pub fn line(&mut self, points: &[(f64, f64)], colour: &str, width: f64) {
        if points.is_empty() {
            return;
        }
        let path: Vec<String> =
            points.iter().map(|&point| self.place(point)).map(|(right, down)| format!("{right:.1} {down:.1}")).collect();
        self.add(&format!(
            "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" stroke-linejoin=\"round\" stroke-linecap=\"round\"/>",
            path.join("L")
        ));
    }

    /// A second scale at the right edge, in percent: 0 at the bottom of the frame, 100 at its top.
    pub fn percents(&mut self) {
        for percent in [0, 25, 50, 75, 100] {
            let down = BOTTOM - (BOTTOM - TOP) * f64::from(percent) / 100.0;
            self.add(&format!(
                "<path d=\"M{RIGHT} {down:.1}h-5\" stroke=\"#888\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"10\" fill=\"#888\">{percent}</text>",
                RIGHT + 3.0,
                down + 3.5
            ));
        }
    }

    /// A point at a share of 0 to 1 on the scale of [`Picture::percents`], in x and y of the axes.
    pub fn at_share(&self, (x, share): (f64, f64)) -> (f64, f64) {
        (x, self.y.at(share))
    }

    /// A dot.
    pub fn dot(&mut self, point: (f64, f64), colour: &str) {
        let (right, down) = self.place(point);
        self.add(&format!("<circle cx=\"{right:.1}\" cy=\"{down:.1}\" r=\"3.6\" fill=\"{colour}\"/>"));
    }

    /// The spread around a point: so much to each side in x and in y.
    pub fn spread(&mut self, (x, y): (f64, f64), (by_x, by_y): (f64, f64), colour: &str) {
        let mut stroke = String::new();
        let (left, right) = (self.place((x - by_x, y)), self.place((x + by_x, y)));
        let (low, high) = (self.place((x, y - by_y)), self.place((x, y + by_y)));
        let _ = write!(stroke, "M{:.1} {:.1}H{:.1}M{:.1} {:.1}V{:.1}", left.0, left.1, right.0, low.0, low.1, high.1);
        self.add(&format!("<path d=\"{stroke}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.2\" opacity=\"0.6\"/>"));
    }

    /// A name beside a point: on its right, or on its left where the picture ends.
    pub fn name(&mut self, point: (f64, f64), name: &str) {
        let (right, down) = self.place(point);
        let name = escaped(name);
        match right > (LEFT + RIGHT) / 2.0 {
            true => {
                self.add(&format!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>", right - 7.0, down - 6.0))
            }
            false => self.add(&format!("<text x=\"{:.1}\" y=\"{:.1}\">{name}</text>", right + 7.0, down - 6.0)),
        }
    }

    /// An entry of the legend above the frame.
    pub fn legend(&mut self, text: &str, colour: &str, width: f64) {
        let right = self.legend;
        self.add(&format!(
            "<path d=\"M{right:.1} 25h22\" stroke=\"{colour}\" stroke-width=\"{width}\"/><text x=\"{:.1}\" y=\"29.5\">{}</text>",
            right + 28.0,
            escaped(text)
        ));
        self.legend += 28.0 + 7.3 * text.len() as f64 + 18.0;
    }

    /// The file's content.
    pub fn finish(mut self) -> String {
        self.add("</svg>");
        self.svg
    }
}

/// Text as XML wants it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: Axis) -> Vec<String> {
        axis.ticks().into_iter().map(|tick| axis.label(tick)).collect()
    }

    #[test]
    fn ticks_are_round_and_cover_the_range() {
        assert_eq!(labels(Axis::over(0.0, 4.3, 5.0)), ["0", "1", "2", "3", "4", "5"]);
        assert_eq!(labels(Axis::over(0.0, 0.07, 5.0)), ["0.00", "0.02", "0.04", "0.06", "0.08"]);
        assert_eq!(labels(Axis::over(0.0, 9.0, 5.0).ending(7.0)), ["0", "2", "4", "6"]);
        assert_eq!(labels(Axis::around([-0.2, 0.35].into_iter())), ["-0.4", "-0.2", "0.0", "0.2", "0.4", "0.6"]);
        assert_eq!(labels(Axis::logarithmic([15e3, 400e3].into_iter())), ["10k", "20k", "50k", "100k", "200k", "500k"]);
    }

    /// Whatever is drawn, the picture is text that an XML reader takes, without a number that is none.
    #[test]
    fn no_values_and_one_value_give_a_picture() {
        for values in [vec![], vec![0.0], vec![3.0, 3.0], vec![f64::NAN], vec![1e-12, 1e9]] {
            for x in [Axis::around(values.iter().copied()), Axis::logarithmic(values.iter().copied())] {
                let mut picture = Picture::new(x, Axis::around(values.iter().copied()), "a < b", "c & d");
                picture.dot((2.0, 0.5), COLOURS[0]);
                picture.spread((2.0, 0.5), (0.0, 0.1), COLOURS[0]);
                picture.name((2.0, 0.5), "q_proj <r>");
                let svg = picture.finish();
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{values:?}: {svg}");
                assert!(svg.contains("a &lt; b") && svg.contains("c &amp; d") && svg.contains("q_proj &lt;r&gt;"));
            }
        }
    }

    #[test]
    fn a_share_of_an_axis_is_where_its_value_stands() {
        for axis in [Axis::over(1.0, 7.0, 5.0), Axis::logarithmic([3.0, 900.0].into_iter())] {
            for share in [0.0, 0.25, 1.0] {
                assert!((axis.share(axis.at(share)) - share).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn counts_are_short() {
        assert_eq!(
            [0.0, 7.0, 950.0, 1500.0, 12_340.0, 999_999.0, 1e6, 7.25e9].map(count),
            ["0", "7", "950", "1.5k", "12.3k", "1000k", "1M", "7.25G"]
        );
    }
}
