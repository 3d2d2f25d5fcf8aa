"""Scenes as class indices, for the probe and for the auxiliary heads that only training uses."""

import torch

from backgrounds import PAINTERS
from render import COLOURS, FIRST_OF_TWO, POSITION, RADIUS, SHAPES

VALUES = {
    "shape": list(SHAPES),
    "colour": list(COLOURS),
    "background": list(PAINTERS),
    "style": ["photograph", "oil_painting", "postage_stamp", "film_still", "stained_glass", "comic_book", "telescope"],
    "size": list(RADIUS),
    "texture": ["plain", "striped", "spotted", "checkered"],
    "position": list(POSITION),
    "relation": ["none", *FIRST_OF_TWO],
    "second_shape": ["none", *SHAPES],
    "second_colour": ["none", *COLOURS],
}


def value(scene, slot):
    second = scene["second"] or {}
    if slot == "relation":
        return second.get("relation", "none")
    if slot.startswith("second_"):
        return second.get(slot.removeprefix("second_"), "none")
    return scene[slot]


def labels(scenes):
    """{slot: [n] long}."""
    return {
        slot: torch.tensor([values.index(value(scene, slot)) for scene in scenes])
        for slot, values in VALUES.items()
    }


class Heads(torch.nn.Module):
    """One linear classifier a slot over the same features."""

    def __init__(self, width):
        super().__init__()
        self.heads = torch.nn.ModuleDict({s: torch.nn.Linear(width, len(v)) for s, v in VALUES.items()})

    def forward(self, features):
        return {slot: head(features) for slot, head in self.heads.items()}

    def loss(self, features, truth):
        said = self(features)
        return sum(torch.nn.functional.cross_entropy(said[s], truth[s]) for s in VALUES) / len(VALUES)

    @torch.no_grad()
    def accuracy(self, features, truth):
        said = self(features)
        return {slot: float((said[slot].argmax(1) == truth[slot]).float().mean()) for slot in VALUES}
