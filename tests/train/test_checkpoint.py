import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ppvae.models import GaussianVAE
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, MultiStepLR, ReduceLROnPlateau, SequentialLR, StepLR

import ppvae
from ppvae.infer import IWAE_ELBO
from ppvae.io import read
from ppvae.transforms import DynamicBinarization

ROOT = Path(__file__).parents[2]
EPOCHS = 6

# A run with everything that has a state: its own seed, warm-up, scheduler, early stopping, random binarisation.
RUN = """
import importlib.util, os, resource, signal, sys
import numpy as np, torch
import ppvae, ppvae.io
if importlib.util.find_spec("ppvae.models") is None:
    ppvae.__path__.append(sys.argv[1])
from ppvae.models import GaussianVAE
from ppvae.transforms import DynamicBinarization

torch.set_num_threads(1)

def make():
    torch.manual_seed(1)
    return GaussianVAE((1, 4, 4), 2, (8,))

def run(vae, file, **options):
    grey = np.random.default_rng(0).random((60, 1, 4, 4), dtype=np.float32)
    return ppvae.fit(
        vae, grey[:40], validation=grey[40:], epochs=6, batch_size=16, transform=DynamicBinarization(), warmup=2,
        patience=50, scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.5), clip_norm=1.0, lr=0.01, seed=3,
        checkpoint=file, progress=False, **options,
    )
"""

# In a process of its own, and in a child of it for each moment: the run, killed at that moment.
KILLED = (
    RUN
    + """
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def at_call(vae, n):
    calls = []
    def count(*_):
        calls.append(1)
        if len(calls) == n:
            kill()
    vae.encoder.register_forward_hook(count)

def half_written(vae):
    whole, files = ppvae.io.save_file, []
    def half(tensors, file, metadata):
        whole(tensors, file, metadata)
        files.append(file)
        if len(files) == 4:
            os.truncate(file, os.path.getsize(file) // 2)
            kill()
    ppvae.io.save_file = half

def at_rename(vae, before):
    rename, names = os.replace, []
    def renamed(a, b):
        names.append(b)
        if len(names) == 4 and before:
            kill()
        rename(a, b)
        if len(names) == 4:
            kill()
    os.replace = renamed

def full_disk(vae):
    rename, names = os.replace, []
    def renamed(a, b):
        rename(a, b)
        names.append(b)
        if len(names) == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    os.replace = renamed

# The checks of the data call the encoder twice, each epoch three times to train, once after its last step, and twice
# for the validation loss.
MOMENTS = {
    "first epoch": lambda vae: at_call(vae, 4),
    "third epoch": lambda vae: at_call(vae, 16),
    "validation": lambda vae: at_call(vae, 25),
    "half written": half_written,
    "before the rename": lambda vae: at_rename(vae, True),
    "after the rename": lambda vae: at_rename(vae, False),
    "full disk": full_disk,
}
run(make(), None)  # what torch imports at a first step is then there for every child
for moment, arrange in MOMENTS.items():
    child = os.fork()
    if not child:
        try:
            vae = make()
            arrange(vae)
            run(vae, f"{sys.argv[2]}/{moment}.safetensors")
        except OSError as error:
            print(f"{moment}: {error}", flush=True)
            os._exit(5)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(status) == (5 if moment == "full disk" else -signal.SIGKILL), (moment, status)
"""
)


def same(a: Path, b: Path) -> None:
    """Two checkpoints hold the same state, to the last bit; only the seconds differ."""
    (header_a, tensors_a), (header_b, tensors_b) = read(a, "checkpoint"), read(b, "checkpoint")
    assert tensors_a.keys() == tensors_b.keys()
    for name, tensor in tensors_a.items():
        assert torch.equal(tensor, tensors_b[name]), name
    for header in (header_a, header_b):
        entries = dict(header["states"]["fit"]["dict"])
        assert entries.pop("seconds") > 0
        entries["history"] = [row for row in entries["history"]["dict"] if row[0] != "seconds"]
        header["states"]["fit"] = entries
    assert header_a == header_b


