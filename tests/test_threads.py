"""Threads that ask and train at once get the numbers of a thread that is alone."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from ppvae.models import GaussianVAE

import ppvae
from ppvae import turns
from ppvae.infer import ELBO
from ppvae.random import seeded
from ppvae.samplers import jitter, mixture
from ppvae.turns import Session, exclusive

X = (torch.rand(60, 6, generator=torch.Generator().manual_seed(0)) > 0.5).float().numpy()


def make(seed=0, **options):
    with seeded(seed):
        return GaussianVAE((6,), 2, (8,), **options)


@pytest.fixture(autouse=True)
def impatient():
    """Threads change as often as they can, and none keeps a turn."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)
    assert turns._queue.owner is None and not turns._queue.waiting


@pytest.fixture(scope="module")
def vae():
    trained = make()
    ppvae.fit(trained, X, epochs=2, seed=0, progress=False)
    return trained


Z = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
ASK = {
    "generate": lambda vae, seed: ppvae.generate(vae, 5, sample=True, seed=seed),
    "encode": lambda vae, seed: ppvae.encode(vae, X[seed : seed + 9]),
    "decode": lambda vae, seed: ppvae.decode(vae, Z, sample=True, seed=seed),
    "reconstruct": lambda vae, seed: ppvae.reconstruct(vae, X[seed : seed + 9]),
    "guide laws": lambda vae, seed: ppvae.guide_laws(vae, X[seed : seed + 9])["z"].mean.numpy(),
    "log_likelihood": lambda vae, seed: ppvae.log_likelihood(vae, X[:7], num_samples=5, seed=seed).log_weights,
    "jitter": lambda vae, seed: jitter(vae, X, 5, seed=seed).x,
    "mixture": lambda vae, seed: mixture(vae, X, 5, num_components=2, seed=seed).x,
}


def answers(vae, seeds, names=tuple(ASK)):
    return {(name, seed): ASK[name](vae, seed) for seed in seeds for name in names}


def assert_equal(one, two):
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert np.array_equal(value, two[key]), key


def test_four_threads_get_the_answers_of_one(vae):
    alone = answers(vae, range(5))
    names = list(ASK)
    with ThreadPoolExecutor(4) as pool:
        # each thread begins with another question, so that all kinds run at once
        runs = [pool.submit(answers, vae, range(5), (*names[2 * i :], *names[: 2 * i])) for i in range(4)]
        for run in runs:
            assert_equal(run.result(), alone)


@pytest.mark.filterwarnings("ignore:the chains have not mixed")
def test_chains_in_a_thread_are_those_of_one_alone(vae):
    def chains():
        return ppvae.posterior(vae, X[:2], num_samples=4, warmup=4, num_chains=2, importance_samples=4, seed=0).z

    alone = chains()
    with ThreadPoolExecutor(2) as pool:
        chain, others = pool.submit(chains), pool.submit(answers, vae, range(4))
        assert np.array_equal(chain.result(), alone)
        assert_equal(others.result(), answers(vae, range(4)))


def fitted(seed, **options):
    vae = make(seed)
    settings = {"validation": X[:20], "epochs": 3, "batch_size": 16, "warmup": 1.5, "progress": False}
    history = dict(ppvae.fit(vae, X, seed=seed, **{**settings, **options}).history)
    del history["seconds"]
    return history, [p.tolist() for p in vae.state_dict().values()]


def test_fits_at_once_have_the_numbers_of_fits_alone_and_so_do_questions_beside_them(vae):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    alone, asked = [fitted(seed) for seed in (1, 2)], answers(vae, range(3))
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(fitted, seed) for seed in (1, 2)]
        questions = pool.submit(answers, vae, range(3))
        assert [run.result() for run in runs] == alone
        assert_equal(questions.result(), asked)
    assert torch.equal(torch.get_rng_state(), state)
    assert not pyro.get_param_store().keys()


def test_fits_may_share_an_objective():
    """Each keeps its own KL weight, which the warm-up changes from step to step."""
    objective = ELBO()
    weight = objective.kl_weight
    alone = [fitted(seed) for seed in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(fitted, seed, objective=objective) for seed in (1, 2)]
        assert [run.result() for run in runs] == alone
    assert objective.kl_weight is weight and float(weight) == 1


def test_a_thread_gets_answers_while_a_fit_runs(vae):
    started, answered = threading.Event(), threading.Semaphore(0)

    def ask():
        started.wait()
        for seed in range(5):
            ppvae.generate(vae, 2, seed=seed)
            answered.release()

    def watch(fit):
        started.set()
        if answered.acquire(blocking=False) and all(answered.acquire(blocking=False) for _ in range(4)):
            fit.stopped = "answered"
        elif not asker.is_alive():
            fit.stopped = "answered"

    asker = threading.Thread(target=ask)
    asker.start()
    result = ppvae.fit(make(), X, epochs=3000, batch_size=16, seed=0, progress=False, callbacks=[watch])
    asker.join()
    assert result.stopped == "answered"


