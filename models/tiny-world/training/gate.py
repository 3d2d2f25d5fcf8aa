"""Measures what the product will measure: MiniLM cosines of a ridge head, kNN and their blend.

Head: ridge regression from tiny-CLIP image vectors to MiniLM vectors of the prompts. kNN: the 100 nearest of
20,000 prompts by tiny-CLIP text vector, their MiniLM vectors weighted 1/(d^6 + 1e-4), d the cosine distance.

    python gate.py --pictures rendered|round-trip|generated
"""

import argparse
import json

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer, CLIPModel, CLIPTokenizer

import common
from minilm import minilm_folder
from train_clip import normalise

PROMPTS, NEIGHBOURS = 20000, 100


@torch.no_grad()
def minilm(texts):
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    model = AutoModel.from_pretrained(minilm_folder()).eval()
    parts = []
    for begin in range(0, len(texts), 128):
        batch = tokenizer(texts[begin : begin + 128], padding=True, return_tensors="pt")
        mask = batch["attention_mask"][..., None]
        hidden = model(**batch).last_hidden_state * mask
        parts.append(unit((hidden.sum(1) / mask.sum(1)).numpy()))
    return np.concatenate(parts)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


class Clip:
    def __init__(self):
        folder = common.CHECKPOINTS / "clip"
        self.model = CLIPModel.from_pretrained(folder).float().eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def images(self, pictures):
        parts = np.array_split(pictures, max(1, len(pictures) // 100))
        return unit(np.concatenate(
            [self.model.get_image_features(normalise(common.to_tensor(part))).numpy() for part in parts]))

    @torch.no_grad()
    def texts(self, texts):
        parts = []
        for begin in range(0, len(texts), 500):
            batch = self.tokenizer(texts[begin : begin + 500], padding=True, return_tensors="pt")
            parts.append(self.model.get_text_features(**batch).numpy())
        return unit(np.concatenate(parts))


def ridge(x, y, x_test, penalty):
    x_mean, y_mean = x.mean(0), y.mean(0)
    x = x - x_mean
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (y - y_mean))
    return unit((x_test - x_mean) @ weights + y_mean)


def best_ridge(x, y, x_test):
    """The penalty is chosen on the last fifth of the training part."""
    cut = len(x) * 4 // 5
    score = lambda p: (ridge(x[:cut], y[:cut], x[cut:], p) * y[cut:]).sum(1).mean()
    penalty = max(10.0 ** np.arange(-4, 2), key=score)
    return ridge(x, y, x_test, penalty), penalty


def neighbours(images, prompts, vectors):
    distance = 1 - images @ prompts.T
    index = np.argpartition(distance, NEIGHBOURS, 1)[:, :NEIGHBOURS]
    near = np.take_along_axis(distance, index, 1)
    weights = 1 / (near**6 + 1e-4)
    return unit((weights[..., None] * vectors[index]).sum(1))


def measure(pictures, listed, train):
    """Cosines on pictures[train:]; the first `train` fit the head."""
    known = [scene["text"] for scene in common.scenes("train", 60000)[-PROMPTS:]]
    clip, truth = Clip(), minilm([scene["text"] for scene in listed])
    cache = common.WORK / "minilm-prompts.npy"
    if not cache.exists():
        np.save(cache, minilm(known))
    images, vectors = clip.images(pictures), np.load(cache)
    head, penalty = best_ridge(images[:train], truth[:train], images[train:])
    knn = neighbours(images[train:], clip.texts(known), vectors)
    mean = np.broadcast_to(unit(truth[:train].mean(0)), head.shape)
    parts = dict(mean_prompt=mean, head=head, knn=knn, blend=unit(head + knn))
    return {name: round(float((part * truth[train:]).sum(1).mean()), 4) for name, part in parts.items()} | {
        "penalty": float(penalty), "train": train, "test": len(pictures) - train}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", default="generated", choices=["rendered", "round-trip", "generated"])
    parser.add_argument("--train", type=int, default=700)
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    args = parser.parse_args()
    torch.manual_seed(1)
    listed = common.scenes("validation", 4000)[: args.train] + common.scenes("held-out", 4000)[: args.test]
    if args.pictures == "generated":
        from generate import Generator

        pictures = Generator()([scene["text"] for scene in listed], args.steps, args.guidance)
    else:
        import render

        pictures = render.render_all(listed, seed=5)
        if args.pictures == "round-trip":
            from generate import Generator

            pictures = Generator().round_trip(pictures)
    result = dict(pictures=args.pictures, **measure(pictures, listed, args.train))
    print(json.dumps(result), flush=True)
    common.REPORTS.mkdir(exist_ok=True)
    (common.REPORTS / f"gate-{args.pictures}.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
