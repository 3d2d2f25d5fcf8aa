//! diffusers' schedulers, configured by scheduler_config.json, which turn noise into a picture step
//! by step. A file that another scheduler wrote is read as diffusers' `from_config` reads it: a
//! missing setting has the default of the scheduler that reads the file.

mod ddim;
mod euler;
mod multistep;

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

use crate::ModelError;
use crate::files::{self, Fixed};
use crate::named::named;

use ddim::Ddim;
use euler::Euler;
use multistep::{DpmSolver, UniPc};

/// The method that turns noise into a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(try_from = "String", into = "&'static str")]
#[derive(Display, EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case", parse_err_ty = ModelError, parse_err_fn = Self::unknown)]
pub enum Scheduler {
    /// DDIM without added noise (Song et al., 2020).
    #[default]
    Ddim,
    /// Euler's method on the probability flow (Karras et al., 2022), as in k-diffusion.
    Euler,
    /// Euler's method with noise added at each step, as in k-diffusion's ancestral sampling.
    EulerAncestral,
    /// DPM-Solver++ 2M (Lu et al., 2022).
    #[strum(serialize = "dpm-solver++")]
    DpmSolver,
    /// UniPC of order 2 in its B2(h) variant (Zhao et al., 2023).
    #[strum(serialize = "unipc")]
    UniPc,
}

named!(Scheduler, "scheduler");

impl Scheduler {
    /// The default of `timestep_spacing`.
    fn default_spacing(self) -> TimestepSpacing {
        if self == Self::Ddim { TimestepSpacing::Leading } else { TimestepSpacing::Linspace }
    }
}

/// One run of a scheduler through its steps, with the state that it keeps from earlier steps.
pub(super) trait Sampler {
    /// The timesteps at which the network is called, in order from noise to picture.
    fn timesteps(&self) -> &[f32];

    /// The factor of standard normal noise before the first step (`init_noise_sigma`).
    fn initial_scale(&self) -> f32 {
        1.0
    }

    /// The factor of the latents as the network's input at a step (`scale_model_input`).
    fn input_scale(&self, _index: usize) -> f32 {
        1.0
    }

    /// Returns whether a step adds noise.
    fn adds_noise(&self) -> bool {
        false
    }

    /// Takes the step `index`: replaces `latents`, using the network's prediction for them. A
    /// scheduler that adds noise takes it from `noise`, standard normal.
    fn step(&mut self, index: usize, prediction: &[f32], latents: &mut [f32], noise: &[f32]);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum BetaSchedule {
    Linear,
    ScaledLinear,
    SquaredcosCapV2,
}

/// The UNet's prediction (`prediction_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PredictionType {
    Epsilon,
    #[serde(rename = "v_prediction")]
    Velocity,
    Sample,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TimestepSpacing {
    Leading,
    Trailing,
    Linspace,
}

/// The settings that are used, with the defaults that all schedulers share.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
struct SchedulerConfig {
    num_train_timesteps: usize,
    beta_start: f64,
    beta_end: f64,
    beta_schedule: BetaSchedule,
    trained_betas: Option<Vec<f64>>,
    clip_sample: bool,
    clip_sample_range: f64,
    set_alpha_to_one: bool,
    steps_offset: usize,
    prediction_type: PredictionType,
    timestep_spacing: Option<TimestepSpacing>,
    rescale_betas_zero_snr: bool,
    final_sigmas_type: FinalSigmas,
}

/// The noise that is left after the last step, for all schedulers except DDIM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FinalSigmas {
    Zero,
    SigmaMin,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            trained_betas: None,
            clip_sample: true,
            clip_sample_range: 1.0,
            set_alpha_to_one: true,
            steps_offset: 0,
            prediction_type: PredictionType::Epsilon,
            timestep_spacing: None,
            rescale_betas_zero_snr: false,
            final_sigmas_type: FinalSigmas::Zero,
        }
    }
}

