import math

import geoopt
import numpy as np
import pyro
import pytest
import torch
from ppvae.models import GaussianVAE, SphericalVAE
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import ppvae
from ppvae.infer import ELBO, IWAE_ELBO, CodeNorm, InfoVAE_ELBO, Regularized, TensorELBO, TotalCorrelation_ELBO
from ppvae.nn import NormalLikelihood
from ppvae.train import batches
from ppvae.train.loop import Loop
from ppvae.transforms import DynamicBinarization, Scale

rng = np.random.default_rng(0)
# Two kinds of image, with some noise: there is something to learn.
KIND = rng.integers(0, 2, 120)
GREY = (0.1 + 0.8 * np.where(KIND[:, None, None, None] == 1, np.eye(4), 1 - np.eye(4))).astype(np.float32)
X = (rng.random(GREY.shape) < GREY).astype(np.float32)
TRAIN, VALID = X[:80], X[80:]


def make(model=GaussianVAE, seed=0, **options):
    torch.manual_seed(seed)
    return model((1, 4, 4), 2, (16,), **options)


def fit(vae=None, x=TRAIN, **options):
    return ppvae.fit(vae or make(), x, **({"epochs": 3, "batch_size": 32, "seed": 0, "progress": False} | options))


def weights(vae):
    return torch.cat([p.detach().flatten() for p in vae.parameters()])


@pytest.mark.parametrize("model", [GaussianVAE, SphericalVAE])
def test_training_lowers_the_loss_and_leaves_the_best_model_in_eval_mode(model):
    vae = make(model)
    result = fit(vae, validation=VALID, epochs=40, lr=1e-2)
    assert result.best["valid_elbo"] > result.history["valid_elbo"][0] + 1
    assert result.best_epoch == 1 + int(np.argmin(result.history["valid_loss"]))
    assert result.stopped == "epochs" and result.vae is vae and not vae.training
    again = fit(vae, validation=VALID, epochs=1, optimizer=lambda p: torch.optim.SGD(p, 1e-12))
    assert again.history["valid_loss"][0] == pytest.approx(result.best["valid_loss"], abs=1e-5)
    assert result.best_weights == {}


def test_the_history_has_one_entry_an_epoch_in_nats_per_datum():
    result = fit(validation=VALID, epochs=4)
    h = result.history
    names = {"epoch", "loss", "elbo", "reconstruction", "kl", "kl_weight", "seconds"}
    assert h.keys() == names | {"valid_loss", "valid_elbo", "valid_reconstruction", "valid_kl"}
    assert all(len(values) == 4 for values in h.values())
    assert h["epoch"] == [1, 2, 3, 4] and h["kl_weight"] == [1] * 4 and h["seconds"] == sorted(h["seconds"])
    assert np.allclose(np.array(h["reconstruction"]) - h["kl"], h["elbo"])
    assert np.allclose(h["loss"], np.negative(h["elbo"]), atol=1e-5)
    # a fair coin for each of 16 pixels costs 16 log 2 nats, and an untrained model is about that
    assert h["valid_loss"][0] == pytest.approx(16 * math.log(2), abs=1.5)
    assert "4 epochs" in repr(result) and f"best epoch {result.best_epoch}" in repr(result)


def test_the_last_batch_counts_by_its_size():
    """Means are over data, not over batches: frozen weights give the same loss for any split of the same draws."""
    vae = make()
    still = lambda p: torch.optim.SGD(p, 1e-30)  # noqa: E731
    with torch.no_grad():
        for p in vae.encoder.parameters():
            p.zero_()  # then the loss of a datum does not depend on its encoder
        for p in vae.decoder.parameters():
            p.zero_()
    for batch_size in (80, 79, 50):
        assert fit(vae, batch_size=batch_size, epochs=1, optimizer=still).history["loss"][0] == pytest.approx(
            16 * math.log(2)
        )


