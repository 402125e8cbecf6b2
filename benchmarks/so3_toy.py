"""Which encoders learn the rotations: the toy experiment of the homeomorphic VAE in 14 rows, and 6 more.

Data: 48 numbers D(R) F + noise, R uniform on SO(3) (ppvae.data.spectral_toy; noise 0.5, which every likelihood knows).
Encoder 48-100-100; the action decoder is D(z) F' with F' learned, the MLP decoder 9-50-50-50-48 on the entries of z.
Adam, learning rate 4e-3, batches of 128 from 10,240 data; the weights of the best validation ELBO are kept. "vMF on
S^3" has a unit quaternion for a latent, which the decoder turns into a rotation. Much shorter than in the paper, so
that 60 runs fit into 15 minutes of one thread: 13 epochs, 1040 steps.

Coarse to fine is our addition: for the first 7 of the 13 epochs F' is zero but for degrees 0 and 1. With degree 1
alone the log-likelihood of z is tr(H^T z), H a matrix that depends on x, which has one local maximum on SO(3), so that
the gradient of the posterior mean leads from everywhere to one place; with all degrees there are many, and the encoder
tears between them. The part A of degree 1 of F', 3 x 3, starts with det A of either sign. Where it is not that of the
data, F' starts as the mirror image of the object, and no rotation takes one to the other: det A has to pass 0.

LL is of 250 test data by importance sampling (500 samples); reconstruction and KL are of the validation data.
Discontinuity is the largest over the mean step along a closed geodesic of 1000 noise-free data, the largest of 20 such;
where no step is large, the loop's class says whether it is that of a homeomorphism (1). The equivariance error is the
mean angle of enc(g x) to g enc(x) over 1000 pairs, in radians, 2.2 by chance; the second figure is with the best
inner automorphism of SO(3) in place of the identity, as an MLP decoder has no reason to choose the object's own frame.

    python benchmarks/so3_toy.py            # every run that has no result yet
    python benchmarks/so3_toy.py --table    # the table, from the results

Reference: Explorations in Homeomorphic Variational Auto-Encoding (Falorsi et al., 2018), https://arxiv.org/abs/1807.04689
"""

import argparse
import json
import math
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch
from ppvae.models import SO3VAE, GaussianVAE, SphericalVAE
from torch import nn

import ppvae
from ppvae.data.spectral_toy import SpectralToy
from ppvae.manifolds import SO3, so3
from ppvae.metrics import automorphism, closed_geodesics, discontinuity, equivariance_error, rotation_class
from ppvae.nn import MLP, S2S1, S2S2, ActionDecoder, AxisAngle, NormalLikelihood, Polar, Quaternion, SO3NormalHead
from ppvae.vae import VAE

RESULTS = Path(__file__).parent / "results" / "so3_toy.json"
NOISE, TRAIN, BATCH, LR, EPOCHS, COARSE, SAMPLES = 0.5, 10_240, 128, 4e-3, 13, 7, 500
MEANS = {"axis-angle": AxisAngle, "quaternion": Quaternion, "S2xS1": S2S1, "S2S2": S2S2, "polar": Polar}
ROTATIONS = [*MEANS, "vMF on S^3"]
ROWS = [
    *[(encoder, decoder, "plain") for decoder in ("action", "MLP") for encoder in ROTATIONS],
    *[(encoder, "MLP", "plain") for encoder in ("Gaussian-3", "Gaussian-30")],
    *[(encoder, "action", "coarse to fine") for encoder in ROTATIONS],
]


