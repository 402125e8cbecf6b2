"""Networks, posterior heads, likelihood heads and group actions.

Every name is imported on first use, so :mod:`ppvae.nn.registry` can be read without torch. The embeddings are geometry
of :mod:`ppvae.manifolds.embeddings`, and are here for models to take beside their heads.
"""

from typing import TYPE_CHECKING

from ppvae.lazy import attach

if TYPE_CHECKING:
    from ppvae.manifolds.embeddings import (
        CircleEmbedding,
        FlatTorusEmbedding,
        MoebiusEmbedding,
        SphereEmbedding,
        SwissRollEmbedding,
        TorusEmbedding,
    )
    from ppvae.nn.autoregressive import InverseAutoregressiveHead
    from ppvae.nn.clusters import Clusters, EnumeratedClusters, GaussianMixtureHead, LabelledClusters
    from ppvae.nn.conditions import Condition, CovariatesCondition, OneHotCondition
    from ppvae.nn.frames import FrameLikelihood
    from ppvae.nn.group_actions import GroupAction, RotatePlanes, RotateSpace, invariance
    from ppvae.nn.heads import (
        DeltaHead,
        HyperbolicNormalHead,
        NormalHead,
        PosteriorHead,
        PowerSphericalHead,
        SphericalDeltaHead,
        UnimodalBetaHead,
        UnrolledCircleHead,
        VonMisesFisherHead,
    )
    from ppvae.nn.hyperplanes import HyperplaneDistances
    from ppvae.nn.likelihoods import (
        BernoulliLikelihood,
        CategoricalLikelihood,
        ContinuousBernoulliLikelihood,
        Likelihood,
        NegativeBinomialLikelihood,
        NormalLikelihood,
        PoissonLikelihood,
    )
    from ppvae.nn.networks import MLP, Batched, channels
    from ppvae.nn.pose import PolarCanonicalizer, Pose
    from ppvae.nn.product_heads import BoxHead, CylinderHead
    from ppvae.nn.quotient_heads import AxesHead, KleinHead, MoebiusHead, ProjectiveHead
    from ppvae.nn.registration import records_options, register, unregistered
    from ppvae.nn.rotation_heads import S2S1, S2S2, AxisAngle, Polar, Quaternion, SO3NormalHead
    from ppvae.nn.shape_head import ShapeHead
    from ppvae.nn.views import RandomTurn
    from ppvae.nn.wigner import ActionDecoder, WignerD, spherical_harmonics
else:
    __getattr__, __dir__ = attach(__name__)

__all__ = [
    "MLP",
    "S2S1",
    "S2S2",
    "ActionDecoder",
    "AxesHead",
    "AxisAngle",
    "Batched",
    "BernoulliLikelihood",
    "BoxHead",
    "CategoricalLikelihood",
    "CircleEmbedding",
    "Clusters",
    "Condition",
    "ContinuousBernoulliLikelihood",
    "CovariatesCondition",
    "CylinderHead",
    "DeltaHead",
    "EnumeratedClusters",
    "FlatTorusEmbedding",
    "FrameLikelihood",
    "GaussianMixtureHead",
    "GroupAction",
    "HyperbolicNormalHead",
    "HyperplaneDistances",
    "InverseAutoregressiveHead",
    "KleinHead",
    "LabelledClusters",
    "Likelihood",
    "MoebiusEmbedding",
    "MoebiusHead",
    "NegativeBinomialLikelihood",
    "NormalHead",
    "NormalLikelihood",
    "OneHotCondition",
    "PoissonLikelihood",
    "Polar",
    "PolarCanonicalizer",
    "Pose",
    "PosteriorHead",
    "PowerSphericalHead",
    "ProjectiveHead",
    "Quaternion",
    "RandomTurn",
    "RotatePlanes",
    "RotateSpace",
    "SO3NormalHead",
    "ShapeHead",
    "SphereEmbedding",
    "SphericalDeltaHead",
    "SwissRollEmbedding",
    "TorusEmbedding",
    "UnimodalBetaHead",
    "UnrolledCircleHead",
    "VonMisesFisherHead",
    "WignerD",
    "channels",
    "invariance",
    "records_options",
    "register",
    "spherical_harmonics",
    "unregistered",
]
