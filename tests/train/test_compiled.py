"""Compiled and captured steps have the numbers of eager ones."""

import os
import runpy
from pathlib import Path
from typing import Any

import geoopt
import pyro
import pytest
import torch
from ppvae.models import GaussianVAE, SphericalVAE
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

import ppvae
from ppvae.infer import ELBO, IWAE_ELBO, InfoVAE_ELBO, Regularized
from ppvae.infer.objectives import find, names
from ppvae.isolation import isolated_param_store
from ppvae.tracing import trace
from ppvae.train import compiled as compilation
from ppvae.train import fitting
from ppvae.train import step as steps
from ppvae.train.batches import DataCheck
from ppvae.train.compiled import GradientFunction, Graph
from ppvae.train.step import Gradients
from ppvae.transforms import DynamicBinarization

VAES = runpy.run_path(str(Path(__file__).parents[1] / "models" / "test_vaes.py"))["VAES"]

OBJECTIVES: dict[str, tuple[Any, dict[str, Any]]] = {name: (find(name), {}) for name in names()} | {
    "iwae": (find("iwae"), {"num_particles": 3}),
    "elbo, particles": (find("elbo"), {"num_particles": 3}),
    "info": (find("info"), {"divergences": "mmd", "alpha": 1, "lambda_": 10}),
    "info, sliced": (find("info"), {"divergences": "sliced-wasserstein", "alpha": 1, "lambda_": 10}),
}
DETERMINISTIC = ("wasserstein", "wasserstein embedding")  # all but a divergence needs a density
SEVERAL = {name: (find(name), {"num_particles": 4}) for name in ("dreg", "miwae", "ciwae", "piwae")}
OBJECTIVES |= SEVERAL


def goes_with(objective, vae):
    if vae in DETERMINISTIC:
        return objective.startswith("info")
    if objective in SEVERAL:  # a few kinds of latents show it
        return vae in ("gaussian", "sphere, 10", "hyperbolic", "gaussian mixture")
    if objective == "total-correlation":
        return vae in ("gaussian", "info")
    return not (objective.startswith("info") and "vamp" in vae)  # its prior has no pathwise gradient


PAIRS = [(vae, objective) for vae in VAES for objective in OBJECTIVES if goes_with(objective, vae)]
#: Some models are traced with the ELBO and each objective with one model; all pairs with -m slow.
QUICK = {(vae, "elbo") for vae in ("gaussian", "gaussian, convolutions", "sphere, 10", "gaussian mixture", "info")}
QUICK |= {("gaussian", objective) for objective in OBJECTIVES} | {("wasserstein", "info")}


def marked(pair):
    return pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow, id=" | ".join(pair))


@pytest.mark.parametrize("vae, objective", [marked(pair) for pair in PAIRS])
def test_a_trace_has_the_terms_and_gradients_of_the_step_it_is_of(vae, objective):
    make, x = VAES[vae]
    kind, options = OBJECTIVES[objective]
    torch.manual_seed(0)
    module = make().train()
    gradients = Gradients(module, kind(**options), list(module.parameters()), None)
    # a trace that holds no number of this batch: it is run on another, with another KL weight
    other, weight = x.flip(0), torch.tensor(0.3)
    state = torch.get_rng_state()
    with isolated_param_store(), pyro.validation_enabled(False):
        function = GradientFunction(gradients)
        graph, tensors = trace(module, function, (gradients.objective.kl_weight, x))
        terms = function.names
        assert torch.equal(state, torch.get_rng_state())
        with torch.random.fork_rng():
            torch.manual_seed(1)
            values = graph(*tensors, weight, other)
            after = torch.get_rng_state()
        gradients.objective.kl_weight = weight
        with torch.random.fork_rng():
            torch.manual_seed(1)
            eager, number_of_data = gradients(other)
            assert torch.equal(after, torch.get_rng_state())
    assert terms == list(eager) and function.number_of_data == number_of_data == len(x)
    for value, name in zip(values, terms, strict=False):
        torch.testing.assert_close(value, eager[name], rtol=1e-6, atol=1e-6, equal_nan=True)
    for value, parameter in zip(values[len(terms) :], gradients.parameters, strict=True):
        if parameter.grad is None:
            assert value is None
        else:
            torch.testing.assert_close(value, parameter.grad, rtol=1e-5, atol=1e-6)


