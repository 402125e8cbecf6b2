"""Every loader, on the shipped arrays or on small files that the test writes in the set's own format."""

import gzip
import json
import struct
import sys
import zipfile

import h5py
import numpy as np
import pytest
from PIL import Image

import ppvae.data
from ppvae.data import circular
from ppvae.data.files import locate, package_folders, read_idx
from ppvae.data.render import read_obj, render, solid

SHIPPED = ["digits", "earthquakes", "focal-mechanisms", "torsions"]


def parts(data):
    """The parts of a set that exist, with their labels."""
    for part in ("train", "validation", "test"):
        x, labels = getattr(data, part), getattr(data, f"{part}_labels")
        if x is not None:
            yield x, labels


def together(data):
    """All data and all labels in one array each."""
    return (np.concatenate(arrays) for arrays in zip(*parts(data), strict=True))


# --- finding ---


def test_every_set_says_what_it_is():
    for name in ppvae.data.names():
        assert len(ppvae.data.summary(name)) > 20
        assert not ppvae.data.summary(name).endswith(",")


def test_an_unknown_set_names_the_nearest():
    with pytest.raises(ValueError, match="no data set is named 'minst'; did you mean 'mnist'"):
        ppvae.data.load("minst")


@pytest.mark.parametrize("name", ppvae.data.names())
def test_a_missing_set_says_how_to_install_it_and_where_it_looked(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"(?s)is not in .*missing.*(pip|apt|npm) install .*PPVAE_DATA_"):
        ppvae.data.load(name, path=tmp_path / "missing")


def test_path_wins_over_the_variable_and_the_variable_over_folders(tmp_path, monkeypatch):
    for folder in ("path", "variable", "package"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.bin").touch()
    (tmp_path / "empty").mkdir()

    def found(path=None):
        folders = [tmp_path / "empty", tmp_path / "package"]
        return locate("my-set", ["x.bin"], path=path, folders=folders, install="pip install it")[0].parent.name

    assert found() == "package"
    monkeypatch.setenv("PPVAE_DATA_MY_SET", str(tmp_path / "variable"))
    assert found() == "variable"
    assert found(tmp_path / "path") == found(tmp_path / "path" / "x.bin") == "path"
    # What was asked for by name is never replaced by what happens to be installed.
    with pytest.raises(FileNotFoundError):
        found(tmp_path / "empty")


def test_an_installed_package_is_found_and_not_imported(tmp_path, monkeypatch):
    package = tmp_path / "package_that_fails"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert package_folders("package_that_fails", "data") == [package / "data"]
    assert package_folders("package_that_is_not_there") == []
    assert "package_that_fails" not in sys.modules


# --- shipped ---


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_sets_are_whole_and_their_parts_disjoint(name):
    data = ppvae.data.load(name)
    x, labels = together(data)
    assert len(x) == len(labels) == {"digits": 1797, "torsions": 6760}.get(name, 48429)
    assert x.shape[1:] == data.shape
    assert np.isfinite(x).all()
    assert data.licence and data.source and data.split
    assert data.name == name
    assert f"train {len(data.train):,}" in repr(data)


def test_digits_are_those_of_the_publication():
    data = ppvae.data.load("digits")
    x, labels = together(data)
    assert x.dtype == np.uint8 and x.min() == 0 and x.max() == data.maximum == 16
    # The counts of the classes in the test half of the original set.
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_earthquakes_lie_on_the_sphere_and_are_split_by_time():
    data = ppvae.data.load("earthquakes")
    x, labels = together(data)
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.degrees(np.arcsin(x[:, 2].astype(float))), labels[:, 0], atol=0.03)
    longitude = np.degrees(np.arctan2(x[:, 1], x[:, 0]))
    np.testing.assert_allclose(np.cos(np.radians(longitude - labels[:, 1])), 1, atol=1e-6)
    year = data.label_names.index("year")
    assert data.train_labels[:, year].max() == 2009 and data.test_labels[:, year].min() == 2013