const FIXED: Fixed<'static> = &[
    ("algorithm_type", &["dpmsolver++"]),
    ("disable_corrector", &["[]"]),
    ("euler_at_final", &["false"]),
    ("interpolation_type", &["linear"]),
    ("lower_order_final", &["true"]),
    ("predict_x0", &["true"]),
    ("solver_order", &["2"]),
    ("solver_type", &["midpoint", "bh2"]),
    ("thresholding", &["false"]),
    ("timestep_type", &["discrete"]),
    ("use_beta_sigmas", &["false"]),
    ("use_exponential_sigmas", &["false"]),
    ("use_flow_sigmas", &["false"]),
    ("use_karras_sigmas", &["false"]),
    ("use_lu_lambdas", &["false"]),
];

/// The noise schedule that a model was trained with.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    config: SchedulerConfig,
    /// The cumulative product of `1 - beta` at each training timestep: the share of the picture in
    /// the variance.
    alphas_cumprod: Vec<f64>,
}

impl Schedule {
    pub(super) fn load(path: &Path) -> Result<Self, ModelError> {
        let given: Map<String, Value> = files::read_settings(path)?;
        files::check_settings(path, &given, FIXED)?;
        let config: SchedulerConfig =
            serde_json::from_value(Value::Object(given)).map_err(|error| ModelError::broken(path, error))?;
        let mut product = 1.0;
        let keep = |beta: f64| {
            product *= 1.0 - beta;
            product
        };
        let mut alphas_cumprod: Vec<f64> = config.betas().into_iter().map(keep).collect();
        if alphas_cumprod.is_empty() {
            return Err(ModelError::broken(path, "it has no timesteps"));
        }
        if config.rescale_betas_zero_snr {
            rescale_zero_terminal_snr(&mut alphas_cumprod);
        }
        Ok(Self { config, alphas_cumprod })
    }

    /// Starts a run of `steps` steps.
    pub(super) fn sampler(&self, scheduler: Scheduler, steps: usize) -> Result<Box<dyn Sampler>, ModelError> {
        let trained = self.alphas_cumprod.len();
        if steps == 0 || steps > trained {
            return Err(ModelError::Parameters(format!("steps must be 1 to {trained}, not {steps}")));
        }
        Ok(match scheduler {
            Scheduler::Ddim => Box::new(Ddim::new(self, steps)),
            Scheduler::Euler => Box::new(Euler::new(self, steps, false)?),
            Scheduler::EulerAncestral => Box::new(Euler::new(self, steps, true)?),
            Scheduler::DpmSolver => Box::new(DpmSolver::new(self, steps)),
            Scheduler::UniPc => Box::new(UniPc::new(self, steps)),
        })
    }

    fn spacing(&self, scheduler: Scheduler) -> TimestepSpacing {
        self.config.timestep_spacing.unwrap_or(scheduler.default_spacing())
    }

    /// Spreads the steps backwards over the whole range: `last - 1, last - 1 - stride, …` (numpy's
    /// arange with a negative step).
    fn trailing(&self, steps: usize) -> Vec<f64> {
        let (trained, stride) =
            (self.alphas_cumprod.len() as f64, self.alphas_cumprod.len() as f64 / steps as f64);
        (0..steps).map(|k| (trained - k as f64 * stride).round_ties_even() - 1.0).collect()
    }

    /// Returns the ratios of noise to picture at the timesteps and after the last one, interpolated
    /// between those of training (numpy's interp).
    fn sigmas(&self, timesteps: &[f32]) -> Vec<f64> {
        let trained: Vec<f64> =
            (0..self.alphas_cumprod.len()).map(|at| self.sigma(self.positive_alpha_cumprod(at))).collect();
        let at = |timestep: &f32| {
            let timestep = f64::from(*timestep).clamp(0.0, (trained.len() - 1) as f64);
            let (low, share) = (timestep as usize, timestep.fract());
            let high = (low + 1).min(trained.len() - 1);
            trained[low] + (trained[high] - trained[low]) * share
        };
        let last = match self.config.final_sigmas_type {
            FinalSigmas::Zero => 0.0,
            FinalSigmas::SigmaMin => trained[0],
        };
        timesteps.iter().map(at).chain(std::iter::once(last)).map(|sigma| f64::from(sigma as f32)).collect()
    }