def test_a_seed_fixes_the_numbers_and_leaves_the_generators():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, two, three = fit(), fit(), fit(seed=1)
    torch.manual_seed(5)
    assert torch.equal(state, torch.get_rng_state())
    assert one.history["loss"] == two.history["loss"] != three.history["loss"]
    assert torch.equal(weights(one.vae), weights(two.vae))


def test_without_a_seed_the_global_generator_is_used_and_moved():
    vae = make()
    torch.manual_seed(0)
    fit(vae, seed=None)
    moved = torch.get_rng_state()
    torch.manual_seed(0)
    assert not torch.equal(moved, torch.get_rng_state())


def test_nothing_of_it_stays_behind():
    objective = ELBO()
    weight = objective.kl_weight
    validation = pyro.settings.get("validate_distributions_pyro") if hasattr(pyro, "settings") else None
    fit(objective=objective, warmup=2)
    assert objective.kl_weight is weight and float(weight) == 1
    assert not pyro.get_param_store().keys()
    if validation is not None:
        assert pyro.settings.get("validate_distributions_pyro") == validation


class TestWarmup:
    def test_the_kl_weight_rises_linearly_and_validation_has_all_of_it(self):
        result = fit(validation=VALID, epochs=5, warmup=2, batch_size=20)
        # at the last of 4 steps: (epoch - 1 + 3/4) / 2
        assert result.history["kl_weight"] == [0.375, 0.875, 1, 1, 1]
        h = result.history
        assert np.allclose(h["valid_loss"], np.subtract(h["valid_kl"], h["valid_reconstruction"]), atol=1e-4)

    def test_a_fraction_of_an_epoch(self):
        assert fit(epochs=3, warmup=0.5, batch_size=20).history["kl_weight"] == [1, 1, 1]

    def test_training_losses_at_lower_weights_are_not_the_best(self):
        result = fit(epochs=4, warmup=3, optimizer=lambda p: torch.optim.SGD(p, 1e-30))
        assert result.history["loss"][0] < result.history["loss"][3]  # its KL counts for little
        assert result.best_epoch == 4

    def test_a_run_that_ends_within_it_keeps_the_last_epoch(self):
        assert fit(epochs=2, warmup=5).best_epoch == 2

    def test_an_objectives_own_weight_is_scaled(self):
        objective = ELBO()
        objective.kl_weight = torch.tensor(0.5)
        result = fit(objective=objective, epochs=3, warmup=1, batch_size=40)
        assert result.history["kl_weight"] == [0.25, 0.5, 0.5]


class TestPatience:
    def test_training_stops_without_a_better_epoch(self):
        worse = lambda p: torch.optim.SGD(p, 1e-2, maximize=True)  # noqa: E731
        result = fit(validation=VALID, epochs=50, patience=3, optimizer=worse)
        assert (result.best_epoch, result.epochs, result.stopped) == (1, 4, "patience")

    def test_it_is_counted_from_the_end_of_the_warm_up(self):
        worse = lambda p: torch.optim.SGD(p, 1e-3, maximize=True)  # noqa: E731
        result = fit(validation=VALID, epochs=50, patience=3, warmup=5, optimizer=worse)
        assert (result.best_epoch, result.epochs) == (1, 8)


class Rows(Dataset):
    def __len__(self):
        return len(TRAIN)

    def __getitem__(self, i):
        return TRAIN[i]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(TRAIN)


DATA = {
    "tensor": lambda: torch.as_tensor(TRAIN),
    "tuple": lambda: (TRAIN,),
    "Dataset": Rows,
    "TensorDataset": lambda: TensorDataset(torch.as_tensor(TRAIN)),
    "stream": Stream,
    "DataLoader": lambda: DataLoader(Rows(), batch_size=32, shuffle=True),
    "DataLoader of a stream": lambda: DataLoader(Stream(), batch_size=32),
}


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_data_of_every_kind_train_alike(data):
    result = fit(x=data(), validation=data(), epochs=30, lr=1e-2)
    assert result.best["valid_loss"] < 16 * math.log(2) - 1
    assert result.epochs == 30


