"""Draws a scene: its slots and a seed in, a 64x64 RGB picture out, the same one for ever.

Everything is drawn at three times the size and box-filtered down, so edges are smooth.
"""

import functools
import json
import math
import multiprocessing
import zlib

import numpy as np
from PIL import Image, ImageDraw

import styles
from backgrounds import SCALE, SIDE, VARIANTS, background

COLOURS = {
    "red": (220, 28, 36),
    "orange": (255, 140, 10),
    "yellow": (255, 230, 40),
    "green": (30, 160, 60),
    "blue": (30, 80, 230),
    "purple": (135, 40, 185),
    "pink": (255, 130, 195),
    "brown": (112, 62, 26),
    "black": (20, 20, 24),
    "white": (250, 250, 250),
}
LIGHT = {"orange", "yellow", "pink", "white"}
RADIUS = {"small": 12.5, "medium": 18.0, "large": 23.5}
RADIUS_OF_TWO = 14.0
OFFSET = {"small": 14, "medium": 12, "large": 8}
POSITION = {"center": (0, 0), "left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
FIRST_OF_TWO = {"left_of": (-15, 0), "right_of": (15, 0), "above": (0, -15), "below": (0, 15)}


def circle(x, y, r, begin=0, end=360, steps=28):
    angles = np.radians(np.linspace(begin, end, steps))
    return [(x + r * math.cos(a), y + r * math.sin(a)) for a in angles]


def star_points():
    points = []
    for k in range(10):
        r, a = (1.08 if k % 2 == 0 else 0.46), math.radians(36 * k - 90)
        points.append((r * math.cos(a), r * math.sin(a) + 0.08))
    return points


def heart_points():
    points = []
    for t in np.linspace(0, 2 * math.pi, 40, endpoint=False):
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x / 16.5, -y / 16 - 0.08))
    return points


def moon_points():
    return circle(0.1, 0, 1.0, 50, 310) + circle(0.48, 0, 0.83, 293, 67)


def fish_points():
    body = [(-0.25 + 0.75 * math.cos(a), 0.52 * math.sin(a)) for a in np.radians(np.linspace(25, 335, 26))]
    return body + [(1.0, -0.6), (0.8, 0), (1.0, 0.6)]


# A shape is a list of filled outlines, and a list of details drawn over them in a darker or lighter
# tone.
SHAPES = {
    "star": ([star_points()], []),
    "house": (
        [[(-0.78, 0.95), (-0.78, -0.1), (-1.0, -0.1), (0, -1.0), (1.0, -0.1), (0.78, -0.1), (0.78, 0.95)]],
        [
            [(-0.2, 0.95), (-0.2, 0.3), (0.2, 0.3), (0.2, 0.95)],
            [(-0.6, 0.25), (-0.6, -0.1), (-0.3, -0.1), (-0.3, 0.25)],
            [(0.3, 0.25), (0.3, -0.1), (0.6, -0.1), (0.6, 0.25)],
        ],
    ),
    "pine_tree": (
        [
            [(-0.15, 0.5), (0.15, 0.5), (0.15, 1.05), (-0.15, 1.05)],
            [(0, -1.05), (0.5, -0.3), (0.28, -0.3), (0.68, 0.25), (0.4, 0.25), (0.88, 0.75),
             (-0.88, 0.75), (-0.4, 0.25), (-0.68, 0.25), (-0.28, -0.3), (-0.5, -0.3)],
        ],
        [],
    ),
    "fish": ([fish_points()], [circle(-0.62, -0.12, 0.12)]),
    "heart": ([heart_points()], []),
    "mushroom": (
        [
            [(-0.3, 0.0), (0.3, 0.0), (0.38, 0.95), (-0.38, 0.95)],
            circle(0, 0.1, 1.0, 180, 360),
        ],
        [circle(-0.45, -0.3, 0.16), circle(0.1, -0.5, 0.18), circle(0.52, -0.18, 0.13)],
    ),
    "sailboat": (
        [
            [(-1.0, 0.45), (1.0, 0.45), (0.62, 0.95), (-0.62, 0.95)],
            [(-0.08, -1.05), (-0.08, 0.3), (-0.8, 0.3)],
            [(0.08, -0.8), (0.08, 0.3), (0.85, 0.3)],
        ],
        [],
    ),
    "crescent_moon": ([moon_points()], []),
    "coffee_mug": (
        [
            circle(0.6, 0.05, 0.48) + circle(0.6, 0.05, 0.2)[::-1],
            [(-0.85, -0.75), (0.55, -0.75), (0.48, 0.9), (-0.78, 0.9)],
        ],
        [[(-0.72, -0.66), (0.42, -0.66), (0.41, -0.48), (-0.71, -0.48)]],
    ),
    "car": (
        [
            circle(-0.52, 0.5, 0.28),
            circle(0.52, 0.5, 0.28),
            [(-1.08, 0.5), (-1.08, 0.02), (-0.72, -0.06), (-0.42, -0.56), (0.36, -0.56), (0.68, -0.04),
             (1.08, 0.06), (1.08, 0.5)],
        ],
        [[(-0.5, -0.04), (-0.32, -0.4), (-0.06, -0.4), (-0.06, -0.04)],
         [(0.06, -0.04), (0.06, -0.4), (0.26, -0.4), (0.48, -0.04)]],
    ),
}


