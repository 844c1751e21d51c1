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
    "shapes_upright": (3, SIZE, tuple(OUTLINES)),
    "cifar10": (3, 32, CIFAR10),
    "svhn": (3, 32, DIGITS),
    "stl10": (3, 96, STL10),
}

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

# name -> (mean, std) of each channel in [0, 1], over all pixels of the train part. The std .2023 .1994 .2010 that is
# often seen for cifar10 is the mean of the stds of single images, which is smaller than the std of all pixels.
MOMENTS = {
    "digits": ((0.3048,), (0.3754,)),
    "shapes": ((0.5016, 0.5000, 0.4996), (0.2859, 0.2861, 0.2847)),  # those of seed 0 at 32 pixels
    "shapes_upright": ((0.5012, 0.4994, 0.4997), (0.2852, 0.2855, 0.2843)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1201, 0.1231, 0.1052)),
    "tinyimagenet": IMAGENET,
    "imagenet": IMAGENET,
}
