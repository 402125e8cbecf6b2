"""Views of a coloured cube: does an image VAE find the rotations? Four rows.

RGB views of a cube in uniformly random orientation (ppvae.data.render), likelihood N(f(z), 0.15^2) in every row, Adam,
learning rate 1e-3. On a GPU 64 x 64 pixels, 20,000 images and 150 epochs; without one 32 x 32 pixels, 3,000 images and
24 epochs, which is too short for good pictures and for a homeomorphism, and says so in the results.

Rotation latents are trained coarse to fine: for the first third of the epochs the decoder is linear in the nine entries
of z, with noise 0.3. Then the full decoder is trained alone for a sixth of the epochs, and together with the encoder
for the rest. The Gaussian has all epochs at once.

Columns as in so3_toy.py; the equivariance error is that of the best inner automorphism, as a deep decoder is free to
choose the frame of the cube's turns; g and x are drawn anew.

    python benchmarks/cube.py            # all four rows
    python benchmarks/cube.py --table    # the table, from the results

Reference: Explorations in Homeomorphic Variational Auto-Encoding (Falorsi et al., 2018), https://arxiv.org/abs/1807.04689
"""

import argparse
import json
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch
from ppvae.models import SO3VAE, GaussianVAE
from torch import nn

import ppvae
from ppvae.data.render import cube, render
from ppvae.distributions import SO3Uniform
from ppvae.manifolds import SO3, so3
from ppvae.metrics import automorphism, closed_geodesics, discontinuity, equivariance_error, rotation_class
from ppvae.nn import MLP, S2S2, ActionDecoder, NormalLikelihood, Quaternion, SO3NormalHead
from ppvae.vae import VAE

RESULTS = Path(__file__).parent / "results" / "cube.json"
ROWS = [("S2S2", "action"), ("S2S2", "MLP"), ("quaternion", "action"), ("Gaussian-3", "MLP")]
GPU = {"side": 64, "train": 20_000, "epochs": 150, "batch": 64, "width": 32, "importance_samples": 500}
CPU = {"side": 32, "train": 3_000, "epochs": 24, "batch": 64, "width": 8, "importance_samples": 200}


def encoder(side: int, features: int, width: int) -> nn.Module:
    """Convolutions to 4 x 4, each of stride 2, their channels doubling."""
    layers: list[nn.Module] = []
    channels = 3
    while side > 4:
        layers += [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        side, channels, width = side // 2, width, 2 * width
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(16 * channels, 128), nn.LeakyReLU(0.2), nn.Linear(128, features)
    )


