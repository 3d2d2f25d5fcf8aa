//! Solvers that remember the pictures that the last steps saw: DPM-Solver++ 2M (Lu et al., 2022) with the midpoint rule, and UniPC
//! (Zhao et al., 2023) of order 2 in its B2(h) variant, as diffusers' DPMSolverMultistepScheduler and UniPCMultistepScheduler compute
//! them.

use super::{Prediction, Sampler, Schedule, Scheduler, Spacing};

/// What both solvers know of the way.
#[derive(Debug)]
struct Path {
    timesteps: Vec<f32>,
    /// One more than timesteps: what is left in the end.
    sigmas: Vec<f64>,
    prediction: Prediction,
    /// Below so many steps the last one is of first order, too, where noise is left.
    few: bool,
}

/// Signal and noise of unit variance together, and the logarithm of their ratio.
#[derive(Debug, Clone, Copy)]
struct Point {
    signal: f64,
    noise: f64,
    lambda: f64,
}

impl Path {
    fn new(schedule: &Schedule, scheduler: Scheduler, steps: usize) -> Self {
        let timesteps = timesteps(schedule, steps, schedule.spacing(scheduler));
        let sigmas = schedule.sigmas(&timesteps);
        Self { timesteps, sigmas, prediction: schedule.settings.prediction_type, few: steps < 15 }
    }

    fn steps(&self) -> usize {
        self.timesteps.len()
    }

    fn point(&self, step: usize) -> Point {
        let sigma = self.sigmas[step];
        let signal = 1.0 / (sigma * sigma + 1.0).sqrt();
        Point { signal, noise: sigma * signal, lambda: -sigma.ln() }
    }

    /// The picture that a prediction stands for.
    fn pictures(&self, step: usize, prediction: &[f32], latents: &[f32]) -> Vec<f32> {
        let Point { signal, noise, .. } = self.point(step);
        let (signal, noise) = (signal as f32, noise as f32);
        let picture = |(&x, &predicted): (&f32, &f32)| match self.prediction {
            Prediction::Epsilon => (x - noise * predicted) / signal,
            Prediction::Sample => predicted,
            Prediction::Velocity => signal * x - noise * predicted,
        };
        latents.iter().zip(prediction).map(picture).collect()
    }
}

/// Whole numbers; one more than the steps is spread, and the last left out.
fn timesteps(schedule: &Schedule, steps: usize, spacing: Spacing) -> Vec<f32> {
    let trained = schedule.signal.len();
    match spacing {
        Spacing::Linspace => {
            let stride = (trained - 1) as f64 / steps as f64;
            (1..=steps).rev().map(|k| (k as f64 * stride).round_ties_even() as f32).collect()
        }
        Spacing::Leading => {
            let (stride, offset) = (trained / (steps + 1), schedule.settings.steps_offset);
            (1..=steps).rev().map(|k| (k * stride + offset) as f32).collect()
        }
        Spacing::Trailing => schedule.trailing(steps).into_iter().map(|timestep| timestep as f32).collect(),
    }
}

/// DPM-Solver++ 2M.
#[derive(Debug)]
pub(super) struct DpmSolver {
    path: Path,
    last: Option<Vec<f32>>,
    ends_without_noise: bool,
}

impl DpmSolver {
    pub(super) fn new(schedule: &Schedule, steps: usize) -> Self {
        let path = Path::new(schedule, Scheduler::DpmSolver, steps);
        let ends_without_noise = path.sigmas[steps] == 0.0;
        Self { path, last: None, ends_without_noise }
    }
}

impl Sampler for DpmSolver {
    fn timesteps(&self) -> &[f32] {
        &self.path.timesteps
    }

    fn advance(&mut self, step: usize, prediction: &[f32], latents: &mut [f32], _: &[f32]) {
        let pictures = self.path.pictures(step, prediction, latents);
        let (from, to) = (self.path.point(step), self.path.point(step + 1));
        let h = to.lambda - from.lambda;
        let (keep, gain) = ((to.noise / from.noise) as f32, -to.signal * (-h).exp_m1());
        let at_end = step + 1 == self.path.steps() && (self.ends_without_noise || self.path.few);
        match self.last.as_ref().filter(|_| !at_end) {
            None => {
                for (x, picture) in latents.iter_mut().zip(&pictures) {
                    *x = keep * *x + gain as f32 * picture;
                }
            }
            Some(last) => {
                let before = from.lambda - self.path.point(step - 1).lambda;
                let (gain, slope) = (gain as f32, (0.5 * gain * h / before) as f32);
                for ((x, picture), last) in latents.iter_mut().zip(&pictures).zip(last) {
                    *x = keep * *x + gain * picture + slope * (picture - last);
                }
            }
        }
        self.last = Some(pictures);
    }
}