def test_mechanisms_are_rotations_that_diagonalise_the_moment():
    data = ppvae.data.load("focal-mechanisms")
    frames, labels = together(data)
    frames = frames.astype(np.float64)
    np.testing.assert_allclose(np.swapaxes(frames, 1, 2) @ frames, np.broadcast_to(np.eye(3), frames.shape), atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(frames), 1, atol=1e-6)
    for d in ([1, -1, -1], [-1, 1, -1], [-1, -1, 1]):
        assert (np.trace(frames, axis1=1, axis2=2) >= np.trace(frames * d, axis1=1, axis2=2)).all()
    with np.load(ppvae.data.find("focal-mechanisms")[0]) as arrays:
        moments = arrays["mt"][np.argsort(arrays["time"], kind="stable")].astype(np.float64)
        np.testing.assert_array_equal(np.sort(labels[:, 0]), np.sort(arrays["latlon"][:, 0]))
    for frame, (rr, tt, pp, rt, rp, tp) in zip(frames[::4000], moments[::4000], strict=True):
        diagonal = frame.T @ [[rr, rt, rp], [rt, tt, tp], [rp, tp, pp]] @ frame
        np.testing.assert_allclose(diagonal, np.diag(np.sort(np.diag(diagonal))[::-1]), atol=1e-6)


def test_torsions_lie_on_the_torus_and_chains_are_not_shared():
    data = ppvae.data.load("torsions")
    x, labels = together(data)
    np.testing.assert_allclose(np.linalg.norm(x, axis=-1), 1, atol=1e-6)
    assert len(data.label_names) == 20 and np.unique(labels).size == 20
    with np.load(ppvae.data.find("torsions")[0]) as arrays:
        chains, count = arrays["chain"], len(data.train)
        order = np.argsort(chains, kind="stable")
        assert chains[order][count - 1] != chains[order][count]
        np.testing.assert_allclose(np.arctan2(x[..., 1], x[..., 0])[:, 0].sum(), arrays["phi"].sum(), rtol=1e-4)


# --- IDX ---


def idx(array):
    """The bytes of an IDX file, written from its definition."""
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


@pytest.mark.parametrize(("name", "infix", "zipped"), [("mnist", ".", False), ("fashion-mnist", "-", True)])
def test_idx_sets(name, infix, zipped, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (70_000, 2, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, 70_000, dtype=np.uint8)
    for part, rows in {"train": slice(0, 60_000), "t10k": slice(60_000, None)}.items():
        for kind, array in {"images": images[rows], "labels": labels[rows]}.items():
            file = tmp_path / f"{part}-{kind}{infix}idx{array.ndim}-ubyte"
            if zipped:
                file.with_name(file.name + ".gz").write_bytes(gzip.compress(idx(array), 1))
            else:
                file.write_bytes(idx(array))
    data = ppvae.data.load(name, path=tmp_path)
    assert [len(x) for x, _ in parts(data)] == [50_000, 10_000, 10_000]
    x, y = together(data)
    np.testing.assert_array_equal(x[:, 0], images)
    np.testing.assert_array_equal(y, labels)
    assert len(data.label_names) == 10 and data.maximum == 255


def test_a_damaged_idx_file_is_refused(tmp_path):
    good = idx(np.zeros((2, 3), np.uint8))
    (tmp_path / "short").write_bytes(good[:-1])
    with pytest.raises(ValueError, match="expected 6 values, got 5"):
        read_idx(tmp_path / "short")
    (tmp_path / "html").write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match="expected an IDX file of unsigned bytes"):
        read_idx(tmp_path / "html")


# --- the other packages' formats ---


def test_dsprites_keeps_what_is_asked_for(tmp_path):
    """Each picture of the stand-in carries its own number, so that a wrong one would show."""
    size, file = 737_280, tmp_path / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("imgs.npy", "w", force_zip64=True) as out,
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": (size, 64, 64)}
        np.lib.format.write_array_header_1_0(out, header)
        block = np.zeros((1024, 4096), np.uint8)
        for start in range(0, 60 * 1024, 1024):  # as far as the test reads
            block[:, :4] = np.arange(start, start + 1024, dtype="<u4")[:, None].view(np.uint8)
            out.write(block.tobytes())
    keep = {"shape": [0], "scale": [1, 0], "orientation": [0, 19], "x": [5, 31], "y": range(3)}
    data = ppvae.data.load("dsprites", path=tmp_path, keep=keep)
    x, labels = together(data)
    assert len(x) == 1 * 2 * 2 * 2 * 3
    numbers = np.ascontiguousarray(x.reshape(len(x), -1)[:, :4]).view("<u4")[:, 0]
    np.testing.assert_array_equal(numbers, np.ravel_multi_index(labels.T, (3, 6, 40, 32, 32)))
    assert set(map(tuple, labels)) == {
        (0, s, o, a, b) for s in (0, 1) for o in (0, 19) for a in (5, 31) for b in range(3)
    }
    with pytest.raises(ValueError, match="expected factors among"):
        ppvae.data.load("dsprites", path=tmp_path, keep={"colour": [0]})
    with pytest.raises(ValueError, match="expected indices from 0 to 2 for shape"):
        ppvae.data.load("dsprites", path=tmp_path, keep={"shape": [3]})