def make(encoder: str, decoder: str, d: int) -> VAE:
    options = {"likelihood": NormalLikelihood(NOISE)}
    if encoder.startswith("Gaussian"):
        m = int(encoder.split("-")[1])
        return GaussianVAE(
            (d,), m, encoder=MLP((d,), (2 * m,), (100, 100)), decoder=MLP((m,), (d,), (50,) * 3), **options
        )
    network: nn.Module = ActionDecoder(degree=3, copies=3) if decoder == "action" else MLP((3, 3), (d,), (50,) * 3)
    if encoder == "vMF on S^3":
        network = nn.Sequential(Quaternion(), network)
        return SphericalVAE((d,), 4, encoder=MLP((d,), (5,), (100, 100)), decoder=network, **options)
    head = SO3NormalHead(MEANS[encoder]())
    return SO3VAE((d,), encoder=MLP((d,), (head.features,), (100, 100)), decoder=network, head=head, **options)


def train(vae: VAE, coarse: bool, data: dict, seed: int) -> ppvae.train.Fit:
    options = {"validation": data["valid"], "batch_size": BATCH, "lr": LR, "progress": False}
    if not coarse:
        return ppvae.fit(vae, data["train"], epochs=EPOCHS, seed=seed, **options)
    (spectrum,) = (module.spectrum for module in vae.modules() if isinstance(module, ActionDecoder))
    low = torch.arange(len(spectrum)).unsqueeze(-1) < 4
    with torch.no_grad():
        spectrum.mul_(low)
    hook = spectrum.register_hook(lambda gradient: gradient * low)
    ppvae.fit(vae, data["train"], epochs=COARSE, seed=seed, **options)
    hook.remove()
    return ppvae.fit(vae, data["train"], epochs=EPOCHS - COARSE, seed=seed + 1000, **options)


def encode(vae: VAE, x: np.ndarray) -> np.ndarray:
    """The latents of x (..., d): rotations, or vectors of a Gaussian."""
    z = ppvae.encode(vae, x.reshape(-1, x.shape[-1]).astype(np.float32))
    if isinstance(vae, SphericalVAE):
        z = so3.from_quaternion(torch.tensor(z)).numpy()
    return z.reshape(*x.shape[:-1], *z.shape[1:])


def evaluate(vae: VAE, toy: SpectralToy, data: dict) -> dict:
    ll = ppvae.log_likelihood(vae, data["test"], num_samples=SAMPLES, seed=0)
    z = encode(vae, toy.mean(closed_geodesics(20, 1000)))
    found = {"log_likelihood": ll.mean, "standard_error": ll.standard_error, "ess_median": float(np.median(ll.ess))}
    if z.ndim == 3:
        steps = discontinuity(z, lambda x, y: (x - y).norm(dim=-1))
        return {**found, "discontinuity": float(steps.max()), "discontinuity_median": float(np.median(steps))}
    steps, classes = discontinuity(z, SO3().dist, 2), rotation_class(z)
    r, g = (toy.draw(1000, seed=s)[1].astype(np.float64) for s in (4, 5))
    before, after = encode(vae, toy.mean(r)), encode(vae, toy.mean(g @ r))
    s = automorphism(before, after, g)
    return {
        **found,
        "discontinuity": float(steps.max()),
        "discontinuity_median": float(np.median(steps)),
        "loops_of_class_1": int((classes == 1).sum()),
        "loops_of_class_0": int((classes == 0).sum()),
        "loops_torn": int(np.isnan(classes).sum()),
        "equivariance": float(equivariance_error(before, after, g).mean()),
        "equivariance_own_frame": float(equivariance_error(before, after, s @ g @ s.T).mean()),
    }


def run(encoder: str, decoder: str, protocol: str, seed: int) -> dict:
    toy = SpectralToy(NOISE)
    data = {
        part: toy.draw(n, seed=i)[0] for i, (part, n) in enumerate({"train": TRAIN, "valid": 1000, "test": 250}.items())
    }
    start = time.process_time()
    torch.manual_seed(seed)
    vae = make(encoder, decoder, toy.shape[0])
    fit = train(vae, protocol == "coarse to fine", data, seed)
    trained = time.process_time()
    best = {name: fit.best[f"valid_{name}"] for name in ("reconstruction", "kl")}
    found = {
        "encoder": encoder,
        "decoder": decoder,
        "protocol": protocol,
        "seed": seed,
        **best,
        **evaluate(vae, toy, data),
    }
    return {**found, "seconds": {"train": trained - start, "evaluate": time.process_time() - trained}}


