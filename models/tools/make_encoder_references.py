"""Small untrained image encoders of every family, in the layouts they are published in, and what transformers, open_clip and timm answer
with them: models/tests/reference/encoders/. Called by make_references.py."""

import json
import math
import shutil

import numpy as np
import open_clip
import timm
import torch
from open_clip.transform import image_transform_v2, PreprocessCfg
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (Blip2Config, Blip2ForImageTextRetrieval, Blip2Model, BlipImageProcessor, CLIPConfig,
                          CLIPImageProcessor, CLIPModel, CLIPTokenizerFast, PreTrainedTokenizerFast)

TEXTS = ["a large red circle on a green field", "", "a small striped star above a blue cube, oil painting", "two yellow fish",
         "two yellow fish under a night sky " * 20, "étude, naïve: 🦊 №½"]
# Sides smaller and larger than the trained ones.
SCALES = (0.75, 1.5)
TEXT = dict(vocab_size=784, width=24, heads=3, layers=2, context_length=40)


def randomise(model, seed):
    """Weights with which every part of the network counts: as they are initialised, layer scales and gates hide whole blocks."""
    generator = torch.Generator().manual_seed(seed)
    normal = lambda p, scale: torch.randn(p.shape, generator=generator) * scale
    with torch.no_grad():
        for name, p in model.named_parameters():
            last = name.rsplit(".", 1)[-1]
            if "bias" in last:
                value = normal(p, 0.1)
            elif p.dim() == 1 and last in ("weight", "gamma"):
                value = 1 + normal(p, 0.2)
            elif any(part in name for part in ("embed", "cls_token", "query_tokens")):
                value = normal(p, 0.5)
            elif p.dim() > 1:
                value = normal(p, 1.2 / math.sqrt(p[0].numel()))
            else:
                value = p
            # The weights are stored as f16, so the reference must compute with the rounded values.
            p.copy_(value.half().float())
    return model.eval()


def unit(x):
    return torch.nn.functional.normalize(x.float(), dim=-1).numpy()


def distinct(name, vectors):
    """A network that answers with one vector whatever the picture would prove nothing."""
    cosines = vectors @ vectors.T
    mean = (cosines.sum() - len(vectors)) / (len(vectors) * (len(vectors) - 1))
    assert mean < 0.97, f"{name}: the vectors are alike, with a mean cosine of {mean:.3f}"
    return vectors


class References:
    """Where the folders lie and what they are compared on."""

    def __init__(self, out, pictures, tokenizer_folder, save, revision):
        self.out, self.save, self.revision = out / "encoders", save, revision
        self.pictures = [Image.open(path).convert("RGB") for path in pictures]
        self.tokenizer_folder = tokenizer_folder
        self.tokenizer = CLIPTokenizerFast.from_pretrained(tokenizer_folder)

    def folder(self, name):
        folder = self.out / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def copy_tokenizer(self, folder):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(self.tokenizer_folder / name, folder / name)

    def ids(self, limit):
        return self.tokenizer(TEXTS, padding=True, truncation=True, max_length=limit, return_tensors="pt")

    def write(self, name, folder, side, vision, text=None, scales=SCALES):
        """`vision` answers for pixels of a side and that side."""
        tensors = {f"vision-{size}": distinct(f"{name} at {size}", vision(size))
                   for size in (side, *(int(side * scale) for scale in scales))}
        if text is not None:
            tensors["text"] = distinct(f"{name}, texts", text)
        self.save(f"encoders/{name}", tensors, revision=self.revision(folder), texts=json.dumps(TEXTS))