def test_cifar10(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 4, 32, 32, 3), dtype=np.uint8)
    for batch, name in zip(
        images,
        ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"],
        strict=True,
    ):
        Image.fromarray(batch.reshape(4, 1024, 3)).save(tmp_path / f"{name}.png")
    (tmp_path / "train_lables.json").write_text(json.dumps([i % 10 for i in range(20)]))
    (tmp_path / "test_lables.json").write_text("[3, 8, 8, 0]")
    data = ppvae.data.load("cifar10", path=tmp_path)
    x, labels = together(data)
    np.testing.assert_array_equal(x.transpose(0, 2, 3, 1), images.reshape(-1, 32, 32, 3))
    assert labels.tolist() == [i % 10 for i in range(20)] + [3, 8, 8, 0]
    assert [len(x) for x, _ in parts(data)] == [18, 2, 4]
    (tmp_path / "test_lables.json").write_text("[3]")
    with pytest.raises(ValueError, match="expected 20 and 4 labels"):
        ppvae.data.load("cifar10", path=tmp_path)


@pytest.mark.parametrize(
    ("table", "columns", "angles", "labels"),
    [
        (",θ\n1,0\n2,90\n", {"θ": "vectors"}, [0, np.pi / 2], [[], []]),
        (",θ,site\n1,0,b\n2,45,a\n3,9,b", {"θ": "axes", "site": "str"}, [0, np.pi / 2, np.pi / 10], [[0], [1], [0]]),
        (",time\n1,6:00\n2,12:30\n", {"time": "vectors"}, [np.pi / 2, 2 * np.pi * 12.5 / 24], [[], []]),
        (",θ,w\n1,90,2\n2,180,1\n", {"θ": "vectors", "w": "int"}, [np.pi / 2, np.pi / 2, np.pi], [[], [], []]),
        (",x,θ\n1,107,90\n", {"x": "int", "θ": "vectors"}, [np.pi / 2], [[107]]),
        (",θ,φ\n1,90,180\n", {"θ": "vectors", "φ": "vectors"}, [[np.pi / 2, np.pi]], [[]]),
    ],
)
def test_circular(table, columns, angles, labels, tmp_path):
    (tmp_path / "fisher").mkdir()
    (tmp_path / "fisher/B1.csv").write_text(table, encoding="utf-8")
    about = {"Title": "T", "Columns": {name: {"type": kind} for name, kind in columns.items()}}
    (tmp_path / "fisher/B1.csv-metadata.json").write_text(json.dumps(about))
    x, y = together(ppvae.data.load("circular", path=tmp_path, which="fisher/B1"))
    np.testing.assert_allclose(x, np.stack([np.cos(angles), np.sin(angles)], -1), atol=1e-15)
    assert y.tolist() == labels


def test_circular_refuses_an_unknown_set():
    assert len(circular.SETS) == 27
    with pytest.raises(ValueError, match="expected one of fisher/B1, "):
        ppvae.data.load("circular", which="B1")


def test_nouns(tmp_path):
    r"""entity <- animal <- dog, cat; entity <- animal <- dog <- Rex (an instance); pet <- dog as well."""
    (tmp_path / "data.noun").write_text(
        "  1 licence\n"
        "00000001 03 n 01 entity 0 001 ~ 00000002 n 0000 | all  \n"
        "00000002 03 n 02 animal 0 beast 0 002 @ 00000001 n 0000 ~ 00000003 n 0000 | moves  \n"
        "00000003 03 n 01 dog 0 003 @ 00000002 n 0000 + 00000009 v 0101 @ 00000004 n 0000 | barks  \n"
        "00000004 03 n 01 pet 1 001 @ 00000001 n 0000 | kept; a dog @ home  \n"
        "00000005 03 n 01 Rex 0 001 @i 00000003 n 0000 | a dog  \n"
    )
    (tmp_path / "index.noun").write_text(
        "  1 licence\n"
        "animal n 1 2 @ ~ 1 0 00000002\nbeast n 1 2 @ ~ 1 0 00000002\ndog n 1 1 @ 1 0 00000003\n"
        "entity n 1 1 ~ 1 0 00000001\npet n 2 1 @ 2 0 00000008 00000004\nrex n 1 1 @i 1 0 00000005\n"
    )
    data = ppvae.data.load("nouns", path=tmp_path)
    assert data.label_names == ("entity.n.01", "animal.n.01", "dog.n.01", "pet.n.02", "rex.n.01")
    pairs = {(data.label_names[a][:-5], data.label_names[b][:-5]) for x, _ in parts(data) for a, b in x}
    assert pairs == {("animal", "entity"), ("dog", "animal"), ("dog", "pet"), ("dog", "entity"), ("pet", "entity")} | {
        ("rex", above) for above in ("dog", "animal", "pet", "entity")
    }
    below = ppvae.data.load("nouns", path=tmp_path, root="animal.n.01")
    assert below.label_names == ("animal.n.01", "dog.n.01", "rex.n.01")
    assert sum(len(x) for x, _ in parts(below)) == 3
    with pytest.raises(ValueError, match=r"expected a noun named as lemma\.n\.sense"):
        ppvae.data.load("nouns", path=tmp_path, root="animal")


