"""Rows in whatever form users have them; what are none ends in one line."""

from __future__ import annotations

import datetime
from typing import Any, ClassVar

import numpy as np
import pytest

import aevb_engine as aevb
from aevb_engine.errors import AevbError, DataError, UsageError

X = (np.random.default_rng(0).random((60, 20)) < 0.3).astype(np.uint8)


def made(**more: Any) -> aevb.VAE:
    return aevb.VAE(**{"hidden": 5, "batch_size": 20, "backend": "cpu", "threads": 1, "seed": 1, **more})


class Frame:
    """What is needed of a data frame."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def to_numpy(self) -> Any:
        return self.values

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class Convertible:
    def __init__(self, values: Any) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        if isinstance(self.values, Exception):
            raise self.values
        return np.asarray(self.values, dtype)


class Tensor:
    """An array of PyTorch's: on a device, in a graph of gradients."""

    def __init__(self, values: Any, where: str = "device, with gradients") -> None:
        self.values, self.where = values, where

    @property
    def shape(self) -> Any:
        return self.values.shape

    def __len__(self) -> int:
        return len(self.values)

    def detach(self) -> Tensor:
        return Tensor(self.values, "device")

    def cpu(self) -> Tensor:
        assert self.where == "device"
        return Tensor(self.values, "host")

    def numpy(self) -> Any:
        if self.where != "host":
            raise RuntimeError("Can't call numpy() on Tensor that requires grad")
        return self.values

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad")


class Device:
    """An array of CuPy's."""

    __cuda_array_interface__: ClassVar[dict[str, Any]] = {}

    def __init__(self, values: Any) -> None:
        self.values = values

    def get(self) -> Any:
        return self.values

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")


class Sparse:
    """A matrix of SciPy's."""

    def toarray(self) -> Any:
        return X


class Missing:
    """pandas.NA."""

    def __repr__(self) -> str:
        return "<NA>"


class Column:
    """A column of pandas's: ``kind`` as it is declared."""

    def __init__(self, values: list[Any], kind: str) -> None:
        self.values, self.dtype = values, kind

    def to_numpy(self) -> Any:
        named = self.dtype in ("object", "Int64", "boolean", "string", "category")
        return np.array(self.values, object if named else self.dtype)

    def isna(self) -> Any:
        return np.array([isinstance(v, Missing) or v != v for v in self.values])


class Table:
    """A data frame of pandas's; ``names`` need not differ."""

    def __init__(self, names: list[Any], columns: list[Column]) -> None:
        self.columns, self._columns = names, columns
        self.iloc = self

    def __getitem__(self, key: tuple[slice, int]) -> Column:
        return self._columns[key[1]]

    def to_numpy(self) -> Any:
        arrays = [c.to_numpy() for c in self._columns]
        common = np.result_type(*arrays) if all(a.dtype.kind in "fiub" for a in arrays) else np.dtype(object)
        return np.stack([a.astype(common) for a in arrays], axis=1)


def table(column: list[Any], kind: str, name: Any = "age") -> Table:
    return Table(["first", name], [Column([1] * len(column), "int64"), Column(column, kind)])


def theta(model: aevb.VAE) -> bytes:
    return bytes(model.model.parameters.theta.tobytes())


def frame(x: Any) -> Table:
    """Of columns that could miss some."""
    return Table(["same"] * x.shape[1], [Column(list(c), "boolean" if i % 2 else "Int64") for i, c in enumerate(x.T)])