def test_rows_of_x_and_given_stay_together():
    class Told(GaussianVAE):
        given = None

        def model(self, x, label):
            assert torch.equal(x.flatten(1).sum(1).round().long(), label)
            return super().model(x)

        guide = lambda self, x, label: GaussianVAE.guide(self, x)  # noqa: E731

    torch.manual_seed(0)
    vae = Told((1, 4, 4), 2, (16,))
    del vae.given
    fit(vae, x=(TRAIN, TRAIN.sum((1, 2, 3)).astype(int)), validation=(VALID, VALID.sum((1, 2, 3)).astype(int)))


class TestOptimisation:
    @pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad])
    def test_any_torch_optimizer(self, kind):
        vae = make()
        before = weights(vae)
        result = fit(vae, optimizer=lambda p: kind(p, lr=1e-2), epochs=5)
        assert result.history["loss"][-1] < result.history["loss"][0]
        assert not torch.equal(before, weights(vae))

    def test_frozen_parameters_stay(self):
        vae = make()
        vae.encoder.requires_grad_(False)
        before = weights(vae.encoder)
        fit(vae)
        assert torch.equal(before, weights(vae.encoder))

    def test_the_schedule_is_recorded_and_used(self):
        result = fit(epochs=5, scheduler=lambda o: StepLR(o, 2, 0.1))
        assert np.allclose(result.history["lr"], [1e-3, 1e-3, 1e-4, 1e-4, 1e-5])
        vae, stopped = make(), make()
        fit(vae, epochs=1)
        fit(stopped, epochs=3, scheduler=lambda o: StepLR(o, 1, 0.0))
        assert torch.equal(weights(vae), weights(stopped))

    def test_a_plateau_is_of_the_loss_that_chooses_the_best_epoch(self):
        seen = []

        class Spy(ReduceLROnPlateau):
            def step(self, metrics):
                seen.append(metrics)
                super().step(metrics)

        result = fit(validation=VALID, scheduler=Spy)
        assert seen == result.history["valid_loss"]
        seen.clear()
        result = fit(scheduler=Spy)
        assert seen == result.history["loss"]

    def test_gradients_are_clipped_together(self):
        before = make()
        vae = make()
        fit(vae, epochs=1, batch_size=80, clip_norm=0.01, optimizer=lambda p: torch.optim.SGD(p, 1.0))
        assert float((weights(vae) - weights(before)).norm()) == pytest.approx(0.01, rel=1e-3)

    def test_another_objective(self):
        result = fit(objective=IWAE_ELBO(5))
        assert result.history["loss"][-1] < result.history["loss"][0]

    def test_an_objective_of_which_only_the_loss_is_known(self, capsys):
        class Loss(TensorELBO):
            def terms(self, model_trace, guide_trace):
                return {"loss": ELBO().terms(model_trace, guide_trace)["loss"]}

        result = fit(objective=Loss(), validation=VALID, progress=True)
        assert result.history.keys() == {"epoch", "loss", "kl_weight", "valid_loss", "seconds"}
        assert "loss" in capsys.readouterr().err

    def test_another_dtype(self):
        vae = make()
        fit(vae, dtype=torch.float64)
        assert {p.dtype for p in vae.parameters()} == {torch.float64}


class Directed(GaussianVAE):
    """A VAE with a parameter on the sphere, which turns its latent's mean."""

    def __init__(self):
        super().__init__((1, 4, 4), 3, (16,))
        self.direction = geoopt.ManifoldParameter(torch.tensor([1.0, 0.0, 0.0]), manifold=geoopt.Sphere())

    def model(self, x):
        with pyro.plate("data", x.shape[0]):
            loc = 3 * self.direction
            z = pyro.sample("z", pyro.distributions.Normal(loc, 1.0).to_event(1))
            return pyro.sample("x", self.likelihood(self.decoder(z), 3), obs=x)


