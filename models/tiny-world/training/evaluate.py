"""Scores the SD2 checkpoint: 500 single-object pictures from held-out prompts, read by the probe.

Beside them stand the same scenes rendered and put through the VAE: the ceiling. `--sweep` tries fewer DDIM
steps and other guidance scales; `--sheet FILE.png` draws a contact sheet.
"""

import argparse
import json

import numpy as np
from PIL import Image

import common
import probe as probes
import render
from generate import Generator

COUNT = 500
REQUIRED = {"colour": 0.85, "shape": 0.60, "background": 0.90}


def rounded(accuracies):
    return {slot: round(value, 4) for slot, value in accuracies.items()}


def score(probe, pictures, listed):
    slots = probes.judge(probe, pictures, listed)
    return rounded({s: v for s, v in slots.items() if not s.startswith("second") and s != "relation"})


def psnr(pictures, decoded):
    mse = ((pictures.astype(float) - decoded) ** 2).mean((1, 2, 3))
    return round(float((10 * np.log10(255**2 / mse)).mean()), 2)


def sheet(path, listed, pictures, columns=8):
    """Pictures in rows, each twice its size; the prompts are printed for the card."""
    rows = [np.concatenate(pictures[k : k + columns], 1) for k in range(0, len(pictures), columns)]
    image = Image.fromarray(np.concatenate(rows))
    image.resize((image.width * 2, image.height * 2), Image.NEAREST).save(path, optimize=True)
    for index, scene in enumerate(listed):
        print(index + 1, scene["text"])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--sheet")
    args = parser.parse_args()
    generator, probe = Generator(), probes.load()
    listed = common.scenes("held-out", 4000, seed=2, single_object=True)[: args.count]
    texts = [scene["text"] for scene in listed]
    if args.sheet:
        mixed = common.scenes("held-out", 4000)[:40]
        sheet(args.sheet, mixed, generator([s["text"] for s in mixed], args.steps, args.guidance))
        return
    settings = [(args.steps, args.guidance)]
    if args.sweep:
        settings = [(6, 3), (8, 3), (10, 2), (10, 3), (10, 4), (12, 3), (20, 3)]
    report = {}
    for steps, guidance in settings:
        report[f"generated, {steps} steps, guidance {guidance:g}"] = score(
            probe, generator(texts, steps, guidance), listed)
        print(steps, guidance, list(report.values())[-1], flush=True)
    if args.sweep:
        name = "sweep.json"
    else:
        name, pictures = "probe.json", render.render_all(listed, seed=9)
        decoded = generator.round_trip(pictures)
        report |= {"rendered": score(probe, pictures, listed), "round trip": score(probe, decoded, listed),
                   "required": REQUIRED, "pictures": len(listed), "vae_psnr_db": psnr(pictures, decoded)}
    common.REPORTS.mkdir(exist_ok=True)
    (common.REPORTS / name).write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
