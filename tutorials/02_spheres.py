# %% [markdown]
# # What changes when the latent space is a sphere?
#
# A Gaussian prior has a centre, and the KL term pulls every posterior towards it. A uniform prior on the sphere
# $S^{m-1} \subset R^m$ has none: with a von Mises-Fisher posterior
#
# $$q(z \mid x) \propto \exp(\kappa(x)\, \mu(x)^\top z), \qquad |z| = |\mu| = 1,$$
#
# the KL depends on the concentration $\kappa$ alone, so that all places on the sphere cost the same. `dim` is the
# ambient dimension m: `dim=3` is the sphere S^2, with as many degrees of freedom as the plane.

# %%
import os
from pathlib import Path

import numpy as np
import torch
from ppvae.models import GaussianVAE, SphericalVAE

import ppvae
from ppvae import plotting
from ppvae.distributions import HypersphericalUniform, VonMisesFisher
from ppvae.nn import PowerSphericalHead
from ppvae.transforms import DynamicBinarization

short = "PPVAE_SHORT" in os.environ  # what continuous integration runs
out = Path("runs/tutorials")
out.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## The law
#
# Densities are with respect to the surface measure: log area = log 4 pi = 2.53 on S^2 is the entropy of the uniform
# law, and the KL to it is what a posterior pays for being sharp. A concentration four times as large costs about
# $\frac{m-1}{2} \log 4$ nats.

# %%
mu = torch.tensor([0.0, 0.0, 1.0])
uniform = HypersphericalUniform(3)
for kappa in (0.0, 1.0, 10.0, 100.0, 1000.0):
    q = VonMisesFisher(mu, torch.tensor(kappa))
    kl = torch.distributions.kl_divergence(q, uniform)
    print(f"kappa {kappa:6.0f}   mean cosine {q.mean[2]:.4f}   entropy {q.entropy():7.4f}   KL {kl:.4f} nats")

# %% [markdown]
# ## Two latents, the same networks

# %%
digits = ppvae.data.load("digits")
x_train, x_valid, x_test = (ppvae.data.scale(x, digits.maximum) for x in (digits.train, digits.validation, digits.test))
x_test = ppvae.data.binarize(x_test, rng=0)

vaes = {
    "plane": GaussianVAE(digits.shape, dim=2),
    "sphere, von Mises-Fisher": SphericalVAE(digits.shape, dim=3),
    "sphere, power spherical": SphericalVAE(digits.shape, dim=3, head=PowerSphericalHead(3)),
}
ll = {}
for name, vae in vaes.items():
    ppvae.fit(
        vae,
        x_train,
        validation=x_valid,
        transform=DynamicBinarization(),
        epochs=2 if short else 150,
        warmup=10,
        seed=0,
        progress=not short,
    )
    ll[name] = ppvae.log_likelihood(vae, x_test, num_samples=20 if short else 500, seed=0)
    print(f"{name:26}", ll[name])

# %% [markdown]
# The test images are the same, so the models are compared in pairs: the difference has a smaller error than either
# value.

# %%
for name in list(ll)[1:]:
    difference = ll[name].values - ll["plane"].values
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    print(f"{name} - plane: {difference.mean():.2f} ± {error:.2f} nats per image")

# %% [markdown]
# ## The globe

# %%
z = ppvae.encode(vaes["sphere, von Mises-Fisher"], x_test)
print("all on the sphere:", np.allclose((z**2).sum(-1), 1, atol=1e-6))
figure = plotting.plot_latent(z, digits.test_labels, HypersphericalUniform(3).support)
figure.savefig(out / "02_globe.png")

# %% [markdown]
# Along a great circle the decoder comes back to where it began: the latent has no edge to fall off.

# %%
angle = torch.linspace(0, 2 * torch.pi, 13)[:-1]
circle = torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)], -1)
vae = vaes["sphere, von Mises-Fisher"]
with torch.no_grad():
    images = vae.decode(circle).mean
plotting.image_grid(images.numpy(), columns=12).savefig(out / "02_great_circle.png")
