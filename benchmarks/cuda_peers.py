"""Measures Stable Diffusion 2.1, CLIP L/14 and EVA02-E on a GPU beside their peers.

The peers are diffusers, transformers and open_clip. The networks have full size and random weights,
so their arithmetic is that of the published ones. Writes rows of reports/bench.json, each with its
share of the card's measured matrix rate."""

import argparse
import json
import os
import pathlib
import shutil
import sys

import models_peers
import open_clip_models
from models_peers import best, cosine, pictures, row
from open_clip_models import read

HERE = pathlib.Path(__file__).resolve().parent
PUBLISHED = HERE.parent / "models/tests/reference/published"
TOKENIZER = HERE.parent / "models/tiny-world/checkpoints/sd2/tokenizer"
PROMPT = "a photograph of a fox"
GUIDANCE = 7.5
PREFIX = "on a GPU: "
CLIP, EVA = "clip-vit-large-patch14", "eva02-e-14"


def say(what):
    print(f"bench-cuda: {what}", file=sys.stderr, flush=True)


def kind(dtype):
    import torch

    return {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[dtype]


def seconds(work, device):
    """The seconds of the fastest round of `work`, including the wait for the device."""
    import torch

    def whole():
        work()
        if device != "cpu":
            torch.cuda.synchronize()

    return best(whole)


def matrix_rate(device, dtype, side):
    """The operations per second that torch reaches here in a product of two matrices of `side`."""
    import torch

    a, b = (torch.randn(side, side, device=device, dtype=kind(dtype)) for _ in range(2))
    times = 10
    return times * 2 * side**3 / seconds(lambda: [a @ b for _ in range(times)], device)


# The networks.


def sd_parts(configs):
    """The networks of a diffusers folder, of the configured sizes, with their initial weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    config = lambda part: read(configs / "sd21" / part / "config.json")
    return {"unet": UNet2DConditionModel(**config("unet")), "vae": AutoencoderKL(**config("vae")),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**config("text_encoder")))}


def make_sd(folder, configs, device):
    """The tiny world's tokenizer: its tokens are among the first of the larger vocabulary."""
    import torch
    from diffusers import DDIMScheduler

    if not (folder / "model_index.json").is_file():
        torch.manual_seed(1)
        with torch.device(device):
            parts = sd_parts(configs)
        for name, part in parts.items():
            part.half().save_pretrained(folder / name)
        shutil.copytree(TOKENIZER, folder / "tokenizer", dirs_exist_ok=True)
        DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction", steps_offset=1,
                      clip_sample=False, set_alpha_to_one=False).save_pretrained(folder / "scheduler")
        index = {"_class_name": "StableDiffusionPipeline", "feature_extractor": [None, None], "image_encoder": [None, None],
                 "safety_checker": [None, None], "requires_safety_checker": False, "scheduler": ["diffusers", "DDIMScheduler"],
                 "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
                 "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
        (folder / "model_index.json").write_text(json.dumps(index))
    return folder


# Operations, counted on networks without weights: two per multiplication of a matrix product or a
# convolution.


def operations(make, run):
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # Attention as plain products, which the counter can count.
    with torch.device("meta"), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        network = make()
        with FlopCounterMode(display=False) as counter:
            run(network)
    return counter.get_total_flops()


def picture_operations(configs, side, steps):
    """The operations of one picture: its prompt, the UNet's guided steps, and the decoder."""
    import torch
    from diffusers.models.attention_processor import AttnProcessor

    latents = torch.empty(1, 4, side // 8, side // 8, device="meta")

    def run(parts):
        for part in ("unet", "vae"):
            parts[part].set_attn_processor(AttnProcessor())
        hidden = parts["text_encoder"](torch.zeros(2, 77, dtype=torch.long, device="meta"))[0]
        parts["unet"](torch.cat([latents] * 2), 1, hidden)

    def decode(parts):
        parts["vae"].set_attn_processor(AttnProcessor())
        parts["vae"].decode(latents)

    return steps * operations(lambda: sd_parts(configs), run) + operations(lambda: sd_parts(configs), decode)


def encoder_operations(make, side):
    import torch

    return operations(make, lambda embed: embed(torch.empty(1, 3, side, side, device="meta")))


def clip_network(configs):
    """A function from pixels to vectors, without weights."""
    from transformers import CLIPConfig, CLIPModel

    return CLIPModel(CLIPConfig(**read(configs / "config.json"))).get_image_features


# The peers.


def initial_latents(side):
    import numpy

    return numpy.random.default_rng(5).standard_normal((1, 4, side // 8, side // 8)).astype("float32")


def diffusers_pipeline(folder, dtype, device):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=kind(dtype), safety_checker=None).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def denoised(pipeline, arguments):
    import torch

    side = arguments.sides[0]
    latents = torch.from_numpy(initial_latents(side)).to(pipeline.device, pipeline.unet.dtype)
    return pipeline(PROMPT, latents=latents, num_inference_steps=arguments.steps, guidance_scale=GUIDANCE, height=side, width=side,
                    output_type="latent").images.float().flatten().tolist()


def diffusers_pictures(folder, arguments, compiled):
    """Seconds per picture with scaled_dot_product_attention.

    `compiled` follows diffusers' advice for speed."""
    import torch

    pipeline = diffusers_pipeline(folder, arguments.dtype, arguments.device)
    if compiled:
        pipeline.unet = torch.compile(pipeline.unet.to(memory_format=torch.channels_last))
        pipeline.vae.decode = torch.compile(pipeline.vae.to(memory_format=torch.channels_last).decode)
    found = {}
    for side in arguments.sides:
        for batch in arguments.batches:
            draw = lambda: pipeline([PROMPT] * batch, num_inference_steps=arguments.steps, guidance_scale=GUIDANCE, height=side, width=side)
            found[f"{side} {batch}"] = seconds(draw, arguments.device) / batch
    return found


def peer_encoder(name, folder, dtype, device):
    """A function from pixels to vectors."""
    import torch
    from safetensors.torch import load_file
    from transformers import CLIPModel

    if name == CLIP:
        return CLIPModel.from_pretrained(folder, torch_dtype=kind(dtype), attn_implementation="sdpa").eval().to(device).get_image_features
    with torch.device(device):
        network = open_clip_models.network(folder)
    network.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
    return network.to(device, kind(dtype)).eval().encode_image


def peer_pictures(name, folder, prepared, dtype, arguments, compiled=False):
    """Pictures per second for prepared f32 pixels [count, 3, side, side].

    The time includes transfers to and from the device."""
    import torch

    network = peer_encoder(name, folder, dtype, arguments.device)
    network = torch.compile(network) if compiled else network
    batches = prepared.split(arguments.batch)
    with torch.inference_mode():
        embed = lambda pixels: network(pixels.to(arguments.device).to(kind(dtype))).float().cpu()
        taken = seconds(lambda: [embed(pixels) for pixels in batches], arguments.device)
        vector = embed(prepared[:1])[0]
    return {"network": len(prepared) / taken, "vector": (vector / vector.norm()).tolist()}


def prepared_pixels(name, folder, decoded):
    """Pictures prepared by the network's library, [count, 3, side, side]."""
    from transformers import CLIPImageProcessor

    if name == CLIP:
        return CLIPImageProcessor.from_pretrained(folder)(images=decoded, return_tensors="pt")["pixel_values"]
    return open_clip_models.prepared(folder, decoded)


# The rows.


def share(rate, count, card):
    """The used share of the card's matrix rate, at `count` operations per picture."""
    return round(rate * count / card, 4)


def picture_rows(found, peers, arguments, card):
    rows = []
    exact = peers["f32"]
    for side in arguments.sides:
        count = picture_operations(arguments.configs, side, arguments.steps)
        for batch in arguments.batches:
            ours = found["seconds"][f"{side} {batch}"]
            for peer_name, peer in peers["pictures"].items():
                theirs = peer[f"{side} {batch}"]
                name = f"{PREFIX}SD2.1, {side} x {side}, batch {batch}, {arguments.steps} steps, {arguments.dtype}"
                rows.append(row(name, "s/picture", ours, theirs, peer_name, higher=False, operations=count,
                                ours_share=share(1 / ours, count, card), peer_share=share(1 / theirs, count, card),
                                ours_cosine=cosine(found["denoised"], exact), peer_cosine=cosine(peers["denoised"], exact)))
    return rows


def encoder_rows(name, found, peers, exact, count, card, arguments):
    rows = []
    for dtype in arguments.encoder_dtypes:
        ours = found[f"candle {dtype}"]
        for peer_name, peer in peers[dtype].items():
            rows.append(row(f"{PREFIX}{name}, {dtype}, network alone", "pictures/s", ours["network"], peer["network"], peer_name,
                            operations=count, ours_share=share(ours["network"], count, card[dtype]),
                            peer_share=share(peer["network"], count, card[dtype]),
                            ours_cosine=cosine(ours["vector"], exact), peer_cosine=cosine(peer["vector"], exact)))
    return rows


def parsed():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--ours", required=True, help="the benchmark's binary `models`, built with the feature cuda")
    arguments.add_argument("--libraries", default="", help="where its CUDA libraries are")
    arguments.add_argument("--work", required=True, type=pathlib.Path, help="where networks of random weights are kept")
    arguments.add_argument("--report", required=True, type=pathlib.Path)
    arguments.add_argument("--device", default="cuda", help="of torch; ours takes a GPU where it finds one")
    arguments.add_argument("--configs", default=PUBLISHED, type=pathlib.Path, help="the networks' configurations")
    arguments.add_argument("--dtype", default="f16", help="of the pictures that are drawn")
    arguments.add_argument("--sides", default=[512, 768], type=int, nargs="+")
    arguments.add_argument("--batches", default=[1, 8], type=int, nargs="+")
    arguments.add_argument("--steps", default=25, type=int)
    arguments.add_argument("--encoder-dtypes", default=["f16", "bf16"], nargs="+")
    arguments.add_argument("--count", default=256, type=int, help="pictures that an encoder is given")
    arguments.add_argument("--batch", default=64, type=int, help="pictures that a peer is given at once, as many as ours takes")
    arguments.add_argument("--matrix", default=8192, type=int, help="side of the matrices that the card is measured with")
    return arguments.parse_args()


def device_name(device):
    """The device's name in the rows; exits if the device is missing."""
    import torch

    if device == "cpu":
        return "the processor"
    if not torch.cuda.is_available():
        say("there is no GPU that CUDA can use here, and nothing was measured: run it on a machine with an NVIDIA GPU and its driver")
        sys.exit(1)
    return torch.cuda.get_device_name()


def ours(arguments, work):
    paths = [path for path in (arguments.libraries, os.environ.get("LD_LIBRARY_PATH")) if path]
    environment = os.environ | {"LD_LIBRARY_PATH": ":".join(paths)}
    found = models_peers.ours(arguments.ours, work, environment)
    ran_on = found["drawings"]["device"]
    if arguments.device != "cpu" and ran_on != "GPU":
        say(f"our networks ran on the {ran_on}: {arguments.ours} was built without the feature cuda, or found no device")
        sys.exit(1)
    return found


def measure_pictures(folder, arguments):
    """diffusers' seconds, and its result for the initial latents, also in f32."""
    import torch

    with torch.inference_mode():
        exact = denoised(diffusers_pipeline(folder, "f32", arguments.device), arguments)
        own = denoised(diffusers_pipeline(folder, arguments.dtype, arguments.device), arguments)
        names = {f"diffusers (torch, {arguments.dtype}, SDPA)": False, f"diffusers (torch.compile, {arguments.dtype})": True}
        rates = {name: diffusers_pictures(folder, arguments, compiled) for name, compiled in names.items()}
    return {"f32": exact, "denoised": own, "pictures": rates}


def measure_encoder(name, folder, decoded, arguments):
    library = "transformers" if name == CLIP else "open_clip"
    prepared = prepared_pixels(name, folder, decoded)
    exact = peer_pictures(name, folder, prepared[:1], "f32", arguments)["vector"]
    peers = {}
    for dtype in arguments.encoder_dtypes:
        names = {f"{library} (torch, {dtype}, SDPA)": False, f"{library} (torch.compile, {dtype})": True}
        peers[dtype] = {peer: peer_pictures(name, folder, prepared, dtype, arguments, compiled) for peer, compiled in names.items()}
    return peers, exact, prepared.shape[-1]


def main():
    arguments = parsed()
    os.environ["HF_HUB_OFFLINE"] = "1"
    card = device_name(arguments.device)
    from PIL import Image

    say(f"making networks of random weights in {arguments.work} (13 GB), unless they are there")
    paths = pictures(arguments.work / "pictures")
    paths = (paths * (arguments.count // len(paths) + 1))[: arguments.count]
    clip_config = read(arguments.configs / CLIP / "config.json")
    folders = {CLIP: models_peers.make_clip(arguments.work / CLIP, clip_config["vision_config"]),
               EVA: open_clip_models.make(arguments.work / EVA, arguments.configs / EVA, arguments.device)}
    sd = make_sd(arguments.work / "sd21", arguments.configs, arguments.device)
    decoded = [Image.open(path).convert("RGB") for path in paths]

    dtypes = sorted({arguments.dtype, *arguments.encoder_dtypes})
    rates = {dtype: matrix_rate(arguments.device, dtype, arguments.matrix) for dtype in dtypes}
    say(f"{card}: " + ", ".join(f"{rate / 1e12:.1f} TFLOP/s in {dtype}" for dtype, rate in rates.items()))
    say("our networks")
    found = ours(arguments, {
        "pictures": [str(path) for path in paths], "encoders": [str(folder) for folder in folders.values()], "preparation": False,
        "ways": [["candle", dtype] for dtype in arguments.encoder_dtypes], "sd": str(sd),
        "drawings": {"precision": arguments.dtype, "steps": arguments.steps, "sides": arguments.sides, "batches": arguments.batches,
                     "initial": initial_latents(arguments.sides[0]).flatten().tolist()}})
    say("diffusers, transformers and open_clip")
    rows = [{"name": f"{PREFIX}product of matrices of {arguments.matrix} x {arguments.matrix}, {dtype}, {card}", "unit": "TFLOP/s",
             "ours": None, "peer": round(rate / 1e12, 1), "peer_name": "torch", "ratio": None} for dtype, rate in rates.items()]
    rows += picture_rows(found["drawings"], measure_pictures(sd, arguments), arguments, rates[arguments.dtype])
    networks = {CLIP: lambda: clip_network(arguments.configs / CLIP), EVA: lambda: open_clip_models.network(arguments.configs / EVA).encode_image}
    for name, folder in folders.items():
        peers, exact, side = measure_encoder(name, folder, decoded, arguments)
        count = encoder_operations(networks[name], side)
        rows += encoder_rows(name, found[name], peers, exact, count, rates, arguments)
    models_peers.report(arguments.report, rows, lambda name: name.startswith(PREFIX))


if __name__ == "__main__":
    main()
