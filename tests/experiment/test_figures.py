"""Figures of a run: drawn for every kind of data and model, whole or absent, and right where they can be checked."""

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aevb_engine.errors import StorageError
from aevb_engine.evaluation import apply
from aevb_engine.experiment.config import RunConfig
from aevb_engine.experiment.figures import draw, latent_grid
from aevb_engine.experiment.figures.bound import smooth
from aevb_engine.experiment.figures.images import tiles
from aevb_engine.experiment.figures.latent import explained, latent
from aevb_engine.experiment.figures.material import Material, number, spread
from aevb_engine.experiment.figures.style import LARGE, encoded, plain, png
from aevb_engine.experiment.folder import RunFolder
from aevb_engine.experiment.run import start
from aevb_engine.experiment.session import Session, prepare
from tests.patience import patience

SMALL: dict[str, Any] = {"dataset_options": {"train": 300, "test": 120}, "hidden": (20,), "threads": 1}
ALWAYS = {"bound.png", "reconstructions.png", "samples.png", "latent.png"}
PLANE = {"manifold.png", "overview.png"}
Run = tuple[RunFolder, Session, dict[str, Any]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on glyphs with two latent dimensions."""
    return start(RunConfig(steps=60, **SMALL), tmp_path_factory.mktemp("figures") / "run")


def pixels(path: Path) -> np.ndarray[Any, Any]:
    """The grey values of a PNG; fails where the file is anything else."""
    image = Image.open(path)
    assert image.format == "PNG"
    image.load()
    return np.asarray(image.convert("L"), np.float64)


def check(paths: list[Path], folder: Path, names: set[str]) -> None:
    assert {path.name for path in paths} == names
    assert {path.name for path in folder.iterdir()} == names
    for path in paths:
        picture = pixels(path)
        height, width = picture.shape
        assert 500 < width < 2100, path
        assert 300 < height < 1500, path
        assert path.stat().st_size < 1.2 * LARGE, path
        body = picture[130:]  # below the heading
        assert body.std() > 5, path
        assert (body.std(axis=1) > 5).mean() > 0.25, path


@pytest.mark.parametrize(
    "options",
    [
        {"latent_dim": 1},
        {"latent_dim": 10, "validation": 0.2},
        {"latent_dim": 3, "objective": "iwae", "samples": 5},
        {"dataset": "faces"},
        {"dataset": "faces", "latent_dim": 1, "scale": "raw"},
        {"dataset": "faces", "latent_dim": 10},
        {"dataset": "simulated-normal"},
        {"dataset": "simulated-binary", "latent_dim": 1},
        {"dataset": "simulated-binary", "latent_dim": 10, "steps": 3},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_every_kind_of_data_and_latent_space(options: dict[str, Any], tmp_path: Path) -> None:
    folder, session, result = start(RunConfig(**{"steps": 60, **SMALL, **options}), tmp_path / "run")
    names = ALWAYS | (PLANE if session.model.architecture.latent == 2 else set())
    check(draw(folder, session, result), folder.figures, names)


def test_glyphs_are_drawn_again_to_the_same_bytes(trained: Run) -> None:
    folder, session, result = trained
    paths = draw(folder, session, result)
    check(paths, folder.figures, ALWAYS | PLANE)
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in draw(folder, session, result)] == before


def test_collapsed_model_without_log_and_result(tmp_path: Path) -> None:
    """All parameters zero: every latent mean is 0 and every image the same grey."""
    folder = RunFolder.create("collapsed", tmp_path / "run")
    folder.figures.rmdir()  # made again where it is missing
    session = prepare(RunConfig(**SMALL))
    session.model.parameters.theta[...] = 0
    paths = draw(folder, session, {})
    assert {path.name for path in paths} == (ALWAYS | PLANE) - {"bound.png"}
    material = Material(folder, session, {})
    assert not material.coded[0].any()
    assert material.subtitle == "784-20-2  ·  bernoulli decoder"


@pytest.mark.parametrize("value", [np.nan, 1e30])
def test_parameters_of_a_diverged_model_still_draw(value: float, tmp_path: Path) -> None:
    folder = RunFolder.create("diverged", tmp_path / "run")
    session = prepare(RunConfig(dataset="faces", **SMALL))
    session.model.parameters.theta[...] = value
    with np.errstate(all="ignore"):
        paths = draw(folder, session, {"test_bound": float("nan")})
    assert len(paths) == 5


@pytest.mark.parametrize(("classes", "columns"), [(30, 12), (11, 11), (1, 1), (None, 12)])
def test_labels_of_many_classes_and_none(classes: int | None, columns: int, trained: Run, tmp_path: Path) -> None:
    folder, session, result = trained
    labels = None if classes is None else np.arange(len(session.dataset.test)) % classes
    other = dataclasses.replace(session, dataset=dataclasses.replace(session.dataset, test_labels=labels))
    material = Material(folder, other, result)
    assert material.shown.shape == (4, columns)
    check([png(latent(material), tmp_path / "latent.png")], tmp_path, {"latent.png"})


def test_a_failed_write_leaves_the_old_figure_and_nothing_else(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, session, result = trained
    folder = RunFolder.create("full", tmp_path / "run")
    old = folder.figures / "reconstructions.png"
    old.write_bytes(b"old")
    write, written = os.write, 0

    def full(descriptor: int, data: memoryview) -> int:
        nonlocal written
        if written:
            raise OSError(28, "No space left on device")
        written = write(descriptor, data[:100])
        return written

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match=r"reconstructions\.png: No space left"):
        draw(folder, session, result)
    assert [path.name for path in folder.figures.iterdir()] == ["reconstructions.png"]
    assert old.read_bytes() == b"old"


def test_a_failing_draw_leaves_no_file_of_its_own(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, session, result = trained
    folder = RunFolder.create("broken", tmp_path / "run")

    def broken(*_: Any) -> None:
        raise RuntimeError("no prior")

    monkeypatch.setattr(apply, "prior", broken)
    with pytest.raises(RuntimeError, match="no prior"):
        draw(folder, session, result)
    assert {path.name for path in folder.figures.iterdir()} == (ALWAYS | PLANE) - {"bound.png", "samples.png"}


def test_a_failing_figure_is_named_and_the_others_are_drawn(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, session, result = trained

    def broken(*_: Any) -> None:
        raise RuntimeError("no prior")

    monkeypatch.setattr(apply, "prior", broken)
    said: list[str] = []
    assert {path.name for path in draw(folder, session, result, said.append)} == (ALWAYS | PLANE) - {"samples.png"}
    assert said == ["samples.png could not be drawn (RuntimeError: no prior)"]


HOSTILE = {
    "image.origin": "lower", "text.usetex": "True", "savefig.bbox": "tight", "savefig.transparent": "True",
    "font.size": "30", "axes.facecolor": "red", "lines.dashed_pattern": "1, 1", "text.parse_math": "False",
    "figure.constrained_layout.use": "True", "axes.prop_cycle": "cycler('color', ['k'])", "image.cmap": "jet",
}  # fmt: skip


def test_the_user_s_style_changes_no_figure_and_is_left_as_it_was(trained: Run) -> None:
    import matplotlib

    folder, session, result = trained
    before = {path.name: path.read_bytes() for path in draw(folder, session, result)}
    with matplotlib.rc_context(HOSTILE):
        kept = matplotlib.rcParams.copy()
        after = {path.name: path.read_bytes() for path in draw(folder, session, result)}
        assert matplotlib.rcParams.copy() == kept
    assert after == before


def test_neither_a_file_nor_a_backend_of_the_user_s_changes_a_figure(tmp_path: Path) -> None:
    """Nor files and names that keep matplotlib from being imported."""
    code = """
        import sys
        from pathlib import Path
        from aevb_engine.experiment.config import RunConfig
        from aevb_engine.experiment.figures import draw
        from aevb_engine.experiment.folder import RunFolder
        from aevb_engine.experiment.session import prepare
        session = prepare(RunConfig(dataset="simulated-normal", hidden=(), threads=1))
        draw(RunFolder.create("x", Path(sys.argv[1])), session, {})
    """
    hostile = "\n".join(f"{name}: {value}" for name, value in HOSTILE.items()).encode()
    users = [
        {},
        {"MATPLOTLIBRC": hostile, "MPLBACKEND": "module://matplotlib_inline.backend_inline"},
        {"MATPLOTLIBRC": b"font.size: \xff", "MPLBACKEND": "nonsense"},
    ]
    found = []
    for number_, user in enumerate(users):
        environment = {k: v for k, v in os.environ.items() if k not in ("MATPLOTLIBRC", "MPLBACKEND")}
        for name, value in user.items():
            if isinstance(value, bytes):
                (tmp_path / "rc").write_bytes(value)
            environment[name] = str(tmp_path / "rc") if isinstance(value, bytes) else value
        place = tmp_path / str(number_)
        command = [sys.executable, "-c", textwrap.dedent(code), str(place)]
        child = subprocess.run(command, check=True, timeout=120, env=environment, capture_output=True)
        assert child.stderr == b""
        found.append({path.name: path.read_bytes() for path in (place / "figures").iterdir()})
    assert len(found[0]) == 5
    assert found[1] == found[0]
    assert found[2] == found[0]


def test_names_of_the_data_are_no_formulas(trained: Run, tmp_path: Path) -> None:
    _, session, result = trained
    dataset = dataclasses.replace(session.dataset, name="$\\frac$ a\nb\x1b[31m")
    paths = draw(RunFolder.create("x", tmp_path / "run"), dataclasses.replace(session, dataset=dataset), result)
    assert len(paths) == 5
    assert plain("a$b\n") == "a\\$b\\n"


def test_import_is_light_and_drawing_touches_no_global_state(tmp_path: Path) -> None:
    code = f"""
        import sys
        from pathlib import Path
        from aevb_engine.experiment.figures import draw
        assert not {{"matplotlib", "PIL"}} & set(sys.modules)
        import matplotlib
        before = matplotlib.rcParams.copy()  # dict() would resolve the backend
        from aevb_engine.experiment.config import RunConfig
        from aevb_engine.experiment.folder import RunFolder
        from aevb_engine.experiment.session import prepare
        session = prepare(RunConfig(dataset="simulated-normal", hidden=()))
        assert len(draw(RunFolder.create("x", Path({str(tmp_path / "run")!r})), session, {{}})) == 5
        assert "matplotlib.pyplot" not in sys.modules
        assert matplotlib.rcParams.copy() == before
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=patience())