GREY = torch.rand(90, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def layers(features):
    """With buffers that change, and with noise of its own."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(16, 8, bias=False),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(8, features),
    )


FITS = {
    "Gaussian, BatchNorm and dropout": (lambda: GaussianVAE((1, 4, 4), 2, encoder=layers(4)), ELBO),
    "vMF, IWAE": (lambda: SphericalVAE((1, 4, 4), 5, (8,)), lambda: IWAE_ELBO(3)),
    "vMF, InfoVAE": (
        lambda: SphericalVAE((1, 4, 4), 3, (8,)),
        lambda: InfoVAE_ELBO("mmd", alpha=0.5, lambda_=10.0),
    ),
}


def fit(pair="Gaussian, BatchNorm and dropout", x=GREY, **options):
    """Everything at once: warm-up, schedule, clipping, a transform, and a last batch of 26."""
    make, objective = FITS[pair]
    torch.manual_seed(0)
    settings = {
        "epochs": 3,
        "batch_size": 32,
        "seed": 0,
        "progress": False,
        "transform": DynamicBinarization(),
        "warmup": 1,
        "clip_norm": 1.0,
        "scheduler": lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5),
        "objective": objective(),
    }
    return ppvae.fit(make(), x, **settings | options)


def assert_same(one, two, rtol=1e-5):
    assert one.history.keys() == two.history.keys()
    for name, values in one.history.items():
        if name != "seconds":
            assert values == pytest.approx(two.history[name], rel=rtol, abs=1e-6), name
    for (name, a), b in zip(one.vae.state_dict().items(), two.vae.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    "pair", [next(iter(FITS)), *(pytest.param(name, marks=pytest.mark.slow) for name in [*FITS][1:])]
)
def test_compiled_training_has_the_numbers_of_eager_training(pair, capsys):
    compiled = fit(pair, compile="inductor", validation=GREY[:20])
    assert "the training step was compiled in" in capsys.readouterr().err
    assert_same(compiled, fit(pair, compile=False, validation=GREY[:20]))


@pytest.mark.slow
def test_a_compiled_run_continues_to_the_same_numbers(tmp_path):
    whole = fit(compile="inductor", epochs=4, scheduler=None)
    fit(compile="inductor", epochs=2, scheduler=None, checkpoint=tmp_path / "run")
    part = fit(compile="inductor", epochs=4, scheduler=None, checkpoint=tmp_path / "run", resume=True)
    assert_same(part, whole)


@pytest.mark.slow
def test_a_compiled_run_tells_the_step_that_is_not_finite():
    with pytest.raises(FloatingPointError, match=r"not finite at epoch \d+, step \d+: .*lower the learning rate"):
        fit("vMF, IWAE", compile="inductor", lr=1e30, epochs=50, clip_norm=None)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of the process from /proc")
@pytest.mark.parametrize("mode", [False, "inductor"])
def test_memory_is_flat_over_thousands_of_steps(mode):
    held = []

    def note(_):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        held.append(pages * os.sysconf("SC_PAGE_SIZE"))

    fit(epochs=6, batch_size=20, x=GREY.repeat(100, 1, 1, 1), compile=mode, callbacks=[note], scheduler=None)
    assert held[-1] - held[1] < 2**21  # 1800 steps: the 1280 bytes of a batch and more, kept of each, would be seen


def sgd(parameters):
    return torch.optim.SGD(parameters, 1.0)


class Product(nn.Module):
    """A weight whose gradient comes transposed."""

    def __init__(self):
        super().__init__()
        self.k = nn.Parameter(0.3 * torch.randn(4, 16))

    def forward(self, x):
        return torch.einsum("bi,oi->bo", x.flatten(1), self.k)


class Sum(nn.Module):
    """A parameter whose gradient is one number expanded, and two that have one gradient."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 4, bias=False)
        self.a, self.b, self.c = (nn.Parameter(torch.zeros(n)) for n in (3, 4, 4))

    def forward(self, x):
        return self.layer(x.flatten(1)) + self.a.sum() + (self.b + self.c)


@pytest.mark.parametrize(
    "network, optimizer, compiler",
    [
        (Product, None, "none"),
        (Sum, None, "none"),
        (Product, sgd, "none"),
        (Sum, sgd, "none"),
        pytest.param(Product, None, "inductor", marks=pytest.mark.slow),
        pytest.param(Sum, sgd, "inductor", marks=pytest.mark.slow),
    ],
)
def test_gradients_of_any_layout_are_those_of_eager_training(network, optimizer, compiler, monkeypatch):
    """Fused and clipped, a gradient must lie in memory as its parameter does, and share it with no other."""
    if compiler == "none":
        monkeypatch.setattr("torch._inductor.compile", lambda graph, inputs, options: graph)

    def run(mode):
        torch.manual_seed(0)
        vae = GaussianVAE((1, 4, 4), 2, (8,), encoder=network())
        settings = {"epochs": 6, "batch_size": 30, "seed": 0, "progress": False, "clip_norm": 0.05}
        ppvae.fit(vae, (GREY > 0.5).float(), optimizer=optimizer, compile=mode, **settings)
        return vae.state_dict()

    eager, compiled = run(False), run("inductor")
    for name, value in eager.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


class TestFallback:
    """What cannot be traced is told, and training goes on with eager's numbers."""

    def fallback(self, capsys, vae, **options):
        settings = {"epochs": 2, "batch_size": 30, "seed": 0, "progress": False, "compile": "inductor"} | options
        result = ppvae.fit(vae, (GREY > 0.5).float(), **settings)
        words = capsys.readouterr().err
        assert "the training step runs eagerly" in words and words.count("\n") == 1
        assert result.epochs == 2
        return words

    def test_a_law_that_reads_a_value_back_is_named_with_its_site(self, capsys):
        class Checked(pyro.distributions.Normal):
            def rsample(self, sample_shape=torch.Size()):
                assert self.scale.min().item() > 0
                return super().rsample(sample_shape)

        vae = GaussianVAE((1, 4, 4), 2, (8,))
        vae.head.forward = lambda h: Checked(*h.split(2, -1)[:1], 1.0).to_event(1)
        words = self.fallback(capsys, vae)
        assert "site 'z'" in words and "reads a value back (.item(), or a branch on it)" in words

    def test_a_network_that_branches_on_values_is_named(self, capsys):
        class Branches(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(16, 4)

            def forward(self, x):
                return self.layer(x.flatten(1)) if x.sum() > 0 else self.layer(-x.flatten(1))

        words = self.fallback(capsys, GaussianVAE((1, 4, 4), 2, encoder=Branches()))
        assert "Branches reads a value back" in words

    def test_a_penalty_that_reads_a_value_back(self, capsys):
        class Penalty:
            weight = 1.0

            def __call__(self, model, guide, x):
                return torch.tensor(x.mean().item(), requires_grad=True)

        vae = GaussianVAE((1, 4, 4), 2, (8,))
        assert "the training step reads a value back" in self.fallback(
            capsys, vae, objective=Regularized(ELBO(), penalty=Penalty())
        )

    def test_a_hook_on_a_gradient(self, capsys):
        vae = GaussianVAE((1, 4, 4), 2, (8,))
        next(vae.parameters()).register_hook(lambda gradient: 2 * gradient)
        assert "has a hook on its gradient" in self.fallback(capsys, vae)

    def test_its_numbers_are_those_of_eager_training(self, monkeypatch):
        def fails(*_):
            raise RuntimeError("no compiler")

        monkeypatch.setattr(compilation, "compile_gradients", fails)
        assert fit(compile="inductor").history["loss"] == fit(compile=False).history["loss"]


class TestAuto:
    def test_a_short_run_on_a_cpu_is_not_compiled(self, monkeypatch):
        monkeypatch.setattr(compilation, "compile_gradients", lambda *_: pytest.fail("compiled"))
        fit()
        fit(epochs=10**6, patience=2, validation=GREY, lr=1e-12)  # it will stop long before

    def test_what_a_checkpoint_has_done_does_not_count(self, monkeypatch, tmp_path):
        monkeypatch.setattr(compilation, "compile_gradients", lambda *_: pytest.fail("compiled"))
        fit(epochs=4, compile=False, checkpoint=tmp_path / "run")
        monkeypatch.setattr(compilation, "BREAK_EVEN", 4)
        fit(epochs=5, checkpoint=tmp_path / "run", resume=True)  # 3 steps

    def test_a_long_one_is_and_says_so(self, monkeypatch, capsys):
        compiled = []
        monkeypatch.setattr(compilation, "compile_gradients", lambda eager, batch: compiled.append(1) or eager)
        monkeypatch.setattr(compilation, "BREAK_EVEN", 4)
        fit(progress=True)
        assert compiled == [1]
        assert "will be compiled: 9 steps are to come, and it pays from about 4" in capsys.readouterr().err

    def test_convolutions_are_not(self, monkeypatch):
        monkeypatch.setattr(compilation, "BREAK_EVEN", 1)
        monkeypatch.setattr(compilation, "compile_gradients", lambda eager, batch: pytest.fail("compiled"))
        encoder = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 4))
        vae = GaussianVAE((1, 4, 4), 2, (8,), encoder=encoder)
        ppvae.fit(vae, GREY, transform=DynamicBinarization(), epochs=2, seed=0, progress=False)

    @pytest.mark.parametrize("mode", ["cuda", True])
    def test_other_words_are_refused(self, mode):
        with pytest.raises(ValueError, match="compile: expected 'auto', 'graph', 'inductor' or False"):
            fit(compile=mode)

    def test_a_cuda_graph_needs_cuda(self):
        with pytest.raises(ValueError, match="compile: 'graph' captures a CUDA graph, got a model on cpu"):
            fit(compile="graph")


