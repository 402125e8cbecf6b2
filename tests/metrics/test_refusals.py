"""Every public metric refuses arrays that it would read wrongly, and names the argument."""

import inspect

import numpy as np
import pytest
import torch

from ppvae import metrics
from ppvae.manifolds.embeddings import CircleEmbedding
from ppvae.metrics import Features

rng = np.random.default_rng(0)
Z, OTHER = rng.normal(size=(2, 12, 2))
LABELS = [0, 1, 2] * 4
LOOP = np.stack([np.cos(np.arange(12) * np.pi / 6), np.sin(np.arange(12) * np.pi / 6)], -1)
ROTATIONS = metrics.closed_geodesics(12, 3)[:, 1]
ROTATION_LOOP = metrics.closed_geodesics(1, 12)[0]
IMAGES = rng.random((12, 1, 4, 4))


def distance(x, y):
    return (x - y).norm(dim=-1)


#: function -> its arguments that are numbers, its arguments that are classes, and the others
METRICS = {
    metrics.knn_accuracy: ({"z": Z, "z_test": OTHER}, {"labels": LABELS, "labels_test": LABELS}, {"k": 1}),
    metrics.clustering_accuracy: ({}, {"clusters": LABELS, "labels": LABELS}, {}),
    metrics.normalized_mutual_information: ({}, {"clusters": LABELS, "labels": LABELS}, {}),
    metrics.adjusted_rand_index: ({}, {"clusters": LABELS, "labels": LABELS}, {}),
    metrics.circular_correlation: ({"angles": Z[:, 0], "others": Z[:, 1]}, {"groups": LABELS}, {}),
    metrics.invariance_error: ({"z": Z, "z_moved": OTHER}, {}, {}),
    metrics.embedding_report: ({"points": LOOP}, {}, {"embedding": CircleEmbedding(), "num_samples": 9}),
    metrics.permutation_test: ({"p": Z, "q": OTHER}, {}, {"permutations": 3}),
    metrics.frechet_distance: ({"real": Z, "generated": OTHER}, {}, {"resamples": 3}),
    metrics.kernel_distance: ({"real": Z, "generated": OTHER}, {}, {"resamples": 3}),
    metrics.prdc: ({"real": Z, "generated": OTHER}, {}, {"resamples": 3}),
    metrics.nearest: ({"points": Z, "among": OTHER}, {}, {}),
    metrics.data_copying: ({"generated": Z, "train": OTHER, "test": Z}, {}, {"resamples": 3}),
    metrics.discontinuity: ({"loops": LOOP}, {}, {"dist": distance}),
    metrics.winding_number: ({"loops": LOOP}, {}, {}),
    metrics.rotation_class: ({"loops": ROTATION_LOOP}, {}, {}),
    metrics.equivariance_error: ({"z": ROTATIONS, "gz": ROTATIONS, "g": ROTATIONS}, {}, {}),
    metrics.automorphism: ({"z": ROTATIONS, "gz": ROTATIONS @ ROTATIONS, "g": ROTATIONS}, {}, {}),
    metrics.classifier: ({"x": IMAGES, "x_test": IMAGES}, {"labels": LABELS, "labels_test": LABELS}, {"epochs": 1}),
    Features("mean", lambda x: x.mean((2, 3))).__call__: ({"x": IMAGES}, {}, {}),
}
#: functions that read no array of the user's
WITHOUT = {"Features", "Classifier", "closed_geodesics", "efficientnet_lite0", "inception_v3"}
RESULTS = {"EmbeddingReport", "Estimate", "PRDC"}


def first(array, value, dtype=None):
    array = np.array(array, dtype or np.asarray(array).dtype)
    array.flat[0] = value
    return array


