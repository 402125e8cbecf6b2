"""The objectives, one bound or divergence a file, and their table by name.

The table is read without torch; a class is imported when it is asked for.
"""

import difflib
from importlib import import_module

#: name -> (file, class, summary)
OBJECTIVES: dict[str, tuple[str, str, str]] = {
    "elbo": ("elbo", "ELBO", "evidence lower bound, with the KL in closed form where there is one"),
    "iwae": ("iwae", "IWAE_ELBO", "importance weighted bound: tighter with more particles"),
    "dreg": (
        "dreg",
        "DReG_ELBO",
        "importance weighted bound, its gradient for the guide by a second path: less noise near the posterior",
    ),
    "miwae": ("miwae", "MIWAE_ELBO", "mean of several importance weighted bounds"),
    "ciwae": ("miwae", "CIWAE_ELBO", "combination of the ELBO and the importance weighted bound"),
    "piwae": ("miwae", "PIWAE_ELBO", "importance weighted bound for the model, the mean of several for the guide"),
    "enumerated": ("enumerated", "EnumeratedELBO", "ELBO that sums over discrete latents exactly"),
    "beta": ("beta", "Beta_ELBO", "ELBO with beta times the KL: simpler codes, worse reconstruction"),
    "capacity": ("capacity", "Capacity_ELBO", "holds the KL at a capacity, which warm-up raises from 0"),
    "free-bits": ("free_bits", "FreeBits_ELBO", "ELBO with the first nats of each latent's KL free, against collapse"),
    "total-correlation": (
        "total_correlation",
        "TotalCorrelation_ELBO",
        "weights for mutual information, total correlation and the rest of the KL: independent coordinates",
    ),
    "info": (
        "info_vae",
        "InfoVAE_ELBO",
        "a divergence of the aggregate posterior from the prior; alpha 1 with a deterministic encoder is the WAE",
    ),
}


def names() -> list[str]:
    """The names of all objectives."""
    return list(OBJECTIVES)


def find(name: str) -> type:
    """The class of the objective ``name``.

    :raises ValueError: if no objective has this name.
    """
    if name not in OBJECTIVES:
        near = difflib.get_close_matches(str(name), OBJECTIVES, n=3) or names()
        raise ValueError(f"no objective is named {name!r}; did you mean {' or '.join(map(repr, near))}?")
    file, cls, _ = OBJECTIVES[name]
    return getattr(import_module(f"{__name__}.{file}"), cls)
