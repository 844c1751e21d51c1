"""A folder of images for streams and folders."""

import numpy as np
import pytest
from toys import write


@pytest.fixture
def folder(tmp_path):
    """12 grey images in the classes 2 and 10: image k, in sorted order, is constant 20 k."""
    for k in range(12):
        write(tmp_path / "images" / ("2" if k < 6 else "10") / f"{k}.png", np.full((4, 4), 20 * k))
    return tmp_path / "images"
