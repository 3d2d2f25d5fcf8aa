"""Trains the UNet and SD2's text encoder together on cached latents. Resumable; begins from a checkpoint where asked.

v-prediction, one prompt in ten dropped for classifier-free guidance, moving average. The loss is plain in v where
noise prevails: there the words alone say what the object's shape is, and min-SNR weights (Hang et al., 2023) would
all but silence them; where the picture prevails it is damped, as theirs is. Latents that show an object count more,
which moves no optimum and learns shapes sooner. Two processes of one thread each share every step: on two busy
cores that is faster than two threads. bfloat16 where the processor has it.
"""

import argparse
import os

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import common
import render
from muon import Both

SD2 = common.CHECKPOINTS / "sd2"
LATENT_CHANNELS, WIDTH, LENGTH = 8, 128, 40
PICTURES = 32000  # the first of the 60,000 training scenes
OBJECT = 3.0
UNET = dict(
    sample_size=8,
    in_channels=LATENT_CHANNELS,
    out_channels=LATENT_CHANNELS,
    down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
    mid_block_type="UNetMidBlock2DCrossAttn",
    up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
    block_out_channels=[64, 128],
    layers_per_block=1,
    cross_attention_dim=WIDTH,
    attention_head_dim=[2, 4],
    use_linear_projection=True,
    norm_num_groups=16,
)


def text_config():
    return CLIPTextConfig(
        vocab_size=784, hidden_size=WIDTH, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=LENGTH, hidden_act="gelu", projection_dim=WIDTH, bos_token_id=782,
        eos_token_id=783, pad_token_id=0)


def schedule():
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        set_alpha_to_one=False, steps_offset=1, clip_sample=False)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=32, help="of each process")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--name", default="unet")
    parser.add_argument("--from-checkpoint", action="store_true", help="begin from the committed weights")
    parser.add_argument("--float32", action="store_true", help="not bfloat16")
    parser.add_argument("--compile", action="store_true", help="torch.compile: five minutes, then twice as fast")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--world", type=int, default=2)
    return parser.parse_args()


@torch.no_grad()
def latents(pictures_seed=0):
    """[PICTURES, 8, 8, 8] scaled latents of the training renders, made once."""
    path = common.WORK / f"latents-{pictures_seed}.npy"
    if not path.exists():
        _, pictures = common.renders("train", 60000, picture_seed=pictures_seed)
        pictures = pictures[:PICTURES]
        vae = AutoencoderKL.from_pretrained(SD2 / "vae").float().to(memory_format=torch.channels_last)
        parts = []
        for begin in range(0, len(pictures), 100):
            part = common.to_tensor(pictures[begin : begin + 100]).contiguous(memory_format=torch.channels_last)
            parts.append((vae.encode(part).latent_dist.mean * vae.config.scaling_factor).contiguous().numpy())
        np.save(common.WORK / "partial-latents.npy", np.concatenate(parts).astype(np.float32))
        os.replace(common.WORK / "partial-latents.npy", path)
    return np.load(path)


def token_ids(texts):
    tokenizer = CLIPTokenizer.from_pretrained(SD2 / "tokenizer")
    return tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")["input_ids"]


class Pair(torch.nn.Module):
    """UNet and text encoder, trained as one."""

    def __init__(self):
        super().__init__()
        self.unet = UNet2DConditionModel(**UNET)
        self.unet.set_attn_processor(AttnProcessor())
        self.text = CLIPTextModel(text_config())

    def forward(self, noised, steps, ids):
        return self.unet(noised, steps, self.text(ids).last_hidden_state).sample


def emphasis(scenes):
    """[n, 1, 8, 8]: OBJECT where a latent shows an object, 1 elsewhere."""
    side = UNET["sample_size"]
    centre = (np.arange(side) + 0.5) * 64 / side - 32
    weights = np.ones((len(scenes), 1, side, side), np.float32)
    for weight, scene in zip(weights[:, 0], scenes):
        for *_, (x, y), radius in render.placements(scene):
            reach = (centre[None, :] - x) ** 2 + (centre[:, None] - y) ** 2
            weight[reach < (1.1 * radius + 4) ** 2] = OBJECT
    return torch.from_numpy(weights)


def loss_of(pair, scheduler, clean, ids, weights):
    """The loss, and the part of it that only the words can lower: the error where almost all is noise."""
    noise = torch.randn_like(clean)
    steps = torch.randint(0, 1000, (len(clean),))
    noised = scheduler.add_noise(clean, noise, steps)
    target = scheduler.get_velocity(clean, noise, steps)
    alpha = scheduler.alphas_cumprod[steps]
    damped = (5 * (1 - alpha)).clamp(max=1)[:, None, None, None]
    error = F.mse_loss(pair(noised, steps, ids).float(), target, reduction="none")
    words = (weights * error)[steps >= 600].mean().detach()
    return (damped * weights * error).mean(), words