def test_a_thread_that_waits_has_the_next_turn():
    """A loop that gives its turn back and asks again at once has one turn between two of another thread's."""
    order, done = [], threading.Event()

    def loop():
        with Session(0) as session:
            while not done.is_set():
                with session.turn():
                    order.append("loop")

    thread = threading.Thread(target=loop)
    thread.start()
    for _ in range(50):
        while not order:
            pass
        with exclusive():
            order.append("asked")
            while not turns._queue.waiting:  # the loop asks again
                pass
    done.set()
    thread.join()
    between = "".join(event[0] for event in order).strip("l").split("a")[1:-1]
    assert len(between) == 49 and set(between) == {"l"}


def test_turns_come_in_the_order_in_which_they_were_asked_for():
    order = []

    def ask(number):
        with exclusive():
            order.append(number)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(5)]
    with exclusive():
        for i, thread in enumerate(threads):
            thread.start()
            while len(turns._queue.waiting) <= i:
                pass
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]


class TestSession:
    def test_a_question_or_a_fit_in_a_callback_leaves_the_run_as_it_was(self, vae):
        def ask(fit):
            asked.append(ppvae.generate(vae, 3, seed=0))
            nested.append(fitted(2))

        plain, alone, asked, nested = fitted(1), fitted(2), [], []
        assert fitted(1, callbacks=[ask]) == plain
        assert nested == [alone] * 3
        assert all(np.array_equal(drawn, ppvae.generate(vae, 3, seed=0)) for drawn in asked)

    def test_a_run_without_a_seed_draws_from_the_global_generators(self):
        torch.manual_seed(3)
        want = torch.rand(2)
        after = torch.get_rng_state()
        torch.manual_seed(3)
        with Session() as session:
            with session.turn():
                first = torch.rand(1)
            with exclusive():
                pass
            with session.turn():
                second = torch.rand(1)
        assert torch.equal(torch.cat([first, second]), want)
        assert torch.equal(torch.get_rng_state(), after)

    def test_what_a_run_leaves_in_the_store_comes_back_with_it(self):
        state = torch.get_rng_state()
        with pyro.get_param_store().scope():
            pyro.param("outer", torch.ones(1))
            with Session(0) as session:
                with session.turn():
                    pyro.param("inner", torch.zeros(1))
                    assert "outer" not in pyro.get_param_store()
                    drawn = torch.rand(1)
                with exclusive():
                    assert list(pyro.get_param_store()) == ["outer"]
                    assert pyro.infer.is_validation_enabled() and torch.equal(torch.get_rng_state(), state)
                with session.turn():
                    assert list(pyro.get_param_store()) == ["inner"] and not pyro.infer.is_validation_enabled()
                    assert not torch.equal(torch.rand(1), drawn)
            assert list(pyro.get_param_store()) == ["outer"]
        assert torch.equal(torch.get_rng_state(), state) and turns._present is None

    @pytest.mark.parametrize("where", ["turn", "between"])
    def test_an_error_puts_everything_back(self, where):
        state = torch.get_rng_state()
        with pytest.raises(ZeroDivisionError), Session(0) as session:
            with session.turn():
                torch.rand(1)
                if where == "turn":
                    raise ZeroDivisionError
            raise ZeroDivisionError
        assert torch.equal(torch.get_rng_state(), state)
        assert turns._present is None and turns._queue.owner is None

    def test_a_seed_that_torch_does_not_take_puts_everything_back(self):
        state = torch.get_rng_state()
        with pytest.raises((RuntimeError, ValueError)), Session(2**70):
            pass
        assert torch.equal(torch.get_rng_state(), state)
        assert turns._present is None and turns._queue.owner is None

    def test_other_matrix_products_are_of_the_turns_alone(self):
        allowed = [backend.allow_tf32 for backend in turns._backends()]
        with Session(0, tf32=True) as session:
            with session.turn():
                assert all(backend.allow_tf32 for backend in turns._backends())
            with exclusive():
                assert [backend.allow_tf32 for backend in turns._backends()] == allowed
            with session.turn():
                assert all(backend.allow_tf32 for backend in turns._backends())
        assert [backend.allow_tf32 for backend in turns._backends()] == allowed


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="sends a signal to a thread")
@pytest.mark.parametrize("seized", [False, True], ids=["while it waits", "as it is handed the turn"])
def test_ctrl_c_in_a_thread_that_waits_leaves_the_queue_to_others(seized, request):
    main, held, release = threading.main_thread(), threading.Event(), threading.Event()
    # A shell starts a background job with SIGINT ignored, and the signal would never come.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def hold():
        with exclusive():
            held.set()
            while main.ident not in turns._queue.waiting:
                pass
            if not seized:
                signal.pthread_kill(main.ident, signal.SIGINT)
                release.wait()
        if seized:
            signal.pthread_kill(main.ident, signal.SIGINT)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    with pytest.raises(KeyboardInterrupt), exclusive():
        while True:  # the signal may come only now
            pass
    assert main.ident not in turns._queue.waiting and turns._queue.owner != main.ident
    release.set()
    thread.join()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: turns._queue.depth_here()).result() == 0
        assert len(pool.submit(ppvae.generate, make(), 3).result()) == 3


