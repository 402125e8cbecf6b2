"""Two processes on one VAE: equal parameters, the law of one process's run, files from the first alone."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ppvae.models import GaussianVAE

import ppvae
from ppvae.cli import main
from ppvae.train import distributed
from ppvae.turns import Session

ROOT = Path(__file__).parents[2]

RUN = """
import json, os, runpy, sys
import numpy as np, torch
import torch.distributed as dist
import ppvae
ppvae.__path__.append('.')
from ppvae.models import GaussianVAE

torch.set_num_threads(1)
dist.init_process_group('gloo')
rank, folder = dist.get_rank(), sys.argv[1]
sys.stderr = open(f'{folder}/{rank}.err', 'w')
x = np.load(f'{folder}/x.npy')
options = dict(validation=x[:33], epochs=6, batch_size=20, lr=1e-2, seed=0, warmup=2, progress=True)

def make():
    torch.manual_seed(rank)  # the first process's weights are those of all
    return GaussianVAE((6,), 2, (8,))

seen = []
vae = make()
fit = ppvae.fit(vae, x, callbacks=[lambda fit: seen.append(fit.epochs)], **options)
parts = make()
ppvae.fit(parts, x, checkpoint=f'{folder}/c.safetensors', **{**options, 'epochs': 4, 'progress': False})
dist.barrier()
again = ppvae.fit(make(), x, checkpoint=f'{folder}/c.safetensors', resume=True, **{**options, 'progress': False})
stopped = ppvae.fit(make(), x, callbacks=[lambda fit: setattr(fit, 'stopped', 'enough')], **options).epochs

mapped = make()
ppvae.fit(mapped, np.load(f'{folder}/x.npy', mmap_mode='r'), **{**options, 'progress': False})

scaled = {}
scales = runpy.run_path('tests/train/test_scales.py')
for scaling in scales['SCALINGS']:
    pair = scales['Pair'](scaling)
    scales['fit'](pair, batch_size=10, optimizer=lambda p: torch.optim.SGD(p, 0.1))
    still = scales['fit'](scales['Pair'](scaling), batch_size=5, validation=scales['X'], optimizer=scales['still'])
    scaled[scaling] = [pair.mean.tolist(), still.history['reconstruction'], still.history['valid_reconstruction']]

errors = []
loaded = torch.utils.data.TensorDataset(torch.as_tensor(x))
for data, more in ((x[:21], {}), (loaded, {}), (x, {'compile': 'inductor'})):
    try:
        ppvae.fit(make(), data, batch_size=20, epochs=1, progress=False, **more)
    except ValueError as error:
        errors.append(str(error))

report = {
    'weights': [p.tolist() for p in vae.state_dict().values()],
    'mapped': [p.tolist() for p in mapped.state_dict().values()],
    'scaled': scaled,
    'history': fit.history, 'again': again.history['loss'], 'seen': seen, 'stopped': stopped, 'errors': errors,
}
sys.stderr.close()
json.dump(report, open(f'{folder}/{rank}.json', 'w'))
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel")
    rng = np.random.default_rng(0)
    x = (rng.random((93, 6)) < np.where(rng.random((93, 1)) > 0.5, 0.9, 0.1)).astype(np.float32)
    np.save(folder / "x.npy", x)
    (folder / "run.py").write_text(RUN)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(folder / "run.py"), str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    return x, found, [(folder / f"{rank}.err").read_text() for rank in range(2)]


