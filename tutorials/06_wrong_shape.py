# %% [markdown]
# # What goes wrong when the latent space has the wrong shape?
#
# The data are views of one painted ball, each in another orientation R. All orientations together are the rotation
# group SO(3): a closed space of dimension 3, without boundary, in which a full turn comes back to where it began.
#
# A Gaussian latent of dimension 3 counts the dimensions right and has the wrong shape. A continuous encoder that tells
# all orientations apart would put a copy of SO(3) into R^3, and there is none: no closed space of dimension 3 fits into
# R^3. So the encoder must give something up. Either two orientations share a latent, or neighbours are torn apart.
# With z in SO(3) nothing has to give.

# %%
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from ppvae.models import SO3VAE, GaussianVAE
from torch import Tensor, nn

import ppvae
from ppvae import plotting
from ppvae.distributions import SO3Uniform
from ppvae.manifolds import SO3, rotation, so3
from ppvae.metrics import automorphism, closed_geodesics, discontinuity, equivariance_error, rotation_class
from ppvae.nn import ActionDecoder, NormalLikelihood, Polar, SO3NormalHead, spherical_harmonics
from ppvae.random import seeded

short = "PPVAE_SHORT" in os.environ  # what continuous integration runs; its numbers and pictures mean nothing
out = Path("runs/tutorials")
out.mkdir(parents=True, exist_ok=True)
n, side, epochs = (200, 8, (1, 1)) if short else (4000, 16, (16, 24))

# %% [markdown]
# ## The ball and its camera
#
# The paint is a function on the sphere, f = sum_lm F_lm Y_lm up to degree 3, one for each of the three colours. On the
# ball turned by R it is f(R^-1 p) at the point p, which is again such a function, with the coefficients D(R) F. The
# camera looks along the z-axis: its pixel (x, y) sees the point p = (x, y, sqrt(1 - x^2 - y^2)), so that it reads
#
#     x_hat(p) = sum_lm Y_lm(p) (D(R) F)_lm


# %%
class Camera(nn.Module):
    """From coefficients of three colours, (..., (L + 1)^2 * 3), to pictures of the ball, (..., 3, side, side)."""

    def __init__(self, degree: int):
        super().__init__()
        ticks = (torch.arange(side) + 0.5) / side * 2 - 1
        y, x = torch.meshgrid(-ticks, ticks, indexing="ij")
        inside = x**2 + y**2 < 1
        p = torch.stack([x, y, (1 - x**2 - y**2).clamp(min=0).sqrt()], -1)
        Y = torch.cat(spherical_harmonics(degree, p), -1)
        self.register_buffer("Y", torch.where(inside.unsqueeze(-1), Y, 0.0))

    def forward(self, coefficients: Tensor) -> Tensor:
        return torch.einsum("hwk,...kc->...chw", self.Y, coefficients.unflatten(-1, (-1, 3)))


with seeded(11):
    size = torch.tensor([0.0, *[0.3] * 3, *[0.2] * 5, *[0.15] * 7])  # of the coefficients: fine paint is fainter
    paint = torch.randn(16, 3) * size.unsqueeze(-1)
    paint[0] = 0.5 * (4 * torch.pi) ** 0.5  # grey, by Y_0 = (4 pi)^(-1/2)
ball = ActionDecoder(Camera(3), degree=3, copies=3).requires_grad_(False)
ball.spectrum.copy_(paint)
with seeded(0):
    x, x_valid, x_test = (ball(SO3Uniform().sample((m,))).numpy() for m in (n, 500, 200))
plotting.image_grid(x[:40].clip(0, 1), columns=10).savefig(out / "06_balls.png")

# %% [markdown]
# ## Two latents
#
# Same data, same likelihood, same encoder. Gaussian-3 first.

# %%
shape, noise = x.shape[1:], 0.15
options: dict[str, Any] = {"validation": x_valid, "batch_size": 64, "lr": 4e-3, "seed": 0, "progress": False}
with seeded(0):
    gaussian = GaussianVAE(shape, 3, hidden=(200, 100), likelihood=NormalLikelihood(noise))
ppvae.fit(gaussian, x, epochs=sum(epochs), **options)