class Recorder(TorchDispatchMode):
    """What a CUDA graph does, on a CPU: keep the operators that are launched with the memory that they read and write,
    and launch them again. Python is not run again, and a value that is read back is refused."""

    def __init__(self):
        super().__init__()
        self.launches = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        result = operator(*args, **(kwargs or {}))
        if operator.namespace == "aten":
            self.launches.append((operator, args, kwargs or {}, result))
        return result

    def replay(self):
        with torch.no_grad():
            for operator, args, kwargs, result in self.launches:
                if any(r.alias_info is not None for r in operator._schema.returns):
                    if operator._schema.is_mutable:
                        operator(*args, **kwargs)
                    continue  # a view of the same memory
                new = operator(*args, **kwargs)
                pairs = [(result, new)] if isinstance(new, torch.Tensor) else zip(result or (), new or (), strict=True)
                for held, value in pairs:
                    if isinstance(held, torch.Tensor):
                        held.copy_(value)


def emulated(monkeypatch):
    """fit with compile="graph" on a CPU. Recording runs the step once, which a capture does not: it is undone."""
    made = []

    def make_step(mode, gradients, source, optimizer, clip_norm, totals, announce):
        vae = gradients.vae
        device_step = steps.DeviceStep(gradients, source, optimizer, clip_norm, totals)

        def record(launch):
            held = [
                *vae.state_dict().values(),
                *(v for state in optimizer.state.values() for v in state.values()),
                *(device_step.finite, device_step.good, device_step.not_finite),
                *device_step.totals.sums.values(),
            ]
            copies, state = [t.clone() for t in held], torch.get_rng_state()
            with Recorder() as recorder:
                launch()
            for tensor, copy in zip(held, copies, strict=True):
                tensor.data.copy_(copy)
            torch.set_rng_state(state)
            return recorder.replay

        made.append(Graph(device_step, gradients, announce, record))
        return made[-1]

    def resolve(mode, vae, optimizer, *_):
        compilation._make_capturable(optimizer)
        return "graph"

    monkeypatch.setattr(fitting, "make_step", make_step)
    monkeypatch.setattr(fitting, "resolve_compile_mode", resolve)
    return made


