# %% [markdown]
# # Can a VAE tell what a digit is from how it is turned?
#
# A VAE of images that come at any angle spends its latent on the angle. `MCEVAE` has a latent for each: z_c, which
# has clusters, says what is in the image; z says how this one differs from others of its cluster; and the turn is a
# point of the circle.
#
# $$p(x) = \int \mathrm{Bernoulli}\bigl(x \mid g(\tau) f(z_c, z)\bigr) \, p(z_c) \, p(z) \, p(\tau)$$
#
# The decoder draws a canonical image f, and the turn moves it. The data are 10,000 digits of MNIST where they are
# installed (`make mnist`), otherwise the 8 x 8 digits that come with the library, enlarged so that they can be turned.

# %%
import math
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from ppvae.models import MCEVAE, GaussianVAE
from pyro import poutine
from scipy.cluster.vq import kmeans2

import ppvae
from ppvae.distributions import center
from ppvae.infer import ELBO, EnumeratedELBO
from ppvae.manifolds import circle
from ppvae.metrics import circular_correlation, clustering_accuracy, invariance_error
from ppvae.nn import Clusters, NormalHead, PolarCanonicalizer, Pose
from ppvae.nn.actions import RandomSimilarity, rotate
from ppvae.train import Fit

short = "PPVAE_SHORT" in os.environ  # what continuous integration runs
out = Path("runs/tutorials")
out.mkdir(parents=True, exist_ok=True)

try:
    digits = ppvae.data.load("mnist")
except FileNotFoundError:
    digits = ppvae.data.load("digits")


def prepared(x: np.ndarray) -> torch.Tensor:
    """Grey values in [0, 1]; small images are enlarged, and get a margin to be turned in."""
    grey = torch.tensor(ppvae.data.scale(x, digits.maximum))
    return grey if grey.shape[-1] > 8 else F.pad(F.interpolate(grey, size=(12, 12), mode="bilinear"), (2, 2, 2, 2))


move = RandomSimilarity()  # any angle


def turned(x: torch.Tensor) -> torch.Tensor:
    return torch.bernoulli(move(x))


x_train, x_test = prepared(digits.train[: 300 if short else 10_000]), prepared(digits.test[:1000])
labels = digits.test_labels[:1000]
shape = tuple(x_train.shape[1:])

# %% [markdown]
# Nothing in the model keeps z and z_c from knowing the angle. A canonicalizer does: it finds a direction that turns
# with the image, by its build and not by training, and the image is turned back before it is encoded. What it finds
# to be upright is learned.
#
# A digit and the same upside down are alike to a guide that has just begun, and no small step leads from the one to the
# other. So the canonicalizer proposes two opposite directions, and the objective weighs both by how well they explain
# the image.
#
# Clusters that learn from scratch together with the latent are often left unused. So they are put, half way through,
# where k-means finds some in z_c.

# %%
torch.manual_seed(0)
clusters = Clusters(dim=10, clusters=10, head=NormalHead(10))
canonicalizer = PolarCanonicalizer(shape, directions=2)
vae = MCEVAE(shape, dim=3, clusters=clusters, pose=Pose(directions=2), canonicalizer=canonicalizer)
plain = GaussianVAE(shape, dim=13)
epochs = 2 if short else 480_000 // len(x_train)


def place(fit: Fit) -> None:
    if fit.epochs == epochs // 2:
        with torch.no_grad():
            z_c = poutine.trace(vae.guide).get_trace(turned(x_train)).nodes["z_c"]
        vae.clusters.place(z_c["value"], kmeans2(center(z_c["fn"]).numpy(), 10, minit="++", seed=0)[1])


for model, objective, callbacks in ((vae, EnumeratedELBO(), [place]), (plain, ELBO(), [])):
    fit = ppvae.fit(
        model,
        x_train,
        transform=turned,
        objective=objective,
        epochs=epochs,
        warmup=epochs / 8,
        callbacks=callbacks,
        seed=0,
        progress=not short,
    )
    print(type(model).__name__, fit)

# %% [markdown]
# The same test digits at two angles: how much does a code change, in units of what it varies over the digits? 0 is
# nothing, 1 is all.

# %%
n = len(x_test)
generator = torch.Generator().manual_seed(0)
t = 2 * math.pi * torch.rand(2, n, generator=generator)
a, b = (rotate(x_test, circle.exp(angle)).clamp(0, 1) for angle in t)
code, other = ppvae.encode(vae, a.numpy()), ppvae.encode(vae, b.numpy())
print("invariance error of z_c:", round(invariance_error(code["z_c"], other["z_c"]), 3))
print("of the Gaussian VAE's z:", round(invariance_error(*(ppvae.encode(plain, x.numpy()) for x in (a, b))), 3))

turn, turn_other = (np.arctan2(e["turn"][:, 1], e["turn"][:, 0]) for e in (code, other))
print("correlation of the change of the turn with the change of the angle:",
      round(circular_correlation(turn_other - turn, (t[1] - t[0]).numpy()), 3))  # fmt: skip

with torch.no_grad():
    cluster = vae.clusters.law.cluster_probs(torch.tensor(code["z_c"])).argmax(-1).numpy()
print("clustering accuracy, no label seen in training:", round(clustering_accuracy(cluster, labels), 3))

# %% [markdown]
# The picture that says it: turned digits, and below each its canonical image, drawn by the decoder before it is
# turned. Every digit stands as others of its kind do; which way that is, the model chose.

# %%
from ppvae import plotting


def canonical(z_c: torch.Tensor, z: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return vae.likelihood(vae.decoder(torch.cat([z_c, z], -1)), len(shape)).mean.numpy()


first = np.concatenate([np.flatnonzero(labels == digit)[:1] for digit in range(10)])
rows = [a[first].numpy(), canonical(*(torch.tensor(code[name][first]) for name in ("z_c", "z")))]
rows += [b[first].numpy(), canonical(*(torch.tensor(other[name][first]) for name in ("z_c", "z")))]
figure = plotting.image_grid(np.concatenate(rows), columns=10)
figure.axes[0].set_title("turned digits, below them their canonical images; the same at another angle", fontsize=9)
figure.savefig(out / "05_canonical.png")

# %% [markdown]
# One digit drawn all around the circle: the turn is a latent of its own, and everything else stays as it is.

# %%
around = circle.exp(2 * math.pi * torch.arange(12) / 12)
with torch.no_grad():
    f = vae.decoder(torch.tensor(np.concatenate([code["z_c"], code["z"]], 1)[first[[2, 4, 7]]]))
    drawn = vae.likelihood(rotate(f.unsqueeze(1), around, vae.background), len(shape)).mean.flatten(0, 1)
figure = plotting.image_grid(drawn.numpy(), columns=12)
figure.axes[0].set_title("three digits, drawn every 30 degrees", fontsize=9)
figure.savefig(out / "05_around.png")

# %% [markdown]
# And the prototypes: the decoder at the mean of each cluster.

# %%
law = vae.clusters.law
with torch.no_grad():
    order = law.probs.argsort(descending=True)
    figure = plotting.image_grid(canonical(law.loc[order], torch.zeros(10, 3)), columns=5)
figure.axes[0].set_title("means of the ten clusters, the largest first", fontsize=9)
figure.savefig(out / "05_prototypes.png")
print("weights of the clusters:", law.probs[order].detach().numpy().round(2))
