"""Measures CLIP, EVA02, ConvNeXt, SD2.1's UNet and picture preparation beside their peers.

The peers are transformers, open_clip, diffusers, Pillow and OpenCV. The networks have full size and
random weights, so their arithmetic is that of the published ones. Writes rows of
reports/bench.json."""

import argparse
import io
import json
import os
import pathlib
import subprocess
import sys
import time

import open_clip_models

ROUNDS = 2
PICTURES = 16
BATCH = 16
LATENTS = (32, 64)


def say(what):
    print(f"bench-models: {what}", file=sys.stderr, flush=True)


def best(work):
    """The seconds of the fastest round."""
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def pictures(folder):
    """Pictures of 512 x 512 as SD2 draws them, half of them JPEG and half PNG."""
    import numpy
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    y, x = numpy.mgrid[0:512, 0:512]
    paths = []
    for at in range(PICTURES):
        noise = numpy.random.default_rng(at).normal(0, 10, (512, 512, 3))
        waves = [127 + 100 * numpy.sin(x / (9 + at) + c) * numpy.cos(y / (17 - c)) for c in range(3)]
        picture = Image.fromarray((numpy.stack(waves, -1) + noise).clip(0, 255).astype("uint8"))
        paths.append(folder / f"{at}.{'jpg' if at % 2 else 'png'}")
        picture.save(paths[-1], quality=92)
    return paths


CLIPS = {
    "clip-vit-base-patch32": dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=32),
    "clip-vit-large-patch14": dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
                                   patch_size=14),
}


# open_clip models; the second and the third have more than 2 GiB of weights. They take seconds per
# picture.
OPEN_CLIPS = ("eva02-l-14", "open-clip-vit-h-14", "convnext-xxlarge")
FEW_PICTURES = 4


def make_clip(folder, vision):
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    if not (folder / "model.safetensors").is_file():
        torch.manual_seed(1)
        # The text tower does not run, so a small one will do.
        text = dict(vocab_size=100, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1)
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=768)).save_pretrained(folder)
        CLIPImageProcessor().save_pretrained(folder)
    return folder


def make_sd(folder):
    """SD2.1's UNet. The other parts are small, and the tokenizer is the tiny world's."""
    import shutil
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    if not (folder / "scheduler").is_dir():
        torch.manual_seed(1)
        published = json.loads((pathlib.Path(__file__).parent.parent / "models/tests/reference/published/sd21/unet/config.json").read_text())
        UNet2DConditionModel(**published).save_pretrained(folder / "unet")
        blocks = dict(down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4)
        AutoencoderKL(block_out_channels=[32] * 4, norm_num_groups=4, latent_channels=4, **blocks).save_pretrained(folder / "vae")
        text = dict(vocab_size=784, hidden_size=1024, intermediate_size=64, num_hidden_layers=1, num_attention_heads=16,
                    max_position_embeddings=77, bos_token_id=782, eos_token_id=783)
        CLIPTextModel(CLIPTextConfig(**text)).save_pretrained(folder / "text_encoder")
        tokenizer = pathlib.Path(__file__).parent.parent / "models/tiny-world/checkpoints/sd2/tokenizer"
        shutil.copytree(tokenizer, folder / "tokenizer", dirs_exist_ok=True)
        DDIMScheduler(prediction_type="v_prediction", clip_sample=False).save_pretrained(folder / "scheduler")
    return folder


def transformers_clip(folder, decoded, dtype):
    """Pictures per second: the network alone, and with the faster of transformers' processors."""
    import torch
    from transformers import CLIPImageProcessor, CLIPModel

    kind = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    model = CLIPModel.from_pretrained(folder, torch_dtype=kind).eval()
    processor = CLIPImageProcessor.from_pretrained(folder)
    prepare = lambda batch: processor(images=batch, return_tensors="pt")["pixel_values"].to(kind)
    batches = [decoded[start : start + BATCH] for start in range(0, len(decoded), BATCH)]
    prepared = [prepare(batch) for batch in batches]
    with torch.inference_mode():
        alone = best(lambda: [model.get_image_features(pixels) for pixels in prepared])
        both = best(lambda: [model.get_image_features(prepare(batch)) for batch in batches])
        vector = model.get_image_features(prepared[0][:1])[0].float()
    return {"network": len(decoded) / alone, "with_preprocessing": len(decoded) / both,
            "vector": (vector / vector.norm()).tolist()}


