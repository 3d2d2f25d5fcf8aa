"""Writes what the reference implementations answer, for models/tests/it/parity.rs to compare ours with.

    python -m venv .venv && .venv/bin/pip install -r models/tools/requirements.txt
    models/tools/fetch_minilm.sh
    .venv/bin/python models/tools/make_references.py [minilm] [pictures] [epsilon] [clip] [sd2] [tiles] [schedulers] [encoders]

Without arguments all are made. After a training of models/tiny-world/checkpoints, make clip, sd2, tiles and
schedulers again."""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import (AutoencoderKL, DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler,
                       EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel, UniPCMultistepScheduler)
from diffusers.schedulers import scheduling_euler_ancestral_discrete
from PIL import Image
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer
from transformers import (CLIPImageProcessor, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer,
                          CLIPTokenizerFast)

import make_encoder_references
import reference_texts

MODELS = Path(__file__).resolve().parent.parent
CHECKPOINTS = MODELS / "tiny-world" / "checkpoints"
OUT = MODELS / "tests" / "reference"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "unprompt" / "models"
MINILM = Path(os.environ.get("UNPROMPT_MODELS", CACHE)) / "all-MiniLM-L6-v2"
PROMPTS = ["a large red circle on a green field", "a small striped star above a blue cube, oil painting", "",
           "two yellow fish under a night sky"]