def test_latent_grid_is_the_inverse_normal_of_a_regular_grid() -> None:
    """Quantiles of N(0, 1) from tables: 0.25 and 0.75, and for twenty points 0.025, 0.075 .. 0.975."""
    q = 0.6744897501960817
    np.testing.assert_allclose(latent_grid(2), [[-q, q], [q, q], [-q, -q], [q, -q]], rtol=1e-12)
    np.testing.assert_allclose(latent_grid(1), [[0.0, 0.0]], atol=1e-15)
    grid = latent_grid(20).reshape(20, 20, 2)
    across, down = grid[0, :, 0], grid[:, 0, 1]
    np.testing.assert_allclose(across[[0, 1, 19]], [-1.959963984540054, -1.4395314709384563, 1.959963984540054])
    np.testing.assert_allclose(down, across[::-1], atol=1e-15)
    assert (grid[..., 0] == across).all()
    assert (grid[..., 1] == down[:, None]).all()


def test_tiles_are_in_reading_order() -> None:
    images = np.arange(1, 4, dtype=np.float32)[:, None, None] * np.ones((3, 2, 3), np.float32)
    picture = tiles(images, 2)
    assert picture.shape == (4, 6)
    assert (picture[:2, :3] == 1).all()
    assert (picture[:2, 3:] == 2).all()
    assert (picture[2:, :3] == 3).all()
    assert np.isnan(picture[2:, 3:]).all()
    spaced = tiles(images, 2, gap=1)
    assert spaced.shape == (5, 7)
    assert np.isnan(spaced[2]).all()
    assert np.isnan(spaced[:, 3]).all()