def test_pbmc68k(tmp_path):
    x = np.random.default_rng(0).standard_normal((20, 5)).astype(np.float32)
    obs = np.zeros(20, [("index", "S4"), ("bulk_labels", "i1")])
    obs["bulk_labels"] = np.arange(20) % 2
    with h5py.File(tmp_path / "10x_pbmc68k_reduced.h5ad", "w") as f:
        f["X"], f["obs"], f["uns/bulk_labels_categories"] = x, obs, np.array([b"B", b"T"])
    data = ppvae.data.load("pbmc68k", path=tmp_path)
    assert data.label_names == ("B", "T")
    assert [len(x) for x, _ in parts(data)] == [16, 2, 2]
    cells, labels = together(data)
    rows = [int(np.flatnonzero((x == cell).all(1))[0]) for cell in cells]
    assert sorted(rows) == list(range(20))
    assert labels.tolist() == [row % 2 for row in rows]


def test_land(tmp_path):
    """Land is one band of latitude and a half of longitude: the points fill it by area, and nothing else."""
    latitude, longitude = np.linspace(89.5, -89.5, 180), np.linspace(-179.5, 179.5, 360)
    ocean = ~((np.abs(latitude) < 60)[:, None] & (longitude > 0))
    np.savez_compressed(tmp_path / "globe_combined_mask_compressed.npz", mask=ocean, lat=latitude, lon=longitude)
    x, labels = together(ppvae.data.load("land", path=tmp_path, n=4000))
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.degrees(np.arcsin(x[:, 2].astype(float))), labels[:, 0], atol=0.03)
    assert (np.abs(labels[:, 0]) <= 60).all() and (labels[:, 1] >= 0).all()
    # sin(latitude) is uniform on [-sin 60, sin 60]: mean 0, variance sin(60)^2 / 3 = 1/4, and 1/2 above 0.
    assert abs(x[:, 2].mean()) < 4 * 0.5 / np.sqrt(4000)
    np.testing.assert_allclose(x[:, 2].var(), 0.25, atol=0.02)


OCTAHEDRON = """\
v 1 0 0
v -1 0 0
v 0 1 0
v 0 -1 0
v 0 0 1
v 0 0 -1
f 1/7/7 3 5
f 3 2 5
f 2 4 5
f 4 1 5
f -4 -6 -1
f -5 -4 -1
f -3 -5 -1
f -6 -3 -1
"""


def test_meshes_show_the_solid_as_its_rotation_says(tmp_path):
    (tmp_path / "cow.obj").write_text(OCTAHEDRON)
    data = ppvae.data.load("meshes", path=tmp_path, n=20, side=8)
    x, rotations = together(data)
    assert x.shape == (20, 1, 8, 8) and x.dtype == np.uint8
    np.testing.assert_allclose(
        np.swapaxes(rotations, 1, 2) @ rotations, np.broadcast_to(np.eye(3), (20, 3, 3)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(rotations), 1)
    shape = solid(tmp_path / "cow.obj")
    # White under the light that a coloured view has: the colour is (1 + n) / 2, of which the shade is a factor.
    bright = render(shape, rotations, 8).numpy()
    assert ((x[:, 0] > 0) == (bright.sum(1) > 0)).all() and (x[:, 0] + 1 >= 255 * bright.max(1)).all()


def test_meshes_refuse_what_is_no_mesh(tmp_path):
    with pytest.raises(ValueError, match="expected one of cow"):
        ppvae.data.load("meshes", mesh="teapot")
    (tmp_path / "bad.obj").write_text("v 0 0 0\nf 1 2 3\n")
    with pytest.raises(ValueError, match="vertices and faces between them"):
        read_obj(tmp_path / "bad.obj")


def test_polygons_become_fans(tmp_path):
    (tmp_path / "quad.obj").write_text("v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1 2 3 4\n")
    assert read_obj(tmp_path / "quad.obj")[1].tolist() == [[0, 1, 2], [0, 2, 3]]
