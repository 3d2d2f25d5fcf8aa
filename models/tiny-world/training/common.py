"""What every script shares: folders, scenes, cached renders, schedules, moving averages, resumable state."""

import copy
import math
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import torch

import render

HERE = Path(__file__).resolve().parent
CHECKPOINTS = Path(os.environ.get("TINY_WORLD_CHECKPOINTS", HERE.parent / "checkpoints"))
REPORTS = HERE.parent / "reports"
WORK = Path(os.environ.get("TINY_WORLD_WORK", "/tmp/tiny-world"))
WORK.mkdir(parents=True, exist_ok=True)


def scenes(split, count, seed=1, single_object=False):
    """Scenes from the Rust grammar, through the binary TINY_WORLD_BIN names."""
    command = os.environ.get("TINY_WORLD_BIN", "cargo run -q --release -p unprompt-tiny-world --").split()
    command += ["prompts", "--split", split, "--seed", str(seed), "--count", str(count)]
    name = f"{split}-{seed}-{count}" + ("-single" if single_object else "")
    path = WORK / f"{name}.jsonl"
    if not path.exists():
        with open(path, "wb") as out:
            subprocess.run(command + ["--single-object"] * single_object, stdout=out, check=True, cwd=HERE)
    return render.read_scenes(path)


def renders(split, count, seed=1, single_object=False, picture_seed=0):
    """(scenes, [n, 64, 64, 3] uint8), rendered once and kept."""
    listed = scenes(split, count, seed, single_object)
    name = f"{split}-{seed}-{count}-{picture_seed}" + ("-single" if single_object else "")
    path = WORK / f"{name}.npy"
    if not path.exists():
        pictures = render.render_all(listed, picture_seed)
        np.save(WORK / f"partial-{os.getpid()}.npy", pictures)
        os.replace(WORK / f"partial-{os.getpid()}.npy", path)
    return listed, np.load(path, mmap_mode="r")


def to_tensor(pictures):
    """[n, 64, 64, 3] uint8 -> [n, 3, 64, 64] float in -1..1."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(tensor):
    """The way back."""
    return ((tensor.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def cosine(step, steps, peak, warm_up=100, floor=0.02):
    """Linear warm-up, then a cosine down to `floor` times the peak."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    share = min(1.0, (step - warm_up) / max(1, steps - warm_up))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share)))


def set_rate(optimizer, rate):
    for group in optimizer.param_groups:
        group["lr"] = rate


class Average:
    """An exponential moving average of a module, with the usual warm-up of its decay."""

    def __init__(self, module, decay=0.999):
        self.module, self.decay, self.steps = copy.deepcopy(module).requires_grad_(False), decay, 0

    @torch.no_grad()
    def update(self, module):
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        mine, theirs = list(self.module.parameters()), list(module.parameters())
        torch._foreach_lerp_(mine, theirs, 1 - decay)


def save_state(path, **state):
    torch.save(state, f"{path}.tmp")
    os.replace(f"{path}.tmp", path)


def load_state(path):
    return torch.load(path, weights_only=False) if Path(path).exists() else None


class Log:
    """A line every so often, with the seconds since the start."""

    def __init__(self):
        self.begin = time.time()

    def __call__(self, step, **values):
        said = " ".join(f"{name} {value:.4f}" for name, value in values.items())
        print(f"step {step} {time.time() - self.begin:.0f}s {said}", flush=True)
