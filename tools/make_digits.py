"""Write ppvae/data/digits.npz from scikit-learn: run once, in an environment that has scikit-learn.

The images are the test half of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998,
https://doi.org/10.24432/C50P49), in the order of scikit-learn's ``load_digits()``.

    pip install scikit-learn==1.9.1
    python tools/make_digits.py
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

digits = load_digits()
images = digits.images.astype(np.uint8)
assert images.shape == (1797, 8, 8) and (images == digits.images).all() and images.max() == 16
path = Path(__file__).parents[1] / "ppvae" / "data" / "digits.npz"
np.savez_compressed(path, images=images, labels=digits.target.astype(np.uint8))
print(f"{path}: {path.stat().st_size} bytes")