FORMS = [
    Frame, Convertible, np.ndarray.tolist, lambda x: x.reshape(60, 4, 5), np.float64, Tensor, Device, frame,
    lambda x: [Tensor(row) for row in x], lambda x: Tensor(x.reshape(60, 4, 5)), np.float16, np.longdouble, np.bool_,
    lambda x: np.asfortranarray(x), lambda x: x.astype(">i4"), lambda x: tuple(map(tuple, x)), np.asmatrix,
    lambda x: Table(list(range(20)), [Column(list(c), "uint8") for c in x.T]),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("form", FORMS, ids=[str(i) for i in range(len(FORMS))])
def test_forms_of_rows(form: Any) -> None:
    expected = made().fit(X, steps=5)
    for data in (form(X), aevb.Dataset("own", form(X)), aevb.Dataset("own", form(X), form(X))):
        assert theta(made().fit(data, steps=5)) == theta(expected)
    assert expected.bound(form(X)) == expected.bound(X)


BAD = [
    (None, "None; rows"),
    ("", "''; rows|unknown dataset"),
    (b"rows", "b'rows'; rows"),
    (3, "int"),
    ([], r"shape \(0,\) is empty"),
    (np.zeros((0, 20)), r"shape \(0, 20\) is empty"),
    (np.zeros((20, 0)), r"shape \(20, 0\) is empty"),
    (np.zeros(20), r"one row is x\[None, :\]"),
    ([[1, 2], [3]], "rows of different lengths"),
    ([[1, None], [0, 1]], "type object"),
    (X.astype(object), "type object"),
    ([["a", "b"]], "type <U1"),
    (X.astype(complex), "type complex128"),
    (np.array([[datetime.date(2020, 1, 1)]]), "type object"),
    (np.array([["2020-01-01"]], "datetime64[D]"), "datetime64"),
    ({"a": 1}, "dict"),
    (object(), "object"),
    (Frame(np.array([["a", 1]], object)), "type object"),
    (Convertible(RuntimeError("on another\ndevice")), "Convertible that is no array: on another device"),
    (np.ma.masked_array(X, X > 0), "masked"),
    (aevb.Dataset("own", X), "give its train or its test"),
    (np.zeros((0, 28, 28)), r"shape \(0, 28, 28\) is empty"),
    (X.astype(complex), "give real and imaginary parts"),
    (np.array([["2020-01-01"]], "datetime64[D]"), "give times as numbers, such as days"),
    (np.array([[3]], "timedelta64[s]"), "give durations as numbers"),
    (np.zeros(3, [("a", float), ("b", int)]), r"structured_to_unstructured\(x\)"),
    ([np.ma.masked_array(row, row > 0) for row in X], "some values are masked"),
    (Sparse(), r"Sparse is sparse; .* give x\.toarray\(\)"),
    (iter(X), "iterator; rows"),
    ([Tensor(X[0]), Tensor(X[1, :3])], "rows of different lengths"),
    (table([1, Missing()], "Int64"), "the data: column 'age' has missing values; leave out or impute those rows"),
    (table([True, Missing()], "boolean", ("a", 1)), r"column \('a', 1\) has missing values"),
    (table([1.5, float("nan")], "float64"), "column 'age' has missing values"),
    (table([1, "old"], "object"), "column 'age': type object; real numbers are needed"),
    (table(["1", "2"], "string"), "column 'age': type string; real numbers are needed"),
    (table(["a", "b"], "category", "line\nend"), r"column 'line\\nend': type category; real numbers are needed"),
    (table(["2020-01-01"], "datetime64[D]", "day"), r"column 'day': type datetime64\[D\]; .* give times as numbers"),
    (table([1j], "complex128"), "column 'age': type complex128; .* real and imaginary"),
    (Table([], []), "is empty|no array"),
]


@pytest.mark.parametrize(("data", "words"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_what_are_no_rows(data: Any, words: str) -> None:
    model = made().fit(X, steps=1)
    uses = [model.bound, model.bounds, model.encode, model.reconstruct, model.log_likelihood, aevb.binarize]
    if not (data is None or isinstance(data, int)):  # else nothing is held out, or a fraction
        uses.append(lambda d: made().fit(X, steps=1, validation=d))
    if not isinstance(data, aevb.Dataset):
        uses += [made().fit, lambda d: made().fit(aevb.Dataset("own", d)), model.decode, model.draw, model.spread]
        if data is not None:
            uses.append(lambda d: made().fit(aevb.Dataset("own", X, d)))
    for use in uses:
        with pytest.raises((DataError, UsageError)) as caught:
            use(data)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=words):
        model.bound(data)


def test_intensities_that_are_drawn_anew_are_bytes() -> None:
    with pytest.raises(DataError, match="dynamic=True needs uint8"):
        made().fit(aevb.Dataset("own", X.astype(np.float32), dynamic=True))


def test_missing_values_of_a_frame_are_named_in_every_method() -> None:
    model = made(decoder="gaussian").fit(X[:, :2], steps=1)
    gaps = table([1.0] * 30 + [float("nan")] * 30, "float64")
    for use in (
        model.bound,
        model.encode,
        model.reconstruct,
        model.log_likelihood,
        model.fit,
        made().fit,
        model.decode,
    ):
        with pytest.raises(DataError, match="column 'age' has missing values"):
            use(gaps)
    with pytest.raises(DataError, match="the test data: column 'age'"):
        made().fit(aevb.Dataset("own", X[:, :2], gaps))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="the validation data: column 'age'"):
        model.fit(X[:, :2], steps=1, validation=gaps)


def test_arrays_of_other_libraries_as_parameters_and_as_z() -> None:
    model = made().fit(X, steps=1)
    for form in (Tensor, Device):
        np.testing.assert_array_equal(model.decode(form(Z)), model.decode(Z))
        other = made().fit(X, steps=2)
        other.set_weights({name: form(w) for name, w in model.weights.items()})
        assert theta(other) == theta(model)
        grey = np.linspace(0, 1, 24).reshape(2, 3, 4)
        np.testing.assert_array_equal(aevb.binarize(form(grey)), aevb.binarize(grey))


@pytest.mark.parametrize("hidden", ["25", 25, np.int64(25), [25], (25,), np.array([25]), "25,", np.array(25)][:6])
def test_one_hidden_layer(hidden: Any) -> None:
    assert aevb.VAE(hidden=hidden).config.hidden == (25,)


@pytest.mark.parametrize("hidden", ["200,100", (200, 100), [200, 100], np.array([200, 100])])
def test_two_hidden_layers(hidden: Any) -> None:
    assert aevb.VAE(hidden=hidden).config.hidden == (200, 100)


@pytest.mark.parametrize("hidden", [(), [], "none", ""])
def test_no_hidden_layer(hidden: Any) -> None:
    assert aevb.VAE(hidden=hidden).config.hidden == ()


@pytest.mark.parametrize("hidden", [25.0, None, True, (True,), (2.5,), -1, 0, {3}, {3: 4}, "a", np.array([2.5]), [[3]]])
def test_what_are_no_widths(hidden: Any) -> None:
    with pytest.raises(UsageError, match=r"^hidden=") as caught:
        aevb.VAE(hidden=hidden)
    assert "\n" not in str(caught.value)


Z = np.zeros((3, 2))
MODEL = made().fit(X, steps=1)


@pytest.mark.parametrize(
    "act",
    [
        lambda: MODEL.sample(2.9),  # type: ignore[arg-type]
        lambda: MODEL.sample(0),
        lambda: MODEL.sample(True),
        lambda: MODEL.sample("3"),  # type: ignore[arg-type]
        lambda: MODEL.sample(None),  # type: ignore[arg-type]
        lambda: MODEL.sample(3, seed=-1),
        lambda: MODEL.sample(np.array([3])),  # type: ignore[arg-type]
        lambda: MODEL.draw(Z, seed=np.random.default_rng(0)),  # type: ignore[arg-type]
        lambda: MODEL.fit(X, steps=1, eval_every=2.5),  # type: ignore[arg-type]
        lambda: MODEL.fit(X, steps=1, until_converged="no"),  # type: ignore[arg-type]
        lambda: MODEL.fit(X, steps=1, progress="no"),  # type: ignore[arg-type]
        lambda: MODEL.fit(X, steps=1, progress=np.array([1, 2])),  # type: ignore[arg-type]
        lambda: MODEL.fit(X, steps=1, progress=1),
        lambda: MODEL.fit(X, steps=1, offline="no"),  # type: ignore[arg-type]
        lambda: MODEL.fit(X, steps=np.array([1, 2])),  # type: ignore[arg-type]
        lambda: MODEL.fit(X, epochs=1j),  # type: ignore[arg-type]
        lambda: MODEL.fit(X, steps=1, validation=1.0),
        lambda: MODEL.fit(X, steps=1, callback=3),  # type: ignore[arg-type]
        lambda: MODEL.bound(X, objective="nothing"),
        lambda: MODEL.bound(X, objective=["elbo"]),  # type: ignore[arg-type]
        lambda: aevb.dataset("glyphs", offline=None),  # type: ignore[arg-type]
        lambda: aevb.dataset("glyphs", scale=["unit"]),  # type: ignore[arg-type]
        lambda: made(latent_dim=None),
        lambda: made(samples=2.5),
        lambda: made(threads="many"),
        lambda: made(until_converged="maybe"),
        lambda: made(standardize=3),
        lambda: made(optimizer=3),
        lambda: made(objective=None),
        lambda: made(decoder_options=3),
        lambda: made(decoder_options={3: 4}),
        lambda: made(precision=16),
        lambda: made(validation="a"),
        lambda: MODEL.sample(3, seed=1.5),  # type: ignore[arg-type]
        lambda: MODEL.draw(Z, seed="a"),  # type: ignore[arg-type]
        lambda: MODEL.bound(X, samples="3"),  # type: ignore[arg-type]
        lambda: MODEL.bound(X, samples=None),  # type: ignore[arg-type]
        lambda: MODEL.bound(X, objective=None),  # type: ignore[arg-type]
        lambda: MODEL.log_likelihood(X, samples=2.5),  # type: ignore[arg-type]
        lambda: MODEL.log_likelihood(X, method=None),  # type: ignore[arg-type]
        lambda: MODEL.log_likelihood(X, method="ais", temperatures=0),
        lambda: MODEL.fit(X, steps=2.5),  # type: ignore[arg-type]
        lambda: MODEL.fit(X, steps=True),
        lambda: MODEL.fit(X, epochs=None, steps="3"),  # type: ignore[arg-type]
        lambda: aevb.load(None),  # type: ignore[arg-type]
        lambda: MODEL.save(3),  # type: ignore[arg-type]
        lambda: made().fit("glyphs", data_dir=3),  # type: ignore[arg-type]
        lambda: aevb.dataset("glyphs", data_dir=3),  # type: ignore[arg-type]
        lambda: made(seed=None),
        lambda: made(batch_size=2.5),
        lambda: made(lr="fast"),
        lambda: aevb.dataset("glyphs", seed=None),  # type: ignore[arg-type]
        lambda: aevb.dataset(3),  # type: ignore[arg-type]
        lambda: aevb.dataset("glyphs", nothing=3),
        lambda: aevb.dataset("glyphs", binarize="x"),  # type: ignore[arg-type]
        lambda: aevb.binarize(X, how=None),  # type: ignore[arg-type]
    ],
)
def test_what_are_no_numbers(act: Any) -> None:
    with pytest.raises(UsageError) as caught:
        act()
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, AevbError)


def test_no_seed_is_no_fresh_seed() -> None:
    """As it would be with NumPy: the error says how to have one; draws without a seed go on in the model's own."""
    for act in (lambda: made(seed=None), lambda: aevb.binarize(X, seed=None)):  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=r"^seed=None: .* results can be repeated; secrets\.randbits\(63\) is new"):
            act()
    assert (MODEL.sample(100, seed=None) != MODEL.sample(100, seed=None)).any()


@pytest.mark.parametrize("yes", [True, np.True_])
def test_switches_of_numpy(yes: Any) -> None:
    model = made(decoder="gaussian", standardize=yes, until_converged=yes)
    assert (model.config.standardize, model.config.until_converged) == ("always", True)
    model.fit(X, steps=1, progress=np.False_, offline=yes, until_converged=np.False_)  # type: ignore[arg-type]