def starts_as_mirror_image(seed: int) -> bool:
    """Whether the part of degree 1 of the first F' has a determinant of the other sign than the data's."""
    torch.manual_seed(seed)
    toy = SpectralToy(NOISE)
    vae = make("S2S2", "action", toy.shape[0])
    (decoder,) = (module for module in vae.modules() if isinstance(module, ActionDecoder))
    return bool(np.linalg.det(decoder.spectrum[1:4].detach().numpy()) * np.linalg.det(toy.spectrum[1:4]) < 0)


def table(results: dict) -> str:
    def cell(runs: list[dict], name: str, digits: int) -> str:
        return " / ".join(f"{r[name]:.{digits}f}" for r in runs) if name in runs[0] else ""

    columns = {"log_likelihood": 1, "reconstruction": 1, "kl": 1, "discontinuity": 1, "loops_of_class_1": 0}
    columns |= {"equivariance": 2, "equivariance_own_frame": 2}
    lines = [
        f"The data's own law has E log p(x) = {results['evidence']:.1f} nats. One figure for each seed.",
        "",
        "| encoder | decoder | training | LL | reconstruction | KL | discontinuity | loops of class 1 | equivariance | "
        "own frame | homeomorphic |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for encoder, decoder, protocol in ROWS:
        key = (encoder, decoder, protocol)
        runs = [r for r in results["runs"] if (r["encoder"], r["decoder"], r["protocol"]) == key]
        if runs:
            good = sum(r["discontinuity"] < 3 and r.get("equivariance", 9) < 0.2 for r in runs)
            cells = [cell(runs, name, digits) for name, digits in columns.items()]
            lines.append(f"| {encoder} | {decoder} | {protocol} | {' | '.join(cells)} | {good} of {len(runs)} |")
    seconds = math.fsum(sum(r["seconds"].values()) for r in results["runs"])
    mirrored = [str(seed) for seed in sorted({r["seed"] for r in results["runs"]}) if starts_as_mirror_image(seed)]
    return "\n".join([*lines, "", "Homeomorphic: discontinuity < 3, equivariance error < 0.2 rad. "
                      f"Seeds whose spectrum starts as the mirror image: {', '.join(mirrored) or 'none'}. "
                      f"{len(results['runs'])} runs, {seconds / 60:.0f} minutes of one thread."])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="print the table of the results and run nothing")
    args = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"runs": []}
    if not args.table:
        torch.set_num_threads(1)
        results |= {
            "command": "python " + " ".join(["benchmarks/so3_toy.py", *sys.argv[1:]]),
            "settings": {
                "noise": NOISE, "train": TRAIN, "batch": BATCH, "lr": LR, "epochs": EPOCHS, "coarse_epochs": COARSE,
                "importance_samples": SAMPLES, "note": "shortened to 1040 steps a run, for one thread of a CPU",
            },
            "evidence": SpectralToy(NOISE).evidence(),
            "machine": {
                "python": platform.python_version(), "torch": torch.__version__, "threads": 1,
                "cpu": platform.machine(), "device": "cpu",
            },
        }  # fmt: skip
        done = {(r["encoder"], r["decoder"], r["protocol"], r["seed"]) for r in results["runs"]}
        for seed in args.seeds:
            for row in reversed(ROWS):  # the rows on which the finding turns come first
                if (*row, seed) not in done:
                    results["runs"].append(run(*row, seed))
                    RESULTS.parent.mkdir(exist_ok=True)
                    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
                    print(
                        {k: round(v, 2) if isinstance(v, float) else v for k, v in results["runs"][-1].items()},
                        flush=True,
                    )
    print(table(results))


if __name__ == "__main__":
    main()
