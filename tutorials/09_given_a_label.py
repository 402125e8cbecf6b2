# %% [markdown]
# # What is left when the class is known?
#
# Digits and their classes. A VAE that is not told the class must say it in its latent; one that is told,
#
# $$p(z) = N(0, I) \text{ on } R^2, \qquad p(x \mid z, y) = \mathrm{Bernoulli}(f(z, y)), \qquad
# q(z \mid x, y) = N(\mu(x, y), \mathrm{diag}\, \sigma(x, y)^2),$$
#
# has the latent for all else: slant, width, weight. So one digit's style can be had in all classes, and, since
# $p(x \mid y)$ is a likelihood, the class of a new digit follows by Bayes' rule.

# %%
import os
from pathlib import Path
from typing import Any

import numpy as np
from ppvae.models import ConditionalVAE, GaussianVAE

import ppvae
from ppvae import plotting
from ppvae.metrics import knn_accuracy
from ppvae.nn import OneHotCondition
from ppvae.random import seeded
from ppvae.transforms import DynamicBinarization

short = "PPVAE_SHORT" in os.environ  # what continuous integration runs; its numbers mean nothing
out = Path("runs/tutorials")
out.mkdir(parents=True, exist_ok=True)

digits = ppvae.data.load("digits")
x_train, x_valid, x_test = (ppvae.data.scale(x, digits.maximum) for x in (digits.train, digits.validation, digits.test))
y_train, y_valid, y_test = (np.asarray(y) for y in (digits.train_labels, digits.validation_labels, digits.test_labels))
settings: dict[str, Any] = {"epochs": 2 if short else 100, "batch_size": 64, "seed": 0, "progress": False}

# %% [markdown]
# What the model is given comes after x in a tuple, in training and in every question to the model.

# %%
with seeded(0):
    told = ConditionalVAE(digits.shape, dim=2, condition=OneHotCondition(10))
    untold = GaussianVAE(digits.shape, dim=2)
transform = DynamicBinarization()
ppvae.fit(told, (x_train, y_train), validation=(x_valid, y_valid), transform=transform, **settings)
ppvae.fit(untold, x_train, validation=x_valid, transform=transform, **settings)

x_test = ppvae.data.binarize(x_test, rng=0)
samples = 20 if short else 500
ll = ppvae.log_likelihood(told, x_test, y_test, num_samples=samples, seed=0)
print("told  ", ll)
print("untold", ppvae.log_likelihood(untold, x_test, num_samples=samples, seed=0))

# %% [markdown]
# The two numbers are not of one kind: $\log p(x \mid y)$ is of a digit whose class came free, and the class of one of
# ten is worth at most $\log 10 = 2.3$ nats. Is the class gone from the latent? If so its neighbours there say no more
# of it than chance, 10%.

# %%
x_seen = ppvae.data.binarize(x_train, rng=1)
codes = {
    "told": (ppvae.encode(told, x_seen, y_train), ppvae.encode(told, x_test, y_test)),
    "untold": (ppvae.encode(untold, x_seen), ppvae.encode(untold, x_test)),
}
for name, (z_train, z_test) in codes.items():
    print(f"{name:7} class of the nearest codes is right: {knn_accuracy(z_train, y_train, z_test, y_test):.1%}")

# %% [markdown]
# ## A style in all classes
#
# Each row is a digit (left), and its latent decoded with every class.

# %%
rows = [int(np.flatnonzero(y_test == k)[0]) for k in range(0, 10, 2)]
z = ppvae.encode(told, x_test[rows], y_test[rows])
classes = np.tile(np.arange(10), len(rows))
moved = ppvae.decode(told, np.repeat(z, 10, 0), classes).reshape(len(rows), 10, *digits.shape)
picture = np.concatenate([x_test[rows][:, None], moved], 1).reshape(-1, *digits.shape)
(out / "09_style.png").write_bytes(plotting.png(plotting.image_grid(picture, columns=11)))

# %% [markdown]
# ## The class of a new digit
#
# $p(y \mid x) \propto p(x \mid y) p(y)$, with the likelihood by importance sampling for each of the ten classes.

# %%
n = 50 if short else len(x_test)
evidence = np.stack(
    [ppvae.log_likelihood(told, x_test[:n], np.full(n, k), num_samples=100, seed=0).values for k in range(10)], 1
)
log_p = evidence - np.log(np.exp(evidence - evidence.max(1, keepdims=True)).sum(1, keepdims=True))
log_p -= evidence.max(1, keepdims=True)
right = evidence.argmax(1) == y_test[:n]
print(f"class by Bayes' rule: {right.mean():.1%} of {n} right (standard error {right.std() / n**0.5:.1%})")
surest = log_p.max(1) >= np.median(log_p.max(1))
print(f"of the half that it is surest of: {right[surest].mean():.1%} right")
