"""The picture of a model summary: theoretical and effective receptive field."""

from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segframe.analysis.model_counts import Summary
from segframe.analysis.receptive_field import EFFECTIVE_SHARE, ReceptiveField, format_field
from segframe.visualization.heatmaps import inferno
from segframe.visualization.overlays import INK, Color, Picture, canvas, font

SIDE = 560  # of the heat map, in the picture's pixels
LEFT, TOP, GAP = 72, 96, 24
GREY: Color = (120, 120, 120)
THEORETICAL: Color = (64, 200, 255)
EFFECTIVE: Color = (96, 255, 128)


def summary_picture(
    name: str, summary: Summary, theoretical: ReceptiveField, gradient: NDArray[np.float32], effective: int
) -> Picture:
    """Draw the centre cell's gradient (size, size) as a heat map with both receptive fields of the logits."""
    side = theoretical.side
    view = min(len(gradient), max(64, 2 * effective, ceil(1.15 * side) if side else 0))
    first = (len(gradient) - view) // 2
    shares = gradient[first : first + view, first : first + view] / gradient.max()
    # Square roots: gradients fall off so steeply that their tails would be black.
    heat = Image.fromarray(inferno(np.sqrt(shares))).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    image, draw = canvas(TOP + SIDE + 124, LEFT + SIDE + 104)
    draw.text((LEFT, 30), name, fill=INK, font=font(26), anchor="lm")
    height, width = summary.size
    facts = f"{summary.total:,} parameters   {summary.flops / 1e9:,.1f} GFLOPs at {height}x{width}"
    draw.text((LEFT, 64), f"{facts}   {summary.num_classes} classes", fill=INK, font=font(16), anchor="lm")
    image.paste(heat, (LEFT, TOP))
    draw_axes(draw, view)
    draw_colour_bar(image, draw)
    scale = SIDE / view
    for field, color in ((side, THEORETICAL), (effective, EFFECTIVE)):
        if field and field <= view:
            near, far = SIDE / 2 - field * scale / 2, SIDE / 2 + field * scale / 2 - 1
            draw.rectangle((LEFT + near, TOP + near, LEFT + far, TOP + far), outline=color, width=3)
    beyond = "" if side and side <= view else ", beyond this picture"
    legend = {
        THEORETICAL: f"theoretical receptive field: {format_field(theoretical)}{beyond}",
        EFFECTIVE: f"effective: {effective} (as many pixels exceed {EFFECTIVE_SHARE:.2%} of the largest gradient)",
    }
    for k, (color, text) in enumerate(legend.items()):
        y = TOP + SIDE + 72 + 26 * k
        draw.rectangle((LEFT, y - 7, LEFT + 14, y + 7), fill=color, outline=INK)
        draw.text((LEFT + 24, y), text, fill=INK, font=font(15), anchor="lm")
    return np.asarray(image)


def draw_axes(draw: ImageDraw.ImageDraw, view: int) -> None:
    """Draw the distances from the centre below and left of the heat map."""
    step = next(step for step in (8, 16, 32, 64, 128, 256, 512) if view / step <= 9 or step == 512)
    for k in range(-(view // 2 // step), view // 2 // step + 1):
        position = SIDE / 2 + k * step * SIDE / view
        draw.line((LEFT + position, TOP + SIDE, LEFT + position, TOP + SIDE + 5), fill=INK)
        draw.text((LEFT + position, TOP + SIDE + 9), str(k * step), fill=INK, font=font(13), anchor="mt")
        draw.line((LEFT - 6, TOP + position, LEFT - 1, TOP + position), fill=INK)
        draw.text((LEFT - 10, TOP + position), str(k * step), fill=INK, font=font(13), anchor="rm")
    text = "pixels from the image's centre"
    draw.text((LEFT + SIDE / 2, TOP + SIDE + 38), text, fill=GREY, font=font(14), anchor="mm")


def draw_colour_bar(image: Image.Image, draw: ImageDraw.ImageDraw) -> None:
    left = LEFT + SIDE + GAP
    ramp = np.linspace(1, 0, SIDE, dtype=np.float32)[:, None].repeat(14, axis=1)
    image.paste(Image.fromarray(inferno(ramp)), (left, TOP))
    for share in (1, 0.5, 0.25, 0.1, 0.01, 0):
        y = TOP + (SIDE - 1) * (1 - share**0.5)
        draw.text((left + 20, y), f"{share:.0%}", fill=INK, font=font(13), anchor="lm")
    draw.text((left, TOP - 22), "gradient", fill=GREY, font=font(14), anchor="lm")