BAD_NUMBERS = {
    "NaN": (lambda a: first(a, np.nan), "NaN|finite|values in"),
    "infinite": (lambda a: first(a, np.inf), "infinite|finite|values in"),
    "mask": (lambda a: np.ma.masked_equal(a, a.flat[0]), "expected an array without a mask"),
    "list of masks": (lambda a: list(np.ma.masked_equal(a, a.flat[0])), "expected an array without a mask"),
    "complex": (lambda a: a + 1j, "expected real numbers, got complex128"),
    "complex tensor": (lambda a: torch.as_tensor(a) + 1j, "expected real numbers, got complex128"),
    "object": (lambda a: a.astype(object), "expected numbers, got ndarray of dtype object"),
    "strings": (lambda a: a.astype(str), "expected numbers, got ndarray of dtype <U"),
    "nothing": (lambda a: None, "expected numbers, got NoneType of dtype object"),
    "scalar": (lambda a: 1.0, r"expected|got \(\)"),
    "empty": (lambda a: a[:0], "expected"),
    "ragged": (lambda a: [*a.tolist(), [[[1.0]]]], "expected an array, got a list that numpy refuses"),
    "sparse": (lambda a: torch.as_tensor(a).to_sparse(), "expected a dense tensor"),
}
BAD_CLASSES = {
    "NaN": (lambda a: first(a, np.nan, float), "expected finite numbers"),
    "fraction": (lambda a: first(a, 0.3, float), "expected classes, got the number 0.3 in row 0"),
    "mask": (lambda a: np.ma.masked_equal(a, 0), "expected an array without a mask"),
    "complex": (lambda a: np.asarray(a) + 1j, "expected classes, integers or strings, got dtype complex128"),
    "object": (lambda a: first(a, None, object), "expected classes, integers or strings, got dtype object"),
    "one-hot": (lambda a: np.eye(3)[a], "of one-hot rows take .argmax"),
    "empty": (lambda a: [], r"got \(0,\)"),
    "longer": (lambda a: [*a, 0], "expected one class for each of the 12 data, got 13"),
}


def name(function):
    return getattr(function, "__name__", str(function))


def test_every_metric_is_here():
    public = {n for n in metrics.__all__ if n not in WITHOUT | RESULTS}
    assert public == {name(f) for f in METRICS if not inspect.ismethod(f)}


@pytest.mark.parametrize("function", METRICS, ids=name)
def test_arrays_tensors_and_lists_give_one_result(function):
    """Arrays of another order, byte order or without permission to write, and tensors with gradients too."""
    arrays, labels, others = METRICS[function]
    conversions = (
        np.asarray,
        torch.as_tensor,
        lambda a: a.tolist(),
        lambda a: torch.tensor(a, requires_grad=True),
        lambda a: a[::-1].copy()[::-1],
        lambda a: a.astype(">f8"),
        lambda a: np.broadcast_to(a, a.shape),
    )
    found = []
    for convert in conversions:
        result = function(**{n: convert(a) for n, a in arrays.items()}, **labels, **others)
        result = result[1] if function is metrics.classifier else result
        found.append(list(vars(result).values()) if hasattr(result, "__dict__") else result)
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


@pytest.mark.parametrize("bad", BAD_NUMBERS)
@pytest.mark.parametrize("function", METRICS, ids=name)
def test_arrays_that_are_refused(function, bad):
    arrays, labels, others = METRICS[function]
    change, message = BAD_NUMBERS[bad]
    for argument, array in arrays.items():
        with pytest.raises(ValueError, match=rf"^{argument}: (expected )?.*({message})"):
            function(**{**arrays, argument: change(array)}, **labels, **others)