class TestGraph:
    """The captured step, by the operators that it launches. A real capture is below, where there is a GPU."""

    @pytest.mark.parametrize("pair", FITS)
    def test_replays_have_the_numbers_of_eager_training(self, pair, monkeypatch):
        eager = fit(pair, compile=False, validation=GREY[:20])
        (made, graph) = (emulated(monkeypatch), fit(pair, validation=GREY[:20]))
        assert made[0].replay is not None and not made[0].refused
        assert_same(graph, eager)

    def test_a_loader_fills_the_captured_batch(self, monkeypatch):
        def loader():
            return DataLoader(TensorDataset(GREY), batch_size=32)

        eager = fit(x=loader(), compile=False)
        made, graph = emulated(monkeypatch), fit(x=loader())
        assert made[0].replay is not None
        assert_same(graph, eager)

    def test_a_run_continues(self, monkeypatch, tmp_path):
        emulated(monkeypatch)
        whole = fit(epochs=4)
        fit(epochs=2, checkpoint=tmp_path / "run")
        assert_same(fit(epochs=4, checkpoint=tmp_path / "run", resume=True), whole)

    def test_an_eager_run_continues_captured(self, monkeypatch, tmp_path):
        whole = fit(epochs=6, compile=False)
        fit(epochs=2, compile=False, checkpoint=tmp_path / "run")
        made = emulated(monkeypatch)
        assert_same(fit(epochs=6, checkpoint=tmp_path / "run", resume=True), whole)
        assert made[0].replay is not None

    def test_the_first_loss_that_is_not_finite_is_told_with_its_step(self, monkeypatch):
        def spoilt(x):
            return torch.where(torch.rand(()) < 0.04, torch.nan, x)

        def told():
            torch.manual_seed(0)
            vae = GaussianVAE((1, 4, 4), 2, (8,))
            with pytest.raises(FloatingPointError, match=r"not finite at epoch \d+, step \d+") as error:
                ppvae.fit(vae, (GREY > 0.5).float(), epochs=20, batch_size=10, seed=0, progress=False, transform=spoilt)
            assert all(torch.isfinite(p).all() for p in vae.parameters())
            return str(error.value).partition(":")[0]

        monkeypatch.setattr(DataCheck, "__call__", lambda *_: None)
        eager = told()
        made = emulated(monkeypatch)
        assert told() == eager and made[0].replay is not None

    def test_a_step_that_reads_a_value_back_stays_eager(self, monkeypatch, capsys):
        class Branches(nn.Linear):
            def forward(self, x):
                return super().forward(x.flatten(1)) * (1 if x.sum() > 0 else 2)

        made = emulated(monkeypatch)
        vae = GaussianVAE((1, 4, 4), 2, encoder=Branches(16, 4))
        ppvae.fit(vae, (GREY > 0.5).float(), epochs=3, batch_size=30, progress=True)
        assert made[0].refused and "Branches reads a value back" in capsys.readouterr().err

    def test_a_schedule_of_more_than_the_learning_rate_ends_it(self, monkeypatch, capsys):
        def cycle(optimizer):
            return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=6)

        eager = fit(compile=False, epochs=5, scheduler=cycle)
        made, graph = emulated(monkeypatch), fit(epochs=5, scheduler=cycle, progress=True)
        assert made[0].replay is not None and made[0].refused
        assert "changes more than the learning rate" in capsys.readouterr().err
        assert_same(graph, eager)

    def test_keys_that_are_batches_are_not_kept_for_long(self, monkeypatch):
        monkeypatch.setattr(steps, "MAX_BYTES_KEPT", 2 * GREY[:32].nbytes)
        made = emulated(monkeypatch)
        kept = []
        count = steps.DeviceStep.count
        monkeypatch.setattr(
            steps.DeviceStep, "count", lambda self, *key: (count(self, *key), kept.append(len(self.keys)))
        )
        fit(x=DataLoader(TensorDataset(GREY), batch_size=32), epochs=4)
        assert made[0].replay is not None and max(kept) == 2

    def test_an_optimizer_that_cannot_be_captured_is_named(self):
        parameter = nn.Parameter(torch.zeros(2))
        words = compilation._make_capturable(torch.optim.SGD([parameter], 0.1))
        assert words == "the step of SGD cannot be captured (no capturable=True, not a fused SGD)"
        riemannian = geoopt.optim.RiemannianAdam([parameter], 0.1)  # an Adam whose step counts in Python
        assert "the step of RiemannianAdam is not one of torch's own" in compilation._make_capturable(riemannian)
        adam = torch.optim.Adam([parameter], 0.1, fused=True)
        assert compilation._make_capturable(adam) == "" and adam.param_groups[0]["lr"].dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