def clip(references, name, hidden_act, side, patch):
    """transformers' CLIP; with GELU it is OpenCLIP's as transformers has it."""
    text = dict(vocab_size=784, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
                max_position_embeddings=40, hidden_act=hidden_act, bos_token_id=782, eos_token_id=783, pad_token_id=783)
    vision = dict(hidden_size=32, intermediate_size=72, num_hidden_layers=2, num_attention_heads=4, image_size=side,
                  patch_size=patch, hidden_act=hidden_act)
    model = randomise(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)), 1)
    processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    folder = references.folder(name)
    model.half().save_pretrained(folder)
    model.float()
    processor.save_pretrained(folder)
    references.copy_tokenizer(folder)

    def answer(size):
        resize = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
        pixels = resize(references.pictures, return_tensors="pt")["pixel_values"]
        return unit(model.get_image_features(pixels, interpolate_pos_encoding=size != side))

    references.write(name, folder, side, answer, unit(model.get_text_features(**references.ids(40))))


def open_clip_model(references, name, model_cfg, preprocess, side, resized, timm_args=None, scales=SCALES):
    """open_clip's CLIP; `timm_args` make timm's network of that name a small one."""
    create = timm.create_model
    timm.create_model = lambda model_name, **arguments: create(model_name, **arguments, **(timm_args or {}))
    custom = model_cfg.pop("custom_text", False)
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    model = randomise(kind(**model_cfg), 2)
    timm.create_model = create
    folder = references.folder(name)
    save_file({key: value.half().contiguous() for key, value in model.state_dict().items()},
              folder / "open_clip_model.safetensors")
    config = {"model_cfg": model_cfg | ({"custom_text": True} if custom else {}), "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1))
    if timm_args:
        architecture = {"architecture": model_cfg["vision_cfg"]["timm_model_name"], "model_args": timm_args}
        (folder / "config.json").write_text(json.dumps(architecture, indent=1))
    references.copy_tokenizer(folder)

    def answer(size):
        transform = image_transform_v2(PreprocessCfg(size=size, **preprocess), is_train=False)
        pixels = torch.stack([transform(picture) for picture in references.pictures])
        return unit(resized(model, kind, model_cfg, size).encode_image(pixels))

    ids = references.ids(40)
    text = model.encode_text(ids["input_ids"].masked_fill(ids["attention_mask"] == 0, 0))
    references.write(name, folder, side, answer, unit(text), scales)


def resized_transformer(model, kind, model_cfg, size):
    """As open_clip loads weights into a model for another size."""
    other = kind(**(model_cfg | {"vision_cfg": model_cfg["vision_cfg"] | {"image_size": size}})).eval()
    state = model.state_dict()
    open_clip.model.resize_pos_embed(state, other)
    other.load_state_dict(state)
    return other


def resized_eva(model, kind, model_cfg, size):
    import copy
    other = copy.deepcopy(model)
    other.visual.set_input_size(size)
    return other


OPENAI = dict(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711),
              interpolation="bicubic", resize_mode="shortest")