@pytest.fixture(scope="module")
def script():
    names: dict = {}
    exec(compile(RUN.replace("sys.argv[1]", repr(str(ROOT))), "RUN", "exec"), names)
    return names


@pytest.mark.skipif(os.name != "posix", reason="kills processes by signals")
def test_a_killed_run_continues_to_the_numbers_of_an_uninterrupted_one(tmp_path, script):
    threads = torch.get_num_threads()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED, str(ROOT), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "could not be written" in done.stdout and "is unchanged" in done.stdout, done.stdout
    done_before = {"first epoch": 0, "third epoch": 2, "validation": 3, "half written": 2, "before the rename": 2}
    done_before |= {"after the rename": 3, "full disk": 2}
    try:
        torch.set_num_threads(1)  # as in the killed processes
        with torch.random.fork_rng():
            whole = script["make"]()
            result = script["run"](whole, tmp_path / "whole.safetensors")
            assert result.epochs == EPOCHS
            for moment, epochs in done_before.items():
                file = tmp_path / f"{moment}.safetensors"
                entries = dict(read(file, "checkpoint")[0]["states"]["fit"]["dict"])
                assert len(dict(entries["history"]["dict"]).get("epoch", [])) == epochs, moment
                torch.manual_seed(99)
                resumed = GaussianVAE((1, 4, 4), 2, (8,))  # other weights: all come from the file
                again = script["run"](resumed, file, resume=True)
                same(file, tmp_path / "whole.safetensors")
                assert (again.best_epoch, again.stopped) == (result.best_epoch, result.stopped)
                for name, tensor in whole.state_dict().items():
                    assert torch.equal(tensor, resumed.state_dict()[name]), (moment, name)
    finally:
        torch.set_num_threads(threads)


X = (np.random.default_rng(0).random((40, 5)) > 0.5).astype(np.float32)


def fit(file, epochs=2, x=X, shape=(5,), **options):
    options = {"validation": x[:10], "batch_size": 16, "seed": 0, "progress": False} | options
    return ppvae.fit(GaussianVAE(shape, 2, (4,)), x, epochs=epochs, checkpoint=file, **options)


