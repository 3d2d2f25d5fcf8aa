//! The slope of a quantity over time, with its interval.

use serde::Serialize;

/// The quantile of the normal distribution for an interval of 95 %.
const QUANTILE: f64 = 1.96;

/// A linear trend, in units an hour.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Trend {
    pub per_hour: f64,
    /// The interval of 95 %.
    pub interval: [f64; 2],
}

impl Trend {
    /// The least squares line through `samples` of hours and values; `None` below ten samples.
    ///
    /// Successive samples resemble each other, so the interval counts only as many of them as are
    /// independent by the lag-1 autocorrelation of the residuals (Santer et al. 2000,
    /// doi:10.1029/1999JD901105, equations 4 to 6).
    pub fn of(samples: &[(f64, f64)]) -> Option<Self> {
        let count = samples.len() as f64;
        let mean = |of: &dyn Fn(&(f64, f64)) -> f64| samples.iter().map(of).sum::<f64>() / count;
        let (hour, value) = (mean(&|s| s.0), mean(&|s| s.1));
        let spread: f64 = samples.iter().map(|s| (s.0 - hour).powi(2)).sum();
        if samples.len() < 10 || spread == 0.0 {
            return None;
        }
        let per_hour = samples.iter().map(|s| (s.0 - hour) * (s.1 - value)).sum::<f64>() / spread;
        let residuals: Vec<f64> = samples.iter().map(|s| s.1 - value - per_hour * (s.0 - hour)).collect();
        let squares: f64 = residuals.iter().map(|r| r * r).sum();
        let lagged: f64 = residuals.windows(2).map(|two| two[0] * two[1]).sum();
        let correlation = if squares > 0.0 { (lagged / squares).clamp(0.0, 0.99) } else { 0.0 };
        let independent = (count * (1.0 - correlation) / (1.0 + correlation)).max(3.0);
        let half = QUANTILE * (squares / (independent - 2.0) / spread).sqrt();
        Some(Self { per_hour, interval: [per_hour - half, per_hour + half] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_straight_line_has_its_exact_slope_and_an_interval_of_zero_width() {
        let samples: Vec<_> = (0..60).map(|at| (f64::from(at) / 60.0, 100.0 + f64::from(at))).collect();
        let trend = Trend::of(&samples).unwrap();
        assert!((trend.per_hour - 60.0).abs() < 1e-9, "{trend:?}");
        assert!(trend.interval.iter().all(|bound| (bound - 60.0).abs() < 1e-6), "{trend:?}");
    }

    #[test]
    fn waves_widen_the_interval_more_than_noise_of_the_same_size() {
        let samples =
            |wave: fn(f64) -> f64| (0..600).map(|at| (f64::from(at) / 600.0, wave(f64::from(at)))).collect();
        let (noise, waves): (Vec<_>, Vec<_>) =
            (samples(|at| (at * 2.4).sin()), samples(|at| (at / 20.0).sin()));
        let width =
            |samples: &[_]| Trend::of(samples).map(|trend| trend.interval[1] - trend.interval[0]).unwrap();
        assert!(width(&waves) > 3.0 * width(&noise));
        let flat = Trend::of(&noise).unwrap();
        assert!(flat.interval[0] < 0.0 && flat.interval[1] > 0.0, "{flat:?}");
    }

    #[test]
    fn a_few_samples_give_no_trend() {
        assert_eq!(Trend::of(&[(0.0, 1.0), (1.0, 2.0)]), None);
    }
}