def test_smoothing_averages_around_each_position() -> None:
    values = np.random.default_rng(1).normal(size=3000)
    at, mean = smooth(values)
    assert at[0] == 0
    assert at[-1] == 2999
    for i, m in zip(at, mean, strict=True):
        half = min(i, max(4, int(0.08 * i)))
        assert m == pytest.approx(values[i - half : i + half + 1].mean(), abs=1e-12)
    at, mean = smooth(np.array([5.0]))
    assert (at.tolist(), mean.tolist()) == ([0], [5.0])


def test_reconstructions_show_every_class_in_its_column(trained: Run) -> None:
    folder, session, result = trained
    shown = Material(folder, session, result).shown
    labels = session.dataset.test_labels
    assert labels is not None
    assert shown.shape == (4, 10)
    assert len(np.unique(shown)) == shown.size
    assert (labels[shown] == np.arange(10)).all()


def test_the_factor_that_the_plane_shows_best() -> None:
    z = np.random.default_rng(2).normal(size=(500, 2))
    assert explained(z, 1 + z[:, 0] - 3 * z[:, 0] * z[:, 1]) == pytest.approx(1)
    assert explained(z, np.random.default_rng(3).normal(size=500)) < 0.05
    assert explained(z, np.ones(500)) == 0
    assert explained(np.full((5, 2), np.nan), np.arange(5.0)) == 0


def test_small_numbers() -> None:
    shown = [number(v) for v in (-185.32, 1284.05, -71.178, 0.5, -9.9996, 12345.6)]
    assert shown == ["−185.3", "1284", "−71.18", "0.500", "−10.000", "12346"]
    assert spread(5, 10).tolist() == [0, 1, 2, 3, 4]
    assert spread(100, 3).tolist() == [0, 50, 99]


def test_encoding_keeps_grey_exactly_and_ends_of_the_scale_always() -> None:
    grey = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 4, axis=2)
    image = Image.open(io.BytesIO(encoded(grey)))
    assert image.mode == "L"
    assert (np.asarray(image) == grey[..., 0]).all()
    noise = np.random.default_rng(4).integers(0, 256, (600, 600, 4)).astype(np.uint8)
    noise[0], noise[1] = 0, 255
    image = Image.open(io.BytesIO(encoded(noise)))
    assert image.mode == "RGB"
    read = np.asarray(image).astype(int)
    assert (read[0] == 0).all()
    assert (read[1] == 255).all()
    assert np.abs(read - noise[..., :3]).max() <= 6