HALF = dict(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bilinear", resize_mode="squash")


def word_pieces(folder):
    """A small tokenizer of BERT's kind."""
    words = sorted({word for text in TEXTS for word in text.lower().replace(",", " ").replace(":", " ").split()})
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", ":"] + words + letters + ["##" + c for c in letters]
    tokenizer = Tokenizer(models.WordPiece({piece: k for k, piece in enumerate(dict.fromkeys(pieces))}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
                                   sep_token="[SEP]", model_max_length=24)
    fast.save_pretrained(folder)
    return fast


BLIP_VISION = dict(hidden_size=32, intermediate_size=72, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8)
QFORMER = dict(vocab_size=140, hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40,
               max_position_embeddings=30, encoder_hidden_size=32, cross_attention_frequency=2)


def blip_processor(size):
    return BlipImageProcessor(size={"height": size, "width": size})


def blip2_retrieval(references):
    name, side = "blip2-retrieval", 32
    config = Blip2Config(vision_config=BLIP_VISION, qformer_config=QFORMER | {"use_qformer_text_input": True},
                         num_query_tokens=5, image_text_hidden_size=16)
    model = randomise(Blip2ForImageTextRetrieval(config), 3)
    folder = references.folder(name)
    model.half().save_pretrained(folder)
    model.float()
    blip_processor(side).save_pretrained(folder)
    tokenizer = word_pieces(folder)
    ids = tokenizer(TEXTS, padding=True, truncation=True, max_length=24, return_tensors="pt")
    embedded = model.embeddings(input_ids=ids["input_ids"])
    read = model.qformer(query_embeds=embedded, query_length=0, attention_mask=ids["attention_mask"]).last_hidden_state

    def answer(size):
        pixels = blip_processor(size)(references.pictures, return_tensors="pt")["pixel_values"]
        image = model.vision_model(pixels, interpolate_pos_encoding=True).last_hidden_state
        queries = model.query_tokens.expand(len(pixels), -1, -1)
        answers = model.qformer(query_embeds=queries, encoder_hidden_states=image).last_hidden_state
        return unit(torch.nn.functional.normalize(model.vision_projection(answers), dim=-1).mean(1))

    references.write(name, folder, side, answer, unit(model.text_projection(read[:, 0])))


def blip2_language(references):
    """The layout with a language model, which is left out."""
    name, side = "blip2", 32
    language = dict(model_type="opt", vocab_size=60, hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2,
                    word_embed_proj_dim=16, max_position_embeddings=16)
    model = randomise(Blip2Model(Blip2Config(vision_config=BLIP_VISION, qformer_config=QFORMER, text_config=language,
                                             num_query_tokens=5)), 4)
    folder = references.folder(name)
    # Stored in shards, like the large published models.
    model.half().save_pretrained(folder, max_shard_size="60KB")
    model.float()
    blip_processor(side).save_pretrained(folder)

    def answer(size):
        pixels = blip_processor(size)(references.pictures, return_tensors="pt")["pixel_values"]
        image = model.vision_model(pixels, interpolate_pos_encoding=True).last_hidden_state
        queries = model.query_tokens.expand(len(pixels), -1, -1)
        return unit(model.qformer(query_embeds=queries, encoder_hidden_states=image).last_hidden_state.mean(1))

    references.write(name, folder, side, answer)


def make(references):
    with torch.no_grad():
        clip(references, "clip", "quick_gelu", 32, 8)
        clip(references, "clip-gelu", "gelu", 40, 10)
        open_clip_model(
            references, "open-clip",
            dict(embed_dim=20, vision_cfg=dict(image_size=32, layers=2, width=32, head_width=8, patch_size=8), text_cfg=TEXT),
            OPENAI, 32, resized_transformer)
        convnext = dict(timm_model_name="convnext_xxlarge", timm_model_pretrained=False, timm_pool="", timm_proj="linear",
                        timm_drop=0.0, timm_drop_path=0.1, image_size=64)
        small = dict(depths=[1, 1, 2, 1], dims=[8, 12, 16, 24])
        open_clip_model(references, "convnext", dict(embed_dim=20, vision_cfg=convnext, text_cfg=TEXT), OPENAI, 64,
                        lambda model, *_: model, small, (0.5, 1.5))
        eva = lambda name, size: dict(image_size=size, timm_model_name=name, timm_model_pretrained=False, timm_pool="token",
                                      timm_proj=None)
        open_clip_model(
            references, "eva02-l",
            dict(embed_dim=20, vision_cfg=eva("eva02_large_patch14_clip_224", 32), text_cfg=TEXT, custom_text=True), OPENAI, 32,
            resized_eva, dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, ref_feat_shape=[3, 3]))
        open_clip_model(
            references, "eva02-e",
            dict(embed_dim=20, vision_cfg=eva("eva02_enormous_patch14_clip_224", 32), text_cfg=TEXT, custom_text=True), HALF, 32,
            resized_eva, dict(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, mlp_ratio=2.5))
        blip2_retrieval(references)
        blip2_language(references)
