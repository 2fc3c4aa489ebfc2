"""The public model: what it refuses, what it keeps, and several uses at once."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aevb_engine as aevb
from aevb_engine.backend import crew
from aevb_engine.errors import DataError, StorageError, UsageError
from aevb_plugins.decoders.gaussian import Gaussian
from tests.alarm import interrupted

X = (np.random.default_rng(0).random((60, 20)) < 0.3).astype(np.uint8)


def made(**more: Any) -> aevb.VAE:
    given = {"hidden": 5, "batch_size": 20, "backend": "cpu", "threads": 1, "seed": 1, "lr_schedule": "constant"}
    return aevb.VAE(**{**given, **more})


def theta(model: aevb.VAE) -> bytes:
    return bytes(model.model.parameters.theta.tobytes())


def test_what_the_model_was_made_with_is_what_fit_does() -> None:
    assert made(steps=3).fit(X).history[-1]["step"] == 3
    assert made(epochs=2).fit(X).history[-1]["step"] == 6
    assert made(steps=3).fit(X, epochs=1).history[-1]["step"] == 3
    assert made().fit(X).history[-1]["step"] == 2000  # at least so many
    assert made(batch_size=100).fit(X, epochs=3).history[-1]["step"] == 3  # all rows are one batch


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"decoder": Gaussian(), "decoder_options": {"mean": "linear"}}, "give the options to its class"),
        ({"decoder": Gaussian}, "an object of a Likelihood is needed"),
        ({"decoder": None}, "not NoneType"),
    ],
)
def test_options_that_would_be_ignored_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        made(**options)


def test_rows_are_taken_as_they_are() -> None:
    for data in (X, aevb.Dataset("own", X)):
        with pytest.raises(UsageError, match=r"binarize: rows are taken as they are; aevb\.binarize"):
            made(binarize="threshold").fit(data)
    with pytest.raises(DataError, match="masked"):
        made(decoder="gaussian").fit(np.ma.masked_array(X.astype(float), X > 0))
    made(decoder="gaussian").fit(np.ma.masked_array(X.astype(float), np.zeros_like(X)), steps=1)


@pytest.mark.parametrize("bad", [{"steps": 0}, {"steps": "3"}, {"epochs": float("nan")}, {"epochs": -1}])
def test_a_first_fit_that_is_refused_leaves_the_model_open(bad: dict[str, Any]) -> None:
    model = made()
    with pytest.raises(UsageError):
        model.fit(X, **bad)
    model.fit(X[:, :7], steps=1)
    assert model.model.architecture.dim == 7


def test_numbers_of_numpy() -> None:
    given = {"seed": np.int64(3), "latent_dim": np.int32(2), "batch_size": np.uint8(20), "lr": np.float32(0.5)}
    one, other = made(**given), made(**{k: v.item() for k, v in given.items()})
    assert theta(one.fit(X, steps=np.int64(2))) == theta(other.fit(X, steps=2))
    with pytest.raises(UsageError, match="samples=0"):
        one.bound(X, samples=0)


def test_a_decoder_object_belongs_to_one_model() -> None:
    """Each adapts its own to its data."""
    grey, wide = np.random.default_rng(1).random((60, 20)), 3 * np.random.default_rng(2).standard_normal((60, 20))
    decoder = Gaussian()
    one = made(decoder=decoder).fit(grey, steps=50)
    bound = one.bound(grey)
    made(decoder=decoder).fit(wide, steps=2)
    assert one.bound(grey) == bound


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file that was just being opened
@pytest.mark.parametrize("threads", [1, 2])
def test_after_an_interrupt_training_goes_on_to_the_same_bits(threads: int) -> None:
    """The state is that of a number of steps, however far the block was."""
    expected = made(threads=threads).fit(X, steps=400)
    model = made(threads=threads).fit(X, steps=100)
    for delay in (0.002, 0.005, 0.01):
        interrupted(lambda: model.fit(X, steps=2000), delay)  # one within a finalizer is lost
        assert model._trainer is not None
        if model._trainer.step >= 400:
            break
    assert model._trainer is not None
    step = model._trainer.step
    alone = expected if step == 400 else made(threads=threads).fit(X, steps=step)
    assert theta(model) == theta(alone)


def test_one_model_from_several_threads() -> None:
    model = made(threads=2).fit(X, steps=5)
    expected = model.log_likelihood(X, samples=50)
    found: list[Any] = []

    def ask() -> None:
        found.extend(model.log_likelihood(X, samples=50) for _ in range(5))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(found) == 15
    for each in found:
        np.testing.assert_array_equal(each, expected)


@pytest.mark.skipif(not crew.possible(), reason="crews need Linux on x86-64")
def test_a_process_forked_by_the_user_trains_to_the_same_bits() -> None:
    """By workers of its own, on memory that it shares with them and not with its parent."""
    model = made(threads=2, hidden=30).fit(X, steps=60)
    kept = theta(model)
    read, write = os.pipe()
    number = os.fork()
    if number == 0:
        try:
            os.write(write, theta(model.fit(X, steps=200))[:4096])
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        child = pipe.read()
    os.waitpid(number, 0)
    assert theta(model) == kept
    assert child == theta(model.fit(X, steps=200))[:4096]


def test_only_plain_files_are_replaced(tmp_path: Path) -> None:
    model = made().fit(X, steps=1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match="a device or a pipe"):
        model.save(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    model.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert theta(aevb.load(tmp_path / "target")) == theta(model)


def test_a_data_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^data_dir: there is no folder .*gone; create it, or .* data_dir$"):
        made().fit("mnist", steps=1, data_dir=tmp_path / "gone")
