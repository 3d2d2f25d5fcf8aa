"""Measures our engines beside their peers: the same work, the same cores, one run.

The peers are sentence-transformers, fastembed, OpenVINO and transformers.

Reads prompts (JSON lines with "text") from standard input, runs every engine on them and on the
same pictures, and writes a list of {"name", "unit", "ours", "peer", "peer_name", "ratio"}; a ratio
above 1 means that ours is faster. Rows of MiniLM also have "ours_cosine" and "peer_cosine": the
smallest and the mean cosine between a text's vector and sentence-transformers' in f32. Each
engine's rate is the best of three rounds. Our rounds run before and after those of the peers, so
that other load on the machine favours neither side.
"""

import argparse
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
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


def ours(binary, texts, folder):
    """The output of our side, which writes MiniLM's graph and our vectors to the folder."""
    work = json.dumps({"texts": texts, "folder": str(folder), "pictures": PICTURES})
    done = subprocess.run([binary], input=work, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{binary} failed: {done.stderr}")
    return json.loads(done.stdout)


def better(one, other):
    """The larger value of each figure in two such outputs."""
    if isinstance(one, dict):
        return {name: better(one[name], other[name]) for name in one}
    return one if isinstance(one, str) else max(one, other)


def sentence_transformers(texts, precision):
    """Vectors and texts per second."""
    import torch
    from sentence_transformers import SentenceTransformer

    kind = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
    model = SentenceTransformer(str(minilm_folder()), device="cpu", model_kwargs={"torch_dtype": kind})
    vectors = model.encode(texts, batch_size=32, show_progress_bar=False, convert_to_tensor=True).float().numpy()
    return vectors, best_rate(len(texts), lambda: model.encode(texts, batch_size=32, show_progress_bar=False))


def fastembed(texts, folder):
    """Vectors and texts per second of fastembed.

    It uses our graph and the model's local files, since its own download is from a hub."""
    import numpy
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    for path in minilm_folder().glob("*.json"):
        (folder / path.name).unlink(missing_ok=True)
        (folder / path.name).symlink_to(path)
    name = "local/all-MiniLM-L6-v2"
    TextEmbedding.add_custom_model(
        model=name, pooling=PoolingType.MEAN, normalization=True, dim=384,
        sources=ModelSource(hf=name), model_file="graph.onnx",
    )
    model = TextEmbedding(name, specific_model_path=str(folder), threads=os.cpu_count())
    vectors = numpy.stack(list(model.embed(texts, batch_size=256)))
    return vectors, best_rate(len(texts), lambda: list(model.embed(texts, batch_size=256)))


class OpenVino:
    """Vectors and texts per second of OpenVINO with our graph.

    Requests are asynchronous, as its documentation recommends for throughput, and texts are sorted
    by length, without which it is slow."""

    def __init__(self, folder, precision):
        import openvino
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(256)
        settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": precision}
        compiled = openvino.Core().compile_model(str(folder / "graph.onnx"), "CPU", settings)
        self.queue = openvino.AsyncInferQueue(compiled)

    def embed(self, texts, batch=32):
        import numpy

        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        order = sorted(range(len(ids)), key=lambda at: -len(ids[at]))
        vectors = numpy.zeros((len(ids), 384), numpy.float32)

        def pooled(request, rows):
            rows, mask = rows
            sums = (request.get_output_tensor(0).data * mask[:, :, None]).sum(1)
            vectors[rows] = sums / numpy.linalg.norm(sums, axis=1, keepdims=True)

        self.queue.set_callback(pooled)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            padded, mask = numpy.zeros((2, len(rows), len(ids[rows[0]])), numpy.int64)
            for row, at in enumerate(rows):
                padded[row, : len(ids[at])], mask[row, : len(ids[at])] = ids[at], 1
            self.queue.start_async({"input_ids": padded, "attention_mask": mask}, (rows, mask))
        self.queue.wait_all()
        return vectors


def openvino(texts, folder, precision):
    """Vectors and texts per second."""
    model = OpenVino(folder, precision)
    return model.embed(texts), best_rate(len(texts), lambda: model.embed(texts))


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


def row(name, unit, ours, peer, peer_name, **more):
    return {"name": name, "unit": unit, "ours": round(ours, 1), "peer": round(peer, 1),
            "peer_name": peer_name, "ratio": round(ours / peer, 3), **more}


def cosine(vectors, exact):
    import numpy

    # Vectors of a bf16 network are not exactly of unit norm.
    cosines = (vectors * exact).sum(1) / (numpy.linalg.norm(vectors, axis=1) * numpy.linalg.norm(exact, axis=1))
    return {"min": round(float(cosines.min()), 6), "mean": round(float(cosines.mean()), 6)}


def minilm_rows(texts, folder, measured, peers):
    """Rows of our engines beside the peers, with cosines to sentence-transformers in f32."""
    import numpy

    exact, f32_name = peers["sentence-transformers (torch, f32)"][0], "sentence-transformers (torch, f32)"
    of_ours = {name: numpy.fromfile(folder / f"{name}.f32", numpy.float32).reshape(len(texts), -1) for name in measured}

    def one(name, peer):
        vectors, rate = peers[peer]
        return row(f"MiniLM on {measured[name]['engine']}", "texts/s", measured[name]["rate"], rate, peer,
                   ours_cosine=cosine(of_ours[name], exact), peer_cosine=cosine(vectors, exact))

    return [one("auto", peer) for peer in peers] + [one("onnx", f32_name), one("candle", f32_name)]


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--ours", required=True)
    arguments.add_argument("--more", help="a file of further rows (JSON), measured elsewhere in the same run")
    arguments.add_argument("--report", required=True)
    arguments = arguments.parse_args()
    # A repeated text would cost us nothing, but cost the peers the full time.
    texts = list(dict.fromkeys(json.loads(line)["text"] for line in sys.stdin if line.strip()))
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        before = ours(arguments.ours, texts, folder)
        peers = {
            "sentence-transformers (torch, f32)": sentence_transformers(texts, "f32"),
            "sentence-transformers (torch, bf16)": sentence_transformers(texts, "bf16"),
            "fastembed (Python, f32)": fastembed(texts, folder),
            "OpenVINO (Python, f32)": openvino(texts, folder, "f32"),
            "OpenVINO (Python, bf16)": openvino(texts, folder, "bf16"),
        }
        transformers_clip = transformers_clip_rate()
        best = better(before, ours(arguments.ours, texts, folder))
        rows = minilm_rows(texts, folder, best["minilm"], peers)
    encoder = best["text_encoder"]
    rows += [
        row("text-encoder, from topic to topic", "texts/s", encoder["topics"], encoder["bare"], "its two networks alone"),
        row("image-encoder, tiny CLIP from PNG, f32", "pictures/s", best["clip"], transformers_clip, "transformers (torch, f32)"),
    ]
    if arguments.more:
        rows += json.loads(pathlib.Path(arguments.more).read_text())
    report = pathlib.Path(arguments.report)
    # The index and full-size networks are measured separately: index_peers.py, models_peers.py.
    apart = ("index of", "pictures:", "SD2.1 UNet", "clip-vit")
    kept = [one for one in (json.loads(report.read_text()) if report.exists() else []) if one["name"].startswith(apart)]
    report.write_text(json.dumps(rows + kept, indent=2) + "\n")
    for one in rows:
        shown = {key: "–" if value is None else value for key, value in one.items()}
        print("{name:58} {ours:>9} {unit:11} {peer:>9}  {ratio:>6}  {peer_name}".format(**shown))


if __name__ == "__main__":
    main()
