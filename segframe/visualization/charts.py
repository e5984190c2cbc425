"""Charts of a hyperparameter search: the trials' values over time, and bars."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import ImageDraw

from segframe.visualization.overlays import INK, Color, Picture, canvas, font

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, RIGHT = 860, 460, 84, 56, 60, 24
GREY: Color = (150, 150, 150)
LINES: Color = (228, 228, 228)
BLUE: Color = (40, 110, 200)
ORANGE: Color = (230, 120, 30)


def history_chart(points: Sequence[tuple[int, float, bool]], metric: str, maximize: bool) -> Picture:
    """Draw trials (number, value, complete) as dots, hollow where pruned, and the best value so far as a line."""
    image, draw = canvas(HEIGHT, WIDTH)
    low, high = min(value for _, value, _ in points), max(value for _, value, _ in points)
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    last = max(max(number for number, _, _ in points), 1)

    def place(number: float, value: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * number / last
        return x, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)

    draw.text((LEFT, 26), f"{metric} of the trials", fill=INK, font=font(18), anchor="lm")
    for value in np.linspace(low, high, 5).tolist():
        _, y = place(0, value)
        draw.line((LEFT, y, WIDTH - RIGHT, y), fill=LINES)
        draw.text((LEFT - 8, y), f"{value:.4g}", fill=INK, font=font(13), anchor="rm")
    for number in sorted({round(last * k / 8) for k in range(9)}):
        draw.text((place(number, low)[0], HEIGHT - BOTTOM + 12), str(number), fill=INK, font=font(13), anchor="mt")
    draw.text(((LEFT + WIDTH) / 2, HEIGHT - 14), "trial", fill=GREY, font=font(14), anchor="mm")
    _draw_best(draw, [(number, value) for number, value, complete in points if complete], last, maximize, place)
    for number, value, complete in points:
        x, y = place(number, value)
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=BLUE if complete else (255, 255, 255), outline=BLUE)
    for k, (text, fill) in enumerate({"complete": BLUE, "pruned": (255, 255, 255)}.items()):
        x = WIDTH - 330 + 100 * k
        draw.ellipse((x, 22, x + 8, 30), fill=fill, outline=BLUE)
        draw.text((x + 14, 26), text, fill=INK, font=font(13), anchor="lm")
    draw.line((WIDTH - 130, 26, WIDTH - 112, 26), fill=ORANGE, width=3)
    draw.text((WIDTH - 106, 26), "best so far", fill=INK, font=font(13), anchor="lm")
    return np.asarray(image)


def _draw_best(
    draw: ImageDraw.ImageDraw,
    points: Sequence[tuple[int, float]],
    last: int,
    maximize: bool,
    place: Callable[[float, float], tuple[float, float]],
) -> None:
    """Draw the best value so far as a staircase."""
    best: float | None = None
    corners: list[tuple[float, float]] = []
    for number, value in points:
        if best is None or (value > best if maximize else value < best):
            corners += [place(number, value)] if best is None else [place(number, best), place(number, value)]
            best = value
    if best is not None:
        draw.line([*corners, place(last, best)], fill=ORANGE, width=3)


def bar_chart(shares: Mapping[str, float], title: str) -> Picture:
    """Draw a bar from 0 to 1 for each name."""
    row = 34
    image, draw = canvas(TOP + row * len(shares) + 20, WIDTH)
    left = 40 + max(round(font(15).getlength(name)) for name in shares)
    draw.text((24, 26), title, fill=INK, font=font(18), anchor="lm")
    for k, (name, share) in enumerate(shares.items()):
        y = TOP + row * k + row / 2
        draw.text((left - 10, y), name, fill=INK, font=font(15), anchor="rm")
        draw.rectangle((left, y - 9, left + max(1, (WIDTH - left - 90) * share), y + 9), fill=BLUE)
        draw.text((left + (WIDTH - left - 90) * share + 8, y), f"{share:.0%}", fill=INK, font=font(14), anchor="lm")
    return np.asarray(image)