def deconvolutions(side: int, features: int, width: int) -> nn.Module:
    """The encoder in reverse."""
    channels = width * side // 8
    layers: list[nn.Module] = [nn.Linear(features, 16 * channels), nn.Unflatten(-1, (channels, 4, 4))]
    while channels > width:
        layers += [nn.LeakyReLU(0.2), nn.ConvTranspose2d(channels, channels // 2, 4, 2, 1)]
        channels //= 2
    return nn.Sequential(*layers, nn.LeakyReLU(0.2), nn.ConvTranspose2d(channels, 3, 4, 2, 1))


def train(row: tuple[str, str], x: torch.Tensor, valid: torch.Tensor, size: dict, device: str) -> tuple[VAE, dict]:
    shape, side, width, epochs = x.shape[1:], size["side"], size["width"], size["epochs"]
    options = {"validation": valid, "batch_size": size["batch"], "seed": 0, "device": device, "progress": False}
    noise = NormalLikelihood(0.15)
    torch.manual_seed(0)
    if row[0] == "Gaussian-3":
        vae: VAE = GaussianVAE(
            shape, 3, encoder=encoder(side, 6, width), decoder=deconvolutions(side, 3, width), likelihood=noise
        )
        return vae, ppvae.fit(vae, x, epochs=epochs, **options).best
    head = SO3NormalHead(S2S2() if row[0] == "S2S2" else Quaternion())
    linear = MLP((3, 3), tuple(shape), ())
    network = encoder(side, head.features, width)
    coarse = SO3VAE(shape, encoder=network, decoder=linear, likelihood=NormalLikelihood(0.3), head=head)
    ppvae.fit(coarse, x, epochs=epochs // 3, **options)
    if row[1] == "action":
        decoder: nn.Module = ActionDecoder(deconvolutions(side, 160, width), degree=3, copies=10)
    else:
        decoder = nn.Sequential(MLP((3, 3), (160,), (160,)), nn.LeakyReLU(0.2), deconvolutions(side, 160, width))
    vae = SO3VAE(shape, encoder=network, decoder=decoder, likelihood=noise, head=head)
    network.requires_grad_(False)
    ppvae.fit(vae, x, epochs=epochs // 6, **options)
    network.requires_grad_(True)
    return vae, ppvae.fit(vae, x, epochs=epochs - epochs // 3 - epochs // 6, **options).best


def evaluate(vae: VAE, size: dict, device: str) -> dict:
    def views(r: torch.Tensor) -> torch.Tensor:
        return render(cube().to(device), r, size["side"])

    torch.manual_seed(1)
    loops = torch.tensor(closed_geodesics(10, 500))
    z = ppvae.encode(vae, views(loops.flatten(0, 1)).cpu().numpy()).reshape(10, 500, -1)
    r, g = (SO3Uniform().sample((500,)) for _ in range(2))
    ll = ppvae.log_likelihood(vae, views(r[:200]).cpu().numpy(), num_samples=size["importance_samples"], seed=0)
    found = {"log_likelihood": ll.mean, "standard_error": ll.standard_error, "ess_median": float(np.median(ll.ess))}
    if z.shape[-1] != 9:
        steps = discontinuity(z, lambda a, b: (a - b).norm(dim=-1))
        return {**found, "discontinuity": float(steps.max()), "discontinuity_median": float(np.median(steps))}
    z = z.reshape(10, 500, 3, 3)
    steps, classes = discontinuity(z, SO3().dist, 2), rotation_class(z)
    before, after = (ppvae.encode(vae, views(s).cpu().numpy()) for s in (r, so3.compose(g, r)))
    s, turned = automorphism(before, after, g), g.double().numpy()
    return {
        **found,
        "discontinuity": float(steps.max()),
        "discontinuity_median": float(np.median(steps)),
        "loops_of_class_1": int((classes == 1).sum()),
        "loops_torn": int(np.isnan(classes).sum()),
        "equivariance": float(equivariance_error(before, after, turned).mean()),
        "equivariance_own_frame": float(equivariance_error(before, after, s @ turned @ s.T).mean()),
    }


def table(results: dict) -> str:
    lines = [
        results["note"],
        "",
        "| encoder | decoder | LL | reconstruction | KL | discontinuity, median | largest | loops of class 1 | "
        "equivariance, own frame |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results["runs"]:
        rotations = [
            f"{r[k]:.{d}f}" if k in r else "" for k, d in (("loops_of_class_1", 0), ("equivariance_own_frame", 2))
        ]
        numbers = [
            f"{r[k]:.1f}" for k in ("log_likelihood", "reconstruction", "kl", "discontinuity_median", "discontinuity")
        ]
        lines.append(f"| {r['encoder']} | {r['decoder']} | {' | '.join([*numbers, *rotations])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--table", action="store_true", help="print the table of the results and run nothing")
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(RESULTS.read_text())))
        return
    size = GPU if args.device.startswith("cuda") else CPU
    if size is CPU:
        torch.set_num_threads(1)
    torch.manual_seed(0)
    parts = []
    for n in (size["train"], 500):
        parts.append(render(cube().to(args.device), SO3Uniform().sample((n,)), size["side"]))
    shortened = "; shortened, for want of a GPU" if size is CPU else ""
    results: dict = {
        "command": "python " + " ".join(["benchmarks/cube.py", *sys.argv[1:]]),
        "note": f"{size['side']} x {size['side']} pixels, {size['train']} images, {size['epochs']} epochs{shortened}.",
        "settings": size,
        "machine": {"python": platform.python_version(), "torch": torch.__version__, "device": args.device},
        "runs": [],
    }
    for row in ROWS:
        start = time.process_time()
        vae, best = train(row, parts[0], parts[1], size, args.device)
        run = {"encoder": row[0], "decoder": row[1], "seed": 0}
        run |= {name: best[f"valid_{name}"] for name in ("reconstruction", "kl")} | evaluate(vae, size, args.device)
        results["runs"].append({**run, "seconds": time.process_time() - start})
        print(results["runs"][-1], flush=True)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
