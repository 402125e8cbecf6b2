"""The parts of a VAE by name: one table for each kind of part, read without torch.

The command line offers what stands here, and :func:`ppvae.load` finds here the parts that a file names. Each table maps
the name on the command line to a :class:`Part`, which says in which space the part lives and what it reads:

    >>> HEADS["VonMisesFisher"].space
    'sphere'
    >>> fitting(("sphere",))
    ['PowerSpherical', 'VonMisesFisher']

A class that takes a posterior head says in its attribute ``space`` on which spaces the head's law may live: that of
``SphericalVAE`` is ``("sphere", "points of the sphere")``, the latter for deterministic encoders.
"""

from collections.abc import Collection
from importlib import import_module
from typing import NamedTuple


class Part(NamedTuple):
    """One class of a table.

    >>> HEADS["Delta"].load().__name__
    'DeltaHead'
    """

    module: str  #: the module that has it, without ``ppvae.``
    cls: str  #: its name there
    space: str  #: where the law, the data or the map lives
    reads: str  #: what it reads, and what it makes of it

    def load(self) -> type:
        """The class itself, imported now."""
        return getattr(import_module(f"ppvae.{self.module}"), self.cls)


#: Posterior heads. Their space is that of the latent.
HEADS = {
    "Normal": Part("nn.heads", "NormalHead", "R^d", "mean and log scale of each coordinate"),
    "InverseAutoregressive": Part(
        "nn.autoregressive", "InverseAutoregressiveHead", "R^d", "a normal law and the context of a flow"
    ),
    "GaussianMixture": Part("nn.clusters", "GaussianMixtureHead", "R^d", "weights, means and log scales"),
    "Delta": Part("nn.heads", "DeltaHead", "points of R^d", "the point, for objectives without a KL"),
    "PowerSpherical": Part("nn.heads", "PowerSphericalHead", "sphere", "a direction and a log concentration"),
    "VonMisesFisher": Part("nn.heads", "VonMisesFisherHead", "sphere", "a direction and a log concentration"),
    "SphericalDelta": Part(
        "nn.heads", "SphericalDeltaHead", "points of the sphere", "a direction, for objectives without a KL"
    ),
    "HyperbolicNormal": Part("nn.heads", "HyperbolicNormalHead", "hyperboloid", "tangent mean and log scale"),
    "SO3Normal": Part("nn.rotation_heads", "SO3NormalHead", "rotations", "a rotation and three scales"),
    "UnimodalBeta": Part("nn.heads", "UnimodalBetaHead", "box", "mode and log concentration of each coordinate"),
    "UnrolledCircle": Part("nn.heads", "UnrolledCircleHead", "torus", "direction and log concentration of each angle"),
    "Cylinder": Part("nn.product_heads", "CylinderHead", "cylinder", "direction, height and log scales"),
    "Box": Part("nn.product_heads", "BoxHead", "box with glued sides", "place and log concentration of each side"),
    "Moebius": Part("nn.quotient_heads", "MoebiusHead", "Möbius strip", "invariants of the strip and log scales"),
    "Klein": Part("nn.quotient_heads", "KleinHead", "Klein bottle", "invariants of the bottle and log scales"),
    "Projective": Part("nn.quotient_heads", "ProjectiveHead", "projective space", "a symmetric matrix, by its axis"),
    "Axes": Part(
        "nn.quotient_heads", "AxesHead", "rotations, up to the signs of axes", "a symmetric matrix and scales"
    ),
    "Shape": Part("nn.shape_head", "ShapeHead", "shapes of landmarks", "a configuration and log scales"),
}
#: Maps from features to the rotation at which a law on SO(3) is centred.
ROTATIONS = {
    "S2S2": Part("nn.rotation_heads", "S2S2", "rotations", "two vectors, by Gram-Schmidt"),
    "Polar": Part("nn.rotation_heads", "Polar", "rotations", "a matrix, by its polar factor"),
    "Quaternion": Part("nn.rotation_heads", "Quaternion", "rotations", "a quaternion of any length"),
    "AxisAngle": Part("nn.rotation_heads", "AxisAngle", "rotations", "axis times angle, radians"),
    "S2S1": Part("nn.rotation_heads", "S2S1", "rotations", "an axis and the direction of an angle"),
}
#: Likelihoods. Their space is that of the numbers of a datum.
LIKELIHOODS = {
    "Bernoulli": Part("nn.likelihoods", "BernoulliLikelihood", "0 and 1", "logits"),
    "Categorical": Part("nn.likelihoods", "CategoricalLikelihood", "class indices", "logits of the classes"),
    "ContinuousBernoulli": Part("nn.likelihoods", "ContinuousBernoulliLikelihood", "[0, 1]", "logits"),
    "Frame": Part("nn.frames", "FrameLikelihood", "rotations, up to the signs of axes", "a 3 x 3 matrix"),
    "NegativeBinomial": Part(
        "nn.likelihoods", "NegativeBinomialLikelihood", "counts", "log mean and log inverse dispersion"
    ),
    "Normal": Part("nn.likelihoods", "NormalLikelihood", "real numbers", "means"),
    "Poisson": Part("nn.likelihoods", "PoissonLikelihood", "counts", "log means"),
}
#: Embeddings of [0, 1]^n. Their space is the image.
EMBEDDINGS = {
    "Circle": Part("manifolds.embeddings", "CircleEmbedding", "circle", "a point of [0, 1]"),
    "FlatTorus": Part("manifolds.embeddings", "FlatTorusEmbedding", "flat torus", "a point of [0, 1]^n"),
    "Moebius": Part("manifolds.embeddings", "MoebiusEmbedding", "Möbius band", "a point of [0, 1]^2"),
    "Sphere": Part("manifolds.embeddings", "SphereEmbedding", "sphere", "a point of [0, 1]^2"),
    "SwissRoll": Part("manifolds.embeddings", "SwissRollEmbedding", "Swiss roll", "a point of [0, 1]^2"),
    "Torus": Part("manifolds.embeddings", "TorusEmbedding", "torus of revolution", "a point of [0, 1]^2"),
}
#: Group actions. Their space is what the group turns.
ACTIONS = {
    "RotatePlanes": Part("nn.group_actions", "RotatePlanes", "circle, flat torus", "a direction for each plane"),
    "RotateSpace": Part("nn.group_actions", "RotateSpace", "sphere", "two vectors, by Gram-Schmidt"),
}
#: Conditions. Their space is that of what a model is given beside x.
CONDITIONS = {
    "Covariates": Part("nn.conditions", "CovariatesCondition", "R^d", "the numbers as they are"),
    "OneHot": Part("nn.conditions", "OneHotCondition", "class indices", "one label of each datum"),
}
#: Latents with clusters.
CLUSTERS = {
    "Clusters": Part("nn.clusters", "Clusters", "R^d", "features of a mixture, or of another head"),
    "Enumerated": Part("nn.clusters", "EnumeratedClusters", "clusters and R^d", "features of a mixture"),
    "Labelled": Part("nn.clusters", "LabelledClusters", "clusters and R^d", "features of a mixture, and labels"),
}
#: Poses of images.
POSES = {"Pose": Part("nn.pose", "Pose", "turns, shifts and scales", "features of each factor")}
#: Networks that read the pose off an image.
CANONICALIZERS = {"Polar": Part("nn.pose", "PolarCanonicalizer", "turns, shifts and scales", "an image")}
#: Networks with options of their own, which only files name.
NETWORKS = {
    "Action": Part("nn.wigner", "ActionDecoder", "rotations", "a rotation, by its action on a spectrum"),
    "Hyperplanes": Part("nn.hyperplanes", "HyperplaneDistances", "hyperboloid", "a point of the hyperboloid"),
    "WignerD": Part("nn.wigner", "WignerD", "rotations", "a rotation"),
}

