#!/usr/bin/env bash
# Retrains all checkpoints of the tiny world, in order. Each script resumes where it stopped.
# PYTHON: an interpreter with requirements.txt installed.
# TINY_WORLD_WORK: the cache folder (about 2 GB).
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python}
export TINY_WORLD_WORK=${TINY_WORLD_WORK:-/tmp/tiny-world} OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1

$python -c "import common; common.renders('train', 60000); common.renders('validation', 4000)"
$python make_tokenizer.py

$python train_vae.py --steps 2500 &
$python train_clip.py --steps 600
wait
$python probe.py --steps 800 &
$python -c "import train_unet; train_unet.latents()"
wait

$python train_unet.py --compile --steps 4000 --rank 1 &
$python train_unet.py --compile --steps 4000 --rank 0
wait

$python train_vae.py --decoder-only --name decoder --steps 600 --rate 1e-3
$python generate.py --count 4000 --out "$TINY_WORLD_WORK/generated.npy"
$python generate.py --count 12000 --round-trip --out "$TINY_WORLD_WORK/round-trip.npy"
$python train_clip.py --name clip-mixed --init clip --steps 2000 --rate 1e-3 --alike 0.5 \
  --mix "$TINY_WORLD_WORK/generated.npy" "$TINY_WORLD_WORK/round-trip.npy"

$python evaluate.py --steps 12
$python evaluate.py --sweep
$python evaluate.py --steps 12 --sheet ../reports/contact-sheet.png > ../reports/contact-sheet.txt
for pictures in rendered round-trip generated; do $python gate.py --pictures $pictures --steps 12; done
