"""Trains the AutoencoderKL: L1 + MSE + edges, a tiny KL, moving average. Resumable.

`--decoder-only` refines the decoder against the frozen encoder of the checkpoint already written.
"""

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

import common
from muon import Both

CONFIG = dict(
    in_channels=3,
    out_channels=3,
    down_block_types=["DownEncoderBlock2D"] * 4,
    up_block_types=["UpDecoderBlock2D"] * 4,
    block_out_channels=[16, 16, 32, 64],
    layers_per_block=1,
    norm_num_groups=8,
    latent_channels=8,
    sample_size=64,
    act_fn="silu",
)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--decoder-only", action="store_true")
    parser.add_argument("--name", default="vae")
    return parser.parse_args()


def loss_of(pictures, decoded, posterior=None):
    error = F.l1_loss(decoded, pictures) + 2 * F.mse_loss(decoded, pictures)
    edges = sum(F.l1_loss(decoded.diff(dim=d), pictures.diff(dim=d)) for d in (2, 3))
    kl = 0 if posterior is None else 1e-5 * posterior.kl().mean() / 512
    return error + 0.5 * edges + kl


def forward(vae, pictures, decoder_only):
    if decoder_only:
        with torch.no_grad():
            posterior = vae.encode(pictures).latent_dist
            latents = posterior.mean + 0.05 * posterior.mean.std() * torch.randn_like(posterior.mean)
        return loss_of(pictures, vae.decode(latents).sample)
    posterior = vae.encode(pictures).latent_dist
    return loss_of(pictures, vae.decode(posterior.sample()).sample, posterior)


@torch.no_grad()
def psnr(vae, pictures):
    decoded = vae.decode(vae.encode(pictures).latent_dist.mean).sample.clamp(-1, 1)
    mse = ((decoded - pictures) / 2).pow(2).flatten(1).mean(1)
    return float((-10 * mse.log10()).mean())


@torch.no_grad()
def write(vae, pictures):
    """Writes the f16 checkpoint with the scaling factor that gives latents unit deviation; a frozen encoder
    keeps its own."""
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in pictures.split(64)])
    scale = round(float(1 / (latents - latents.mean((0, 2, 3), keepdim=True)).std()), 5)
    half = AutoencoderKL(**CONFIG, scaling_factor=scale)
    half.load_state_dict(vae.state_dict())
    half.half().save_pretrained(common.CHECKPOINTS / "sd2" / "vae", safe_serialization=True)


def start(args):
    torch.manual_seed(1)
    if args.decoder_only:
        vae = AutoencoderKL.from_pretrained(common.CHECKPOINTS / "sd2" / "vae").float()
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    else:
        vae = AutoencoderKL(**CONFIG)
    return vae.to(memory_format=torch.channels_last)


def main():
    args = arguments()
    _, pictures = common.renders("train", 60000)
    _, unseen = common.renders("validation", 4000)
    unseen = common.to_tensor(unseen[:256])
    vae = start(args)
    trained = [p for p in vae.parameters() if p.requires_grad]
    optimizer = Both(vae.named_parameters(), args.rate)
    average, log, rng, first = common.Average(vae, 0.998), common.Log(), np.random.default_rng(1), 0
    path = common.WORK / f"{args.name}.pt"
    if state := common.load_state(path):
        vae.load_state_dict(state["vae"]), optimizer.load_state_dict(state["optimizer"])
        average.module.load_state_dict(state["average"])
        average.steps = first = state["step"]
        rng = np.random.default_rng(first)
    for step in range(first, args.steps):
        common.set_rate(optimizer, common.cosine(step, args.steps, args.rate))
        batch = common.to_tensor(pictures[np.sort(rng.integers(len(pictures), size=args.batch))])
        loss = forward(vae, batch.contiguous(memory_format=torch.channels_last), args.decoder_only)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        average.update(vae)
        if step % 100 == 99:
            log(step + 1, loss=float(loss.detach()), psnr=psnr(average.module, unseen[:64]))
        if step % 250 == 249:
            common.save_state(path, vae=vae.state_dict(), optimizer=optimizer.state_dict(),
                              average=average.module.state_dict(), step=step + 1)
            write(average.module, unseen)
    write(average.module, unseen)
    log(args.steps, psnr=psnr(average.module, unseen))


if __name__ == "__main__":
    main()