@pytest.mark.slow
class TestTwoProcesses:
    def test_parameters_and_history_are_equal_on_both(self, reports):
        _, (first, second), _ = reports
        assert first["weights"] == second["weights"]
        for name, values in first["history"].items():
            assert values == second["history"][name] or name == "seconds", name

    def test_the_loss_is_that_of_one_process_in_law(self, reports):
        x, (first, _), _ = reports
        runs = []
        for seed in range(4):
            torch.manual_seed(0)
            vae = GaussianVAE((6,), 2, (8,))
            options = {"validation": x[:33], "epochs": 6, "batch_size": 20, "lr": 1e-2, "warmup": 2}
            runs.append(ppvae.fit(vae, x, seed=seed, progress=False, **options).history)
        for name in ("loss", "valid_loss"):
            alone = np.array([run[name] for run in runs])
            spread = alone.std(0, ddof=1) + 0.02
            assert (np.abs(np.array(first["history"][name]) - alone.mean(0)) < 6 * spread).all(), name
        assert first["history"]["kl_weight"] == runs[0]["kl_weight"]

    def test_a_run_continues_from_its_checkpoint(self, reports):
        _, (first, second), _ = reports
        assert first["again"] == first["history"]["loss"] == second["again"]

    def test_arrays_on_a_disk_are_shared_as_those_in_memory(self, reports):
        _, (first, second), _ = reports
        assert first["mapped"] == second["mapped"] == first["weights"]

    def test_under_plate_scales_history_and_steps_are_per_datum(self, reports):
        _, found, _ = reports
        names = runpy.run_path(str(ROOT / "tests" / "train" / "test_scales.py"))
        for report in found:
            for scaling, (mean, *histories) in report["scaled"].items():
                want = names["average"](scaling, names["X"].astype(np.float64))
                assert mean == pytest.approx(want * (1 - 0.9**3), rel=1e-5), scaling
                for history in histories:
                    assert history == pytest.approx([names["exact"](scaling)] * 3, rel=1e-5), scaling

    def test_the_first_process_alone_shows_progress_and_calls_back(self, reports):
        _, (first, second), (shown, nothing) = reports
        assert first["seen"] == [1, 2, 3, 4, 5, 6] and second["seen"] == []
        assert "epoch 6, ELBO" in shown and nothing == ""
        assert first["stopped"] == second["stopped"] == 1

    def test_what_cannot_be_shared_is_refused_by_both(self, reports):
        _, (first, second), _ = reports
        assert len(first["errors"]) == 3 and first["errors"] == second["errors"]
        few, loaded, compiled = first["errors"]
        assert "leave a batch of fewer data than there are processes, 2" in few
        assert "in memory or memory-mapped" in loaded and "without compilation" in compiled


class Pretended(distributed.Group):
    def __init__(self, size, rank):
        self.size, self.rank = size, rank


class Rows:
    """23 data in batches of 10."""

    n, batch_size, transform, shuffle = 23, 10, None, True

    def keys(self, batches):
        return ((rows,) for rows in batches)


def test_the_shards_of_a_batch_are_the_batch():
    orders = []
    shards = [distributed.Shard(Rows(), Pretended(3, rank), seed=5) for rank in range(3)]
    for _ in range(2):
        seen = []
        for parts in zip(*shards, strict=True):
            rows = [int(i) for (part,) in parts for i in part]
            assert len(rows) == shards[0].batch_rows and min(len(part) for (part,) in parts) >= 1
            seen += rows
        assert sorted(seen) == list(range(23))
        orders.append(seen)
    assert orders[0] != orders[1]  # each epoch has its own


def test_processes_draw_other_noise_and_leave_the_generator_as_it_was():
    drawn, state = [], torch.random.get_rng_state()
    for rank in range(2):
        with Session(0):
            for _ in distributed.Shard(Rows(), Pretended(2, rank), seed=5):
                drawn.append(torch.rand(1).item())
    assert len(set(drawn)) == 6 and torch.equal(torch.random.get_rng_state(), state)
    assert distributed.group() is None


@pytest.mark.slow
def test_the_command_trains_on_two_processes_and_writes_one_run(tmp_path):
    words = "fit spherical-vae --data digits --epochs 2 --hidden 16 --batch-size 400 --devices 2 --out".split()
    command = [sys.executable, "-m", "ppvae", *words, str(tmp_path / "a")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("Wrote") == done.stdout.count("Next:") == 1
    assert ppvae.load(tmp_path / "a" / "model.safetensors").dim == 3
    assert len((tmp_path / "a" / "history.csv").read_text().splitlines()) == 3
    assert "devices: 2" in (tmp_path / "a" / "run.yaml").read_text()


def test_a_number_of_devices_is_at_least_one(tmp_path, capsys):
    assert main(["fit", "gaussian-vae", "--data", "digits", "--out", str(tmp_path / "a"), "--devices", "0"]) == 2
    assert "--devices: expected at least 1, got 0" in capsys.readouterr().err
