//! How noise becomes a picture step by step: diffusers' schedulers, by scheduler_config.json. A file that another scheduler wrote is read
//! as diffusers' `from_config` reads it: what it does not say has the default of the scheduler that reads it.

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

/// Which way is taken from noise to a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(try_from = "String", into = "&'static str")]
#[derive(Display, EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case", parse_err_ty = ModelError, parse_err_fn = Self::unknown)]
pub enum Scheduler {
    /// DDIM without added noise (Song et al., 2020).
    #[default]
    Ddim,
    /// Euler's method on the probability flow (Karras et al., 2022), as k-diffusion has it.
    Euler,
    /// The same with noise added at each step, as k-diffusion's ancestral sampling has it.
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
    /// What it takes where the file does not say (DDIM's default, and that of all others).
    fn default_spacing(self) -> Spacing {
        if self == Self::Ddim { Spacing::Leading } else { Spacing::Linspace }
    }
}

/// One way through the steps, which remembers what it needs of the last ones.
pub(super) trait Sampler {
    /// Where the network is asked, from noise to picture.
    fn timesteps(&self) -> &[f32];

    /// What standard normal noise is multiplied with before the first step.
    fn initial_scale(&self) -> f32 {
        1.0
    }

    /// What latents are multiplied with for the network at a step.
    fn input_scale(&self, _step: usize) -> f32 {
        1.0
    }

    /// Whether a step adds noise.
    fn adds_noise(&self) -> bool {
        false
    }

    /// The latents after a step, written over `latents`, from the network's prediction for them; with standard normal `noise` where it
    /// adds some.
    fn advance(&mut self, step: usize, prediction: &[f32], latents: &mut [f32], noise: &[f32]);
}

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

/// The settings that matter, with the defaults that all schedulers share.
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
    timestep_spacing: Option<Spacing>,
    rescale_betas_zero_snr: bool,
    final_sigmas_type: FinalSigma,
}

/// What is left of the noise after the last step, for all but DDIM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FinalSigma {
    Zero,
    SigmaMin,
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
            timestep_spacing: None,
            rescale_betas_zero_snr: false,
            final_sigmas_type: FinalSigma::Zero,
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
    settings: Settings,
    /// The share of the picture's variance at each training timestep (alphas_cumprod).
    signal: Vec<f64>,
}

