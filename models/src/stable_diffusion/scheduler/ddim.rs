//! DDIM (Song et al., 2020) without added noise, step for step diffusers' DDIMScheduler.

use super::{Prediction, Sampler, Schedule, Scheduler, Spacing};

/// One step: how much signal there is, and how much it leaves.
#[derive(Debug, Clone, Copy)]
struct Step {
    signal: f64,
    signal_after: f64,
}

#[derive(Debug)]
pub(super) struct Ddim {
    timesteps: Vec<f32>,
    steps: Vec<Step>,
    prediction: Prediction,
    /// Pictures are cut at it.
    range: f32,
}

impl Ddim {
    pub(super) fn new(schedule: &Schedule, steps: usize) -> Self {
        let (settings, signal) = (&schedule.settings, &schedule.signal);
        let trained = signal.len();
        let finished = if settings.set_alpha_to_one { 1.0 } else { signal[0] };
        let stride = trained / steps;
        let places: Vec<usize> =
            timesteps(schedule, steps).into_iter().map(|timestep| timestep.min(trained - 1)).collect();
        let step = |&timestep: &usize| Step {
            signal: signal[timestep],
            signal_after: timestep.checked_sub(stride).map_or(finished, |after| signal[after]),
        };
        Self {
            timesteps: places.iter().map(|&timestep| timestep as f32).collect(),
            steps: places.iter().map(step).collect(),
            prediction: settings.prediction_type,
            range: if settings.clip_sample { settings.clip_sample_range as f32 } else { f32::INFINITY },
        }
    }
}

fn timesteps(schedule: &Schedule, steps: usize) -> Vec<usize> {
    let trained = schedule.signal.len();
    match schedule.spacing(Scheduler::Ddim) {
        Spacing::Leading => {
            (0..steps).rev().map(|k| k * (trained / steps) + schedule.settings.steps_offset).collect()
        }
        Spacing::Trailing => schedule.trailing(steps).into_iter().map(|timestep| timestep as usize).collect(),
        Spacing::Linspace => {
            let stride = (trained - 1) as f64 / (steps.max(2) - 1) as f64;
            (0..steps).rev().map(|k| (k as f64 * stride).round_ties_even() as usize).collect()
        }
    }
}

impl Sampler for Ddim {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn advance(&mut self, step: usize, prediction: &[f32], latents: &mut [f32], _: &[f32]) {
        let Step { signal, signal_after } = self.steps[step];
        let (signal, noise) = (signal.sqrt() as f32, (1.0 - signal).sqrt() as f32);
        let (signal_after, noise_after) = (signal_after.sqrt() as f32, (1.0 - signal_after).sqrt() as f32);
        for (x, &predicted) in latents.iter_mut().zip(prediction) {
            let (picture, epsilon) = match self.prediction {
                Prediction::Epsilon => ((*x - noise * predicted) / signal, predicted),
                Prediction::Sample => (predicted, (*x - signal * predicted) / noise),
                Prediction::Velocity => (signal * *x - noise * predicted, signal * predicted + noise * *x),
            };
            // clamp would turn NaN into a bound if written as min and max; it does not.
            *x = signal_after * picture.clamp(-self.range, self.range) + noise_after * epsilon;
        }
    }
}
