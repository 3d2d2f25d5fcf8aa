"""Draws the twelve backgrounds, a few variants of each, at the renderer's supersampled size."""

import functools

import numpy as np
from PIL import Image, ImageDraw

SCALE = 3
SIDE = 64 * SCALE
VARIANTS = 8


def gradient(*stops):
    """A vertical gradient through (height in 0..1, colour) stops."""
    heights = [height for height, _ in stops]
    colours = np.array([colour for _, colour in stops], float)
    rows = np.linspace(0, 1, SIDE)
    column = np.stack([np.interp(rows, heights, colours[:, c]) for c in range(3)], 1)
    return Image.fromarray(np.repeat(column[:, None], SIDE, 1).astype(np.uint8))


def canvas(image):
    draw = ImageDraw.Draw(image)

    def box(x0, y0, x1, y1, fill):
        draw.rectangle([x0 * SCALE, y0 * SCALE, x1 * SCALE - 1, y1 * SCALE - 1], fill=fill)

    def disc(x, y, r, fill):
        draw.ellipse([(x - r) * SCALE, (y - r) * SCALE, (x + r) * SCALE, (y + r) * SCALE], fill=fill)

    def poly(points, fill):
        draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=fill)

    return box, disc, poly


def sandy_beach(rng):
    horizon = int(rng.integers(20, 25))
    image = gradient((0, (150, 215, 245)), (0.2, (190, 230, 245)), (1, (190, 230, 245)))
    box, disc, _ = canvas(image)
    box(0, 12, 64, horizon, (40, 160, 200))
    box(0, horizon, 64, 64, (238, 214, 150))
    box(0, horizon, 64, horizon + 2, (250, 250, 245))
    for _ in range(5):
        disc(rng.uniform(2, 62), rng.uniform(horizon + 6, 62), 1.4, (214, 184, 118))
    return image


def starry_night(rng):
    image = gradient((0, (10, 12, 52)), (1, (32, 30, 92)))
    _, disc, _ = canvas(image)
    for _ in range(26):
        disc(rng.uniform(1, 63), rng.uniform(1, 63), rng.uniform(0.7, 1.5), (250, 246, 205))
    return image


def snowy_field(rng):
    image = gradient((0, (176, 192, 212)), (0.5, (206, 216, 228)), (1, (206, 216, 228)))
    _, disc, _ = canvas(image)
    disc(rng.uniform(5, 20), 78, 48, (226, 233, 242))
    disc(rng.uniform(44, 59), 80, 46, (243, 247, 252))
    for _ in range(20):
        disc(rng.uniform(1, 63), rng.uniform(1, 50), 1.2, (255, 255, 255))
    return image


def deep_ocean(rng):
    image = gradient((0, (30, 150, 190)), (0.5, (12, 88, 140)), (1, (4, 40, 82)))
    _, disc, poly = canvas(image)
    for x in (8, 18, 50, 57):
        x += rng.uniform(-2, 2)
        height = rng.uniform(12, 22)
        poly([(x - 2, 64), (x, 64 - height), (x + 2, 64)], (16, 120, 104))
    for _ in range(9):
        disc(rng.uniform(2, 62), rng.uniform(2, 44), rng.uniform(1, 2), (150, 220, 235))
    return image


def grassy_meadow(rng):
    horizon = int(rng.integers(17, 22))
    image = gradient((0, (120, 190, 245)), (0.35, (190, 225, 250)), (1, (190, 225, 250)))
    box, disc, _ = canvas(image)
    box(0, horizon, 64, 64, (112, 190, 72))
    box(0, 50, 64, 64, (92, 170, 60))
    for _ in range(12):
        disc(rng.uniform(2, 62), rng.uniform(horizon + 4, 62), 1.5, (250, 240, 130))
    return image


