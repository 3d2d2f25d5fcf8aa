//! DDIM (Song et al., 2020) without added noise, step by step like diffusers' DDIMScheduler.

use super::{PredictionType, Sampler, Schedule, Scheduler, TimestepSpacing};

/// The cumulative alphas of a step: at its timestep and at the next one, which diffusers calls the
/// previous one.
#[derive(Debug, Clone, Copy)]
struct AlphaProds {
    alpha_prod: f64,
    alpha_prod_prev: f64,
}

#[derive(Debug)]
pub(super) struct Ddim {
    timesteps: Vec<f32>,
    alpha_prods: Vec<AlphaProds>,
    prediction: PredictionType,
    /// The range to which predicted pictures are clamped (`clip_sample_range`).
    range: f32,
}

impl Ddim {
    pub(super) fn new(schedule: &Schedule, steps: usize) -> Self {
        let (config, alphas_cumprod) = (&schedule.config, &schedule.alphas_cumprod);
        let trained = alphas_cumprod.len();
        let final_alpha = if config.set_alpha_to_one { 1.0 } else { alphas_cumprod[0] };
        let stride = trained / steps;
        let timesteps: Vec<usize> =
            timesteps(schedule, steps).into_iter().map(|timestep| timestep.min(trained - 1)).collect();
        let alpha_prods = |&timestep: &usize| AlphaProds {
            alpha_prod: alphas_cumprod[timestep],
            alpha_prod_prev: timestep.checked_sub(stride).map_or(final_alpha, |prev| alphas_cumprod[prev]),
        };
        Self {
            timesteps: timesteps.iter().map(|&timestep| timestep as f32).collect(),
            alpha_prods: timesteps.iter().map(alpha_prods).collect(),
            prediction: config.prediction_type,
            range: if config.clip_sample { config.clip_sample_range as f32 } else { f32::INFINITY },
        }
    }
}

fn timesteps(schedule: &Schedule, steps: usize) -> Vec<usize> {
    let trained = schedule.alphas_cumprod.len();
    match schedule.spacing(Scheduler::Ddim) {
        TimestepSpacing::Leading => {
            (0..steps).rev().map(|k| k * (trained / steps) + schedule.config.steps_offset).collect()
        }
        TimestepSpacing::Trailing => {
            schedule.trailing(steps).into_iter().map(|timestep| timestep as usize).collect()
        }
        TimestepSpacing::Linspace => {
            let stride = (trained - 1) as f64 / (steps.max(2) - 1) as f64;
            (0..steps).rev().map(|k| (k as f64 * stride).round_ties_even() as usize).collect()
        }
    }
}

impl Sampler for Ddim {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn step(&mut self, index: usize, prediction: &[f32], latents: &mut [f32], _: &[f32]) {
        let AlphaProds { alpha_prod, alpha_prod_prev } = self.alpha_prods[index];
        let (alpha, sigma) = (alpha_prod.sqrt() as f32, (1.0 - alpha_prod).sqrt() as f32);
        let (alpha_prev, sigma_prev) = (alpha_prod_prev.sqrt() as f32, (1.0 - alpha_prod_prev).sqrt() as f32);
        for (x, &predicted) in latents.iter_mut().zip(prediction) {
            let (picture, epsilon) = match self.prediction {
                PredictionType::Epsilon => ((*x - sigma * predicted) / alpha, predicted),
                PredictionType::Sample => (predicted, (*x - alpha * predicted) / sigma),
                PredictionType::Velocity => (alpha * *x - sigma * predicted, alpha * predicted + sigma * *x),
            };
            // clamp keeps NaN; min and max would replace it with a bound.
            *x = alpha_prev * picture.clamp(-self.range, self.range) + sigma_prev * epsilon;
        }
    }
}