#: Latents.
LATENTS = {
    "Gaussian": Part("latents.gaussian", "Gaussian", "R^d", "features of its head"),
    "GaussianMixture": Part("latents.mixture", "GaussianMixture", "R^d", "features of its head"),
    "Hyperbolic": Part("latents.hyperbolic", "Hyperbolic", "hyperboloid", "features of its head"),
    "Rotation": Part("latents.rotation", "Rotation", "rotations", "features of its head"),
    "Spherical": Part("latents.spherical", "Spherical", "spheres", "features of its head, for each copy"),
    "Torus": Part("latents.torus", "Torus", "torus", "features of its head, for each circle"),
    "Box": Part("latents.box", "Box", "box", "features of its head"),
    "Cylinder": Part("latents.cylinder", "Cylinder", "cylinder", "features of its head"),
    "Quotient": Part("latents.quotient", "Quotient", "quotient of another latent's space", "features of its head"),
    "Shape": Part("latents.shape", "Shape", "shapes of landmarks", "features of its head"),
    "Vamp": Part("latents.vamp", "Vamp", "that of another latent", "features of the other latent"),
}

#: option of a class -> the table of what it can be
TABLES = {
    "head": HEADS,
    "turn": HEADS,
    "mean": ROTATIONS,
    "likelihood": LIKELIHOODS,
    "embedding": EMBEDDINGS,
    "action": ACTIONS,
    "condition": CONDITIONS,
    "clusters": CLUSTERS,
    "pose": POSES,
    "canonicalizer": CANONICALIZERS,
}


def fitting(spaces: Collection[str]) -> list[str]:
    """The names of the posterior heads whose law lives on one of some spaces.

    >>> fitting(("R^d",))
    ['Normal', 'InverseAutoregressive', 'GaussianMixture']
    """
    return [name for name, part in HEADS.items() if part.space in spaces]


def named(cls: str) -> type | None:
    """The class of this name that stands in a table, or None.

    >>> named("PowerSphericalHead").__module__
    'ppvae.nn.heads'
    >>> named("os.system") is None
    True
    """
    found = [part for table in (*TABLES.values(), NETWORKS, LATENTS) for part in table.values() if part.cls == cls]
    return found[0].load() if found else None