class TestManifoldParameters:
    def test_they_move_and_stay_on_their_manifold(self):
        torch.manual_seed(0)
        vae = Directed()
        fit(vae, epochs=20, optimizer=lambda p: geoopt.optim.RiemannianAdam(p, lr=1e-2), clip_norm=10.0)
        assert isinstance(vae.direction, geoopt.ManifoldParameter)
        direction = vae.direction.detach()
        assert float((direction - torch.tensor([1.0, 0.0, 0.0])).norm()) > 0.05
        assert float(direction.norm()) == pytest.approx(1, abs=1e-6)

    def test_a_flat_optimizer_is_refused(self):
        with pytest.raises(
            ValueError, match=r"direction lies on a manifold, which Adam would leave; pass optimizer=.*RiemannianAdam"
        ):
            fit(Directed())

    def test_a_run_continues(self, tmp_path):
        def run(name, epochs, **options):
            torch.manual_seed(0)
            adam = lambda p: geoopt.optim.RiemannianAdam(p, lr=1e-2)  # noqa: E731
            return fit(Directed(), epochs=epochs, optimizer=adam, checkpoint=tmp_path / name, **options)

        whole = run("whole", 4)
        run("part", 2)
        part = run("part", 4, resume=True)
        assert part.history["loss"] == whole.history["loss"]
        assert torch.equal(weights(part.vae), weights(whole.vae))