    fn sigma(&self, alpha_cumprod: f64) -> f64 {
        ((1.0 - alpha_cumprod) / alpha_cumprod).sqrt()
    }

    /// Returns the cumulative alpha at a timestep, but never 0, which would make sigma infinite.
    /// Like diffusers, it uses the smallest positive number of f16 instead.
    fn positive_alpha_cumprod(&self, at: usize) -> f64 {
        match self.config.rescale_betas_zero_snr && at + 1 == self.alphas_cumprod.len() {
            true => 2f64.powi(-24),
            false => self.alphas_cumprod[at],
        }
    }
}

impl SchedulerConfig {
    fn betas(&self) -> Vec<f64> {
        let steps = self.num_train_timesteps;
        let between =
            |from: f64, to: f64, k: usize| from + (to - from) * k as f64 / (steps.max(2) - 1) as f64;
        if let Some(betas) = &self.trained_betas {
            return betas.clone();
        }
        (0..steps)
            .map(|k| match self.beta_schedule {
                BetaSchedule::Linear => between(self.beta_start, self.beta_end, k),
                BetaSchedule::ScaledLinear => {
                    between(self.beta_start.sqrt(), self.beta_end.sqrt(), k).powi(2)
                }
                BetaSchedule::SquaredcosCapV2 => {
                    let bar = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
                    (1.0 - bar((k + 1) as f64 / steps as f64) / bar(k as f64 / steps as f64)).min(0.999)
                }
            })
            .collect()
    }
}

