//! DDIM (Song et al., 2020) without added noise, by scheduler_config.json, step for step diffusers' DDIMScheduler.
//! The file of another scheduler is read as `DDIMScheduler.from_config` reads it.

use std::path::Path;

use serde::Deserialize;

use crate::{ModelError, files};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Betas {
    Linear,
    ScaledLinear,
    SquaredcosCapV2,
}

/// What the UNet predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Prediction {
    Epsilon,
    #[serde(rename = "v_prediction")]
    Velocity,
    Sample,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Spacing {
    Leading,
    Trailing,
    Linspace,
}

/// The settings that matter, with DDIMScheduler's defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
struct Settings {
    num_train_timesteps: usize,
    beta_start: f64,
    beta_end: f64,
    beta_schedule: Betas,
    trained_betas: Option<Vec<f64>>,
    clip_sample: bool,
    clip_sample_range: f64,
    set_alpha_to_one: bool,
    steps_offset: usize,
    prediction_type: Prediction,
    thresholding: bool,
    timestep_spacing: Spacing,
    rescale_betas_zero_snr: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: Betas::Linear,
            trained_betas: None,
            clip_sample: true,
            clip_sample_range: 1.0,
            set_alpha_to_one: true,
            steps_offset: 0,
            prediction_type: Prediction::Epsilon,
            thresholding: false,
            timestep_spacing: Spacing::Leading,
            rescale_betas_zero_snr: false,
        }
    }
}

/// The noise schedule of a model.
#[derive(Debug, Clone)]
pub(super) struct Ddim {
    settings: Settings,
    /// The share of the picture's variance at each training timestep (alphas_cumprod).
    signal: Vec<f64>,
}

/// One step: where it is, and how much signal it leaves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub timestep: usize,
    signal: f64,
    signal_after: f64,
}

impl Ddim {
    pub(super) fn load(path: &Path) -> Result<Self, ModelError> {
        let settings: Settings = files::read_json(path)?;
        if settings.thresholding {
            return Err(ModelError::unsupported(path, "thresholding"));
        }
        let mut product = 1.0;
        let keep = |beta: f64| {
            product *= 1.0 - beta;
            product
        };
        let mut signal: Vec<f64> = settings.betas().into_iter().map(keep).collect();
        if signal.is_empty() {
            return Err(ModelError::broken(path, "it has no timesteps"));
        }
        if settings.rescale_betas_zero_snr {
            remove_last_signal(&mut signal);
        }
        Ok(Self { settings, signal })
    }

    /// The steps of a run, from noise to picture.
    pub(super) fn steps(&self, count: usize) -> Result<Vec<Step>, ModelError> {
        let trained = self.signal.len();
        if count == 0 || count > trained {
            return Err(ModelError::Parameters(format!("steps must be 1 to {trained}, not {count}")));
        }
        let finished = if self.settings.set_alpha_to_one { 1.0 } else { self.signal[0] };
        let stride = trained / count;
        let step = |timestep: usize| Step {
            timestep,
            signal: self.signal[timestep],
            signal_after: timestep.checked_sub(stride).map_or(finished, |after| self.signal[after]),
        };
        Ok(self.timesteps(count).into_iter().map(|timestep| step(timestep.min(trained - 1))).collect())
    }

    fn timesteps(&self, count: usize) -> Vec<usize> {
        let trained = self.signal.len();
        match self.settings.timestep_spacing {
            Spacing::Leading => {
                (0..count).rev().map(|k| k * (trained / count) + self.settings.steps_offset).collect()
            }
            Spacing::Trailing => {
                let stride = trained as f64 / count as f64;
                (0..count)
                    .map(|k| (trained as f64 - k as f64 * stride).round_ties_even() as usize - 1)
                    .collect()
            }
            Spacing::Linspace => {
                let stride = (trained - 1) as f64 / (count.max(2) - 1) as f64;
                (0..count).rev().map(|k| (k as f64 * stride).round_ties_even() as usize).collect()
            }
        }
    }

