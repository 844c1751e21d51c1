"""What is known of a data set without reading it, for those who have a model of it and not the images."""

from __future__ import annotations

from datasets.shapes import OUTLINES, SIZE

DIGITS = tuple("0123456789")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
STL10 = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")

# name -> channels, side, classes, as `load` gives them
FACTS = {
    "digits": (1, 8, DIGITS),
    "shapes": (3, SIZE, tuple(OUTLINES)),
    "cifar10": (3, 32, CIFAR10),
    "svhn": (3, 32, DIGITS),
    "stl10": (3, 96, STL10),
}
