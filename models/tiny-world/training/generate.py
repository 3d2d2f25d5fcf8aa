"""Generates pictures with the checkpoint: DDIM and classifier-free guidance, as StableDiffusionPipeline does.

    python generate.py --split train --seed 7 --count 4000 --out FILE.npy
"""

import argparse
import os

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel

import common
from train_unet import SD2, token_ids


class Generator:
    def __init__(self):
        self.text = CLIPTextModel.from_pretrained(SD2 / "text_encoder").float().eval()
        self.unet = UNet2DConditionModel.from_pretrained(SD2 / "unet").float().eval()
        self.vae = AutoencoderKL.from_pretrained(SD2 / "vae").float().eval()

    @torch.no_grad()
    def latents(self, texts, steps, guidance, seed, eta=0.0):
        scheduler = DDIMScheduler.from_pretrained(SD2 / "scheduler")
        scheduler.set_timesteps(steps)
        said = self.text(token_ids([""] * len(texts) + texts)).last_hidden_state
        noise = torch.Generator().manual_seed(seed)
        size = self.unet.config.sample_size
        latents = torch.randn(len(texts), self.unet.config.in_channels, size, size, generator=noise)
        for step in scheduler.timesteps:
            empty, full = self.unet(torch.cat([latents, latents]), step, said).sample.chunk(2)
            velocity = empty + guidance * (full - empty)
            latents = scheduler.step(velocity, step, latents, eta=eta, generator=noise).prev_sample
        return latents

    @torch.no_grad()
    def decode(self, latents):
        return common.to_pictures(self.vae.decode(latents / self.vae.config.scaling_factor).sample)

    def __call__(self, texts, steps=20, guidance=3.0, seed=0, batch=50):
        """[n, 64, 64, 3] uint8."""
        parts = [texts[begin : begin + batch] for begin in range(0, len(texts), batch)]
        return np.concatenate(
            [self.decode(self.latents(part, steps, guidance, seed + k)) for k, part in enumerate(parts)])

    @torch.no_grad()
    def round_trip(self, pictures):
        """Through the VAE and back."""
        parts = np.array_split(pictures, max(1, len(pictures) // 64))
        return np.concatenate([
            common.to_pictures(self.vae.decode(self.vae.encode(common.to_tensor(p)).latent_dist.mean).sample)
            for p in parts])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", default="train")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--scenes", type=int, default=60000, help="length of the list the scenes are the head of")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--round-trip", action="store_true", help="decode renders instead of generating")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    listed = common.scenes(args.split, args.scenes, args.seed)[: args.count]
    generator = Generator()
    if args.round_trip:
        pictures = generator.round_trip(common.renders(args.split, args.scenes, args.seed)[1][: args.count])
    else:
        pictures = generator([scene["text"] for scene in listed], args.steps, args.guidance)
    np.save(f"{args.out}.partial.npy", pictures)
    os.replace(f"{args.out}.partial.npy", args.out)


if __name__ == "__main__":
    main()
