# SPDX-License-Identifier: Apache-2.0
"""Real photographs for the demo: crops of scikit-learn's two sample images, prepared as for ImageNet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_sample_images

SIDE = 224
CROPS = 16
# Channel means and deviations of ImageNet in RGB, as every published classifier uses them.
MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], dtype=np.float32)


def crops(seed: int = 0) -> npt.NDArray[np.float32]:
    """Normalised crops at random places, `16 x 3 x 224 x 224`."""
    rng = np.random.default_rng(seed)
    images = load_sample_images().images
    cut = []
    for number in range(CROPS):
        image = images[number % len(images)]
        top, left = (int(rng.integers(0, extent - SIDE)) for extent in image.shape[:2])
        pixels = image[top : top + SIDE, left : left + SIDE].astype(np.float32) / 255
        cut.append(((pixels - MEAN) / DEVIATION).transpose(2, 0, 1))
    return np.stack(cut)


def write(path: Path, tensor: str) -> Path:
    """Save the crops under the model's input name, as `teg load --input` reads them."""
    np.savez(path, **{tensor: crops()})
    return path
