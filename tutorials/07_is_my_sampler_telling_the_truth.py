# %% [markdown]
# # Is my sampler telling the truth?
#
# A trained VAE generates by drawing a latent z and decoding it. From which law should z be drawn? The prior p(z) is
# what the model says. But the encoder puts the data elsewhere, and samplers that draw where the data are make better
# pictures. Chadebec and Allassonnière (2022) draw from the volume of a Riemannian metric,
#
#     p(z) ~ sqrt(det G(z)),   G(z) = sum_i Sigma_i^-1 w_i(z) + lambda exp(-tau |z|^2) I,
#     w_i(z) = exp(-(z - mu_i)^T Sigma_i^-1 (z - mu_i) / rho^2),
#
# with N(mu_i, Sigma_i) = q(z | x_i) at some of the data, by short Hamiltonian chains. Pictures alone do not tell
# whether a chain has drawn from the law that it names. Its diagnostics do.

# %%
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from ppvae.models import GaussianVAE
from pyro.distributions import Normal

import ppvae
from ppvae import plotting, samplers
from ppvae.diagnostics import convergence
from ppvae.manifolds import InverseVolumeMetric
from ppvae.nn import NormalLikelihood
from ppvae.random import seeded

short = "PPVAE_SHORT" in os.environ  # what continuous integration runs; its numbers and pictures mean nothing
out = Path("runs/tutorials")
out.mkdir(parents=True, exist_ok=True)

digits = ppvae.data.load("digits")
x, x_test = (ppvae.data.scale(part, digits.maximum) for part in (digits.train, digits.test))
with seeded(0):
    vae = GaussianVAE(x.shape[1:], dim=2, hidden=(128, 64), likelihood=NormalLikelihood(0.1))
ppvae.fit(vae, x, epochs=2 if short else 150, batch_size=64, seed=0, progress=False)
z = ppvae.encode(vae, x)

# %% [markdown]
# ## The volume
#
# Two dimensions, so that the latent space can be seen. The metric has 60 medoids of the embeddings for centroids.

# %%
metric = ppvae.riemannian_metric(vae, x, num_centroids=60)
print(f"rho {metric.temperature:.2f}, lambda {metric.regularization}, tau {metric.decay}")

# %% [markdown]
# At tau = 0 the law cannot be drawn from: far away det G is the constant lambda^d, and the plane is infinite. The
# library says so.

# %%
try:
    samplers.RiemannianVolume(metric)
except ValueError as error:
    print(error)

# %% [markdown]
# With a base law, here a normal one as wide as the embeddings, the law is proper. What part of it is background, where
# no centroid has a share?

# %%
base = Normal(torch.zeros(2), float(z.std())).to_event(1)
with warnings.catch_warnings():
    warnings.simplefilter("ignore" if short else "default")  # after two epochs anything goes
    volume = samplers.RiemannianVolume(metric, base=base)
print(volume.mass())

# %% [markdown]
# ## Four samplers
#
# The prior; a mixture of Gaussians fitted to the embeddings; the volume by the published procedure, 100 transitions of
# 10 leapfrog steps of 0.01 from random embeddings; and the volume with its base law by chains that also propose jumps
# from one centroid to another.

# %%
n = 60 if short else 400
drawn = {
    "prior": samplers.prior(vae, n, seed=0),
    "mixture": samplers.mixture(vae, x, n, seed=0),
    "published procedure": samplers.riemannian(vae, metric, n, procedure="chadebec2022", embeddings=z, seed=0),
}
with warnings.catch_warnings():
    warnings.simplefilter("ignore" if short else "default")
    drawn["volume, mixed"] = samplers.riemannian(
        vae, volume, n, kernel="mixed", num_chains=50, num_draws=20 if short else 400, seed=0
    )

side = float(np.abs(z).max()) * 1.1
axis = torch.linspace(-side, side, 40 if short else 200)
grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
field, extent = metric.log_volume(grid), (-side, side, -side, side)
points = {"embeddings": z} | {name: samples.z for name, samples in drawn.items()}
plotting.plot_field(field, extent, points, label="log volume, nats").savefig(out / "07_latents.png")
columns = 12
rows = {"data": x_test[:columns]} | {name: samples.x[:columns] for name, samples in drawn.items()}
plotting.image_rows(rows).savefig(out / "07_samples.png")