/// Rescales so that the last timestep is pure noise (Lin et al., 2023, algorithm 1).
fn rescale_zero_terminal_snr(alphas_cumprod: &mut [f64]) {
    let (first, last) = (alphas_cumprod[0].sqrt(), alphas_cumprod[alphas_cumprod.len() - 1].sqrt());
    let rescaled = |alpha: f64| ((alpha.sqrt() - last) * first / (first - last)).powi(2);
    alphas_cumprod.iter_mut().for_each(|alpha| *alpha = rescaled(*alpha));
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn schedule(json: &str) -> Result<Schedule, ModelError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scheduler_config.json");
        std::fs::write(&path, json).unwrap();
        Schedule::load(&path)
    }

    const SD2: &str =
        r#""beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": false"#;

    /// With a network that knows the picture, every deterministic scheduler ends at that picture,
    /// for every prediction type.
    #[test]
    fn deterministic_schedulers_end_at_the_predicted_picture() {
        for kind in ["epsilon", "v_prediction", "sample"] {
            let schedule = schedule(&format!(r#"{{"prediction_type": "{kind}", {SD2}}}"#)).unwrap();
            for scheduler in [Scheduler::Ddim, Scheduler::Euler, Scheduler::DpmSolver, Scheduler::UniPc] {
                let picture = 0.7f32;
                let mut sampler = schedule.sampler(scheduler, 10).unwrap();
                let mut x = [-1.3 * sampler.initial_scale()];
                for step in 0..10 {
                    let timestep = sampler.timesteps()[step] as f64;
                    let at = |timestep: usize| schedule.alphas_cumprod[timestep.min(999)];
                    let (low, high) = (at(timestep as usize), at(timestep as usize + 1));
                    let alpha_cumprod = low + (high - low) * timestep.fract();
                    let (alpha, sigma) = (alpha_cumprod.sqrt() as f32, (1.0 - alpha_cumprod).sqrt() as f32);
                    let seen = x[0] * sampler.input_scale(step);
                    let epsilon = (seen - alpha * picture) / sigma;
                    let prediction = match kind {
                        "epsilon" => epsilon,
                        "sample" => picture,
                        _ => alpha * epsilon - sigma * picture,
                    };
                    sampler.step(step, &[prediction], &mut x, &[]);
                }
                assert!((x[0] - picture).abs() < 2e-2, "{scheduler} {kind}: {}", x[0]);
            }
        }
    }

    #[test]
    fn zero_terminal_snr_ends_in_pure_noise() {
        let schedule = schedule(r#"{"rescale_betas_zero_snr": true}"#).unwrap();
        assert_eq!(schedule.alphas_cumprod[999], 0.0);
        assert!((schedule.alphas_cumprod[0] - 0.9999).abs() < 1e-9);
        let euler = schedule.sampler(Scheduler::Euler, 5).unwrap();
        assert!(euler.initial_scale().is_finite());
    }

    #[test]
    fn steps_have_bounds() {
        let schedule = schedule("{}").unwrap();
        for &scheduler in Scheduler::ALL {
            for wrong in [0, 1001] {
                assert!(schedule.sampler(scheduler, wrong).is_err(), "{scheduler} {wrong}");
            }
            for right in [1, 2, 1000] {
                let sampler = schedule.sampler(scheduler, right).unwrap();
                assert_eq!(sampler.timesteps().len(), right, "{scheduler}");
            }
        }
    }

    #[test]
    fn unsupported_scheduler_settings_are_named_in_the_error() {
        for (setting, value) in [("use_karras_sigmas", "true"), ("algorithm_type", "\"sde-dpmsolver++\"")] {
            let error = schedule(&format!("{{\"{setting}\": {value}}}")).unwrap_err().to_string();
            assert!(error.contains(setting), "{error}");
        }
    }

    /// The network's formula, the same as in models/tools/make_references.py.
    fn answer(latents: &[f32], timestep: f32) -> Vec<f32> {
        let wave = (timestep / 300.0).cos();
        latents.iter().map(|x| 0.5 * x * wave + 0.3 * (3.0 * x).sin()).collect()
    }

    /// Compares every spacing, prediction and kind of betas, with 1 to 20 steps.
    #[test]
    fn every_scheduler_matches_diffusers() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/samplers.safetensors");
        let bytes = std::fs::read(path).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let settings: Vec<Value> =
            serde_json::from_str(&header.metadata().as_ref().unwrap()["settings"]).unwrap();
        let tensors = candle_core::safetensors::load_buffer(&bytes, &candle_core::Device::Cpu).unwrap();
        let noise = tensors["noise"].to_vec2::<f32>().unwrap();
        let mut compared = 0;
        for (name, expected) in tensors.iter().filter(|(name, _)| name.contains('/')) {
            let parts: Vec<&str> = name.split('/').collect();
            let (at, steps): (usize, usize) = (parts[0].parse().unwrap(), parts[2].parse().unwrap());
            let schedule = schedule(&settings[at].to_string()).unwrap();
            let mut sampler = schedule.sampler(parts[1].parse().unwrap(), steps).unwrap();
            let initial: Vec<f32> = tensors["initial"].to_vec1().unwrap();
            let mut latents: Vec<f32> = initial.iter().map(|x| x * sampler.initial_scale()).collect();
            for (step, noise) in noise.iter().enumerate().take(steps) {
                let seen: Vec<f32> = latents.iter().map(|x| x * sampler.input_scale(step)).collect();
                let prediction = answer(&seen, sampler.timesteps()[step]);
                sampler.step(step, &prediction, &mut latents, noise);
            }
            let expected: Vec<f32> = expected.to_vec1().unwrap();
            let largest = expected.iter().fold(1.0, |largest: f32, x| largest.max(x.abs()));
            // With an alpha of 0, sigma is 4,096, and such latents only agree up to their last
            // bits.
            let last_bits = 4.0 * f32::EPSILON * sampler.initial_scale();
            for (ours, theirs) in latents.iter().zip(&expected) {
                let off = (ours - theirs).abs();
                assert!(
                    off < 1e-4 * largest + last_bits,
                    "{name} of {}: {ours}, but {theirs} in diffusers",
                    settings[at]
                );
            }
            compared += 1;
        }
        assert!(compared > 300, "{compared} comparisons");
    }
}
