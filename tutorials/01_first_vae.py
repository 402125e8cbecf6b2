# %% [markdown]
# # How do I train a VAE on my own array, and how good is it?
#
# A variational auto-encoder is a pair of Pyro programs: a model p(x, z) = p(x | z) p(z) and a guide q(z | x).
# Training raises the evidence lower bound
#
# $$\mathrm{ELBO}(x) = E_{q(z|x)}[\log p(x \mid z)] - \mathrm{KL}(q(z \mid x) \,\|\, p(z)) \le \log p(x).$$
#
# The data are the 1,797 handwritten digits that come with the library, 8 x 8 pixels with values 0 to 16.

# %%
import os
from pathlib import Path

import numpy as np
from ppvae.models import GaussianVAE

import ppvae
from ppvae.transforms import DynamicBinarization

short = "PPVAE_SHORT" in os.environ  # what continuous integration runs
out = Path("runs/tutorials")
out.mkdir(parents=True, exist_ok=True)

digits = ppvae.data.load("digits")
print(digits)
print(digits.split)

# %% [markdown]
# A Bernoulli likelihood wants black and white pixels. Grey values become probabilities (`scale`), and pixels are
# drawn from them (`binarize`): for the training data anew in every step, which `fit` does on request, for the test
# data once, so that every model is tested on the same images.

# %%
x_train, x_valid, x_test = (ppvae.data.scale(x, digits.maximum) for x in (digits.train, digits.validation, digits.test))
x_test = ppvae.data.binarize(x_test, rng=0)

vae = GaussianVAE(shape=digits.shape, dim=2)
fit = ppvae.fit(
    vae,
    x_train,
    validation=x_valid,
    transform=DynamicBinarization(),
    epochs=3 if short else 100,
    seed=0,
    progress=not short,
)
print(fit)

# %% [markdown]
# `vae` holds the weights of the best epoch. The history has the ELBO and its two parts, in nats per image.

# %%
from ppvae import plotting

figure = plotting.learning_curves({"GaussianVAE": fit.history})
figure.savefig(out / "01_history.png")

# %% [markdown]
# `encode` is the centre of the guide: it is deterministic. `reconstruct` decodes it, `generate` decodes draws from
# the prior.

# %%
z = ppvae.encode(vae, x_test)
print("latents", z.shape)
plotting.image_grid(np.concatenate([x_test[:10], ppvae.reconstruct(vae, x_test[:10])]), columns=10).savefig(
    out / "01_reconstructions.png"
)
plotting.image_grid(ppvae.generate(vae, 40, seed=0), columns=10).savefig(out / "01_samples.png")

# %% [markdown]
# The ELBO is a lower bound; importance sampling with the guide as proposal comes closer to log p(x), and says how far
# it is to be trusted: a Monte Carlo error and an effective sample size for each image, and Pareto k-hat, above 0.7
# where the guide is too narrow.

# %%
ll = ppvae.log_likelihood(vae, x_test, num_samples=50 if short else 500, seed=0)
print(ll)
print("worst image:", ll.values.argmin(), "with", ll.values.min().round(1), "nats")

# %% [markdown]
# Saved models are safetensors files: no pickle, nothing is run when they are read.

# %%
ppvae.save(vae, out / "digits.safetensors")
again = ppvae.load(out / "digits.safetensors")
assert (ppvae.encode(again, x_test) == z).all()

# %% [markdown]
# The pair is plain Pyro. Anything that takes a model and a guide takes these.

# %%
import pyro
import torch
from pyro.infer import SVI, Trace_ELBO

pyro.clear_param_store()
svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-4}), Trace_ELBO())
print("one step of plain SVI, loss per image:", svi.step(torch.tensor(x_test[:100])) / 100)