FORK = """
import importlib.util, os, sys, threading
import numpy as np, torch
import ppvae
if importlib.util.find_spec("ppvae.models") is None:
    ppvae.__path__.append(sys.argv[1])
from ppvae import turns
from ppvae.models import GaussianVAE

torch.set_num_threads(1)
vae = GaussianVAE((6,), 2, (8,))
want = ppvae.generate(vae, 4, sample=True, seed=0)

def in_child(work):
    child = os.fork()
    if not child:
        try:
            assert work()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def asks():
    return np.array_equal(ppvae.generate(vae, 4, sample=True, seed=0), want)

# A fork while another thread has the turn, amid its model.
inside, leave = threading.Event(), threading.Event()
class Waits(torch.nn.Linear):
    def forward(self, x):
        if threading.current_thread() is not threading.main_thread():
            inside.set(); leave.wait()
        return super().forward(x)
waiting = GaussianVAE((6,), 2, encoder=Waits(6, 4), decoder=Waits(2, 6))
question = (waiting, np.zeros((1, 6), np.float32))
thread = threading.Thread(target=ppvae.reconstruct, args=question, daemon=True)
thread.start(); inside.wait()
assert in_child(asks) == 0, "amid a question of another thread"
leave.set(); thread.join()

# A fork within a callback: the child trains on to the numbers of its parent, and leaves the generators as they were.
x = (torch.rand(40, 6) > 0.5).float()
state = torch.get_rng_state()
def train(fork):
    torch.manual_seed(1)
    vae, before, children = GaussianVAE((6,), 2, (8,)), torch.get_rng_state(), []
    def callback(fit):
        ppvae.generate(vae, 2)
        if fit.epochs == 2 and fork:
            children.append(os.fork())
    fit = ppvae.fit(vae, x, validation=x, epochs=4, seed=0, progress=False, callbacks=[callback])
    same = torch.equal(torch.get_rng_state(), before)
    return [float(p.sum()) for p in vae.state_dict().values()], fit.history["loss"], same, children
alone, history, same, _ = train(False)
weights, losses, same, (child,) = train(True)
if not child:
    os._exit(0 if (weights, losses, same) == (alone, history, True) else 1)
assert (weights, losses, same) == (alone, history, True)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "within a callback"
assert in_child(asks) == 0
print("forked")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_asks_and_trains():
    command = [sys.executable, "-W", "ignore", "-c", FORK, str(Path(__file__).parents[1])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "forked\n", done.stdout + done.stderr


class Asks(torch.utils.data.Dataset):
    """Data that are made by a VAE, each when it is asked for."""

    def __init__(self, vae):
        self.vae = vae

    def __len__(self):
        return 12

    def __getitem__(self, i):
        return ppvae.generate(self.vae, 1, sample=True, seed=i)[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_may_ask_in_the_process_or_in_a_worker(vae, workers):
    def run(data):
        options = {"epochs": 1, "seed": 0, "progress": False, "batch_size": 4}
        return ppvae.fit(make(), data, **options).history["loss"]

    loader = torch.utils.data.DataLoader(Asks(vae), batch_size=4, num_workers=workers, multiprocessing_context=None)
    losses = run(loader)
    stored = torch.utils.data.DataLoader(np.stack([Asks(vae)[i] for i in range(12)]), batch_size=4)
    assert losses == run(stored)


def test_an_eval_question_leaves_the_trained_vae_in_training_mode():
    """A thread that asks the VAE of a running fit has answers in eval mode, and the steps stay in training mode."""
    modes, vae = [], make()
    vae.encoder.register_forward_hook(lambda *_: modes.append((threading.current_thread().name, vae.training)))
    done = threading.Event()

    def ask():
        while not done.is_set():
            ppvae.encode(vae, X[:3])

    asker = threading.Thread(target=ask, name="asker")
    asker.start()
    ppvae.fit(vae, X, validation=X, epochs=20, batch_size=30, seed=0, progress=False)
    done.set()
    asker.join()
    assert {mode for name, mode in modes if name == "asker"} == {False}
    trained = [mode for name, mode in modes if name != "asker"]
    assert trained.count(True) == 20 * (2 + 1)  # each epoch two steps, and a check of the last