class Watching(GaussianVAE):
    """Keeps what its guide is shown, and whether in training."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.seen = {True: [], False: []}

    def guide(self, x):
        self.seen[self.training].append(x.clone())
        return super().guide(x)


class TestTransforms:
    def test_dynamic_binarisation_is_fresh_in_training_and_fixed_in_validation(self):
        vae = make(Watching)
        fit(vae, GREY[:80], validation=GREY[80:], epochs=3, batch_size=80, transform=DynamicBinarization())
        # in an order that does not depend on the shuffle; each step is followed by a check at the end of the epoch
        draws = [x.sort(0).values for x in vae.seen[True][::2]]
        assert len(draws) == 3 and all(set(x.unique().tolist()) == {0, 1} for x in draws)
        assert not torch.equal(draws[0], draws[1]) and not torch.equal(draws[1], draws[2])
        valid = vae.seen[False][-3:]
        assert torch.equal(valid[0], valid[1]) and torch.equal(valid[1], valid[2])
        other = make(Watching)
        fit(other, GREY[:80], validation=GREY[80:], epochs=1, seed=7, transform=DynamicBinarization())
        assert torch.equal(torch.cat(other.seen[False][-2:]), valid[0])  # the same for every seed and batch size

    def test_a_loader_of_validation_data_has_the_same_draws_every_epoch(self):
        vae = make(Watching)
        loader = DataLoader(torch.as_tensor(GREY[80:]), batch_size=40)
        fit(vae, GREY[:80], validation=loader, epochs=3, transform=DynamicBinarization())
        assert torch.equal(vae.seen[False][-1], vae.seen[False][-2])

    def test_the_draws_have_the_grey_values_as_means(self):
        torch.manual_seed(0)
        x = torch.tensor([0.0, 0.1, 0.5, 1.0]).expand(100_000, 4)
        mean = DynamicBinarization()(x).mean(0)
        assert mean[0] == 0 and mean[3] == 1
        assert torch.allclose(mean, x[0], atol=5 * 0.5 / math.sqrt(100_000))

    def test_bytes_stay_bytes_in_memory_and_are_scaled_in_each_step(self, monkeypatch):
        made = []
        kind = batches.MemoryBatches
        monkeypatch.setattr(batches, "MemoryBatches", lambda *a, **o: made.append(kind(*a, **o)) or made[-1])
        images = (255 * GREY).round().astype(np.uint8)
        scaled = fit(make(), images, epochs=2, transform=Scale(255, DynamicBinarization()))
        assert made[0].tensors[0].dtype == torch.uint8 and made[0].batch(torch.arange(3))[0].dtype == torch.float32
        same = fit(make(), images / np.float32(255), epochs=2, transform=DynamicBinarization())
        assert scaled.history["loss"] == same.history["loss"]
        with pytest.raises(ValueError, match=r"Scale expected values in \[0, 16\], got values from"):
            fit(make(), images, transform=Scale(16))

    def test_any_function(self):
        vae = make(Watching)
        fit(vae, epochs=1, transform=lambda x: x.flip(-1))
        assert vae.seen[True]


class TestNotFinite:
    def test_a_diverging_learning_rate_is_explained(self):
        vae = make()
        words = r"not finite at epoch \d+, step \d+: .*(parameter|site '[xz]').*; lower the learning rate"
        with pytest.raises(FloatingPointError, match=words):
            fit(vae, lr=1e6, epochs=50)
        assert torch.isfinite(weights(vae)).all()  # the best weights so far

    def test_a_nan_of_a_network_is_traced_to_its_site(self):
        class Breaks(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer, self.calls = nn.Linear(16, 4), 0

            def forward(self, x):
                self.calls += 1
                return self.layer(x.flatten(1)) * (1 if self.calls < 7 else math.nan)

        with pytest.raises(FloatingPointError, match="epoch 2, step 2: the guide's Independent at site 'z' draws NaN"):
            fit(make(encoder=Breaks()))

    def test_a_validation_loss_that_is_not_finite_ends_training(self):
        class Breaks(nn.Linear):
            def forward(self, x):
                return super().forward(x.flatten(1)) * (1 if self.training else math.inf)

        with pytest.raises(FloatingPointError, match=r"epoch 1, in the validation data: .*site 'z'"):
            fit(make(encoder=Breaks(16, 4)), validation=VALID)


def test_an_interrupt_keeps_the_best_weights(capsys):
    def interrupt(fit):
        if fit.epochs == 2:
            raise KeyboardInterrupt

    vae = make()
    result = fit(vae, validation=VALID, callbacks=[interrupt])
    assert result.stopped == "interrupted" and result.epochs == 2
    assert f"the weights of epoch {result.best_epoch} are kept" in capsys.readouterr().err
    reference = make()
    fit(reference, validation=VALID, epochs=2)
    assert torch.equal(weights(vae), weights(reference))


def test_an_interrupt_in_the_first_epoch_keeps_the_initial_weights(capsys):
    vae = make()
    before = weights(vae)
    vae.encoder.register_forward_hook(lambda *_: exec("raise KeyboardInterrupt") if vae.training else None)
    result = fit(vae)
    assert result.best_epoch is None and result.best == {}
    assert "the initial weights are kept" in capsys.readouterr().err
    assert torch.equal(before, weights(vae))


def test_the_progress_bar_is_on_the_standard_error(capsys):
    fit(validation=VALID, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "ELBO" in err and "nats" in err
    fit()
    assert capsys.readouterr() == ("", "")


def test_a_diverging_learning_rate_is_said_to_be_one():
    torch.manual_seed(0)
    vae = GaussianVAE((4,), 2, (8,), likelihood=NormalLikelihood(0.1))
    x = torch.randn(64, 4)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        ppvae.fit(vae, x, epochs=5, lr=1e3, seed=0, progress=False)
    assert all(torch.isfinite(p).all() for p in vae.parameters())


def test_a_loss_that_grows_without_becoming_infinite_ends_training():
    torch.manual_seed(0)
    vae = SphericalVAE((1, 4, 4), 3, (8,))
    x = (torch.rand(64, 1, 4, 4) > 0.5).float()
    with pytest.raises(FloatingPointError, match=r"the loss rose from .* in the first step to .*training diverges"):
        ppvae.fit(vae, x, epochs=3, batch_size=8, lr=1e4, seed=0, progress=False)


class TestBatchSizes:
    """What the objective cannot take is refused before the first step, not at the end of the first epoch."""

    OBJECTIVES = {
        "info": lambda: InfoVAE_ELBO("mmd", 0.5, 1.0),
        "info, some": lambda: InfoVAE_ELBO({"z": "energy"}, 1.0, 1.0),
        "total correlation": TotalCorrelation_ELBO,
        "total correlation of N": lambda: TotalCorrelation_ELBO(num_data=80),
        "penalised": lambda: Regularized(TotalCorrelation_ELBO(), code=CodeNorm(0.1)),
    }

    def refused(self, objective, words="batch", **options):
        vae = make(Watching)
        with pytest.raises(ValueError, match=words):
            fit(vae, objective=self.OBJECTIVES[objective](), **options)
        assert not vae.seen[True]  # in training mode

    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_a_last_batch_of_one_datum(self, objective, tmp_path):
        words = "batch_size: 80 data in batches of 79: .* that leaves no single datum over"
        self.refused(objective, words, batch_size=79)
        self.refused(objective, x=DataLoader(Rows(), batch_size=79))
        self.refused(objective, x=DataLoader(Rows(), batch_size=79, shuffle=True))
        self.refused(objective, x=Rows(), batch_size=79)
        np.save(tmp_path / "x.npy", TRAIN)
        self.refused(objective, x=np.load(tmp_path / "x.npy", mmap_mode="r"), batch_size=79)
        self.refused(objective, x=TRAIN[:1])

    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_one_of_the_validation_data(self, objective):
        self.refused(objective, "39 validation data in batches of 38", validation=VALID[1:], batch_size=38)

    def test_a_batch_of_more_than_the_training_data(self):
        objective = TotalCorrelation_ELBO(num_data=60)
        with pytest.raises(ValueError, match=r"80 data in batches of 70: .* at most num_data = 60 data, got one of 70"):
            fit(objective=objective, batch_size=70)

    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_what_they_can_take(self, objective):
        assert fit(objective=self.OBJECTIVES[objective](), batch_size=78, validation=VALID, epochs=1).epochs == 1
        loader = DataLoader(Rows(), batch_size=79, drop_last=True)
        assert fit(objective=self.OBJECTIVES[objective](), x=loader, epochs=1).epochs == 1

    def test_one_datum_is_enough_where_nothing_compares_data(self):
        assert fit(objective=InfoVAE_ELBO(alpha=0.5, lambda_=0.5), batch_size=79, epochs=1).epochs == 1
        assert fit(objective=InfoVAE_ELBO({}, 0.5, 1.0), batch_size=79, epochs=1).epochs == 1
        assert fit(batch_size=79, validation=VALID[:1], epochs=1).epochs == 1

    def test_batch_normalisation_sees_the_batches_of_a_loader(self):
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
        with pytest.raises(ValueError, match="80 data in batches of 79 leave a batch of one datum, on which BatchNorm"):
            fit(make(encoder=net), x=DataLoader(Rows(), batch_size=79))


class Wrong:
    """Steps of a length that no loss survives, from an epoch on; its weights are huge, and may be finite."""

    def __init__(self, epoch, lr):
        self.epoch, self.lr = epoch, lr

    def __call__(self, optimizer):
        return LambdaLR(optimizer, lambda epoch: 1.0 if epoch + 1 < self.epoch else self.lr / 1e-3)


class TestTheLastStep:
    """The loss of a step is that before it: an epoch of one step says nothing of what the step did."""

    @pytest.mark.parametrize("lr", [1e30, 1e9, 30.0])
    @pytest.mark.parametrize("options", [{}, {"validation": VALID}, {"warmup": 2}], ids=["", "validation", "warm-up"])
    def test_of_the_only_epoch(self, lr, options):
        vae = make(likelihood=NormalLikelihood(0.1))
        before = weights(vae)
        words = r"not finite at epoch 1, after its last step|rose from .* after the last step of epoch 1.*lower the"
        with pytest.raises(FloatingPointError, match=words):
            fit(vae, epochs=1, batch_size=80, lr=lr, **options)
        assert torch.equal(weights(vae), before)

    @pytest.mark.parametrize("lr", [1e30, 30.0])
    @pytest.mark.parametrize("validation", [None, VALID], ids=["", "validation"])
    def test_of_a_later_epoch_leaves_the_best_weights(self, lr, validation):
        options = {"batch_size": 80, "validation": validation}
        good, vae = make(likelihood=NormalLikelihood(0.1)), make(likelihood=NormalLikelihood(0.1))
        fit(good, epochs=2, **options)
        with pytest.raises(FloatingPointError, match=r"after (its|the) last step"):
            fit(vae, epochs=9, scheduler=Wrong(3, lr), **options)
        assert torch.equal(weights(vae), weights(good))

    def test_a_loss_that_is_huge_and_finite(self):
        torch.manual_seed(0)
        vae = SphericalVAE((1, 4, 4), 3, (8,))
        with pytest.raises(
            FloatingPointError, match=r"the loss rose from .* after the last step of epoch 1 .*diverges"
        ):
            fit(vae, epochs=1, batch_size=80, lr=1e4)

    def test_a_parameter_that_is_infinite_under_a_finite_loss(self):
        vae = make()
        vae.spare = nn.Parameter(torch.zeros(2))  # which the loss does not read

        def spoil(optimizer, args, kwargs):
            with torch.no_grad():
                vae.spare[1] = math.inf

        def sgd(parameters):
            optimizer = torch.optim.SGD(parameters, 1e-3)
            optimizer.register_step_post_hook(spoil)
            return optimizer

        with pytest.raises(
            FloatingPointError, match=r"epoch 1, after its last step: the parameter spare became NaN or"
        ):
            fit(vae, epochs=1, batch_size=80, optimizer=sgd)
        assert vae.spare.tolist() == [0, 0]

    def test_checking_it_changes_nothing(self, monkeypatch):
        """Neither buffers nor draws: dropout and BatchNorm see the steps alone."""

        def run():
            torch.manual_seed(0)
            layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 4))
            vae = GaussianVAE((1, 4, 4), 2, (16,), encoder=layers)
            history = fit(vae, epochs=3, batch_size=40).history
            return history["loss"], [tensor.tolist() for tensor in vae.state_dict().values()]

        checked = run()
        monkeypatch.setattr(Loop, "_check_last_step", lambda *_: None)
        assert checked == run()

    def test_data_far_from_zero_in_a_network_that_normalises_them(self):
        """BatchNorm's running statistics are far off after the first steps, and so is the loss in eval mode."""
        torch.manual_seed(0)
        net = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4))
        vae = GaussianVAE((4,), 2, encoder=net, decoder=nn.Linear(2, 4), likelihood=NormalLikelihood(1000.0))
        x = 1e6 + torch.randn(64, 4)
        assert ppvae.fit(vae, x, epochs=2, batch_size=64, seed=0, progress=False).epochs == 2


