//! Solvers that use the pictures predicted at earlier steps: DPM-Solver++ 2M (Lu et al., 2022) with
//! the midpoint rule, and UniPC (Zhao et al., 2023) of order 2 in its B2(h) variant, as in
//! diffusers' DPMSolverMultistepScheduler and UniPCMultistepScheduler.

use super::{PredictionType, Sampler, Schedule, Scheduler, TimestepSpacing};

/// The timesteps and sigmas that both solvers step through.
#[derive(Debug)]
struct Trajectory {
    timesteps: Vec<f32>,
    /// The sigma of each timestep, and the noise that is left after the last step.
    sigmas: Vec<f64>,
    prediction: PredictionType,
    /// True if there are fewer than 15 steps. Then the last one is of first order even if noise is
    /// left.
    few: bool,
}

/// The scales of the picture (`alpha_t`) and the noise (`sigma_t`), together of unit variance, and
/// the logarithm of their ratio (`lambda_t`).
#[derive(Debug, Clone, Copy)]
struct Point {
    alpha: f64,
    sigma: f64,
    lambda: f64,
}

impl Trajectory {
    fn new(schedule: &Schedule, scheduler: Scheduler, steps: usize) -> Self {
        let timesteps = timesteps(schedule, steps, schedule.spacing(scheduler));
        let sigmas = schedule.sigmas(&timesteps);
        Self { timesteps, sigmas, prediction: schedule.config.prediction_type, few: steps < 15 }
    }

    fn steps(&self) -> usize {
        self.timesteps.len()
    }

    fn point(&self, index: usize) -> Point {
        let sigma = self.sigmas[index];
        let alpha = 1.0 / (sigma * sigma + 1.0).sqrt();
        Point { alpha, sigma: sigma * alpha, lambda: -sigma.ln() }
    }

    /// Returns the predicted picture (`x0_pred`).
    fn pictures(&self, index: usize, prediction: &[f32], latents: &[f32]) -> Vec<f32> {
        let Point { alpha, sigma, .. } = self.point(index);
        let (alpha, sigma) = (alpha as f32, sigma as f32);
        let picture = |(&x, &predicted): (&f32, &f32)| match self.prediction {
            PredictionType::Epsilon => (x - sigma * predicted) / alpha,
            PredictionType::Sample => predicted,
            PredictionType::Velocity => alpha * x - sigma * predicted,
        };
        latents.iter().zip(prediction).map(picture).collect()
    }
}

/// Returns the timesteps as whole numbers: spreads one more than the number of steps and omits the
/// last.
fn timesteps(schedule: &Schedule, steps: usize, spacing: TimestepSpacing) -> Vec<f32> {
    let trained = schedule.alphas_cumprod.len();
    match spacing {
        TimestepSpacing::Linspace => {
            let stride = (trained - 1) as f64 / steps as f64;
            (1..=steps).rev().map(|k| (k as f64 * stride).round_ties_even() as f32).collect()
        }
        TimestepSpacing::Leading => {
            let (stride, offset) = (trained / (steps + 1), schedule.config.steps_offset);
            (1..=steps).rev().map(|k| (k * stride + offset) as f32).collect()
        }
        TimestepSpacing::Trailing => {
            schedule.trailing(steps).into_iter().map(|timestep| timestep as f32).collect()
        }
    }
}

/// DPM-Solver++ 2M.
#[derive(Debug)]
pub(super) struct DpmSolver {
    trajectory: Trajectory,
    last: Option<Vec<f32>>,
    ends_without_noise: bool,
}

impl DpmSolver {
    pub(super) fn new(schedule: &Schedule, steps: usize) -> Self {
        let trajectory = Trajectory::new(schedule, Scheduler::DpmSolver, steps);
        let ends_without_noise = trajectory.sigmas[steps] == 0.0;
        Self { trajectory, last: None, ends_without_noise }
    }
}

impl Sampler for DpmSolver {
    fn timesteps(&self) -> &[f32] {
        &self.trajectory.timesteps
    }