class TestCuda:
    @pytest.mark.parametrize("pair", FITS)
    def test_a_captured_run_has_the_numbers_of_an_eager_one(self, pair, capsys):
        graph = fit(pair, compile="graph", device="cuda", epochs=6, validation=GREY[:20])
        assert "captured in a CUDA graph" in capsys.readouterr().err
        assert_same(graph, fit(pair, compile=False, device="cuda", epochs=6, validation=GREY[:20]), rtol=1e-3)

    def test_a_run_continues(self, tmp_path):
        whole = fit(compile="graph", device="cuda", epochs=6)
        fit(compile="graph", device="cuda", epochs=3, checkpoint=tmp_path / "run")
        part = fit(compile="graph", device="cuda", epochs=6, checkpoint=tmp_path / "run", resume=True)
        assert_same(part, whole, rtol=1e-3)

    def test_a_loss_that_is_not_finite_is_told(self, monkeypatch, capsys):
        def spoilt(x):
            return torch.where(torch.rand((), device=x.device) < 0.02, torch.nan, torch.bernoulli(x))

        monkeypatch.setattr(DataCheck, "__call__", lambda *_: None)
        with pytest.raises(FloatingPointError, match=r"not finite at epoch \d+, step \d+"):
            fit("vMF, IWAE", compile="graph", device="cuda", epochs=100, transform=spoilt)
        assert "captured in a CUDA graph" in capsys.readouterr().err

    def test_what_cannot_be_captured_is_told(self, capsys):
        fit(compile="graph", device="cuda", optimizer=lambda p: torch.optim.SGD(p, 0.1), scheduler=None)
        assert "SGD cannot be captured" in capsys.readouterr().err
