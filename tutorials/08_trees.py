# %% [markdown]
# # My data are a hierarchy: does the latent have room for it?
#
# The nodes of a binary tree at depth $d$ are $2^d$, and the plane has $\pi r^2$ of room within a radius $r$: branches
# that keep their distance from each other soon have none left. In the hyperbolic plane the room grows as a tree does,
#
# $$\mathrm{vol}(B_r) = 2\pi (\cosh r - 1) \approx \pi e^r.$$
#
# A wrapped normal law [1, 2] moves a normal law of the tangent space at $\mu$ onto the space,
#
# $$z = \exp_\mu(v), \quad v \sim N(0, \mathrm{diag}\,\sigma^2), \qquad
# q(z) = N(v; 0, \mathrm{diag}\,\sigma^2) \left( \frac{|v|}{\sinh |v|} \right)^{n-1},$$
#
# and `HyperbolicVAE` has it for prior and posterior.
#
# [1] Nagano et al. (2019), https://arxiv.org/abs/1902.02992; [2] Mathieu et al. (2019),
# https://arxiv.org/abs/1901.06033

# %%
import os
from pathlib import Path

import numpy as np
import torch
from ppvae.models import GaussianVAE, HyperbolicVAE
from scipy.special import logsumexp

import ppvae
from ppvae import plotting
from ppvae.distributions import WrappedNormal
from ppvae.manifolds import Hyperboloid, hyperboloid
from ppvae.nn import NormalLikelihood

short = "PPVAE_SHORT" in os.environ  # what continuous integration runs
out = Path("runs/tutorials")
out.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## The space and its law
#
# Points are those of the hyperboloid, $z_1^2 = 1 + z_2^2 + z_3^2$; the origin is (1, 0, 0), and `dim=3` is the
# hyperbolic plane. The curvature is -1: a prior of scale $s$ here is one of scale 1 in curvature $-s^2$, and the wider
# it is the more room it sees.

# %%
space, origin = Hyperboloid(), torch.tensor([1.0, 0.0, 0.0])
for s in (0.1, 1.0, 2.0):
    z = WrappedNormal(space, origin, torch.tensor([s, s])).sample((5000,))
    apart = space.dist(z[:2500], z[2500:]) / s
    print(f"s = {s:3}   mean distance of two draws {apart.mean():.2f} s; in the plane {np.sqrt(np.pi):.2f} s")

# %% [markdown]
# ## A tree whose evidence is known
#
# 127 nodes in $R^{50}$, each its parent plus noise, and data around them: $p(x)$ is a mixture of 127 Gaussians.

# %%
rng = np.random.default_rng(0)
grown, depth = [np.zeros(50)], [0]
for i in range(63):
    grown += [grown[i] + rng.standard_normal(50) for _ in range(2)]
    depth += [depth[i] + 1] * 2
nodes = np.array(grown, np.float32)


def draw(n: int) -> np.ndarray:
    return nodes[rng.integers(127, size=n)] + rng.standard_normal((n, 50)).astype(np.float32)


x_train, x_valid, x_test = draw(4000), draw(500), draw(500)
square = ((x_test[:, None] - nodes) ** 2).sum(-1)
truth = logsumexp(-square / 2, 1) - np.log(127) - 25 * np.log(2 * np.pi)

# %% [markdown]
# ## The same networks, two latents

# %%
vaes = {
    "plane": GaussianVAE((50,), 2, (200,), likelihood=NormalLikelihood(1.0)),
    "hyperbolic plane": HyperbolicVAE((50,), 3, (200,), prior_scale=2.0, likelihood=NormalLikelihood(1.0)),
}
for name, vae in vaes.items():
    ppvae.fit(vae, x_train, validation=x_valid, epochs=1 if short else 60, batch_size=64, seed=0, progress=not short)
    ll = ppvae.log_likelihood(vae, x_test, num_samples=20 if short else 500, seed=0)
    print(f"{name:17} {ll}\n    from the truth: {(ll.values - truth).mean():.2f} nats")

# %% [markdown]
# What the latent does not keep apart is lost in the likelihood. The benchmark
# [trees.py](../benchmarks/trees.py) has more trees, the sphere and other scales.
#
# ## The picture
#
# The Poincaré disc shows all of the hyperbolic plane; the circles have radius 1, 2, 3, 4. The colour of a datum is the
# depth of its node: what is deep lies near the rim, where the room is.

# %%
level = np.array(depth)[square.argmin(1)]
z = ppvae.encode(vaes["hyperbolic plane"], x_test)
plotting.plot_latent(z, level, hyperboloid).savefig(out / "08_disc.png")