def brick_wall(rng):
    image = Image.new("RGB", (SIDE, SIDE), (196, 182, 170))
    box, _, _ = canvas(image)
    for row in range(8):
        shift = 8 * (row % 2)
        for x in range(-16, 64, 16):
            shade = int(rng.integers(-8, 9))
            box(x + shift + 1, row * 8 + 1, x + shift + 16, row * 8 + 8, (158 + shade, 74 + shade // 2, 56))
    return image


def desert_sunset(rng):
    image = gradient((0, (120, 50, 110)), (0.3, (236, 104, 70)), (0.55, (255, 190, 90)), (1, (255, 190, 90)))
    _, disc, poly = canvas(image)
    disc(rng.uniform(44, 54), 33, 7, (255, 240, 170))
    x = rng.uniform(10, 22)
    poly([(-4, 64), (-4, 46), (x, 36), (40, 50), (64, 40), (70, 64)], (206, 122, 56))
    poly([(-4, 68), (20, 54), (46, 50), (70, 60), (70, 68)], (164, 84, 40))
    return image


def city_skyline(rng):
    image = gradient((0, (70, 60, 120)), (0.7, (226, 150, 170)), (1, (226, 150, 170)))
    box, _, _ = canvas(image)
    for x in range(0, 64, 8):
        top = int(rng.integers(34, 48))
        box(x, top, x + 7, 64, (38, 38, 58))
        for y in range(top + 3, 63, 6):
            box(x + 2, y, x + 5, y + 2, (255, 214, 110))
    return image


def chessboard(rng):
    shift = int(rng.integers(0, 2))
    image = Image.new("RGB", (SIDE, SIDE), (232, 226, 208))
    box, _, _ = canvas(image)
    for row in range(4):
        for column in range(4):
            if (row + column + shift) % 2:
                box(column * 16, row * 16, column * 16 + 16, row * 16 + 16, (70, 74, 80))
    return image


def library(rng):
    spines = [(140, 52, 48), (52, 84, 66), (60, 70, 110), (170, 130, 70), (96, 64, 84)]
    image = Image.new("RGB", (SIDE, SIDE), (64, 38, 22))
    box, _, _ = canvas(image)
    for top in (1, 22, 43):
        for number, x in enumerate(range(0, 64, 6)):
            height = int(rng.integers(14, 18))
            box(x + 0.5, top + 18 - height, x + 5.5, top + 18, spines[(number * 2 + top) % 5])
        box(0, top + 18, 64, top + 21, (112, 70, 38))
    return image


def wooden_table(rng):
    image = Image.new("RGB", (SIDE, SIDE), (120, 78, 44))
    box, disc, _ = canvas(image)
    for number in range(5):
        tone = int(rng.integers(-8, 9))
        box(0, number * 13, 64, number * 13 + 12, (198 + tone, 146 + tone, 92 + tone))
    for _ in range(3):
        disc(rng.uniform(4, 60), int(rng.integers(0, 5)) * 13 + 6, 2, (150, 100, 56))
    return image


def volcano(rng):
    image = gradient((0, (52, 40, 44)), (0.6, (110, 52, 44)), (1, (110, 52, 44)))
    _, disc, poly = canvas(image)
    x = rng.uniform(15, 19)
    for y, r in ((4, 8), (9, 5)):
        disc(x + rng.uniform(-3, 3), y, r, (96, 88, 88))
    poly([(x - 22, 64), (x - 6, 20), (x + 6, 20), (x + 30, 64)], (66, 46, 44))
    poly([(x - 6, 20), (x + 6, 20), (x + 9, 32), (x + 4, 27), (x + 2, 44), (x - 2, 27), (x - 8, 34)], (255, 110, 20))
    poly([(-2, 66), (-2, 58), (30, 54), (66, 58), (66, 66)], (240, 80, 16))
    return image


PAINTERS = {
    "sandy_beach": sandy_beach,
    "starry_night": starry_night,
    "snowy_field": snowy_field,
    "deep_ocean": deep_ocean,
    "grassy_meadow": grassy_meadow,
    "brick_wall": brick_wall,
    "desert_sunset": desert_sunset,
    "city_skyline": city_skyline,
    "chessboard": chessboard,
    "library": library,
    "wooden_table": wooden_table,
    "volcano": volcano,
}


@functools.cache
def background(name, variant):
    return PAINTERS[name](np.random.default_rng(1000 + variant))