impl Schedule {
    pub(super) fn load(path: &Path) -> Result<Self, ModelError> {
        let given: Map<String, Value> = files::read_json(path)?;
        files::check_settings(path, &given, FIXED)?;
        let settings: Settings =
            serde_json::from_value(Value::Object(given)).map_err(|error| ModelError::broken(path, error))?;
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

    /// A run of so many steps.
    pub(super) fn sampler(&self, scheduler: Scheduler, steps: usize) -> Result<Box<dyn Sampler>, ModelError> {
        let trained = self.signal.len();
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

    fn spacing(&self, scheduler: Scheduler) -> Spacing {
        self.settings.timestep_spacing.unwrap_or(scheduler.default_spacing())
    }

    /// `last - 1, last - 1 - stride, …` of a whole range that is walked through backwards (numpy's arange with a negative step).
    fn trailing(&self, steps: usize) -> Vec<f64> {
        let (trained, stride) = (self.signal.len() as f64, self.signal.len() as f64 / steps as f64);
        (0..steps).map(|k| (trained - k as f64 * stride).round_ties_even() - 1.0).collect()
    }

    /// The noise over the signal at each of the timesteps, and after the last of them: numpy's interp between those of training.
    fn sigmas(&self, timesteps: &[f32]) -> Vec<f64> {
        let trained: Vec<f64> =
            (0..self.signal.len()).map(|at| self.sigma(self.signal_above_zero(at))).collect();
        let at = |timestep: &f32| {
            let place = f64::from(*timestep).clamp(0.0, (trained.len() - 1) as f64);
            let (low, share) = (place as usize, place.fract());
            let high = (low + 1).min(trained.len() - 1);
            trained[low] + (trained[high] - trained[low]) * share
        };
        let last = match self.settings.final_sigmas_type {
            FinalSigma::Zero => 0.0,
            FinalSigma::SigmaMin => trained[0],
        };
        timesteps.iter().map(at).chain(std::iter::once(last)).map(|sigma| f64::from(sigma as f32)).collect()
    }

    fn sigma(&self, signal: f64) -> f64 {
        ((1.0 - signal) / signal).sqrt()
    }

    /// Without any signal sigma would be infinite: diffusers takes the smallest positive number of f16.
    fn signal_above_zero(&self, at: usize) -> f64 {
        match self.settings.rescale_betas_zero_snr && at + 1 == self.signal.len() {
            true => 2f64.powi(-24),
            false => self.signal[at],
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

    pub(super) fn schedule(json: &str) -> Result<Schedule, ModelError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scheduler_config.json");
        std::fs::write(&path, json).unwrap();
        Schedule::load(&path)
    }

    const SD2: &str =
        r#""beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": false"#;

    /// With a network that knows the picture, every deterministic way leads to it, whatever the network predicts.
    #[test]
    fn every_way_without_noise_ends_in_the_picture_the_network_sees() {
        for kind in ["epsilon", "v_prediction", "sample"] {
            let schedule = schedule(&format!(r#"{{"prediction_type": "{kind}", {SD2}}}"#)).unwrap();
            for scheduler in [Scheduler::Ddim, Scheduler::Euler, Scheduler::DpmSolver, Scheduler::UniPc] {
                let picture = 0.7f32;
                let mut sampler = schedule.sampler(scheduler, 10).unwrap();
                let mut x = [-1.3 * sampler.initial_scale()];
                for step in 0..10 {
                    let timestep = sampler.timesteps()[step] as f64;
                    let signal = schedule.signal[timestep as usize]
                        + (schedule.signal[(timestep as usize + 1).min(999)]
                            - schedule.signal[timestep as usize])
                            * timestep.fract();
                    let (signal, noise) = (signal.sqrt() as f32, (1.0 - signal).sqrt() as f32);
                    let seen = x[0] * sampler.input_scale(step);
                    let epsilon = (seen - signal * picture) / noise;
                    let prediction = match kind {
                        "epsilon" => epsilon,
                        "sample" => picture,
                        _ => signal * epsilon - noise * picture,
                    };
                    sampler.advance(step, &[prediction], &mut x, &[]);
                }
                assert!((x[0] - picture).abs() < 2e-2, "{scheduler} {kind}: {}", x[0]);
            }
        }
    }

    #[test]
    fn zero_terminal_noise_has_no_signal_left() {
        let schedule = schedule(r#"{"rescale_betas_zero_snr": true}"#).unwrap();
        assert_eq!(schedule.signal[999], 0.0);
        assert!((schedule.signal[0] - 0.9999).abs() < 1e-9);
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
    fn other_schedules_are_refused_by_name() {
        for (setting, value) in [("use_karras_sigmas", "true"), ("algorithm_type", "\"sde-dpmsolver++\"")] {
            let error = schedule(&format!("{{\"{setting}\": {value}}}")).unwrap_err().to_string();
            assert!(error.contains(setting), "{error}");
        }
    }

    /// models/tools/make_references.py has the same formula for a network.
    fn answer(latents: &[f32], timestep: f32) -> Vec<f32> {
        let wave = (timestep / 300.0).cos();
        latents.iter().map(|x| 0.5 * x * wave + 0.3 * (3.0 * x).sin()).collect()
    }

    /// Every spacing, prediction and kind of betas, with 1 to 20 steps.
    #[test]
    fn every_way_is_diffusers() {
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
                sampler.advance(step, &prediction, &mut latents, noise);
            }
            let expected: Vec<f32> = expected.to_vec1().unwrap();
            let largest = expected.iter().fold(1.0, |largest: f32, x| largest.max(x.abs()));
            // Without a signal in the beginning sigma is 4,096, and what is left of such latents is exact to their last bits only.
            let last_bits = 4.0 * f32::EPSILON * sampler.initial_scale();
            for (ours, theirs) in latents.iter().zip(&expected) {
                let off = (ours - theirs).abs();
                assert!(
                    off < 1e-4 * largest + last_bits,
                    "{name} of {}: {ours} is {theirs} there",
                    settings[at]
                );
            }
            compared += 1;
        }
        assert!(compared > 300, "{compared} ways");
    }
}