def share(parameters, world):
    """Mean gradient over the processes."""
    if world == 1:
        return
    flat = torch.cat([p.grad.reshape(-1) for p in parameters])
    dist.all_reduce(flat)
    flat /= world
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters])):
        parameter.grad.copy_(part.view(parameter.shape))


def write(pair):
    """Writes UNet, text encoder, scheduler and model_index.json in f16 beside the VAE."""
    half = Pair()
    half.load_state_dict(pair.state_dict())
    half.half()
    half.unet.save_pretrained(SD2 / "unet", safe_serialization=True)
    half.text.save_pretrained(SD2 / "text_encoder", safe_serialization=True)
    schedule().save_pretrained(SD2 / "scheduler")
    (SD2 / "model_index.json").write_text(MODEL_INDEX)


MODEL_INDEX = """{
  "_class_name": "StableDiffusionPipeline",
  "_diffusers_version": "0.35.2",
  "feature_extractor": [null, null],
  "image_encoder": [null, null],
  "requires_safety_checker": false,
  "safety_checker": [null, null],
  "scheduler": ["diffusers", "DDIMScheduler"],
  "text_encoder": ["transformers", "CLIPTextModel"],
  "tokenizer": ["transformers", "CLIPTokenizer"],
  "unet": ["diffusers", "UNet2DConditionModel"],
  "vae": ["diffusers", "AutoencoderKL"]
}
"""


class Run:
    """One process's share of the training."""

    def __init__(self, args):
        self.args = args
        torch.manual_seed(1)
        self.pair, self.scheduler = Pair(), schedule()
        self.optimizer = Both(self.pair.named_parameters(), args.rate, weight_decay=0.01)
        self.begin_from_clip()
        self.average = common.Average(self.pair, 0.999)
        self.parameters = [p for p in self.pair.parameters() if p.requires_grad]
        self.path, self.first = common.WORK / f"{args.name}.pt", 0
        if args.from_checkpoint:
            self.begin_from_checkpoint()
        if state := common.load_state(self.path):
            self.resume(state)
        listed = common.scenes("train", 60000)[:PICTURES]
        self.weights = emphasis(listed)
        self.ids, self.empty = token_ids([scene["text"] for scene in listed]), token_ids([""])
        self.latents = torch.from_numpy(latents())
        self.forward = torch.compile(self.pair) if args.compile else self.pair
        torch.manual_seed(1000 * self.first + args.rank)

    def begin_from_clip(self):
        """CLIP's text tower, as far as it is trained, is where the text encoder begins."""
        if state := common.load_state(common.WORK / "clip.pt"):
            prefix = "text_model."
            tower = {name: value for name, value in state["model"].items() if name.startswith(prefix)}
            self.pair.text.load_state_dict(tower)

    def begin_from_checkpoint(self):
        unet = UNet2DConditionModel.from_pretrained(SD2 / "unet").float().state_dict()
        self.pair.unet.load_state_dict(unet)
        self.pair.text.load_state_dict(CLIPTextModel.from_pretrained(SD2 / "text_encoder").float().state_dict())
        self.average = common.Average(self.pair, 0.999)

    def resume(self, state):
        self.pair.load_state_dict(state["pair"])
        self.average.module.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.first = self.average.steps = state["step"]

    def step(self, rate):
        index = torch.randint(0, len(self.ids), (self.args.batch,))
        ids = torch.where(torch.rand(len(index), 1) < 0.1, self.empty, self.ids[index])
        with torch.autocast("cpu", torch.bfloat16, enabled=not self.args.float32):
            loss, words = loss_of(self.forward, self.scheduler, self.latents[index], ids, self.weights[index])
        self.optimizer.zero_grad()
        loss.backward()
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        share(self.parameters, self.args.world)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        common.set_rate(self.optimizer, rate)
        self.optimizer.step()
        self.average.update(self.pair)
        return float(loss.detach()), float(words)

    def save(self, step):
        if self.args.rank == 0:
            common.save_state(self.path, pair=self.pair.state_dict(), average=self.average.module.state_dict(),
                              optimizer=self.optimizer.state_dict(), step=step)
            write(self.average.module)

    def train(self):
        log, losses = common.Log(), []
        for step in range(self.first, self.args.steps):
            losses.append(self.step(common.cosine(step, self.args.steps, self.args.rate, warm_up=200)))
            done = step + 1
            if done % 100 == 0 and self.args.rank == 0:
                loss, words = np.mean(losses[-100:], 0)
                log(done, loss=loss, words=words)
            if done % 250 == 0 or done == self.args.steps:
                self.save(done)


def main():
    args = arguments()
    if args.world > 1:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", "29541")
        dist.init_process_group("gloo", rank=args.rank, world_size=args.world)
    if args.rank == 0:
        latents()
    if args.world > 1:
        dist.barrier()
    Run(args).train()


if __name__ == "__main__":
    main()