SCHEDULERS = {
    "StepLR": lambda o: StepLR(o, 2),
    "MultiStepLR": lambda o: MultiStepLR(o, [1, 3]),
    "Cosine": lambda o: CosineAnnealingLR(o, 5),
    "LambdaLR": lambda o: LambdaLR(o, lambda epoch: 0.9**epoch),
    "Sequential": lambda o: SequentialLR(o, [StepLR(o, 1), CosineAnnealingLR(o, 3)], [2]),
    "Plateau": lambda o: ReduceLROnPlateau(o, patience=0, threshold=10.0),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
@pytest.mark.parametrize(
    "optimizer", [torch.optim.Adam, torch.optim.SGD, torch.optim.RMSprop], ids=lambda o: o.__name__
)
def test_every_scheduler_and_optimizer_continues(tmp_path, scheduler, optimizer):
    def run(name, epochs, **options):
        torch.manual_seed(0)
        make = lambda p: optimizer(p, lr=0.01)  # noqa: E731
        return fit(tmp_path / name, epochs, scheduler=scheduler, optimizer=make, **options)

    whole = run("whole", 5)
    run("part", 2)
    part = run("part", 5, resume=True)
    same(tmp_path / "part", tmp_path / "whole")
    assert part.history["lr"] == whole.history["lr"]
    assert len(set(whole.history["lr"])) > 1


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = fit(tmp_path / "c", 3)
    again = fit(tmp_path / "c", 3, resume=True)
    assert again.history == first.history and again.stopped == "epochs"
    for name, tensor in first.vae.state_dict().items():
        assert torch.equal(tensor, again.vae.state_dict()[name])


def test_a_run_that_a_callback_ended_stays_ended(tmp_path):
    def enough(fit):
        fit.stopped = "enough"

    assert fit(tmp_path / "c", 5, callbacks=[enough]).epochs == 1
    again = fit(tmp_path / "c", 5, resume=True)
    assert (again.epochs, again.stopped) == (1, "enough")


def test_resume_without_a_checkpoint_starts_from_the_beginning(tmp_path):
    assert fit(tmp_path / "new" / "c", 2, resume=True).epochs == 2


def test_a_checkpoint_is_not_overwritten(tmp_path):
    fit(tmp_path / "c")
    before = (tmp_path / "c").read_bytes()
    with pytest.raises(FileExistsError, match="resume=True"):
        fit(tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 8}, "batch_size: expected 16, got 8"),
        ({"warmup": 1}, "warmup: expected 0, got 1"),
        ({"seed": 1}, "seed: expected 0, got 1"),
        ({"lr": 0.1}, "optimizer"),
        ({"clip_norm": 1.0}, "clip_norm: expected None, got 1.0"),
        ({"objective": IWAE_ELBO(2)}, "objective"),
        ({"transform": DynamicBinarization()}, "transform"),
        ({"scheduler": lambda o: StepLR(o, 2)}, "scheduler"),
        ({"validation": X[:12]}, "validation"),
        ({"x": 1 - X}, "data"),
        ({"x": X[:, :4], "shape": (4,)}, "option 'shape'"),
        ({"epochs": 1}, "epochs: .* has done 2 already, got 1"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_with_the_difference(tmp_path, change, words):
    fit(tmp_path / "c")
    before = (tmp_path / "c").read_bytes()
    with pytest.raises(ValueError, match=words):
        fit(tmp_path / "c", **({"epochs": 3, "resume": True} | change))
    assert (tmp_path / "c").read_bytes() == before


def test_a_scheduler_with_other_options_is_another_run(tmp_path):
    fit(tmp_path / "c", scheduler=lambda o: StepLR(o, 2))
    with pytest.raises(ValueError, match="scheduler"):
        fit(tmp_path / "c", 3, scheduler=lambda o: StepLR(o, 3), resume=True)


def test_files_that_are_no_checkpoint_are_refused(tmp_path):
    fit(tmp_path / "c")
    good = (tmp_path / "c").read_bytes()
    ppvae.save(GaussianVAE((5,), 2, (4,)), tmp_path / "model")
    torch.save({"a": 1}, tmp_path / "pickle")
    flipped = bytearray(good)
    flipped[-100] ^= 1
    for content, words in (
        ((tmp_path / "model").read_bytes(), "expected a checkpoint, got a model"),
        ((tmp_path / "pickle").read_bytes(), "not a safetensors file"),
        (good[: len(good) // 2], "truncated"),
        (bytes(flipped), "damaged"),
        (b"", "not a safetensors file"),
    ):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(ValueError, match=words):
            fit(tmp_path / "bad", 3, resume=True)
    with pytest.raises(ValueError, match="expected a model, got a checkpoint"):
        ppvae.load(tmp_path / "c")


def test_a_failed_write_leaves_the_last_checkpoint_and_no_litter(tmp_path, monkeypatch):
    files = []

    def full(tensors, file, metadata, put=ppvae.io.save_file):
        files.append(file)
        if len(files) == 3:
            Path(file).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        put(tensors, file, metadata)

    monkeypatch.setattr("ppvae.io.save_file", full)
    with pytest.raises(OSError, match=r"could not be written.*No space left.*unchanged"):
        fit(tmp_path / "c", 5)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["c"]
    torch.manual_seed(0)
    assert fit(tmp_path / "c", 5, resume=True).epochs == 5


def test_nothing_is_written_unless_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ppvae.fit(GaussianVAE((5,), 2, (4,)), X, epochs=1, progress=False)
    assert os.listdir(tmp_path) == []


def test_a_checkpoint_holds_no_pickle(tmp_path):
    fit(tmp_path / "c")
    header, tensors = read(tmp_path / "c", "checkpoint")
    json.dumps(header)
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
