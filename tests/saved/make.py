"""Save one small file for every kind of VAE and every part of it that a file names, with what each computes.

    python tests/saved/make.py FOLDER      writes FOLDER/NAME.safetensors and FOLDER/numbers.npz

The files beside this script were written by ppvae 0.1.0, and ``tests/test_saved_files.py`` asks that they load to equal
numbers for ever. So a file that is there is never written again: a new kind of VAE is a new line in ``VAES``, and only
what FOLDER lacks is added.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ppvae.models import (
    MCEVAE,
    SO3VAE,
    VAE,
    ConditionalVAE,
    GaussianMixtureVAE,
    GaussianVAE,
    HamiltonianVAE,
    HyperbolicVAE,
    InfoVAE,
    ManifoldVAE,
    SphericalVAE,
    VampVAE,
    WassersteinEmbedding,
    WassersteinVAE,
)
from pyro import poutine
from torch import nn

import ppvae
from ppvae.infer import CenterMessenger
from ppvae.infer.sites import latents
from ppvae.latents import (
    Box,
    Cylinder,
    Gaussian,
    GaussianMixture,
    Hyperbolic,
    Quotient,
    Rotation,
    Shape,
    Spherical,
    Torus,
    Vamp,
)
from ppvae.nn import (
    S2S1,
    S2S2,
    ActionDecoder,
    AxesHead,
    AxisAngle,
    BernoulliLikelihood,
    BoxHead,
    CategoricalLikelihood,
    CircleEmbedding,
    Clusters,
    ContinuousBernoulliLikelihood,
    CovariatesCondition,
    CylinderHead,
    DeltaHead,
    EnumeratedClusters,
    FlatTorusEmbedding,
    FrameLikelihood,
    GaussianMixtureHead,
    HyperbolicNormalHead,
    HyperplaneDistances,
    InverseAutoregressiveHead,
    KleinHead,
    LabelledClusters,
    MoebiusEmbedding,
    MoebiusHead,
    NegativeBinomialLikelihood,
    NormalHead,
    NormalLikelihood,
    OneHotCondition,
    PoissonLikelihood,
    Polar,
    PolarCanonicalizer,
    Pose,
    PowerSphericalHead,
    ProjectiveHead,
    Quaternion,
    RotatePlanes,
    RotateSpace,
    ShapeHead,
    SO3NormalHead,
    SphereEmbedding,
    SphericalDeltaHead,
    SwissRollEmbedding,
    TorusEmbedding,
    UnimodalBetaHead,
    UnrolledCircleHead,
    VonMisesFisherHead,
)
from ppvae.vae import quiet

VECTOR, IMAGE, FRAME, W = (6,), (1, 4, 4), (3, 3), (8,)
HALF = NormalLikelihood(0.5)

#: name of the file -> the VAE
VAES: dict[str, Callable[[], nn.Module]] = {
    "gaussian": lambda: GaussianVAE(IMAGE, 2, W),
    "gaussian-float64": lambda: GaussianVAE(IMAGE, 3, (5, 4)).double(),
    "gaussian-autoregressive": lambda: GaussianVAE(VECTOR, 3, W, head=InverseAutoregressiveHead(3, 2, 4, 2)),
    "gaussian-mixture-head": lambda: GaussianVAE(VECTOR, 2, W, head=GaussianMixtureHead(2, 3)),
    "gaussian-delta": lambda: GaussianVAE(VECTOR, 2, W, head=DeltaHead(2)),
    "gaussian-continuous-bernoulli": lambda: GaussianVAE(VECTOR, 2, W, likelihood=ContinuousBernoulliLikelihood()),
    "gaussian-normal": lambda: GaussianVAE(VECTOR, 2, W, likelihood=NormalLikelihood(0.3)),
    "gaussian-normal-learned": lambda: GaussianVAE(VECTOR, 2, W, likelihood=NormalLikelihood(0.3, learned=True)),
    "gaussian-categorical": lambda: GaussianVAE(IMAGE, 2, W, likelihood=CategoricalLikelihood(3)),
    "gaussian-poisson": lambda: GaussianVAE(VECTOR, 2, W, likelihood=PoissonLikelihood(size_factor=True)),
    "gaussian-negative-binomial": lambda: GaussianVAE(VECTOR, 2, W, likelihood=NegativeBinomialLikelihood()),
    "spherical": lambda: SphericalVAE(IMAGE, 3, W),
    "spherical-von-mises-fisher": lambda: SphericalVAE(VECTOR, 4, W, head=VonMisesFisherHead(4)),
    "spherical-power-spherical": lambda: SphericalVAE(VECTOR, 4, W, head=PowerSphericalHead(4)),
    "spherical-delta": lambda: SphericalVAE(VECTOR, 2, W, head=SphericalDeltaHead(2)),
    "spherical-frames": lambda: SphericalVAE(FRAME, 3, W, likelihood=FrameLikelihood()),
    "hyperbolic": lambda: HyperbolicVAE(VECTOR, 3, W, prior_scale=1.5, likelihood=HALF),
    "hyperbolic-hyperplanes": lambda: HyperbolicVAE(VECTOR, 3, W, decoder=HyperplaneDistances(3, 6)),
    "hamiltonian": lambda: HamiltonianVAE(VECTOR, 2, W, steps=2, max_step_size=0.3, likelihood=HALF),
    "vamp": lambda: VampVAE(IMAGE, 2, 4, W),
    "vamp-sphere": lambda: VampVAE(VECTOR, 3, 4, W, head=VonMisesFisherHead(3)),
    "vamp-hyperboloid": lambda: VampVAE(VECTOR, 3, 4, W, head=HyperbolicNormalHead(3, 0.5)),
    "conditional": lambda: ConditionalVAE(IMAGE, 2, OneHotCondition(4), W),
    "conditional-covariates": lambda: ConditionalVAE(VECTOR, 2, CovariatesCondition(2), W, likelihood=HALF),
    "so3": lambda: SO3VAE(IMAGE, 2, 3, W),
    "so3-S2S1": lambda: SO3VAE(VECTOR, 1, 2, W, head=SO3NormalHead(S2S1())),
    "so3-S2S2": lambda: SO3VAE(VECTOR, 1, 2, W, head=SO3NormalHead(S2S2())),
    "so3-axis-angle": lambda: SO3VAE(VECTOR, 1, 2, W, head=SO3NormalHead(AxisAngle())),
    "so3-polar": lambda: SO3VAE(VECTOR, 1, 2, W, head=SO3NormalHead(Polar())),
    "so3-quaternion": lambda: SO3VAE(VECTOR, 1, 2, W, head=SO3NormalHead(Quaternion())),
    "so3-action-decoder": lambda: SO3VAE((8,), hidden=W, decoder=ActionDecoder(None, 1, 2), likelihood=HALF),
    "info": lambda: InfoVAE(VECTOR, 2, W),
    "wasserstein": lambda: WassersteinVAE(IMAGE, 2, W),
    "wasserstein-normal": lambda: WassersteinVAE(VECTOR, 3, W, likelihood=HALF),
    "manifold": lambda: ManifoldVAE(IMAGE, hidden=W),
    "manifold-circle": lambda: ManifoldVAE(VECTOR, CircleEmbedding(), W, head=UnrolledCircleHead(1)),
    "manifold-flat-torus": lambda: ManifoldVAE(VECTOR, FlatTorusEmbedding(2), W, head=UnrolledCircleHead(2)),
    "manifold-torus": lambda: ManifoldVAE(VECTOR, TorusEmbedding(2.0, 0.7), W, head=UnimodalBetaHead(2)),
    "manifold-sphere": lambda: ManifoldVAE(VECTOR, SphereEmbedding(), W),
    "manifold-swiss-roll": lambda: ManifoldVAE(VECTOR, SwissRollEmbedding(0.1), W),
    "manifold-moebius": lambda: ManifoldVAE(VECTOR, MoebiusEmbedding(0.8), W),
    "manifold-rotate-planes": lambda: ManifoldVAE(VECTOR, hidden=W, action=RotatePlanes(), tolerance=0.01),
    "manifold-rotate-space": lambda: ManifoldVAE(VECTOR, SphereEmbedding(), W, action=RotateSpace()),
    "manifold-atlas": lambda: ManifoldVAE(VECTOR, TorusEmbedding(), W, cells=(2, 3)),
    "wasserstein-embedding": lambda: WassersteinEmbedding(2, 6, W, scale=0.1),
    "gaussian-mixture": lambda: GaussianMixtureVAE(IMAGE, Clusters(3, 4), W),
    "gaussian-mixture-normal": lambda: GaussianMixtureVAE(VECTOR, Clusters(3, 4, NormalHead(3)), W, likelihood=HALF),
    "gaussian-mixture-enumerated": lambda: GaussianMixtureVAE(VECTOR, EnumeratedClusters(3, 4), W),
    "gaussian-mixture-labelled": lambda: GaussianMixtureVAE(VECTOR, LabelledClusters(3, 4), W),
    "mce": lambda: MCEVAE(IMAGE, 2, Clusters(3, 4), hidden=W),
    "mce-similarities": lambda: MCEVAE(IMAGE, 2, Clusters(3, 4), Pose(0.25, 0.2, PowerSphericalHead(2)), hidden=W),
    "mce-directions": lambda: MCEVAE(
        IMAGE,
        2,
        LabelledClusters(3, 4),
        Pose(0.25, directions=2),
        PolarCanonicalizer(IMAGE, (4,), 16, 4, directions=2),
        W,
    ),
    "vae-spheres": lambda: VAE(IMAGE, Spherical(4, copies=3), hidden=W),
    "vae-pose-and-style": lambda: VAE(VECTOR, {"pose": Rotation(), "style": Gaussian(2)}, hidden=W, likelihood=HALF),
    "vae-vamp-torus": lambda: VAE(VECTOR, Vamp(VECTOR, Torus(2), 4), hidden=W),
    "vae-hyperbolic-condition": lambda: VAE(VECTOR, Hyperbolic(3, 1.5), OneHotCondition(4), W),
    "vae-box": lambda: VAE(VECTOR, Box(FlatTorusEmbedding(2), BoxHead((True, False)), glued=(True, False)), hidden=W),
    "vae-cylinder": lambda: VAE(VECTOR, Cylinder(CylinderHead()), hidden=W),
    "vae-klein": lambda: VAE(VECTOR, Quotient(Torus(2), "klein", KleinHead()), hidden=W),
    "vae-moebius": lambda: VAE(VECTOR, Quotient(Cylinder(), "moebius", MoebiusHead()), hidden=W),
    "vae-projective": lambda: VAE(VECTOR, Quotient(Spherical(3), "projective", ProjectiveHead(3)), hidden=W),
    "vae-axes": lambda: VAE(VECTOR, Quotient(Rotation(), "axes", AxesHead()), hidden=W),
    "vae-shapes": lambda: VAE(VECTOR, Shape(4, ShapeHead(4)), hidden=W),
    "vae-clusters": lambda: VAE(VECTOR, GaussianMixture(2, 3), hidden=W),
    "mce-canonical": lambda: MCEVAE(IMAGE, 2, Clusters(3, 4), hidden=W, canonical=BernoulliLikelihood()),
}

HERE = Path(__file__).parent


def given(vae: Any, x: NDArray) -> tuple[NDArray, ...]:
    """What a VAE is given beside data x: labels, whether each is known, covariates, size factors, canonical images."""
    n, kind = len(x), getattr(getattr(vae, "condition", None), "given", None)
    if kind is not None:
        return (np.arange(n) % 4,) if kind[0].is_discrete else (np.stack([np.arange(n), np.ones(n)], 1) / n,)
    clusters, likelihood = getattr(vae, "clusters", None), getattr(vae, "likelihood", None)
    arrays: list[NDArray] = []
    if getattr(clusters, "given", ()):
        arrays += [np.arange(n) % 4, np.arange(n) < 2]
    if getattr(likelihood, "given", ()):
        arrays += [1 + np.arange(n) / n]
    if getattr(vae, "canonical", None) is not None:
        arrays += [x, np.arange(n) < 2]
    return tuple(arrays)


def numbers(vae: Any, x: NDArray) -> dict[str, NDArray]:
    """The centre of the guide for data x, site by site, and the mean of the data there."""
    beside = given(vae, x)
    if hasattr(vae, "code_site"):  # the code is made of the latents whose centres are stored
        with quiet(vae), CenterMessenger():
            guide_trace = poutine.trace(vae.guide).get_trace(torch.as_tensor(x))
            law = poutine.trace(poutine.replay(vae.model, trace=guide_trace)).get_trace(torch.zeros(x.shape))
        found = {f"latent.{site['name']}": site["value"].numpy() for site in latents(guide_trace)}
        return {name if len(found) > 1 else "latent.": z for name, z in found.items()} | {
            "mean": law.nodes["x"]["fn"].mean.detach().numpy()
        }
    z = ppvae.encode(vae, x, *beside)
    sites = z if isinstance(z, dict) else {"": z}
    return {f"latent.{site}": value for site, value in sites.items()} | {"mean": ppvae.decode(vae, z, *beside)}


def data(vae: Any) -> NDArray:
    """Five data of the VAE's shape: frames of SO(3), else zeros and ones, which every likelihood takes."""
    rng = np.random.default_rng(0)
    if tuple(vae.shape) == FRAME:
        q, _ = np.linalg.qr(rng.normal(size=(5, 3, 3)))
        return (q * np.sign(np.linalg.det(q))[:, None, None]).astype(np.float32)
    return (rng.random((5, *vae.shape)) > 0.5).astype(np.float32)


def main(folder: Path) -> None:
    """Write the files that are missing, and all numbers."""
    found: dict[str, NDArray] = {}
    if (folder / "numbers.npz").exists():
        with np.load(folder / "numbers.npz") as held:
            found = dict(held)
    for seed, (name, build) in enumerate(VAES.items()):
        file = folder / f"{name}.safetensors"
        if file.exists():
            continue
        torch.manual_seed(seed)
        vae = build()
        ppvae.save(vae, file)
        x = data(vae)
        found |= {f"{name}/{key}": value for key, value in {"x": x, **numbers(vae, x)}.items()}
        print(f"{name}: {file.stat().st_size} bytes")
    np.savez_compressed(folder / "numbers.npz", **found)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
