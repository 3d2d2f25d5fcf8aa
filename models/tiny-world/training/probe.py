"""A small CNN that reads a scene's slots off a picture, trained on augmented renders.

It judges generated pictures; `common.CHECKPOINTS` never contains it, reports/probe.safetensors does.
"""

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import common
import labels
from train_clip import augment

WEIGHTS = common.REPORTS / "probe.safetensors"


class Probe(torch.nn.Module):
    """[n, 3, 64, 64] in -1..1 -> logits of every slot."""

    def __init__(self, width=24):
        super().__init__()
        channels = [3, width, 2 * width, 3 * width, 4 * width]
        layers = []
        for index, (before, after) in enumerate(zip(channels, channels[1:])):
            size, stride = (5, 2) if index == 0 else (3, 2)
            layers += [torch.nn.Conv2d(before, after, size, stride, size // 2), torch.nn.BatchNorm2d(after),
                       torch.nn.ReLU()]
        layers += [torch.nn.Conv2d(channels[-1], channels[-1], 3, 1, 1), torch.nn.ReLU(), torch.nn.Flatten(),
                   torch.nn.Linear(channels[-1] * 16, 192), torch.nn.ReLU()]
        self.trunk, self.heads = torch.nn.Sequential(*layers), labels.Heads(192)

    def forward(self, pictures):
        return self.heads(self.trunk(pictures))


def load():
    probe = Probe()
    probe.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return probe.eval()


@torch.no_grad()
def judge(probe, pictures, listed):
    """{slot: accuracy} of pictures ([n, 64, 64, 3] uint8) against their scenes."""
    features = torch.cat([probe.trunk(common.to_tensor(part)) for part in np.array_split(pictures, 8)])
    return probe.heads.accuracy(features, labels.labels(listed))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2500)
    args = parser.parse_args()
    torch.manual_seed(1)
    listed, pictures = common.renders("train", 60000)
    unseen_scenes, unseen = common.renders("validation", 4000)
    truth, rng, probe, log = labels.labels(listed), np.random.default_rng(1), Probe(), common.Log()
    optimizer = torch.optim.AdamW(probe.parameters(), lr=2e-3, weight_decay=0.02)
    for step in range(args.steps):
        common.set_rate(optimizer, common.cosine(step, args.steps, 2e-3))
        index = np.sort(rng.integers(len(pictures), size=64))
        features = probe.trunk(augment(common.to_tensor(pictures[index])))
        loss = probe.heads.loss(features, {slot: values[index] for slot, values in truth.items()})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 250 == 249:
            log(step + 1, loss=float(loss.detach()), **judge(probe.eval(), unseen[:1000], unseen_scenes[:1000]))
            probe.train()
    common.REPORTS.mkdir(exist_ok=True)
    save_file({n: v.half() if v.is_floating_point() else v for n, v in probe.state_dict().items()}, WEIGHTS)


if __name__ == "__main__":
    main()
