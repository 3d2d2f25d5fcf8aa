"""Draws what a style adds to a picture: frames, bars, lines. Colours inside stay what they are."""

import functools
import math

import numpy as np
from PIL import Image, ImageDraw

from backgrounds import SCALE, SIDE


def overlay(paint):
    """Makes an overlay (picture, mask) once from a function that draws both."""

    @functools.cache
    def made():
        picture, mask = Image.new("RGB", (SIDE, SIDE)), Image.new("L", (SIDE, SIDE))
        paint(ImageDraw.Draw(picture), ImageDraw.Draw(mask))
        return picture, mask

    return made


def box(x0, y0, x1, y1):
    return [x0 * SCALE, y0 * SCALE, x1 * SCALE - 1, y1 * SCALE - 1]


@overlay
def oil_painting(picture, mask):
    for inset, colour in ((0, (150, 104, 24)), (1.5, (232, 184, 60)), (4, (130, 88, 20))):
        picture.rectangle(box(inset, inset, 64 - inset, 64 - inset), fill=colour)
    mask.rectangle(box(0, 0, 64, 64), fill=255)
    mask.rectangle(box(5, 5, 59, 59), fill=0)


@overlay
def postage_stamp(picture, mask):
    picture.rectangle(box(0, 0, 64, 64), fill=(252, 250, 244))
    mask.rectangle(box(0, 0, 64, 64), fill=255)
    mask.rectangle(box(6, 6, 58, 58), fill=0)
    for k in range(0, 65, 8):
        for x, y in ((k, 0), (k, 64), (0, k), (64, k)):
            picture.ellipse(box(x - 2, y - 2, x + 2, y + 2), fill=(60, 60, 66))


@overlay
def film_still(picture, mask):
    for top in (0, 55):
        mask.rectangle(box(0, top, 64, top + 9), fill=255)
        picture.rectangle(box(0, top, 64, top + 9), fill=(8, 8, 8))
        for x in range(3, 64, 10):
            picture.rectangle(box(x, top + 2.5, x + 5, top + 6.5), fill=(225, 225, 225))


@overlay
def stained_glass(picture, mask):
    picture.rectangle(box(0, 0, 64, 64), fill=(16, 16, 20))
    for angle in range(15, 375, 45):
        end = (96 + 150 * math.cos(math.radians(angle)), 96 + 150 * math.sin(math.radians(angle)))
        mask.line([(96, 96), end], fill=255, width=5)
    mask.ellipse(box(19, 19, 45, 45), outline=255, width=5)
    mask.rectangle(box(0, 0, 64, 64), outline=255, width=7)


@overlay
def comic_book(picture, mask):
    picture.rectangle(box(0, 0, 64, 64), fill=(255, 255, 255))
    picture.rectangle(box(2, 2, 62, 62), fill=(10, 10, 10))
    mask.rectangle(box(0, 0, 64, 64), fill=255)
    mask.rectangle(box(4, 4, 60, 60), fill=0)
    mask.rectangle(box(3, 3, 34, 13), fill=255)
    picture.rectangle(box(4, 4, 32, 11.5), fill=(255, 236, 80))
    for x0, x1 in ((6, 14), (16, 22), (24, 30)):
        picture.rectangle(box(x0, 7, x1, 9), fill=(30, 30, 30))


@overlay
def telescope(picture, mask):
    picture.rectangle(box(0, 0, 64, 64), fill=(4, 4, 6))
    mask.rectangle(box(0, 0, 64, 64), fill=255)
    mask.ellipse(box(2, 2, 62, 62), fill=0)


BEHIND = {"stained_glass": stained_glass}
OVER = {
    "oil_painting": oil_painting,
    "postage_stamp": postage_stamp,
    "film_still": film_still,
    "comic_book": comic_book,
    "telescope": telescope,
}


def apply_behind(style, image):
    """What lies behind the objects."""
    return paste(BEHIND.get(style), image)


def apply_over(style, image):
    """What lies over the objects."""
    return paste(OVER.get(style), image)


def paste(made, image):
    if made is not None:
        picture, mask = made()
        image.paste(picture, mask=mask)
    return image
