//! The loss curve as a picture: one SVG file that needs nothing else, written beside `metrics.jsonl`.
//!
//! The thin line is the loss of each step, the thick one its exponential moving average (a window of a twentieth of the
//! run, at least 5 steps, without the bias towards the first value), the dots are the held-out loss.

use std::fmt::Write;

use super::metrics::StepMetrics;

/// The file's name inside the output folder.
pub const CURVE_FILE: &str = "loss.svg";

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
/// The plot's frame: left, top, right, bottom.
const LEFT: f64 = 68.0;
const TOP: f64 = 46.0;
const RIGHT: f64 = WIDTH - 22.0;
const BOTTOM: f64 = HEIGHT - 54.0;
/// More points than this cannot be told apart; longer runs are averaged in groups.
const MOST_POINTS: usize = 1500;

const STEP_COLOUR: &str = "#9fb8d6";
const SMOOTH_COLOUR: &str = "#1f5fa8";
const EVAL_COLOUR: &str = "#c8501e";

/// The picture of a run. With no finite loss at all it shows the empty axes.
pub fn loss_curve(history: &[StepMetrics]) -> String {
    let train: Vec<(f64, f64)> = history.iter().map(|at| (at.step as f64, at.loss)).filter(|point| point.1.is_finite()).collect();
    let eval: Vec<(f64, f64)> =
        (history.iter()).filter_map(|at| Some((at.step as f64, at.eval_loss?))).filter(|point| point.1.is_finite()).collect();
    let smooth = moving_average(&train);
    let last_step = train.last().map_or(1.0, |point| point.0);
    let x = Axis::over(0.0, last_step, 8.0);
    // A loss is never below 0, and 0 is what it is measured against.
    let highest = train.iter().chain(&eval).map(|point| point.1).fold(0.0, f64::max);
    let y = Axis::over(0.0, if highest > 0.0 { highest } else { 1.0 }, 5.0);
    let place = |point: &(f64, f64)| {
        let right = LEFT + (RIGHT - LEFT) * (point.0 - x.first) / (last_step.max(1.0) - x.first);
        let down = BOTTOM - (BOTTOM - TOP) * (point.1 - y.first) / (y.last - y.first);
        (right, down)
    };

    let mut svg = String::new();
    // Writing to a String cannot fail; the results are dropped for that reason.
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         font-family=\"system-ui, 'DejaVu Sans', sans-serif\" font-size=\"13\" fill=\"#333\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>"
    );
    for tick in y.ticks() {
        let (_, down) = place(&(0.0, tick));
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {down:.1}H{RIGHT}\" stroke=\"#e4e4e4\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 9.0,
            down + 4.5,
            y.label(tick)
        );
    }
    for tick in x.ticks().filter(|&tick| tick <= last_step) {
        let (right, _) = place(&(tick, 0.0));
        let _ = writeln!(
            svg,
            "<path d=\"M{right:.1} {BOTTOM}v5\" stroke=\"#888\"/>\
             <text x=\"{right:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            BOTTOM + 21.0,
            x.label(tick)
        );
    }
    let _ = writeln!(svg, "<path d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\" fill=\"none\" stroke=\"#888\"/>");
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">step</text>\
         <text transform=\"translate(20 {:.1}) rotate(-90)\" text-anchor=\"middle\">loss (nats per supervised token)</text>",
        (LEFT + RIGHT) / 2.0,
        HEIGHT - 13.0,
        (TOP + BOTTOM) / 2.0
    );
    line(&mut svg, &thinned(&train), &place, STEP_COLOUR, 1.0);
    line(&mut svg, &thinned(&smooth), &place, SMOOTH_COLOUR, 2.2);
    line(&mut svg, &eval, &place, EVAL_COLOUR, 1.2);
    for point in &eval {
        let (right, down) = place(point);
        let _ = writeln!(svg, "<circle cx=\"{right:.1}\" cy=\"{down:.1}\" r=\"3.6\" fill=\"{EVAL_COLOUR}\"/>");
    }

    let mut right = LEFT + 6.0;
    let mut legend = |text: String, colour: &str, width: f64| {
        let _ = writeln!(
            svg,
            "<path d=\"M{right:.1} 25h22\" stroke=\"{colour}\" stroke-width=\"{width}\"/><text x=\"{:.1}\" y=\"29.5\">{text}</text>",
            right + 28.0
        );
        right += 28.0 + 7.3 * text.len() as f64 + 18.0;
    };
    legend("each step".to_string(), STEP_COLOUR, 1.5);
    if let Some((_, loss)) = smooth.last() {
        legend(format!("smoothed, at the end {loss:.3}"), SMOOTH_COLOUR, 2.6);
    }
    if let Some((_, loss)) = eval.last() {
        legend(format!("held out, at the end {loss:.3}"), EVAL_COLOUR, 2.2);
    }
    svg.push_str("</svg>\n");
    svg
}