class TestMemoryMaps:
    def saved(self, tmp_path, array, name="x"):
        np.save(tmp_path / f"{name}.npy", array)
        return np.load(tmp_path / f"{name}.npy", mmap_mode="r")

    def test_they_train_to_the_numbers_of_the_arrays(self, tmp_path):
        x = (np.random.default_rng(0).random((50, 6)) > 0.5).astype(np.uint8)
        on_disk = self.saved(tmp_path, x)
        results = []
        for data in (x, on_disk):
            torch.manual_seed(0)
            vae = GaussianVAE((6,), 2, (8,))
            options = {"validation": data[:20], "epochs": 3, "batch_size": 16, "seed": 0, "progress": False}
            fit = ppvae.fit(vae, data, **options)
            results.append((fit.history["loss"], fit.history["valid_loss"]))
        assert results[0] == results[1]

    def test_values_are_checked_with_their_rows(self, tmp_path):
        x = np.zeros((5000, 6), np.float32)
        x[4500, 2] = 0.5
        with pytest.raises(ValueError, match=r"support of the Bernoulli likelihood.*first in row 4500"):
            ppvae.fit(GaussianVAE((6,), 2, (8,)), self.saved(tmp_path, x), progress=False)
        x[4500, 2] = np.nan
        with pytest.raises(ValueError, match="first in row 4500"):
            ppvae.fit(GaussianVAE((6,), 2, (8,)), self.saved(tmp_path, x, "y"), progress=False)

    def test_arrays_beside_x_are_read_too_and_must_be_as_long(self, tmp_path):
        rng = np.random.default_rng(0)
        x, size = self.saved(tmp_path, rng.poisson(2.0, (40, 6))), np.ones(40, np.float32)
        vae = GaussianVAE((6,), 2, (8,), likelihood=ppvae.nn.PoissonLikelihood(size_factor=True))
        assert ppvae.fit(vae, (x, size), epochs=1, progress=False).epochs == 1
        with pytest.raises(ValueError, match=r"as many rows as x, 40, got \[39\]"):
            ppvae.fit(vae, (x, size[:39]), epochs=1, progress=False)

    def test_a_run_continues_from_its_checkpoint_whether_the_data_are_mapped_or_not(self, tmp_path):
        x = (np.random.default_rng(0).random((50, 6)) > 0.5).astype(np.float32)
        on_disk, file = self.saved(tmp_path, x), tmp_path / "c.safetensors"
        options = {"batch_size": 16, "seed": 0, "progress": False, "checkpoint": file}
        torch.manual_seed(0)
        vae = GaussianVAE((6,), 2, (8,))
        ppvae.fit(vae, on_disk, epochs=1, **options)
        fit = ppvae.fit(vae, x, epochs=2, resume=True, **options)
        torch.manual_seed(0)
        once = ppvae.fit(GaussianVAE((6,), 2, (8,)), x, epochs=2, batch_size=16, seed=0, progress=False)
        assert fit.history["loss"] == once.history["loss"]