# %% [markdown]
# The decoder of the rotations knows the camera, and learns the paint. It is trained from coarse to fine: paint of
# degree 1 alone has one best rotation for each view, so that the gradient leads there from everywhere, whereas fine
# paint can be matched by many wrong rotations, each a local optimum, and an encoder falls into several of them with
# tears between. One choice is left to chance: paint of degree 1 is a 3 x 3 matrix, and where its determinant has the
# wrong sign the ball is learned as its mirror image, which no rotation undoes. So both signs are tried, and the better
# ELBO is kept.
#
# The projection of a 3 x 3 matrix to the nearest rotation (`Polar`) is a continuous map that covers all of SO(3).


# %%
def rotation_vae(degree: int, sigma: float) -> SO3VAE:
    decoder = ActionDecoder(Camera(degree), degree, copies=3)
    head = SO3NormalHead(Polar())
    return SO3VAE(shape, hidden=(200, 100), decoder=decoder, likelihood=NormalLikelihood(sigma), head=head)


starts: list[tuple[float, SO3VAE]] = []
for sign in (1, -1):
    with seeded(0):
        coarse = rotation_vae(1, 2 * noise)
    with torch.no_grad():
        coarse.decoder.module.spectrum[1:] *= sign
    starts.append((ppvae.fit(coarse, x, epochs=epochs[0], **options).best["valid_elbo"], coarse))
    print(f"sign {sign:+}: validation ELBO {starts[-1][0]:.1f} nats")
coarse = max(starts)[1]

with seeded(0):
    rotations = rotation_vae(3, noise)
rotations.encoder.load_state_dict(coarse.encoder.state_dict())
with torch.no_grad():
    rotations.decoder.module.spectrum.zero_()[:4] = coarse.decoder.module.spectrum
ppvae.fit(rotations, x, epochs=epochs[1], **options)

# %% [markdown]
# ## A full turn
#
# Turn the ball once, by 2 pi in 400 small steps, and encode each view; ten times, about ten axes. The views come back
# to the first one. Do the latents move as evenly as the ball does? The discontinuity is the largest step over the mean
# step: 1 is even motion, 400 is one jump and nothing else.

# %%
turns = torch.tensor(closed_geodesics(10, 400), dtype=torch.float32)
views = ball(turns.reshape(-1, 3, 3)).numpy()
z = {"Gaussian-3": ppvae.encode(gaussian, views).reshape(10, 400, 3)}
z["SO(3)"] = ppvae.encode(rotations, views).reshape(10, 400, 3, 3)
distance = {"Gaussian-3": lambda a, b: (a - b).norm(dim=-1), "SO(3)": SO3().dist}
torn = {name: discontinuity(loops, distance[name], loops.ndim - 2) for name, loops in z.items()}
for name, vae in {"Gaussian-3": gaussian, "SO(3)": rotations}.items():
    ll = ppvae.log_likelihood(vae, x_test, num_samples=20 if short else 500, seed=0)
    print(f"{name:10}  log p(x) {ll.mean:7.1f} ± {ll.standard_error:.1f}   discontinuity of ten turns "
          f"{np.sort(torn[name]).round(1)}")  # fmt: skip

# %% [markdown]
# A homeomorphism sends each of these turns to a loop of class 1, one that no deformation shrinks to a point. And it
# should turn as the ball does: the angle between enc(g x) and g enc(x), over random x and g, is 2.2 radians by chance.

# %%
with seeded(1):
    r, g = (SO3Uniform().sample((500,)) for _ in range(2))
before, after = (ppvae.encode(rotations, ball(s).numpy()) for s in (r, so3.compose(g, r)))
turned = g.double().numpy()
frame = automorphism(before, after, turned)
print("class of each turn in SO(3), nan where torn:", rotation_class(z["SO(3)"]))
print(f"equivariance error {equivariance_error(before, after, turned).mean():.2f} rad, in the latent's own frame "
      f"{equivariance_error(before, after, frame @ turned @ frame.T).mean():.2f} rad")  # fmt: skip

# %% [markdown]
# The turn on which the Gaussian encoder is torn worst: latents coloured by the angle of the ball, and the steps between
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
axes.set(xlabel="angle of the ball (radians)", ylabel="step / mean step")
axes.legend(frameon=False)
figure.savefig(out / "06_steps.png")

# %% [markdown]
# The pictures on the way across the largest step of the Gaussian encoder: there is hardly a turn of the ball between
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
plotting.image_rows({name: row.clip(0, 1) for name, row in rows.items()}).savefig(out / "06_across_the_tear.png")
