"""Trains CLIP (text and vision tower) with the contrastive loss. Resumable.

Small classifiers over the picture's slots help the vision tower while it learns and are thrown away.
Pictures are blurred, shifted and noised at random, and `--mix FILE.npy` swaps in pictures that went through
the VAE or were generated, so that the towers see what they will meet. `--alike SHARE` makes that share of the
batches of scenes that look alike: in a random batch colour and background tell every scene from every other,
and nothing asks what shape it shows.
"""

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizerFast

import common
import labels

MEAN, STD = [0.5, 0.45, 0.42], [0.33, 0.31, 0.32]


def config(vocabulary):
    shared = dict(hidden_size=128, num_attention_heads=4, intermediate_size=512, projection_dim=128,
                  hidden_act="quick_gelu")
    text = dict(shared, vocab_size=vocabulary, max_position_embeddings=40, num_hidden_layers=2,
                bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1, pad_token_id=vocabulary - 1)
    vision = dict(shared, image_size=64, patch_size=8, num_hidden_layers=3)
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=128)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--mix", nargs="*", default=[])
    parser.add_argument("--alike", type=float, default=0.0)
    parser.add_argument("--name", default="clip")
    parser.add_argument("--init")
    return parser.parse_args()


def augment(pictures):
    """Blur, shift, noise: what a small decoder does to a crisp render."""
    if torch.rand(()) < 0.5:
        sigma = float(torch.rand(())) * 1.2 + 0.3
        taps = torch.exp(-torch.arange(-2.0, 3) ** 2 / (2 * sigma**2))
        taps = (taps / taps.sum()).expand(3, 1, 5)
        padded = F.pad(pictures, (2, 2, 2, 2), mode="replicate")
        pictures = F.conv2d(F.conv2d(padded, taps[..., None], groups=3), taps[:, :, None], groups=3)
    if torch.rand(()) < 0.5:
        coarse = torch.randn(len(pictures), 3, 16, 16) * 0.15
        pictures = pictures + F.interpolate(coarse, size=64, mode="bilinear") + torch.randn_like(pictures) * 0.05
    gain = 1 + 0.1 * torch.randn(len(pictures), 1, 1, 1)
    return (pictures * gain).clamp(-1, 1)


def normalise(pictures):
    """-1..1 -> what the processor makes of the same picture."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return ((pictures + 1) / 2 - mean) / std


def contrastive(model, ids, mask, pixels):
    out = model(input_ids=ids, attention_mask=mask, pixel_values=pixels)
    truth = torch.arange(len(ids))
    loss = F.cross_entropy(out.logits_per_text, truth) + F.cross_entropy(out.logits_per_image, truth)
    return loss / 2, out.vision_model_output.pooler_output


@torch.no_grad()
def evaluate(model, heads, ids, mask, pixels, truth):
    """Recall at 1 among all unseen prompts, and the heads' mean accuracies."""
    model.eval()
    parts = [model(input_ids=i, attention_mask=m, pixel_values=normalise(p))
             for i, m, p in zip(ids.split(128), mask.split(128), pixels.split(128))]
    text = torch.cat([part.text_embeds for part in parts])
    image = torch.cat([part.image_embeds for part in parts])
    said = heads.accuracy(torch.cat([part.vision_model_output.pooler_output for part in parts]), truth)
    recall = float(((image @ text.T).argmax(1) == torch.arange(len(ids))).float().mean())
    model.train()
    return dict(recall=recall, **{slot: said[slot] for slot in ("shape", "colour", "background", "style", "size")})


def write(model):
    folder = common.CHECKPOINTS / "clip"
    half = CLIPModel(model.config)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(folder, safe_serialization=True)
    CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, resample=3,
                       image_mean=MEAN, image_std=STD).save_pretrained(folder)


def tokenised(listed):
    tokenizer = CLIPTokenizerFast.from_pretrained(common.CHECKPOINTS / "clip")
    batch = tokenizer([scene["text"] for scene in listed], padding=True, return_tensors="pt")
    return batch["input_ids"], batch["attention_mask"]


GROUP = 8


class Batches:
    """Random batches of the training scenes, some pictures swapped for those of `--mix`; a share of the batches in
    groups of `GROUP` scenes of the same colour, background and style."""

    def __init__(self, mixes, size, alike):
        listed, self.pictures = common.renders("train", 60000)
        self.ids, self.mask = tokenised(listed)
        self.truth = labels.labels(listed)
        self.mixes = [np.load(path, mmap_mode="r") for path in mixes]
        self.size, self.alike, self.rng = size, alike, np.random.default_rng(1)
        kinds = {}
        for index, scene in enumerate(listed):
            kinds.setdefault((scene["colour"], scene["background"], scene["style"]), []).append(index)
        self.kinds = [np.array(kind) for kind in kinds.values()]

    def __call__(self):
        source = self.pick()
        index = np.sort(self.choose(len(source)))
        pixels = normalise(augment(common.to_tensor(source[index])))
        return self.ids[index], self.mask[index], pixels, {s: t[index] for s, t in self.truth.items()}

    def choose(self, count):
        """Indices of scenes among the first `count`."""
        if self.rng.random() >= self.alike:
            return self.rng.integers(count, size=self.size)
        chosen = []
        while len(chosen) * GROUP < self.size:
            kind = self.kinds[self.rng.integers(len(self.kinds))]
            known = kind[: np.searchsorted(kind, count)]
            if len(known) >= GROUP:
                chosen.append(self.rng.choice(known, GROUP, replace=False))
        return np.concatenate(chosen)[: self.size]

    def pick(self):
        """A picture file per batch; file n's pictures belong to the first scenes of the training list."""
        return [self.pictures, *self.mixes][self.rng.integers(len(self.mixes) + 1)]


def main():
    args = arguments()
    torch.manual_seed(1)
    batches = Batches(args.mix, args.batch, args.alike)
    listed, unseen = common.renders("validation", 4000)
    test = (*tokenised(listed[:500]), common.to_tensor(unseen[:500]), labels.labels(listed[:500]))
    model, heads = CLIPModel(config(784)), labels.Heads(128)
    if args.init and (state := common.load_state(common.WORK / f"{args.init}.pt")):
        model.load_state_dict(state["model"]), heads.load_state_dict(state["heads"])
    trained = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=args.rate, betas=(0.9, 0.98), weight_decay=0.05)
    path, log, first = common.WORK / f"{args.name}.pt", common.Log(), 0
    if state := common.load_state(path):
        model.load_state_dict(state["model"]), heads.load_state_dict(state["heads"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        batches.rng = np.random.default_rng(first)
    model.train()
    for step in range(first, args.steps):
        common.set_rate(optimizer, common.cosine(step, args.steps, args.rate))
        ids, mask, pixels, truth = batches()
        loss, features = contrastive(model, ids, mask, pixels)
        total = loss + heads.loss(features, truth)
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        model.logit_scale.data.clamp_(0, 4.6052)
        if step % 100 == 99:
            log(step + 1, loss=float(loss.detach()), total=float(total.detach()), **evaluate(model, heads, *test))
        if step % 200 == 199 or step + 1 == args.steps:
            common.save_state(path, model=model.state_dict(), heads=heads.state_dict(),
                              optimizer=optimizer.state_dict(), step=step + 1)
            write(model)


if __name__ == "__main__":
    main()