class TestPrecision:
    x = (np.random.default_rng(0).random((60, 6)) > 0.5).astype(np.float32)

    def fitted(self, precision, seen=None):
        torch.manual_seed(0)
        vae = GaussianVAE((6,), 2, (8,))
        if seen is not None:
            vae.encoder.module.layers[0].register_forward_hook(lambda module, x, y: seen["layer"].add(y.dtype))
            vae.head.register_forward_hook(lambda module, h, q: seen["law"].add(q.base_dist.scale.dtype))
        fit = ppvae.fit(vae, self.x, epochs=3, batch_size=20, seed=0, precision=precision, progress=False)
        assert {p.dtype for p in vae.parameters()} == {torch.float32}
        return fit.history["loss"], vae

    def test_bf16_is_of_the_networks_alone(self):
        seen = {"layer": set(), "law": set()}
        loss, vae = self.fitted("bf16", seen)
        assert seen == {"layer": {torch.bfloat16}, "law": {torch.float32}}
        exact = self.fitted("float32")[0]
        assert loss != exact and np.allclose(loss, exact, rtol=0.02)
        assert vae.encoder(torch.as_tensor(self.x)).dtype == torch.float32
        assert seen["layer"] == {torch.bfloat16, torch.float32}  # after training as before

    def test_what_is_not_there_is_refused(self):
        with pytest.raises(ValueError, match="'tf32' is a format of CUDA devices"):
            self.fitted("tf32")
        with pytest.raises(ValueError, match="expected 'float32', 'tf32' or 'bf16', got 'half'"):
            self.fitted("half")
