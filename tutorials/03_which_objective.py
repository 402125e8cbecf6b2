# %% [markdown]
# # Which objective?
#
# One data set, one model, four objectives. The model is always
#
# $$p(z) = N(0, I) \text{ on } R^4, \qquad p(x \mid z) = \mathrm{Bernoulli}(f(z)), \qquad
# q(z \mid x) = N(\mu(x), \mathrm{diag}\, \sigma(x)^2),$$
#
# and what changes is the number that training makes large:
#
# | objective | for each datum |
# |---|---|
# | `ELBO()` | $E \log p(x \mid z) - KL(q(z \mid x), p(z))$, a lower bound of $\log p(x)$ |
# | `IWAE_ELBO(10)` | $E \log$ of the mean of 10 importance weights, a bound nearer to $\log p(x)$ |
# | `Beta_ELBO(2)` | $E \log p(x \mid z) - 2\, KL$ |
# | `InfoVAE_ELBO("mmd", alpha=0.9, lambda_=10)` | $E \log p(x \mid z) - 0.1\, KL - 9.9\, MMD^2(q(z), p(z))$ |
#
# Here $q(z)$ is the mean of $q(z \mid x)$ over the data. The KL looks at each datum by itself and is what its code
# costs in nats; the MMD looks at the codes of all data together, and asks only that they cover the prior.

# %%
import os
from pathlib import Path

import torch
from ppvae.models import GaussianVAE

import ppvae
from ppvae import plotting
from ppvae.infer import ELBO, IWAE_ELBO, Beta_ELBO, InfoVAE_ELBO, mmd
from ppvae.metrics import knn_accuracy
from ppvae.random import seeded

short = "PPVAE_SHORT" in os.environ  # what continuous integration runs; its numbers mean nothing
out = Path("runs/tutorials")
out.mkdir(parents=True, exist_ok=True)

digits = ppvae.data.load("digits")
x_train, x_valid, x_test = (
    ppvae.data.binarize(ppvae.data.scale(x, digits.maximum), how="threshold")
    for x in (digits.train, digits.validation, digits.test)
)
print(digits)

# %% [markdown]
# An objective is an object that is given to `fit`. Nothing in the model knows of it.

# %%
objectives = {
    "ELBO": ELBO(),
    "IWAE, 10": IWAE_ELBO(10),
    "beta 2": Beta_ELBO(2.0),
    "InfoVAE": InfoVAE_ELBO("mmd", alpha=0.9, lambda_=10),
}
vaes = {}
for name, objective in objectives.items():
    with seeded(0):  # the same initial weights for all
        vaes[name] = GaussianVAE(digits.shape, dim=4, hidden=(128, 64))
    fit = ppvae.fit(
        vaes[name],
        x_train,
        validation=x_valid,
        epochs=2 if short else 300,
        batch_size=64,
        objective=objective,
        patience=50,
        seed=0,
        progress=False,
    )
    print(f"{name:10} best epoch {fit.best_epoch} of {len(fit.history['epoch'])}")

# %% [markdown]
# ## Five questions to each
#
# * **log p(x)**: how probable are new digits under the model? By importance sampling with the encoder as proposal, with
#   the standard error over the test digits. Then the share of digits with Pareto k > 0.7, for which the encoder is
# too narrow a proposal: where it is large, the number is too low, and says little of the decoder.
# * **reconstruction**: E log p(x | z) of the test digits, in nats.
# * **KL**: what a code says of its digit beyond the prior, in nats.
# * **MMD²**: do the codes of all test digits together look like draws from the prior? Draws from the prior would have
#   0, give or take 0.001.
# * **class**: the share of test digits whose class is that of the nearest training codes.

# %%
print(f"{'':10} {'log p(x)':>16} {'k > 0.7':>8} {'reconstruction':>15} {'KL':>6} {'MMD²':>8} {'class':>6}")
for name, vae in vaes.items():
    ll = ppvae.log_likelihood(vae, x_test, num_samples=10 if short else 500, seed=0)
    bound, x = ELBO(), torch.from_numpy(x_test)
    with torch.no_grad(), seeded(0):
        model_trace, guide_trace = bound.traces(vae.model, vae.guide, x)
        terms = bound.terms(model_trace, guide_trace)
        prior = torch.randn(5000, 4)
    distance = mmd(prior, torch.as_tensor(guide_trace.nodes["z"]["value"])).item()
    right = knn_accuracy(ppvae.encode(vae, x_train), digits.train_labels, ppvae.encode(vae, x_test), digits.test_labels)
    print(
        f"{name:10} {ll.mean:8.2f} ± {ll.standard_error:5.2f} {(ll.pareto_k > 0.7).mean():8.0%} "
        f"{terms['reconstruction'] / len(x):15.2f} {terms['kl'] / len(x):6.2f} {distance:8.4f} {right:6.0%}"
    )

# %% [markdown]
# ## And a look
#
# The first two principal coordinates of the codes, and digits drawn from the prior.

# %%
for name, vae in vaes.items():
    plotting.plot_latent(ppvae.encode(vae, x_test), digits.test_labels).savefig(out / f"03_latent_{name}.png")
    plotting.image_grid(ppvae.generate(vae, 64, seed=0)).savefig(out / f"03_drawn_{name}.png")

# %% [markdown]
# ## What each buys
#
# * The **ELBO** trains an encoder that approximates the posterior, and pays for every nat in the code. It is the
#   objective to start from, and the one by which models are compared.
# * **IWAE** models the data a little better: its encoder need not be the posterior, only a good proposal. A step
#   costs as many decoder runs as it has particles.
# * **beta** above 1 buys short codes, of fewer and more separate factors, and pays with reconstruction and likelihood.
# * **InfoVAE** buys codes that say the most about their digit and still cover the prior together, so that one can
#   draw from it. Its encoder is far narrower than the posterior, so the likelihood here is not to be trusted: k says
#   so. With `alpha=1` the KL is gone, and the encoder may be deterministic (`WassersteinVAE`) or have no density at
#   all.