def revision(folder):
    """As Revision::of_folder in models/src/files.rs: references know which files they were made with."""
    paths = [path for path in folder.rglob("*") if path.suffix in (".safetensors", ".json", ".txt")
             and not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.relative_to(folder).parts):
        name, content = str(path.relative_to(folder)).encode(), path.read_bytes()
        digest.update(len(name).to_bytes(8, "little") + name + len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()[:12]


def save(name, tensors, **metadata):
    (OUT / name).parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
    save_file(tensors, OUT / f"{name}.safetensors", {key: str(value) for key, value in metadata.items()})
    print(f"{name}: {', '.join(f'{key} {list(value.shape)}' for key, value in tensors.items())}")


def write_json(name, value):
    (OUT / name).write_text(json.dumps(value, ensure_ascii=False, indent=0) + "\n")


def minilm():
    texts = reference_texts.texts()
    write_json("texts.json", texts)
    model = SentenceTransformer(str(MINILM), device="cpu")
    vectors = model.encode(texts, batch_size=16, convert_to_numpy=True)
    save("minilm", {"vectors": vectors.astype(np.float32)}, revision=revision(MINILM))


def picture(seed, width, height):
    """Smooth shapes, hard edges and noise, all in one."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 120 * np.sin(x / (3 + 5 * c) + y / (7 - 2 * c) + seed) for c in range(3)]
    values = np.stack(waves, -1) + rng.normal(0, 12, (height, width, 3))
    values[height // 4 : height // 2, width // 5 : width // 2] = rng.integers(0, 256, 3)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def reference_pictures():
    """Small files of odd sizes, formats and modes."""
    folder = OUT / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    picture(1, 97, 61).save(folder / "wide.png")
    picture(2, 53, 131).save(folder / "tall.png")
    picture(3, 64, 64).save(folder / "exact.png")
    picture(4, 31, 17).save(folder / "tiny.png")
    picture(5, 201, 150).save(folder / "photo.webp", lossless=True)
    picture(6, 90, 77).convert("L").save(folder / "grey.png")
    picture(7, 71, 70).quantize(32).save(folder / "palette.png")
    with_alpha = picture(8, 80, 66)
    with_alpha.putalpha(picture(9, 80, 66).convert("L"))
    with_alpha.save(folder / "alpha.png")
    picture(10, 120, 90).save(folder / "photo.jpg", quality=90)
    picture(11, 48, 48).convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    return sorted(path for path in folder.iterdir())


def webp_files():
    """Files of libwebp with several groups of Huffman codes, and with lossless alpha beside lossy colours."""
    folder = OUT / "webp"
    folder.mkdir(parents=True, exist_ok=True)
    parts = Image.new("RGB", (256, 256))
    for at in range(16):
        part = picture(20 + at, 64, 64)
        part = part.quantize(4 + 12 * (at % 4)).convert("RGB") if at % 3 else part
        parts.paste(part, (at % 4 * 64, at // 4 * 64))
    parts.save(folder / "groups.webp", lossless=True, quality=100, method=6)
    with_alpha = picture(40, 100, 80)
    with_alpha.putalpha(picture(41, 100, 80).convert("L"))
    with_alpha.save(folder / "alpha.webp", quality=80)


def pictures():
    large, plain = CLIPImageProcessor(), dict(do_rescale=False, do_normalize=False, return_tensors="np")
    small = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    tensors = {}
    for path in reference_pictures():
        opened = Image.open(path).convert("RGB")
        tensors[f"{path.name}/decoded"] = np.asarray(opened)
        tensors[f"{path.name}/64"] = small(opened, **plain)["pixel_values"][0].transpose(1, 2, 0).astype(np.uint8)
    for name in ("wide.png", "photo.webp"):
        opened = Image.open(OUT / "pictures" / name).convert("RGB")
        tensors[f"{name}/normalised"] = small(opened, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        tensors[f"{name}/224"] = large(opened, **plain)["pixel_values"][0].transpose(1, 2, 0).astype(np.uint8)
    save("preprocess", tensors)


def clip():
    folder = CHECKPOINTS / "clip"
    model, tokenizer = CLIPModel.from_pretrained(folder).float().eval(), CLIPTokenizerFast.from_pretrained(folder)
    processor = CLIPImageProcessor.from_pretrained(folder)
    texts = (PROMPTS + reference_texts.texts())[:120]
    opened = [Image.open(path).convert("RGB") for path in reference_pictures() if path.suffix == ".png"]
    limit = model.config.text_config.max_position_embeddings
    with torch.no_grad():
        ids = tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        text = model.get_text_features(**ids)
        vision = model.get_image_features(processor(opened, return_tensors="pt")["pixel_values"])
    unit = lambda x: torch.nn.functional.normalize(x, dim=-1).numpy()
    write_json("clip-texts.json", texts)
    save("clip", {"text": unit(text), "vision": unit(vision)}, revision=revision(folder))


def stable_diffusion(name, folder, steps, guidance, channels, side):
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    height, width = side
    initial = torch.randn(len(PROMPTS), channels, height, width, generator=torch.Generator().manual_seed(5))
    scale = pipeline.vae_scale_factor
    arguments = dict(latents=initial, num_inference_steps=steps, output_type="latent", height=height * scale,
                     width=width * scale)
    with torch.no_grad():
        guided = pipeline(PROMPTS, guidance_scale=guidance, **arguments).images
        alone = pipeline(PROMPTS, guidance_scale=1.0, **arguments).images
        decoded = pipeline.vae.decode(guided / pipeline.vae.config.scaling_factor).sample
    save(name, {"initial": initial.numpy(), "guided": guided.numpy(), "unguided": alone.numpy(),
                "decoded": decoded.permute(0, 2, 3, 1).numpy()},
         revision=revision(folder), prompts=json.dumps(PROMPTS), steps=steps, guidance=guidance,
         prediction=pipeline.scheduler.config.prediction_type)


def sd2():
    folder = CHECKPOINTS / "sd2"
    channels = json.loads((folder / "unet" / "config.json").read_text())["in_channels"]
    stable_diffusion("sd2", folder, 15, 3.0, channels, (8, 8))


def tiles():
    """Latents decoded after enable_tiling(): ragged in both directions, not square, and small enough for one tile."""
    folder = CHECKPOINTS / "sd2"
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).eval()
    vae.enable_tiling()
    generator, tensors = torch.Generator().manual_seed(10), {}
    for height, width in ((13, 15), (7, 20), (8, 6)):
        latents = torch.randn(1, vae.config.latent_channels, height, width, generator=generator)
        with torch.no_grad():
            decoded = vae.decode(latents / vae.config.scaling_factor).sample
        tensors[f"{height}x{width}/latents"] = latents.numpy()
        tensors[f"{height}x{width}/decoded"] = decoded.permute(0, 2, 3, 1).numpy()
    save("tiles", tensors, revision=revision(folder))


UNET = dict(sample_size=8, in_channels=4, out_channels=4, block_out_channels=[8, 16, 24], layers_per_block=2,
            down_block_types=["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"], norm_num_groups=4,
            cross_attention_dim=20, attention_head_dim=4, transformer_layers_per_block=[1, 2, 1],
            use_linear_projection=False)
VAE = dict(in_channels=3, out_channels=3, block_out_channels=[8, 8, 16], layers_per_block=1, latent_channels=4,
           norm_num_groups=4, down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3)
TEXT = dict(vocab_size=784, hidden_size=20, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=40, hidden_act="quick_gelu", projection_dim=20, bos_token_id=782,
            eos_token_id=783, pad_token_id=0)


def random_folder(folder):
    """An untrained model as unlike sd2 as its configuration allows: epsilon, trailing timesteps, convolutions for
    projections, quick_gelu, three blocks of two layers, a tokenizer without tokenizer.json."""
    torch.manual_seed(9)
    shutil.rmtree(folder, ignore_errors=True)
    UNet2DConditionModel(**UNET).half().save_pretrained(folder / "unet")
    AutoencoderKL(**VAE).half().save_pretrained(folder / "vae")
    CLIPTextModel(CLIPTextConfig(**TEXT)).half().save_pretrained(folder / "text_encoder")
    CLIPTokenizer.from_pretrained(CHECKPOINTS / "sd2" / "tokenizer").save_pretrained(folder / "tokenizer")
    (folder / "tokenizer" / "tokenizer.json").unlink(missing_ok=True)
    DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="epsilon",
                  timestep_spacing="trailing", clip_sample=False).save_pretrained(folder / "scheduler")
    index = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.35.2",
             "feature_extractor": [None, None], "image_encoder": [None, None], "safety_checker": [None, None],
             "requires_safety_checker": False, "scheduler": ["diffusers", "DDIMScheduler"],
             "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
             "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=1))


def epsilon():
    folder = OUT / "sd-epsilon"
    random_folder(folder)
    # 14 x 10 latents cannot be halved evenly twice: the up path must use the sizes of the down path.
    stable_diffusion("epsilon", folder, 7, 2.5, 4, (14, 10))


SCHEDULERS = {"ddim": DDIMScheduler, "euler": EulerDiscreteScheduler, "euler-ancestral": EulerAncestralDiscreteScheduler,
              "dpm-solver++": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler}
NEGATIVE = "a small red star"


class RecordedNoise:
    """Stands for diffusers' noise in ancestral sampling, and keeps it."""

    def __init__(self, seed):
        self.generator, self.noises = torch.Generator().manual_seed(seed), []

    def __call__(self, shape, dtype=None, **_):
        self.noises.append(torch.randn(shape, generator=self.generator))
        return self.noises[-1]

    def __enter__(self):
        self.before = scheduling_euler_ancestral_discrete.randn_tensor
        scheduling_euler_ancestral_discrete.randn_tensor = self
        return self

    def __exit__(self, *_):
        scheduling_euler_ancestral_discrete.randn_tensor = self.before


def schedulers():
    """Each scheduler with the tiny world's networks, and without any network under many settings."""
    folder = CHECKPOINTS / "sd2"
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    prompts, steps, guidance = PROMPTS[:2], 20, 3.0
    channels, scale = pipeline.unet.config.in_channels, pipeline.vae_scale_factor
    initial = torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(6))
    tensors = {"initial": initial.numpy()}
    for name, kind in SCHEDULERS.items():
        pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
        with torch.no_grad(), RecordedNoise(8) as noise:
            latents = pipeline(prompts, negative_prompt=[NEGATIVE] * 2, latents=initial, num_inference_steps=steps,
                               guidance_scale=guidance, output_type="latent", height=8 * scale, width=8 * scale).images
        tensors[name] = latents.numpy()
        if noise.noises:
            tensors["noise"] = torch.stack(noise.noises).numpy()
    save("schedulers", tensors, revision=revision(folder), prompts=json.dumps(prompts), steps=steps, guidance=guidance,
         negative=NEGATIVE)
    samplers()


