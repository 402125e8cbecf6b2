# %% [markdown]
# # How do I use a latent manifold that nobody has written down for me?
#
# Embedding reparameterisation (Golikov and Kretov, 2018, https://arxiv.org/abs/1812.05769) needs of a manifold no more
# than a map f from [0, 1]^n into R^m: sample z_hid on the box, decode f(z_hid). The KL is taken on the box, where it is
# known in closed form, and the law on the manifold has the density
#
# $$p_M(f(z)) = p(z) \, (\det J^T J)^{-1/2}, \qquad J = \partial f / \partial z.$$
#
# Where there is a formula, f is five lines. Where there are only points, f is learned from them.

# %%
import math
import os
from functools import partial
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import torch
from ppvae.models import ManifoldVAE, WassersteinEmbedding
from pyro.distributions import constraints

import ppvae
from ppvae import plotting
from ppvae.distributions import EmbeddedPushforward
from ppvae.infer import InfoVAE_ELBO, InverseMultiquadric, mmd
from ppvae.metrics import embedding_report
from ppvae.nn import CircleEmbedding, NormalLikelihood, RotatePlanes, UnrolledCircleHead

short = "PPVAE_SHORT" in os.environ  # what continuous integration runs
out = Path("runs/tutorials")
out.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## A sampler in ten lines
#
# The manifold is a trefoil knot, a closed curve in R^3. Imagine that this function is a simulator: points come out, and
# nothing else is known.


# %%
def knot(n: int, seed: int) -> np.ndarray:
    t = 2 * np.pi * np.random.default_rng(seed).random(n)
    x = [np.sin(t) + 2 * np.sin(2 * t), np.cos(t) - 2 * np.cos(2 * t), -np.sin(3 * t)]
    return (np.stack(x, -1) / 2).astype(np.float32)


# %% [markdown]
# ## An embedding from points alone
#
# A Wasserstein auto-encoder with codes in [0, 1] learns it: its decoder is f. The reconstruction keeps f injective, the
# divergence spreads the codes evenly, so that f takes the uniform law to the law of the points.

# %%
torch.manual_seed(0)
f = WassersteinEmbedding(dim=1, ambient=3, hidden=(128, 128, 128))
objective = InfoVAE_ELBO(partial(mmd, kernel=InverseMultiquadric(1 / 12)), alpha=1, lambda_=1000)
ppvae.fit(
    f,
    knot(4096, 0),
    objective=objective,
    epochs=1 if short else 400,
    batch_size=256,
    lr=2e-3,
    seed=0,
    progress=not short,
)

# %% [markdown]
# Is it an embedding? A closed curve is not the image of an interval: f has to leave a gap or to overlap, and the report
# says which.

# %%
print(embedding_report(f, knot(4096, 1), num_samples=300 if short else 2000, permutations=50 if short else 500))

# %% [markdown]
# The law of f(z) has a density along the curve. The mass between neighbouring points is density times length, and sums
# to one.

# %%
uniform = dist.Uniform(torch.zeros(1), torch.ones(1)).to_event(1)
law = EmbeddedPushforward(uniform, f)
z = torch.linspace(0, 1, 2001)[:, None]
with torch.no_grad():
    x = f(z)
    length = (x[1:] - x[:-1]).norm(dim=-1)
    mass = (law.log_prob_of((z[1:] + z[:-1]) / 2).exp() * length).sum()
print(f"length of f([0, 1]): {length.sum():.3f}, mass {mass:.4f}")

# %% [markdown]
# ## A VAE on it
#
# The data are pictures that a fixed random network makes of points of the knot, with known noise. In the VAE f is
# frozen: encoder, decoder and the Beta posterior on [0, 1] are trained.

# %%
generator = torch.Generator().manual_seed(1)
W, V = torch.randn(3, 100, generator=generator), torch.randn(100, 50, generator=generator) / 20


def pictures(points: np.ndarray, seed: int) -> np.ndarray:
    noise = torch.randn(len(points), 50, generator=torch.Generator().manual_seed(seed))
    return (torch.relu(torch.as_tensor(points) @ W) @ V + 0.1 * noise).numpy()


x_train, x_valid, x_test = (pictures(knot(n, seed), seed) for n, seed in ((4096, 2), (500, 3), (500, 4)))
epochs = 1 if short else 60


def train(vae):
    ppvae.fit(vae, x_train, validation=x_valid, epochs=epochs, lr=3e-3, seed=0, progress=not short)
    return ppvae.log_likelihood(vae, x_test, num_samples=50 if short else 500, seed=0)


vae = ManifoldVAE((50,), f, (64,), likelihood=NormalLikelihood(0.1))
print("learned knot:", train(vae))

# %% [markdown]
# ## Five lines of your own
#
# Where a formula is known it is all that is needed: `dim`, `ambient` and a call. The Jacobian comes by forward mode,
# points are inverted by Gauss-Newton. This f is periodic, so the posterior can be, too: `UnrolledCircleHead` puts it
# across the point where 0 and 1 meet.


# %%
class Knot(torch.nn.Module):
    dim, ambient = 1, 3

    def forward(self, z):
        t = 2 * math.pi * z
        return torch.cat([t.sin() + 2 * (2 * t).sin(), t.cos() - 2 * (2 * t).cos(), -(3 * t).sin()], -1) / 2


seamless = ManifoldVAE((50,), Knot(), (64,), likelihood=NormalLikelihood(0.1), head=UnrolledCircleHead(1))
print("knot by its formula, seamless:", train(seamless))

# %% [markdown]
# ## Turning the posterior instead
#
# The paper's own remedy is a second encoder a(x) that turns f(z_hid) by a group element. The KL stays right only if the
# prior is invariant under the group. That is checked: on the circle it holds, on a learned or uneven f the VAE refuses.

# %%
circle = ManifoldVAE((50,), CircleEmbedding(), (64,), likelihood=NormalLikelihood(0.1), action=RotatePlanes())
print("circle, turned:", train(circle))

# %% [markdown]
# ## The picture of the latent
#
# The posteriors' centres on the learned curve and on the circle, coloured by the true position on the knot. Where
# colours alternate, two parts of the knot share a place: the encoder is torn, as that of a closed curve must be on a
# learned f with ends, and can be on the circle, where `ppvae.metrics.winding_number` tells.

# %%
t = 2 * np.pi * np.random.default_rng(4).random(500)
with torch.no_grad():
    on_the_curve = vae.latent(torch.as_tensor(x_test)).numpy()
    on_the_circle = circle.latent(torch.as_tensor(x_test)).numpy()
for name, points in (("knot", on_the_curve), ("circle", on_the_circle)):
    figure = plotting.plot_latent(points, t, constraints.real)
    figure.axes[-1].set_ylabel("position t on the knot (radians)")
    figure.savefig(out / f"04_{name}.png")