/// UniPC-2 with B2(h): each step first corrects the last one by what the network saw after it.
#[derive(Debug)]
pub(super) struct UniPc {
    path: Path,
    /// What the last two steps saw, the later one last.
    seen: Vec<Vec<f32>>,
    /// The latents that the last step began with, and its order.
    began: Option<(Vec<f32>, usize)>,
}

/// The numbers of a step of size h between two points: what is kept of the latents, and the weights b of UniPC's linear system.
struct Weights {
    keep: f32,
    gain: f64,
    b: [f64; 2],
}

impl Weights {
    fn new(from: Point, to: Point) -> Self {
        let hh = from.lambda - to.lambda;
        let phi1 = hh.exp_m1();
        let second = phi1 / hh - 1.0;
        let third = second / hh - 0.5;
        Self {
            keep: (to.noise / from.noise) as f32,
            gain: -to.signal * phi1,
            b: [second / phi1, third * 2.0 / phi1],
        }
    }
}

impl UniPc {
    pub(super) fn new(schedule: &Schedule, steps: usize) -> Self {
        Self { path: Path::new(schedule, Scheduler::UniPc, steps), seen: Vec::new(), began: None }
    }

    /// UniC: the latents that this step begins with, again, now that it is known what the network sees in them.
    fn correct(&self, step: usize, pictures: &[f32], latents: &mut [f32]) {
        let (Some((began, order)), Some(last)) = (&self.began, self.seen.last()) else { return };
        let (from, to) = (self.path.point(step - 1), self.path.point(step));
        let Weights { keep, gain, b } = Weights::new(from, to);
        let (mut earlier, mut later, mut ratio) = (0.0, 0.5, 1.0);
        if *order == 2 {
            ratio = (self.path.point(step - 2).lambda - from.lambda) / (to.lambda - from.lambda);
            earlier = (b[0] - b[1]) / (1.0 - ratio);
            later = b[0] - earlier;
        }
        let (gain, earlier, later) = (gain as f32, (earlier / ratio) as f32, later as f32);
        for at in 0..latents.len() {
            let mut change = later * (pictures[at] - last[at]);
            if *order == 2 {
                change += earlier * (self.seen[0][at] - last[at]);
            }
            latents[at] = keep * began[at] + gain * (last[at] + change);
        }
    }

    /// UniP: the latents after this step.
    fn predict(&self, step: usize, order: usize, latents: &mut [f32]) {
        let Some(last) = self.seen.last() else { return };
        let (from, to) = (self.path.point(step), self.path.point(step + 1));
        let Weights { keep, gain, .. } = Weights::new(from, to);
        let slope = match order {
            2 => {
                let ratio = (self.path.point(step - 1).lambda - from.lambda) / (to.lambda - from.lambda);
                (0.5 / ratio) as f32
            }
            _ => 0.0,
        };
        let gain = gain as f32;
        for at in 0..latents.len() {
            let change = if order == 2 { slope * (self.seen[0][at] - last[at]) } else { 0.0 };
            latents[at] = keep * latents[at] + gain * (last[at] + change);
        }
    }
}

impl Sampler for UniPc {
    fn timesteps(&self) -> &[f32] {
        &self.path.timesteps
    }

    fn advance(&mut self, step: usize, prediction: &[f32], latents: &mut [f32], _: &[f32]) {
        let pictures = self.path.pictures(step, prediction, latents);
        if step > 0 {
            self.correct(step, &pictures, latents);
        }
        self.seen.push(pictures);
        if self.seen.len() > 2 {
            self.seen.remove(0);
        }
        let order = 2.min(self.path.steps() - step).min(self.seen.len());
        self.began = Some((latents.to_vec(), order));
        self.predict(step, order, latents);
    }
}
