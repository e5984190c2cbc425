"""Colours for class indices: the colour map of PASCAL VOC (2007 on), defined for any number of classes."""

Palette = tuple[tuple[int, int, int], ...]


def voc_palette(num_classes: int) -> Palette:
    """Return VOC's (R, G, B) for class 0, 1, ...: the bits of the index, dealt to the channels from the top down."""
    return tuple(_voc_colour(index) for index in range(num_classes))


def _voc_colour(index: int) -> tuple[int, int, int]:
    red = green = blue = 0
    for bit in range(7, -1, -1):
        red |= (index & 1) << bit
        green |= (index >> 1 & 1) << bit
        blue |= (index >> 2 & 1) << bit
        index >>= 3
    return red, green, blue
