//! Euler's method, and Euler's method with noise added at each step: diffusers'
//! EulerDiscreteScheduler and EulerAncestralDiscreteScheduler. Their latents are the picture plus
//! sigma times noise.

use super::{PredictionType, Sampler, Schedule, Scheduler, TimestepSpacing};
use crate::ModelError;

#[derive(Debug)]
pub(super) struct Euler {
    timesteps: Vec<f32>,
    /// The sigma of each timestep, and the noise that is left after the last step.
    sigmas: Vec<f64>,
    prediction: PredictionType,
    initial_scale: f32,
    ancestral: bool,
}

impl Euler {
    pub(super) fn new(schedule: &Schedule, steps: usize, ancestral: bool) -> Result<Self, ModelError> {
        let scheduler = if ancestral { Scheduler::EulerAncestral } else { Scheduler::Euler };
        let prediction = schedule.config.prediction_type;
        if ancestral && prediction == PredictionType::Sample {
            let reason = "euler-ancestral has no form for a network that predicts the picture itself";
            return Err(ModelError::Parameters(reason.to_owned()));
        }
        let spacing = schedule.spacing(scheduler);
        let timesteps = timesteps(schedule, steps, spacing);
        let mut sigmas = schedule.sigmas(&timesteps);
        if ancestral {
            // diffusers ignores final_sigmas_type here.
            sigmas[steps] = 0.0;
        }
        let largest = sigmas.iter().copied().fold(0.0, f64::max);
        let initial_scale =
            if spacing == TimestepSpacing::Leading { (largest * largest + 1.0).sqrt() } else { largest };
        Ok(Self { timesteps, sigmas, prediction, initial_scale: initial_scale as f32, ancestral })
    }

    /// Returns the sigma that a step leads to, and the sigma of the noise added after it
    /// (`sigma_down`, `sigma_up`).
    fn sigma_down_and_up(&self, index: usize) -> (f64, f64) {
        let (from, to) = (self.sigmas[index], self.sigmas[index + 1]);
        if !self.ancestral {
            return (to, 0.0);
        }
        let up = (to * to * (from * from - to * to) / (from * from)).sqrt();
        ((to * to - up * up).sqrt(), up)
    }
}

/// Returns the timesteps, which are fractional with linspace.
fn timesteps(schedule: &Schedule, steps: usize, spacing: TimestepSpacing) -> Vec<f32> {
    let trained = schedule.alphas_cumprod.len();
    match spacing {
        TimestepSpacing::Linspace => {
            let stride = (trained - 1) as f64 / (steps.max(2) - 1) as f64;
            (0..steps).rev().map(|k| (k as f64 * stride) as f32).collect()
        }
        TimestepSpacing::Leading => {
            let offset = schedule.config.steps_offset;
            (0..steps).rev().map(|k| (k * (trained / steps) + offset) as f32).collect()
        }
        TimestepSpacing::Trailing => {
            schedule.trailing(steps).into_iter().map(|timestep| timestep as f32).collect()
        }
    }
}

impl Sampler for Euler {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn initial_scale(&self) -> f32 {
        self.initial_scale
    }

    fn input_scale(&self, index: usize) -> f32 {
        (1.0 / (self.sigmas[index].powi(2) + 1.0).sqrt()) as f32
    }

    fn adds_noise(&self) -> bool {
        self.ancestral
    }

    fn step(&mut self, index: usize, prediction: &[f32], latents: &mut [f32], noise: &[f32]) {
        let sigma = self.sigmas[index];
        let (down, up) = self.sigma_down_and_up(index);
        let square = sigma * sigma + 1.0;
        let (skip, out) = ((1.0 / square) as f32, (-sigma / square.sqrt()) as f32);
        let (sigma, distance, up) = (sigma as f32, (down - sigma) as f32, up as f32);
        for (at, (x, &predicted)) in latents.iter_mut().zip(prediction).enumerate() {
            let picture = match self.prediction {
                PredictionType::Epsilon => *x - sigma * predicted,
                PredictionType::Sample => predicted,
                PredictionType::Velocity => predicted * out + *x * skip,
            };
            *x += (*x - picture) / sigma * distance;
            if self.ancestral {
                *x += noise[at] * up;
            }
        }
    }
}