@pytest.mark.parametrize("bad", BAD_CLASSES)
@pytest.mark.parametrize("function", [f for f in METRICS if METRICS[f][1]], ids=name)
def test_classes_that_are_refused(function, bad):
    arrays, labels, others = METRICS[function]
    change, message = BAD_CLASSES[bad]
    for argument, array in labels.items():
        if argument == "clusters" and bad == "longer":
            continue  # the labels are too few then
        with pytest.raises(ValueError, match=rf"^{argument}: {message}|^{argument}: .*{message}"):
            function(**arrays, **{**labels, argument: change(array)}, **others)


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (metrics.knn_accuracy, {"k": 1.5}, "k: expected an integer from 1 to 12, got 1.5"),
        (metrics.knn_accuracy, {"chunk": 0}, "chunk: expected an integer of at least 1, got 0"),
        (metrics.prdc, {"k": 0}, "k: expected an integer from 1 to 11, got 0"),
        (metrics.prdc, {"chunk": -1}, "chunk: expected an integer of at least 1, got -1"),
        (metrics.nearest, {"chunk": 0}, "chunk: expected an integer of at least 1, got 0"),
        (metrics.kernel_distance, {"chunk": 0}, "chunk: expected an integer of at least 1, got 0"),
        (metrics.kernel_distance, {"subsets": 0}, "subsets: expected an integer of at least 1, got 0"),
        (metrics.kernel_distance, {"resamples": -1}, "resamples: expected an integer of at least 0, got -1"),
        (metrics.frechet_distance, {"level": 0}, "level: expected a probability between 0 and 1, got 0"),
        (metrics.data_copying, {"level": float("nan")}, "level: expected a probability between 0 and 1, got nan"),
        (metrics.permutation_test, {"permutations": -1}, "permutations: expected an integer of at least 0, got -1"),
        (metrics.embedding_report, {"num_samples": 1}, "num_samples: expected an integer of at least 2, got 1"),
        (metrics.winding_number, {"max_step": 4.0}, "max_step: expected radians between 0 and pi, got 4.0"),
        (metrics.rotation_class, {"max_step": 0}, "max_step: expected radians between 0 and pi, got 0"),
        (metrics.discontinuity, {"event_dim": -1}, "event_dim: expected an integer of at least 0, got -1"),
        (metrics.classifier, {"epochs": 0}, "epochs: expected an integer of at least 1, got 0"),
        (metrics.classifier, {"batch_size": 0}, "batch_size: expected an integer of at least 1, got 0"),
        (metrics.classifier, {"labels": ["a"] * 12}, "labels: expected integers from 0, got .*'a'"),
        (metrics.classifier, {"labels": [-1] * 12}, "labels: expected integers from 0, got .*-1"),
        (metrics.classifier, {"x_test": IMAGES[..., :3]}, r"x_test: expected images of shape \(1, 4, 4\)"),
        (metrics.equivariance_error, {"g": 2 * ROTATIONS}, "g: expected rotations R with R R"),
        (metrics.equivariance_error, {"gz": -ROTATIONS}, "gz: expected rotations R with R R"),
        (metrics.equivariance_error, {"g": ROTATIONS[:5]}, "z, gz, g: expected batch shapes that broadcast"),
        (metrics.automorphism, {"g": ROTATIONS[:1]}, r"z, gz, g: expected one shape \(n, 3, 3\)"),
        (metrics.automorphism, {"g": ROTATIONS[:1].repeat(12, 0)}, "g: expected rotations about two axes"),
        (metrics.winding_number, {"loops": LOOP[:, :1]}, "loops: expected at least 3 points of the circle"),
        (metrics.winding_number, {"loops": np.concatenate([LOOP, [[0, 0]]])}, "loops: expected unit vectors"),
        (metrics.permutation_test, {"q": OTHER[:, :1]}, r"p, q: expected shapes \(n, m\) and \(k, m\)"),
    ],
)
def test_options_that_are_refused(function, options, message):
    arrays, labels, others = METRICS[function]
    with pytest.raises(ValueError, match=message):
        function(**{**arrays, **labels, **others, **options})


def test_a_classifier_needs_images_of_four_pixels():
    with pytest.raises(ValueError, match=r"shape: expected \(channels, height, width\) of at least 4 pixels"):
        metrics.Classifier((1, 3, 8), 2)


@pytest.mark.parametrize("number", ["num_loops", "num_points"])
def test_loops_have_points(number):
    with pytest.raises(ValueError, match=f"{number}: expected an integer of at least 1, got 0"):
        metrics.closed_geodesics(**{"num_loops": 2, "num_points": 5, number: 0})
