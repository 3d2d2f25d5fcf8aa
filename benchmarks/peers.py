"""Our engines beside sentence-transformers, fastembed and transformers: the same work, the same cores, one run.

Reads prompts (JSON lines with "text") from standard input, runs every engine on them and on the same pictures, and writes a
list of {"name", "unit", "ours", "peer", "peer_name", "ratio"}; a ratio above 1 says that ours is faster. Each engine's rate is
the best of three rounds, and the rounds of ours come before and after those of the peers, so that a busy neighbour does not
favour one side.
"""

import argparse
import io
import json
import os
import pathlib
import subprocess
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROUNDS = 3
PICTURES = 1024
REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
CLIP = REPOSITORY / "models/tiny-world/checkpoints/clip"


def minilm_folder():
    models = os.environ.get("UNPROMPT_MODELS") or pathlib.Path.home() / ".cache/unprompt/models"
    return pathlib.Path(models) / "all-MiniLM-L6-v2"


def best_rate(count, work):
    work_done = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        work_done.append(count / (time.perf_counter() - started))
    return max(work_done)


def ours(binary, texts):
    work = json.dumps({"texts": texts, "pictures": PICTURES})
    done = subprocess.run([binary], input=work, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{binary} failed: {done.stderr}")
    return json.loads(done.stdout)


def sentence_transformers_rate(texts):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(minilm_folder()), device="cpu")
    return best_rate(len(texts), lambda: model.encode(texts, batch_size=32, show_progress_bar=False))


def fastembed_rate(texts):
    """fastembed with the very files we use: its own download is a hub's."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    name = "local/all-MiniLM-L6-v2"
    TextEmbedding.add_custom_model(
        model=name, pooling=PoolingType.MEAN, normalization=True, dim=384,
        sources=ModelSource(hf=name), model_file="model.onnx",
    )
    model = TextEmbedding(name, specific_model_path=str(minilm_folder()), threads=os.cpu_count())
    return best_rate(len(texts), lambda: list(model.embed(texts, batch_size=256)))


def picture(at):
    from PIL import Image
    import numpy

    y, x = numpy.mgrid[0:64, 0:64]
    pixels = numpy.stack([x * 4, y * 4, (at * 37 + x * y) % 256], axis=-1).astype("uint8")
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()


def transformers_clip_rate():
    import torch
    from PIL import Image
    from transformers import CLIPImageProcessor, CLIPModel

    model = CLIPModel.from_pretrained(CLIP, torch_dtype=torch.float32).eval()
    processor = CLIPImageProcessor.from_pretrained(CLIP)
    encoded = [picture(at) for at in range(PICTURES)]

    def work():
        with torch.inference_mode():
            for start in range(0, PICTURES, 32):
                batch = [Image.open(io.BytesIO(one)).convert("RGB") for one in encoded[start : start + 32]]
                model.get_image_features(**processor(images=batch, return_tensors="pt"))

    return best_rate(PICTURES, work)


def row(name, unit, ours, peer, peer_name):
    return {"name": name, "unit": unit, "ours": round(ours, 1), "peer": round(peer, 1),
            "peer_name": peer_name, "ratio": round(ours / peer, 3)}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--ours", required=True)
    arguments.add_argument("--more", help="a file of further rows (JSON), measured elsewhere in the same run")
    arguments.add_argument("--report", required=True)
    arguments = arguments.parse_args()
    texts = [json.loads(line)["text"] for line in sys.stdin if line.strip()]
    before = ours(arguments.ours, texts)
    torch_minilm = sentence_transformers_rate(texts)
    fastembed_minilm = fastembed_rate(texts)
    transformers_clip = transformers_clip_rate()
    after = ours(arguments.ours, texts)
    best = {name: max(before[name], after[name]) for name in before}
    rows = [
        row("MiniLM on ONNX Runtime, f32", "texts/s", best["minilm_onnx"], torch_minilm, "sentence-transformers (torch, f32)"),
        row("MiniLM on ONNX Runtime, f32", "texts/s", best["minilm_onnx"], fastembed_minilm, "fastembed (Python, f32)"),
        row("MiniLM on candle, f32", "texts/s", best["minilm_candle"], torch_minilm, "sentence-transformers (torch, f32)"),
        row("image-encoder, tiny CLIP from PNG, f32", "pictures/s", best["clip"], transformers_clip, "transformers (torch, f32)"),
    ]
    if arguments.more:
        rows += json.loads(pathlib.Path(arguments.more).read_text())
    pathlib.Path(arguments.report).write_text(json.dumps(rows, indent=2) + "\n")
    for one in rows:
        shown = {key: "–" if value is None else value for key, value in one.items()}
        print("{name:58} {ours:>9} {unit:11} {peer:>9}  {ratio:>6}  {peer_name}".format(**shown))


if __name__ == "__main__":
    main()