    /// The latents after a step, written over `latents`, from the UNet's prediction for them.
    pub(super) fn advance(&self, step: Step, prediction: &[f32], latents: &mut [f32]) {
        let (signal, noise) = (step.signal.sqrt() as f32, (1.0 - step.signal).sqrt() as f32);
        let (signal_after, noise_after) =
            (step.signal_after.sqrt() as f32, (1.0 - step.signal_after).sqrt() as f32);
        let range =
            if self.settings.clip_sample { self.settings.clip_sample_range as f32 } else { f32::INFINITY };
        for (x, &predicted) in latents.iter_mut().zip(prediction) {
            let (picture, epsilon) = match self.settings.prediction_type {
                Prediction::Epsilon => ((*x - noise * predicted) / signal, predicted),
                Prediction::Sample => (predicted, (*x - signal * predicted) / noise),
                Prediction::Velocity => (signal * *x - noise * predicted, signal * predicted + noise * *x),
            };
            // clamp would turn NaN into a bound if written as min and max; it does not.
            *x = signal_after * picture.clamp(-range, range) + noise_after * epsilon;
        }
    }
}

impl Settings {
    fn betas(&self) -> Vec<f64> {
        let steps = self.num_train_timesteps;
        let between =
            |from: f64, to: f64, k: usize| from + (to - from) * k as f64 / (steps.max(2) - 1) as f64;
        if let Some(betas) = &self.trained_betas {
            return betas.clone();
        }
        (0..steps)
            .map(|k| match self.beta_schedule {
                Betas::Linear => between(self.beta_start, self.beta_end, k),
                Betas::ScaledLinear => between(self.beta_start.sqrt(), self.beta_end.sqrt(), k).powi(2),
                Betas::SquaredcosCapV2 => {
                    let bar = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
                    (1.0 - bar((k + 1) as f64 / steps as f64) / bar(k as f64 / steps as f64)).min(0.999)
                }
            })
            .collect()
    }
}

/// Lin et al., 2023, algorithm 1: the last timestep is pure noise.
fn remove_last_signal(signal: &mut [f64]) {
    let (first, last) = (signal[0].sqrt(), signal[signal.len() - 1].sqrt());
    signal.iter_mut().for_each(|value| *value = ((value.sqrt() - last) * first / (first - last)).powi(2));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ddim(json: &str) -> Ddim {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scheduler_config.json");
        std::fs::write(&path, json).unwrap();
        Ddim::load(&path).unwrap()
    }

    #[test]
    fn timesteps_are_diffusers() {
        let of = |json: &str, count| -> Vec<usize> {
            ddim(json).steps(count).unwrap().iter().map(|step| step.timestep).collect()
        };
        // DDIMScheduler(...).set_timesteps(n).timesteps
        assert_eq!(of(r#"{"steps_offset": 1}"#, 4), [751, 501, 251, 1]);
        assert_eq!(of(r#"{"timestep_spacing": "trailing"}"#, 3), [999, 666, 332]);
        assert_eq!(of(r#"{"timestep_spacing": "linspace"}"#, 3), [999, 500, 0]);
        assert_eq!(of("{}", 7), [852, 710, 568, 426, 284, 142, 0]);
    }

    #[test]
    fn true_predictions_lead_to_the_picture() {
        for kind in ["epsilon", "v_prediction", "sample"] {
            let json = format!(
                r#"{{"prediction_type": "{kind}", "beta_schedule": "scaled_linear", "beta_start": 0.00085,
                    "beta_end": 0.012, "clip_sample": false}}"#
            );
            let ddim = ddim(&json);
            let steps = ddim.steps(10).unwrap();
            let (picture, epsilon) = (0.7f32, -1.3f32);
            let mut x =
                [steps[0].signal.sqrt() as f32 * picture + (1.0 - steps[0].signal).sqrt() as f32 * epsilon];
            for step in steps {
                let (signal, noise) = (step.signal.sqrt() as f32, (1.0 - step.signal).sqrt() as f32);
                let prediction = match kind {
                    "epsilon" => epsilon,
                    "sample" => picture,
                    _ => signal * epsilon - noise * picture,
                };
                ddim.advance(step, &[prediction], &mut x);
            }
            assert!((x[0] - picture).abs() < 1e-5, "{kind}: {}", x[0]);
        }
    }

    #[test]
    fn zero_terminal_noise_has_no_signal_left() {
        let ddim = ddim(r#"{"rescale_betas_zero_snr": true}"#);
        assert_eq!(ddim.signal[999], 0.0);
        assert!((ddim.signal[0] - 0.9999).abs() < 1e-9);
    }

    #[test]
    fn steps_have_bounds() {
        let ddim = ddim("{}");
        assert!(ddim.steps(0).is_err() && ddim.steps(1001).is_err() && ddim.steps(1000).is_ok());
    }
}