def answer(latents, timestep):
    """A network of one formula."""
    return 0.5 * latents * np.cos(np.float32(timestep) / np.float32(300)) + 0.3 * torch.sin(3 * latents)


def samplers():
    initial = torch.randn(1, 1, 4, 8, generator=torch.Generator().manual_seed(9))
    tensors, settings = {"initial": initial.flatten().numpy()}, []
    base = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    for spacing in ("leading", "trailing", "linspace", None):
        for prediction in ("epsilon", "v_prediction", "sample"):
            for zero_snr in (False, True) if prediction == "v_prediction" else (False,):
                config = base | dict(prediction_type=prediction, rescale_betas_zero_snr=zero_snr)
                settings.append(config | ({"timestep_spacing": spacing} if spacing else {}))
    settings.append(dict(beta_schedule="linear", clip_sample=True, set_alpha_to_one=False, final_sigmas_type="sigma_min"))
    settings.append(dict(beta_schedule="squaredcos_cap_v2", clip_sample=False))
    for at, config in enumerate(settings):
        for name, kind in SCHEDULERS.items():
            if name == "euler-ancestral" and config.get("prediction_type") == "sample":
                continue
            for steps in (1, 2, 7, 20):
                scheduler = kind.from_config(config)
                scheduler.set_timesteps(steps)
                latents = initial * scheduler.init_noise_sigma
                with RecordedNoise(8) as noise:
                    for timestep in scheduler.timesteps:
                        seen = scheduler.scale_model_input(latents, timestep)
                        latents = scheduler.step(answer(seen, timestep), timestep, latents).prev_sample
                tensors[f"{at}/{name}/{steps}"] = latents.flatten().numpy()
                if noise.noises:
                    tensors["noise"] = torch.stack(noise.noises).flatten(1).numpy()
    save("samplers", tensors, settings=json.dumps(settings))


def encoders():
    pictures = [path for path in reference_pictures() if path.suffix == ".png"]
    make_encoder_references.make(
        make_encoder_references.References(OUT, pictures, CHECKPOINTS / "clip", save, revision))


def main(wanted):
    for make in (minilm, webp_files, pictures, epsilon, clip, sd2, tiles, schedulers, encoders):
        if not wanted or make.__name__ in wanted:
            make()


if __name__ == "__main__":
    main(sys.argv[1:])