def open_clip_encoder(folder, decoded, dtype):
    """Pictures per second: the network alone, and with open_clip's preparation."""
    import torch
    from safetensors.torch import load_file

    kind = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    network = open_clip_models.network(folder)
    network.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
    network = network.to(kind)
    prepare = lambda: open_clip_models.prepared(folder, decoded).to(kind)
    prepared = prepare()
    with torch.inference_mode():
        alone = best(lambda: network.encode_image(prepared))
        both = best(lambda: network.encode_image(prepare()))
        vector = network.encode_image(prepared[:1])[0].float()
    return {"network": len(decoded) / alone, "with_preprocessing": len(decoded) / both,
            "vector": (vector / vector.norm()).tolist()}


def diffusers_unet(folder, dtype):
    import torch
    from diffusers import UNet2DConditionModel

    kind = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=kind).eval()
    found = {}
    with torch.inference_mode():
        for side in LATENTS:
            latents, prompt = torch.randn(2, 4, side, side, dtype=kind), torch.randn(2, 77, 1024, dtype=kind)
            found[f"{dtype} {side}"] = best(lambda: unet(latents, 501, prompt))
    return found


def peers_preparation(paths):
    """Pictures per second on one thread, decoded, and resized and normalised, by each library."""
    import cv2
    import numpy
    from PIL import Image

    cv2.setNumThreads(1)
    encoded = [path.read_bytes() for path in paths]
    pillow = lambda: [Image.open(io.BytesIO(one)).convert("RGB") for one in encoded]
    opencv = lambda: [cv2.cvtColor(cv2.imdecode(numpy.frombuffer(one, numpy.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
                      for one in encoded]
    mean, std = numpy.float32([0.48145466, 0.4578275, 0.40821073]), numpy.float32([0.26862954, 0.26130258, 0.27577711])
    normal = lambda pixels: (numpy.float32(pixels) / 255 - mean) / std
    decoded, arrays = pillow(), opencv()
    seconds = {
        "Pillow": (best(pillow), best(lambda: [normal(one.resize((224, 224), Image.BICUBIC)) for one in decoded])),
        # OpenCV's resizing without aliasing is INTER_AREA; INTER_CUBIC would give another picture.
        "OpenCV": (best(opencv), best(lambda: [normal(cv2.resize(one, (224, 224), interpolation=cv2.INTER_AREA)) for one in arrays])),
    }
    return {name: {"decode": len(paths) / decode, "preprocess": len(paths) / prepare} for name, (decode, prepare) in seconds.items()}


def ours(binary, work, environment=None):
    done = subprocess.run([binary], input=json.dumps(work), text=True, stdout=subprocess.PIPE, check=True, env=environment)
    return json.loads(done.stdout)


def cosine(a, b):
    import numpy

    return round(float(numpy.dot(a, b) / numpy.linalg.norm(a) / numpy.linalg.norm(b)), 6)


def row(name, unit, ours, peer, peer_name, higher=True, **more):
    ratio = ours / peer if higher else peer / ours
    return {"name": name, "unit": unit, "ours": round(ours, 2), "peer": round(peer, 2), "peer_name": peer_name,
            "ratio": round(ratio, 3), **more}


def encoder_rows(name, found, peers, library):
    rows = []
    exact = peers["f32"]["vector"]
    for what, label in (("network", "network alone"), ("with_preprocessing", "with preprocessing")):
        for way, rate in found.items():
            for dtype, peer in peers.items():
                rows.append(row(f"{name} on {way}, {label}", "pictures/s", rate[what], peer[what], f"{library} (torch, {dtype})",
                                ours_cosine=cosine(rate["vector"], exact), peer_cosine=cosine(peer["vector"], exact)))
    return rows


def clips(arguments, paths, decoded):
    """Rows for the preparation of pictures and for transformers' encoders."""
    folders = {name: make_clip(arguments.work / name, vision) for name, vision in CLIPS.items()}
    say("our CLIP (4 minutes on two cores)")
    found = ours(arguments.ours, {"pictures": [str(path) for path in paths], "encoders": [str(folder) for folder in folders.values()]})
    say("Pillow, OpenCV and transformers (2 minutes)")
    rows = []
    for peer, rates in peers_preparation(paths).items():
        for what, label in (("decode", "decode 512 x 512 PNG and JPEG"), ("preprocess", "resize to 224, crop, normalise")):
            rows.append(row(f"pictures: {label}, one thread", "pictures/s", found["preparation"][what], rates[what], peer))
    for name, folder in folders.items():
        peers = {dtype: transformers_clip(folder, decoded, dtype) for dtype in ("f32", "bf16")}
        rows += encoder_rows(name, found[name], peers, "transformers")
    return rows + [memory_row(", ".join(CLIPS), found)]


def open_clips(arguments, paths, decoded):
    """Rows for open_clip's encoders."""
    published = pathlib.Path(__file__).parent.parent / "models/tests/reference/published"
    folders = {name: open_clip_models.make(arguments.work / name, published / name, "cpu") for name in OPEN_CLIPS}
    say("our EVA02, OpenCLIP and ConvNeXt (9 minutes)")
    ways = [("openvino", "f32"), ("openvino-bf16", "f32"), ("onnx", "f32"), ("candle", "f32"), ("candle", "bf16")]
    found = ours(arguments.ours, {"pictures": [str(path) for path in paths[:FEW_PICTURES]], "preparation": False, "ways": ways,
                                  "encoders": [str(folder) for folder in folders.values()]})
    say("open_clip (5 minutes)")
    rows = []
    for name, folder in folders.items():
        peers = {dtype: open_clip_encoder(folder, decoded[:FEW_PICTURES], dtype) for dtype in ("f32", "bf16")}
        rows += encoder_rows(name, found[name], peers, "open_clip")
    return rows + [memory_row(", ".join(OPEN_CLIPS), found)]


def unet(arguments):
    """Rows for Stable Diffusion's UNet."""
    folder = make_sd(arguments.work / "sd21")
    say("our UNet and diffusers' (2 minutes)")
    found = ours(arguments.ours, {"pictures": [], "encoders": [], "sd": str(folder), "latents": LATENTS})
    peers = diffusers_unet(folder, "f32") | diffusers_unet(folder, "bf16")
    rows = []
    for way, seconds in found["unet"].items():
        side = way.split()[1]
        for peer in ("f32", "bf16"):
            rows.append(row(f"SD2.1 UNet, latents {side} x {side}, batch 2, {way.split()[0]}", "s/step", seconds,
                            peers[f"{peer} {side}"], f"diffusers (torch, {peer})", higher=False))
    return rows + [memory_row("SD2.1 UNet", found)]


def memory_row(what, found):
    return {"name": f"{what} at full size: the most memory of one process", "unit": "GiB", "ours": round(found["peak_bytes"] / 2**30, 2),
            "peer": None, "peer_name": None, "ratio": None}


PARTS = {"clip": ("pictures:", *CLIPS, "clip-vit and"), "open-clip": OPEN_CLIPS, "unet": ("SD2.1 UNet",)}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--ours", required=True)
    arguments.add_argument("--work", required=True, type=pathlib.Path, help="where networks of random weights are kept")
    arguments.add_argument("--report", required=True, type=pathlib.Path)
    arguments.add_argument("--only", choices=PARTS, nargs="*", default=list(PARTS))
    arguments = arguments.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    from PIL import Image

    say(f"making networks of random weights in {arguments.work} (9 GB in all), unless they are there")
    paths = pictures(arguments.work / "pictures")
    decoded = [Image.open(path).convert("RGB") for path in paths]
    parts = {"clip": lambda: clips(arguments, paths, decoded), "open-clip": lambda: open_clips(arguments, paths, decoded),
             "unet": lambda: unet(arguments)}
    for part in arguments.only:
        report(arguments.report, parts[part](), lambda name: name.startswith(PARTS[part]))


def report(path, rows, ours):
    """Replaces the rows of a report whose names are `ours` with these rows, and prints them."""
    kept = [one for one in (json.loads(path.read_text()) if path.exists() else []) if not ours(one["name"])]
    path.write_text(json.dumps(kept + rows, indent=2) + "\n")
    for one in rows:
        one = {key: "–" if value is None else value for key, value in one.items()}
        print("{name:64} {ours:>9} {unit:11} {peer:>9}  {ratio:>6}  {peer_name}".format(**one))


if __name__ == "__main__":
    main()
