"""6,760 backbone torsions (phi, psi) of 50 protein chains: points of the torus T^2.

Reference: Stereochemistry of polypeptide chain configurations (Ramachandran et al., 1963)
https://doi.org/10.1016/S0022-2836(63)80023-6
"""

from os import PathLike
from pathlib import Path

import numpy as np

from ppvae.data.dataset import DataSet, parts
from ppvae.data.files import locate


def find(path: str | PathLike[str] | None = None) -> list[Path]:
    """The files; raises FileNotFoundError with the command that installs them."""
    folders = [Path(__file__).parent]
    return locate("torsions", ["torsions.npz"], path=path, folders=folders, install="pip install ppvae")


def load(path: str | PathLike[str] | None = None) -> DataSet:
    """Points (n, 2, 2), unit vectors (cos, sin) of phi and psi; labels: the residue, one of 20."""
    (file,) = find(path)
    with np.load(file) as arrays:
        angles = np.stack([arrays["phi"], arrays["psi"]], -1)
        names, labels = np.unique(arrays["res"], return_inverse=True)
        chains, chain = np.unique(arrays["chain"], return_inverse=True)
    x = np.stack([np.cos(angles), np.sin(angles)], -1)
    return DataSet(
        name="torsions",
        **parts(x, labels, train=chain < 40, validation=(chain >= 40) & (chain < 45), test=chain >= 45),
        label_names=tuple(names.tolist()),
        split=f"by chain, in the order of their identifiers: 40 train, 5 validation, {len(chains) - 45} test",
        licence="CC0-1.0",
        source="coordinates of the Protein Data Bank, https://www.rcsb.org, from the package MDAnalysisTests",
    )
