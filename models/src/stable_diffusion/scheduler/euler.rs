//! Euler's method, and Euler's method with noise added at each step: diffusers' EulerDiscreteScheduler and
//! EulerAncestralDiscreteScheduler. Latents are here picture plus sigma times noise.

use super::{Prediction, Sampler, Schedule, Scheduler, Spacing};
use crate::ModelError;

#[derive(Debug)]
pub(super) struct Euler {
    timesteps: Vec<f32>,
    /// One more than timesteps: what is left in the end.
    sigmas: Vec<f64>,
    prediction: Prediction,
    initial_scale: f32,
    ancestral: bool,
}

impl Euler {
    pub(super) fn new(schedule: &Schedule, steps: usize, ancestral: bool) -> Result<Self, ModelError> {
        let scheduler = if ancestral { Scheduler::EulerAncestral } else { Scheduler::Euler };
        let prediction = schedule.settings.prediction_type;
        if ancestral && prediction == Prediction::Sample {
            let reason = "euler-ancestral has no form for a network that predicts the picture itself";
            return Err(ModelError::Parameters(reason.to_owned()));
        }
        let spacing = schedule.spacing(scheduler);
        let timesteps = timesteps(schedule, steps, spacing);
        let mut sigmas = schedule.sigmas(&timesteps);
        if ancestral {
            // It knows no final_sigmas_type.
            sigmas[steps] = 0.0;
        }
        let largest = sigmas.iter().copied().fold(0.0, f64::max);
        let initial_scale =
            if spacing == Spacing::Leading { (largest * largest + 1.0).sqrt() } else { largest };
        Ok(Self { timesteps, sigmas, prediction, initial_scale: initial_scale as f32, ancestral })
    }

    /// Where a step goes, and the noise that is added then.
    fn target(&self, step: usize) -> (f64, f64) {
        let (from, to) = (self.sigmas[step], self.sigmas[step + 1]);
        if !self.ancestral {
            return (to, 0.0);
        }
        let up = (to * to * (from * from - to * to) / (from * from)).sqrt();
        ((to * to - up * up).sqrt(), up)
    }
}

/// Not whole numbers where they divide the range evenly.
fn timesteps(schedule: &Schedule, steps: usize, spacing: Spacing) -> Vec<f32> {
    let trained = schedule.signal.len();
    match spacing {
        Spacing::Linspace => {
            let stride = (trained - 1) as f64 / (steps.max(2) - 1) as f64;
            (0..steps).rev().map(|k| (k as f64 * stride) as f32).collect()
        }
        Spacing::Leading => {
            let offset = schedule.settings.steps_offset;
            (0..steps).rev().map(|k| (k * (trained / steps) + offset) as f32).collect()
        }
        Spacing::Trailing => schedule.trailing(steps).into_iter().map(|timestep| timestep as f32).collect(),
    }
}

impl Sampler for Euler {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn initial_scale(&self) -> f32 {
        self.initial_scale
    }

    fn input_scale(&self, step: usize) -> f32 {
        (1.0 / (self.sigmas[step].powi(2) + 1.0).sqrt()) as f32
    }

    fn adds_noise(&self) -> bool {
        self.ancestral
    }

    fn advance(&mut self, step: usize, prediction: &[f32], latents: &mut [f32], noise: &[f32]) {
        let sigma = self.sigmas[step];
        let (to, up) = self.target(step);
        let square = sigma * sigma + 1.0;
        let (skip, out) = ((1.0 / square) as f32, (-sigma / square.sqrt()) as f32);
        let (sigma, distance, up) = (sigma as f32, (to - sigma) as f32, up as f32);
        for (at, (x, &predicted)) in latents.iter_mut().zip(prediction).enumerate() {
            let picture = match self.prediction {
                Prediction::Epsilon => *x - sigma * predicted,
                Prediction::Sample => predicted,
                Prediction::Velocity => predicted * out + *x * skip,
            };
            *x += (*x - picture) / sigma * distance;
            if self.ancestral {
                *x += noise[at] * up;
            }
        }
    }
}
