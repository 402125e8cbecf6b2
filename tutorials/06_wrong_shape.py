# %% [markdown]
# # What goes wrong when the latent space has the wrong shape?
#
# The data are views of one cube, each in another orientation R. All orientations together are the rotation group
# SO(3): a closed space of dimension 3, without boundary, in which a full turn comes back to where it began.
#
# A Gaussian latent of dimension 3 counts the dimensions right and has the wrong shape. A continuous encoder that tells
# all orientations apart would put a copy of SO(3) into R^3, and there is none: no closed space of dimension 3 fits into
# R^3. So the encoder must give something up. Either two orientations share a latent, or neighbours are torn apart.
# With z in SO(3) nothing has to give, if training finds the way.

# %%
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from ppvae.models import SO3VAE, GaussianVAE

import ppvae
from ppvae import plotting
from ppvae.arrays import seeded
from ppvae.data.render import cube, render
from ppvae.distributions import SO3Uniform
from ppvae.manifolds import SO3, rotation
from ppvae.metrics import closed_geodesics, discontinuity, rotation_class
from ppvae.nn import MLP, NormalLikelihood

short = "PPVAE_SHORT" in os.environ  # what continuous integration runs; its numbers and pictures mean nothing
out = Path("runs/tutorials")
out.mkdir(parents=True, exist_ok=True)

n, side, epochs = (200, 8, 2) if short else (6000, 16, 24)
with seeded(0):
    x, x_valid, x_test = (render(cube(), SO3Uniform().sample((m,)), side).numpy() for m in (n, 500, 200))
plotting.image_grid(x[:40], columns=10).savefig(out / "06_cubes.png")

# %% [markdown]
# ## Two latents
#
# Same data, same likelihood, networks of the same size. Gaussian-3 first.

# %%
shape, noise = x.shape[1:], 0.15
options: dict[str, Any] = {"validation": x_valid, "batch_size": 64, "seed": 0, "progress": False}
with seeded(0):
    gaussian = GaussianVAE(shape, 3, hidden=(200, 100), likelihood=NormalLikelihood(noise))
ppvae.fit(gaussian, x, epochs=epochs, **options)

# %% [markdown]
# The rotations in two steps. A deep decoder can match a view by many wrong orientations, each a local optimum, and an
# encoder that starts at random falls into several of them at once, with tears between. A decoder that is linear in the
# nine entries of z has fewer, of coarse pictures. Its encoder is then the start for the deep decoder.

# %%
with seeded(0):
    coarse = SO3VAE(shape, hidden=(200, 100), decoder=MLP((3, 3), shape, ()), likelihood=NormalLikelihood(2 * noise))
    rotations = SO3VAE(shape, degree=3, copies=6, hidden=(200, 100), likelihood=NormalLikelihood(noise))
ppvae.fit(coarse, x, epochs=epochs // 3 or 1, **options)
rotations.encoder.load_state_dict(coarse.encoder.state_dict())
rotations.encoder.requires_grad_(False)  # until the new decoder has something to say
ppvae.fit(rotations, x, epochs=epochs // 6 or 1, **options)
rotations.encoder.requires_grad_(True)
ppvae.fit(rotations, x, epochs=epochs // 2, **options)

# %% [markdown]
# ## A full turn
#
# Turn the cube once, by 2 pi in 400 small steps, and encode each view. The views come back to the first one. Do the
# latents move as evenly as the cube does? The discontinuity is the largest step over the mean step: 1 is even motion,
# 400 is one jump and nothing else.

# %%
turns = closed_geodesics(10, 400)
views = render(cube(), turns.reshape(-1, 3, 3), side).numpy()
z = {"Gaussian-3": ppvae.encode(gaussian, views).reshape(10, 400, 3)}
z["SO(3)"] = ppvae.encode(rotations, views).reshape(10, 400, 3, 3)
distance = {"Gaussian-3": lambda a, b: (a - b).norm(dim=-1), "SO(3)": SO3().dist}
torn = {name: discontinuity(loops, distance[name], loops.ndim - 2) for name, loops in z.items()}
for name, vae in {"Gaussian-3": gaussian, "SO(3)": rotations}.items():
    ll = ppvae.log_likelihood(vae, x_test, num_samples=20 if short else 500, seed=0)
    print(f"{name:10}  log p(x) {ll.mean:7.1f} ± {ll.standard_error:.1f}   discontinuity of ten turns "
          f"{np.sort(torn[name]).round(1)}")  # fmt: skip
print(
    "class of each turn in SO(3), 1 where it cannot be shrunk to a point, nan where torn:", rotation_class(z["SO(3)"])
)

# %% [markdown]
# A space of the right shape does not make the encoder a homeomorphism: it only allows it. A homeomorphism sends each of
# these turns to a loop of class 1, and with these few images and epochs all ten are of class 0: the encoder tells which
# side of the cube it sees, and not yet how that side is turned. On the smaller problem of docs/results/rotations.md,
# where the object is known to be a function of low degree, training does arrive.
#
# The turn on which the Gaussian encoder is torn worst: latents coloured by the angle of the cube, and the steps between
# neighbours. In the ball of rotation vectors a path that leaves at the surface comes in on the opposite side; that is
# no tear, since both points are one rotation.

# %%
worst = int(torn["Gaussian-3"].argmax())
angle = 2 * np.pi * np.arange(400) / 400
plotting.plot_latent(z["Gaussian-3"][worst], angle).savefig(out / "06_turn_gaussian.png")
plotting.plot_latent(z["SO(3)"][worst], angle, rotation).savefig(out / "06_turn_rotations.png")

figure = Figure(figsize=(7, 3), layout="constrained")
axes = figure.subplots()
for name, loops in z.items():
    here = torch.tensor(loops[worst])
    steps = distance[name](here, here.roll(-1, 0)).numpy()
    axes.semilogy(angle, steps / steps.mean(), label=name)
axes.set(xlabel="angle of the cube (radians)", ylabel="step / mean step")
axes.legend(frameon=False)
figure.savefig(out / "06_steps.png")

# %% [markdown]
# The pictures on the way across the largest step of the Gaussian encoder: there is hardly a turn of the cube between
# the two views. On SO(3) the way is the geodesic between the two latents, and every point on it is a rotation.

# %%
i = int((distance["Gaussian-3"](*(torch.tensor(np.roll(z["Gaussian-3"][worst], -k, 0)) for k in (0, 1)))).argmax())
j = (i + 1) % 400
s = torch.linspace(0, 1, 9)
rows = {"views": views.reshape(10, 400, *shape)[worst, np.linspace(i, i + 1, 9).round().astype(int) % 400]}
with torch.no_grad():
    a, b = (torch.tensor(z["Gaussian-3"][worst, k]) for k in (i, j))
    rows["Gaussian-3"] = gaussian.decode(a + s[:, None] * (b - a)).mean.numpy()
    a, b = (torch.tensor(z["SO(3)"][worst, k]) for k in (i, j))
    between = SO3().expmap(a.expand(9, 3, 3), s[:, None, None] * SO3().logmap(a, b))
    rows["SO(3)"] = rotations.decode(between).mean.numpy()
plotting.image_rows(rows).savefig(out / "06_across_the_tear.png")