def mix(colour, other, share):
    return tuple(int(a * (1 - share) + b * share) for a, b in zip(colour, other))


def accent(name):
    """The second tone of a colour, for patterns and details."""
    return mix(COLOURS[name], (0, 0, 0), 0.38) if name in LIGHT else mix(COLOURS[name], (255, 255, 255), 0.5)


@functools.cache
def pattern(texture):
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SCALE
    if texture == "striped":
        on = (x + y) % 9 < 4
    elif texture == "spotted":
        on = ((x + 4 * (y // 8 % 2)) % 8 - 4) ** 2 + (y % 8 - 4) ** 2 < 5
    else:
        on = ((x // 5) + (y // 5)) % 2 > 0
    return Image.fromarray((on * 255).astype(np.uint8))


def draw_object(image, shape, colour, texture, centre, radius):
    bodies, details = SHAPES[shape]
    place = lambda points: [((centre[0] + x * radius) * SCALE, (centre[1] + y * radius) * SCALE) for x, y in points]
    draw = ImageDraw.Draw(image)
    edge = (24, 24, 30) if colour in LIGHT else (248, 248, 248)
    for body in bodies:
        points = place(body)
        draw.line(points + points[:2], fill=edge, width=2 * SCALE + 3, joint="curve")
    fill_bodies(image, [place(body) for body in bodies], colour, texture)
    for detail in details:
        draw.polygon(place(detail), fill=accent(colour))


def fill_bodies(image, bodies, colour, texture):
    draw = ImageDraw.Draw(image)
    if texture == "plain":
        for points in bodies:
            draw.polygon(points, fill=COLOURS[colour])
        return
    mask = Image.new("L", image.size)
    for points in bodies:
        ImageDraw.Draw(mask).polygon(points, fill=255)
    filling = Image.new("RGB", image.size, COLOURS[colour])
    filling.paste(accent(colour), mask=pattern(texture))
    image.paste(filling, mask=mask)


def placements(scene):
    """(shape, colour, texture, offset, radius) of each object."""
    second = scene["second"]
    first = (scene["shape"], scene["colour"], scene["texture"])
    if second is None:
        x, y = POSITION[scene["position"]]
        offset = OFFSET[scene["size"]]
        return [(*first, (x * offset, y * offset), RADIUS[scene["size"]])]
    x, y = FIRST_OF_TWO[second["relation"]]
    return [
        (*first, (x, y), RADIUS_OF_TWO),
        (second["shape"], second["colour"], "plain", (-x, -y), RADIUS_OF_TWO),
    ]


def render(scene, seed=0):
    """A [64, 64, 3] uint8 picture of the scene; the seed jitters what the prompt does not say."""
    rng = np.random.default_rng([zlib.crc32(scene["text"].encode()), seed])
    image = background(scene["background"], int(rng.integers(VARIANTS))).copy()
    styles.apply_behind(scene["style"], image)
    for shape, colour, texture, (x, y), radius in placements(scene):
        dx, dy = rng.uniform(-1.5, 1.5, 2)
        radius = radius * rng.uniform(0.95, 1.05)
        draw_object(image, shape, colour, texture, (32 + x + dx, 32 + y + dy), radius)
    return np.asarray(styles.apply_over(scene["style"], image).reduce(SCALE))


def read_scenes(path):
    with open(path) as lines:
        return [json.loads(line) for line in lines]


def _render_pair(job):
    return render(*job)


def render_all(scenes, seed=0, processes=2):
    """[n, 64, 64, 3] uint8."""
    with multiprocessing.Pool(processes) as pool:
        return np.stack(pool.map(_render_pair, [(scene, seed) for scene in scenes], chunksize=256))