    fn step(&mut self, index: usize, prediction: &[f32], latents: &mut [f32], _: &[f32]) {
        let pictures = self.trajectory.pictures(index, prediction, latents);
        let (from, to) = (self.trajectory.point(index), self.trajectory.point(index + 1));
        let h = to.lambda - from.lambda;
        let (keep, gain) = ((to.sigma / from.sigma) as f32, -to.alpha * (-h).exp_m1());
        let at_end = index + 1 == self.trajectory.steps() && (self.ends_without_noise || self.trajectory.few);
        match self.last.as_ref().filter(|_| !at_end) {
            None => {
                for (x, picture) in latents.iter_mut().zip(&pictures) {
                    *x = keep * *x + gain as f32 * picture;
                }
            }
            Some(last) => {
                let before = from.lambda - self.trajectory.point(index - 1).lambda;
                let (gain, slope) = (gain as f32, (0.5 * gain * h / before) as f32);
                for ((x, picture), last) in latents.iter_mut().zip(&pictures).zip(last) {
                    *x = keep * *x + gain * picture + slope * (picture - last);
                }
            }
        }
        self.last = Some(pictures);
    }
}

/// UniPC-2 with B2(h): each step first corrects the previous one with the network's prediction
/// after it.
#[derive(Debug)]
pub(super) struct UniPc {
    trajectory: Trajectory,
    /// The pictures predicted at the last two steps, the newer one last.
    pictures: Vec<Vec<f32>>,
    /// The latents at the start of the last step, and the step's order.
    began: Option<(Vec<f32>, usize)>,
}

/// The weights of a step between two points: the factor of the old latents, and the b of UniPC's
/// linear system.
struct StepWeights {
    keep: f32,
    gain: f64,
    b: [f64; 2],
}

impl StepWeights {
    fn new(from: Point, to: Point) -> Self {
        let hh = from.lambda - to.lambda;
        let phi1 = hh.exp_m1();
        let second = phi1 / hh - 1.0;
        let third = second / hh - 0.5;
        Self {
            keep: (to.sigma / from.sigma) as f32,
            gain: -to.alpha * phi1,
            b: [second / phi1, third * 2.0 / phi1],
        }
    }
}

impl UniPc {
    pub(super) fn new(schedule: &Schedule, steps: usize) -> Self {
        Self {
            trajectory: Trajectory::new(schedule, Scheduler::UniPc, steps),
            pictures: Vec::new(),
            began: None,
        }
    }

    /// UniC: recomputes the latents at the start of this step from the network's prediction for
    /// them.
    fn correct(&self, index: usize, pictures: &[f32], latents: &mut [f32]) {
        let (Some((began, order)), Some(last)) = (&self.began, self.pictures.last()) else { return };
        let (from, to) = (self.trajectory.point(index - 1), self.trajectory.point(index));
        let StepWeights { keep, gain, b } = StepWeights::new(from, to);
        let (mut earlier, mut later, mut ratio) = (0.0, 0.5, 1.0);
        if *order == 2 {
            ratio = (self.trajectory.point(index - 2).lambda - from.lambda) / (to.lambda - from.lambda);
            earlier = (b[0] - b[1]) / (1.0 - ratio);
            later = b[0] - earlier;
        }
        let (gain, earlier, later) = (gain as f32, (earlier / ratio) as f32, later as f32);
        for at in 0..latents.len() {
            let mut change = later * (pictures[at] - last[at]);
            if *order == 2 {
                change += earlier * (self.pictures[0][at] - last[at]);
            }
            latents[at] = keep * began[at] + gain * (last[at] + change);
        }
    }

    /// UniP: computes the latents after this step.
    fn predict(&self, index: usize, order: usize, latents: &mut [f32]) {
        let Some(last) = self.pictures.last() else { return };
        let (from, to) = (self.trajectory.point(index), self.trajectory.point(index + 1));
        let StepWeights { keep, gain, .. } = StepWeights::new(from, to);
        let slope = match order {
            2 => {
                let ratio =
                    (self.trajectory.point(index - 1).lambda - from.lambda) / (to.lambda - from.lambda);
                (0.5 / ratio) as f32
            }
            _ => 0.0,
        };
        let gain = gain as f32;
        for at in 0..latents.len() {
            let change = if order == 2 { slope * (self.pictures[0][at] - last[at]) } else { 0.0 };
            latents[at] = keep * latents[at] + gain * (last[at] + change);
        }
    }
}

impl Sampler for UniPc {
    fn timesteps(&self) -> &[f32] {
        &self.trajectory.timesteps
    }

    fn step(&mut self, index: usize, prediction: &[f32], latents: &mut [f32], _: &[f32]) {
        let pictures = self.trajectory.pictures(index, prediction, latents);
        if index > 0 {
            self.correct(index, &pictures, latents);
        }
        self.pictures.push(pictures);
        if self.pictures.len() > 2 {
            self.pictures.remove(0);
        }
        let order = 2.min(self.trajectory.steps() - index).min(self.pictures.len());
        self.began = Some((latents.to_vec(), order));
        self.predict(index, order, latents);
    }
}