fn line(svg: &mut String, points: &[(f64, f64)], place: &impl Fn(&(f64, f64)) -> (f64, f64), colour: &str, width: f64) {
    if points.is_empty() {
        return;
    }
    let path: Vec<String> = points.iter().map(place).map(|(right, down)| format!("{right:.1} {down:.1}")).collect();
    let _ = writeln!(
        svg,
        "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" stroke-linejoin=\"round\" stroke-linecap=\"round\"/>",
        path.join("L")
    );
}

/// Exponential moving average, divided by the weight it has gathered (as Adam corrects its moments), so the first value counts
/// no more than any other.
fn moving_average(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let decay = 1.0 - 1.0 / (points.len() as f64 / 20.0).max(5.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    (points.iter())
        .map(|&(step, loss)| {
            sum = decay * sum + (1.0 - decay) * loss;
            weight = decay * weight + (1.0 - decay);
            (step, sum / weight)
        })
        .collect()
}

/// At most [`MOST_POINTS`] points: the means of neighbours.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let group = points.len().div_ceil(MOST_POINTS).max(1);
    let mean = |points: &[(f64, f64)], of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / points.len() as f64;
    points.chunks(group).map(|group| (mean(group, |point| point.0), mean(group, |point| point.1))).collect()
}

/// A range with ticks at round numbers: 1, 2 or 5 times a power of ten.
struct Axis {
    first: f64,
    last: f64,
    spacing: f64,
}

impl Axis {
    /// Covers `first..=last` with about `ticks` ticks; `last` is rounded up to a tick.
    fn over(first: f64, last: f64, ticks: f64) -> Self {
        let rough = ((last - first) / ticks).max(f64::MIN_POSITIVE);
        let power = 10f64.powf(rough.log10().floor());
        let spacing = [1.0, 2.0, 5.0, 10.0].into_iter().map(|round| round * power).find(|&spacing| spacing >= rough * 0.999);
        let spacing = spacing.unwrap_or(10.0 * power);
        Self { first, last: first + spacing * ((last - first) / spacing).ceil().max(1.0), spacing }
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let count = ((self.last - self.first) / self.spacing).round() as u64;
        (0..=count).map(|tick| self.first + tick as f64 * self.spacing)
    }

    /// As many decimals as the spacing has.
    fn label(&self, tick: f64) -> String {
        let decimals = (-self.spacing.log10().floor()).max(0.0) as usize;
        format!("{tick:.decimals$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(steps: u64, loss: impl Fn(u64) -> f64) -> Vec<StepMetrics> {
        (1..=steps)
            .map(|step| StepMetrics {
                step,
                loss: loss(step),
                learning_rate: 1e-4,
                grad_norm: 1.0,
                tokens: 1,
                supervised_tokens: 1,
                tokens_per_second: 1.0,
                gpu_bytes: 0,
                eval_loss: (step % 50 == 0).then(|| loss(step) + 0.2),
            })
            .collect()
    }

    #[test]
    fn ticks_are_round_and_cover_the_range() {
        let axis = Axis::over(0.0, 4.3, 5.0);
        assert_eq!(axis.ticks().map(|tick| axis.label(tick)).collect::<Vec<_>>(), ["0", "1", "2", "3", "4", "5"]);
        let axis = Axis::over(0.0, 0.07, 5.0);
        assert_eq!(axis.ticks().map(|tick| axis.label(tick)).collect::<Vec<_>>(), ["0.00", "0.02", "0.04", "0.06", "0.08"]);
    }

    #[test]
    fn the_average_of_a_constant_is_the_constant() {
        let points: Vec<(f64, f64)> = (0..400).map(|step| (step as f64, 2.5)).collect();
        assert!(moving_average(&points).iter().all(|point| (point.1 - 2.5).abs() < 1e-12));
    }

    #[test]
    fn any_run_gives_a_picture_without_a_number_that_is_none() {
        for steps in [0, 1, 2, 200, 20_000] {
            let svg = loss_curve(&history(steps, |step| 0.4 + 3.0 * (-(step as f64) / 60.0).exp()));
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{steps} steps");
            assert!(svg.len() < 200_000, "{steps} steps give {} bytes", svg.len());
        }
        assert!(!loss_curve(&history(3, |_| f64::NAN)).contains("NaN"));
        assert!(!loss_curve(&history(3, |_| 0.0)).contains("NaN"));
    }
}
