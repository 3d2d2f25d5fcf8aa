"""The configurations that the winners' models are published with, and the names and shapes of all tensors that transformers, open_clip,
timm and diffusers make of them: models/tests/reference/published/, which models/src/full_size.rs compares with what our networks ask
for. No weights are made. The numbers are those of the config.json or open_clip_config.json in the repositories named here.

    python models/tools/make_published_shapes.py"""

import json
import re
import shutil
from pathlib import Path

import open_clip
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import (Blip2Config, Blip2ForConditionalGeneration, Blip2ForImageTextRetrieval, CLIPConfig, CLIPModel, CLIPTextConfig,
                          CLIPTextModel)

OUT = Path(__file__).resolve().parent.parent / "tests" / "reference" / "published"


def clip(width, layers, heads, patch, side, text_width, text_heads, projection, act="quick_gelu", inner=None, text_layers=12):
    return dict(
        model_type="clip", projection_dim=projection,
        text_config=dict(hidden_size=text_width, intermediate_size=4 * text_width, num_attention_heads=text_heads,
                         num_hidden_layers=text_layers, hidden_act=act),
        vision_config=dict(hidden_size=width, intermediate_size=inner or 4 * width, num_attention_heads=heads,
                           num_hidden_layers=layers, patch_size=patch, image_size=side, hidden_act=act))


CLIP = {
    "clip-vit-base-patch32": ("openai/clip-vit-base-patch32", clip(768, 12, 12, 32, 224, 512, 8, 512)),
    "clip-vit-large-patch14": ("openai/clip-vit-large-patch14", clip(1024, 24, 16, 14, 224, 768, 12, 768)),
    "clip-vit-large-patch14-336": ("openai/clip-vit-large-patch14-336", clip(1024, 24, 16, 14, 336, 768, 12, 768)),
    "clip-vit-h-14": ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", clip(1280, 32, 16, 14, 224, 1024, 16, 1024, "gelu", text_layers=24)),
}

OPEN_CLIP = {
    "open-clip-vit-h-14": ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "ViT-H-14"),
    "convnext-xxlarge": ("laion/CLIP-convnext_xxlarge-laion2B-s34B-b82K-augreg-soup", "convnext_xxlarge"),
    "eva02-l-14": ("timm/eva02_large_patch14_clip_224.merged2b_s4b_b131k", "EVA02-L-14"),
    "eva02-l-14-336": ("timm/eva02_large_patch14_clip_336.merged2b_s6b_b61k", "EVA02-L-14-336"),
    "eva02-e-14": ("timm/eva02_enormous_patch14_clip_224.laion2b_s4b_b115k", "EVA02-E-14"),
    "eva02-e-14-plus": ("timm/eva02_enormous_patch14_plus_clip_224.laion2b_s9b_b144k", "EVA02-E-14-plus"),
}

BLIP_VISION = dict(hidden_size=1408, intermediate_size=6144, num_hidden_layers=39, num_attention_heads=16, image_size=224, patch_size=14)
BLIP = {
    "blip2-itm-vit-g": ("Salesforce/blip2-itm-vit-g", Blip2ForImageTextRetrieval,
                        dict(vision_config=BLIP_VISION, image_text_hidden_size=256,
                             qformer_config=dict(use_qformer_text_input=True, vocab_size=30523))),
    "blip2-opt-2.7b": ("Salesforce/blip2-opt-2.7b", Blip2ForConditionalGeneration,
                       dict(vision_config=BLIP_VISION, qformer_config={},
                            text_config=dict(model_type="opt", hidden_size=2560, ffn_dim=10240, num_hidden_layers=32,
                                             num_attention_heads=32, word_embed_proj_dim=2560, vocab_size=50304))),
}

UNET = dict(sample_size=96, in_channels=4, out_channels=4, block_out_channels=[320, 640, 1280, 1280], layers_per_block=2,
            down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3, cross_attention_dim=1024,
            attention_head_dim=[5, 10, 20, 20], use_linear_projection=True)
VAE = dict(in_channels=3, out_channels=3, block_out_channels=[128, 256, 512, 512], layers_per_block=2, latent_channels=4,
           down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4, sample_size=768)
TEXT = dict(vocab_size=49408, hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16,
            max_position_embeddings=77, hidden_act="gelu", projection_dim=512)


def folded(shapes):
    """Layers that differ in their first number only are one entry: "layers.{0-23}.norm.weight"."""
    families = {}
    for name, shape in shapes.items():
        match = re.search(r"(?<=\.)\d+(?=\.)", name)
        key = (name[:match.start()], name[match.end():], tuple(shape)) if match else (name, None, tuple(shape))
        families.setdefault(key, []).append(int(match.group()) if match else 0)
    entries = {}
    for (before, after, shape), numbers in families.items():
        contiguous = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        if after is None:
            entries[before] = list(shape)
        elif contiguous and len(numbers) > 1:
            entries[f"{before}{{{numbers[0]}-{numbers[-1]}}}{after}"] = list(shape)
        else:
            entries.update({f"{before}{number}{after}": list(shape) for number in numbers})
    return entries


def write(name, source, config_name, config, model):
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / config_name).write_text(json.dumps(config, indent=1) + "\n")
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    entries = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in folded(shapes).items()]
    content = ['{', f'"source": {json.dumps(source)},', f'"parameters": {sum(p.numel() for p in model.parameters())},',
               '"tensors": {', ",\n".join(entries), "}", "}"]
    (folder / "shapes.json").write_text("\n".join(content) + "\n")
    print(f"{name}: {len(shapes)} tensors")


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    with torch.device("meta"):
        for name, (source, config) in CLIP.items():
            settings = {key: value for key, value in config.items() if key != "model_type"}
            write(name, source, "config.json", config, CLIPModel(CLIPConfig(**settings)))
        for name, (source, model) in OPEN_CLIP.items():
            config = open_clip.get_model_config(model)
            custom = config.get("custom_text", False)
            arguments = {key: value for key, value in config.items() if key != "custom_text"}
            made = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**arguments)
            write(name, source, "open_clip_config.json", {"model_cfg": config}, made)
        for name, (source, kind, settings) in BLIP.items():
            config = {"model_type": "blip-2", "architectures": [kind.__name__]} | settings
            write(name, source, "config.json", config, kind(Blip2Config(**settings)))
        source = "stabilityai/stable-diffusion-2-1, at sd2-community since"
        write("sd21/unet", source, "config.json", UNET, UNet2DConditionModel(**UNET))
        write("sd21/vae", source, "config.json", VAE, AutoencoderKL(**VAE))
        write("sd21/text_encoder", source, "config.json", TEXT, CLIPTextModel(CLIPTextConfig(**TEXT)))


if __name__ == "__main__":
    main()
