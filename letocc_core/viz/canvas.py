"""A page that pictures, words and scales are put on."""

from functools import cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import UInt8

from letocc_core.errors import MissingDependencyError
from letocc_core.viz import colours

if TYPE_CHECKING:
    from PIL import ImageFont

MARGIN = 24  # px around a page and between its parts


class Canvas:
    """An RGB page; places are (x, y) of the upper left corner in px."""

    def __init__(self, width: int, height: int):
        try:
            from PIL import Image, ImageDraw
        except ImportError as error:
            raise MissingDependencyError(f"pictures need Pillow ({error}): pip install pillow") from error
        self._page = Image.new("RGB", (width, height), colours.PAPER)
        self._draw = ImageDraw.Draw(self._page)

    def picture(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        x: int,
        y: int,
        size: tuple[int, int] | None = None,
        outline: bool = True,
    ) -> None:
        """Put an image down, resized to `size` (width, height) if given, with a hairline around it."""
        from PIL import Image

        if size is not None and image.shape[1::-1] != size:
            smaller = size[0] < image.shape[1]
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
        self._page.paste(Image.fromarray(np.ascontiguousarray(image)), (x, y))
        height, width = image.shape[:2]
        if outline:
            self._draw.rectangle((x - 1, y - 1, x + width, y + height), outline=colours.UNSEEN)

    def text(self, words: str, x: int, y: int, size: int = 16, colour: tuple = colours.INK, anchor: str = "la") -> None:
        """Words at a place; `anchor` as in Pillow: horizontal l, m, r and vertical a (top), m, s (baseline)."""
        self._draw.text((x, y), words, fill=colour, font=_font(size), anchor=anchor)

    def scale(self, table: UInt8[np.ndarray, "n 3"], x: int, y: int, width: int, marks: dict[float, str]) -> None:
        """A horizontal colour bar of 12 px; `marks` are words at shares [0, 1] of it."""
        self.picture(np.repeat(table[None], 12, axis=0), x, y, (width, 12))
        for share, words in marks.items():
            self.text(words, x + round(share * width), y + 17, 13, colours.FAINT, "ma")

    def swatch(self, colour: tuple, words: str, x: int, y: int) -> int:
        """A coloured square with its meaning; returns where the next one may start."""
        self._draw.rectangle((x, y, x + 13, y + 13), fill=colour, outline=colours.UNSEEN)
        self.text(words, x + 20, y + 7, 14, colours.FAINT, "lm")
        return x + 20 + round(_font(14).getlength(words)) + MARGIN

    def length_bar(self, x: int, y: int, length: int, words: str) -> None:
        """A scale bar of `length` px that ends at x on the right."""
        for colour, width in ((colours.PAPER, 6), (colours.INK, 2)):
            self._draw.line((x - length, y, x, y), fill=colour, width=width)
        self._draw.text(
            (x - length / 2, y - 4), words, fill=colours.INK, font=_font(13), anchor="ms",
            stroke_width=2, stroke_fill=colours.PAPER,
        )  # fmt: skip

    def array(self) -> UInt8[np.ndarray, "h w 3"]:
        return np.asarray(self._page)


@cache
def _font(size: int) -> "ImageFont.FreeTypeFont | ImageFont.ImageFont":
    from PIL import ImageFont

    return ImageFont.load_default(size)