# %% [markdown]
# ## Do the chains tell the truth?
#
# The prior and the mixture are drawn independently: they are what they say. For the two samplers by Markov chains ask
# the chains.

# %%
for name, samples in drawn.items():
    if samples.chains is not None:
        print(f"{name}: {convergence(samples.chains)}\n")

# %% [markdown]
# The published procedure has not mixed, by every measure: each chain has slid from its embedding into the next dark
# spot, and stayed there. How far did the chains go, in the spread of the embeddings? Jitter of that size is one more
# sampler to compare with.

# %%
chains = drawn["published procedure"].chains.get_samples(group_by_chain=True)["z"].numpy()
moved = np.sqrt(np.square(chains[:, -1] - chains[:, 0]).mean())
print(f"moved per coordinate: {moved:.2f}; embeddings: {z.std():.2f}")
scale = float(moved)
drawn["jitter"] = samplers.jitter(vae, x, n, scale=scale, seed=0)

# %% [markdown]
# If the chains had the law of the volume, averages over their last draws would be those of the law. The law's own are
# known here, by quadrature on the grid. The error is that of the chains' scatter.

# %%
axis = torch.linspace(-side, side, 101 if short else 1001)  # finer than the spots are wide
grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
density = volume.log_density(grid).flatten().softmax(0)
means = {
    "the law, by quadrature": float(density @ grid.square().sum(-1).flatten()),
    "embeddings": float(np.square(z).sum(1).mean()),
}
errors = dict.fromkeys(means, 0.0)
for name, samples in drawn.items():
    square = np.square(np.asarray(samples.z)).sum(1)
    means[name] = float(square.mean())
    errors[name] = float(square.std() / np.sqrt(len(square)))
    if name == "volume, mixed":
        of_chains = np.square(samples.chains.get_samples(group_by_chain=True)["z"].numpy()).sum(-1).mean(1)
        means[name], errors[name] = float(of_chains.mean()), float(of_chains.std(ddof=1) / np.sqrt(len(of_chains)))
for name, mean in means.items():
    print(f"{name}: mean of |z|^2 {mean:.3f} ± {errors[name]:.3f}")
plotting.plot_estimates(means, errors, "mean of $|z|^2$").savefig(out / "07_truth.png")

# %% [markdown]
# The mixed chains agree with the law. The published procedure has about the second moment of the embeddings, as jitter
# does, and not that of its target. Its pictures may be good all the same, since it stays near the data. But then it is
# the embeddings that make them good, and not the uniform law of a Riemannian manifold.
#
# ## ArviZ
#
# Chains go to ArviZ as they are, with acceptance, step size and energy.

# %%
data = ppvae.to_inference_data(drawn["volume, mixed"].chains)
print({name: tuple(group.sizes.values()) for name, group in (("posterior", data.posterior),)})
print("statistics:", ", ".join(str(name) for name in data.sample_stats.data_vars))

# %% [markdown]
# ## Interpolations
#
# The same metric interpolates between two images. Its geodesics are short where G is small, so they go around the data.
# The curves of the paper minimise 1 / sqrt(det G) along the curve, and go through them. Dashed is the straight line.

# %%
i, j = (int(np.flatnonzero(digits.train_labels == label)[0]) for label in (0, 1))
potential = InverseVolumeMetric(metric, 0.5)
with warnings.catch_warnings():
    warnings.simplefilter("ignore" if short else "default")
    found = samplers.interpolate(vae, potential, z[[i]], z[[j]], 11, iterations=20 if short else 500)
curves = {"least potential": found.z, "straight line": found.straight_z}
plotting.plot_field(field, extent, {"embeddings": z}, curves, label="log volume, nats").savefig(out / "07_curves.png")
plotting.image_rows({"straight line": found.straight_x[0], "least potential": found.x[0]}).savefig(
    out / "07_interpolation.png"
)
