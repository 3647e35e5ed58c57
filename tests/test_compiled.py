"""What is compiled gives the bits of NumPy and the labels of scikit-image, or is not there."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulated_cuda import COMPILER
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from skimage.segmentation import slic
from skimage.segmentation._slic import _enforce_label_connectivity_cython

from hatch_build import FLAGS, compile_library
from whyfake import compiled
from whyfake.compiled import connected, superpixels
from whyfake.doctor.packages import compiled_check
from whyfake.explainers import region_map
from whyfake.media import fit_to, load_picture
from whyfake.noise_table import NoiseTable
from whyfake.perturbation import GridMix, NoiseStep, PerturbationBatch, RegionMix, Scratch, render

SOURCES = sorted(Path(compiled.__file__).parent.glob("*.c"))
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")


@pytest.fixture(scope="module", params=[(), ("-DWHYFAKE_PLAIN",)], ids=["chosen", "plain"])
def compiled_library(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The library as it is made here, and as it is made where nothing can be chosen."""
    if COMPILER is None:
        pytest.skip("needs a C compiler")
    made = tmp_path_factory.mktemp("library") / "compiled.so.1"
    warnings = ("-Wall", "-Wextra", "-Werror")
    command = [COMPILER, *FLAGS, *warnings, *request.param, "-o", str(made), *map(str, SOURCES)]
    subprocess.run(command, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "LIBRARY", made)
        compiled.library.cache_clear()
        assert compiled.library() is not None
        yield made
    compiled.library.cache_clear()


def both(batch: PerturbationBatch, frame: Any, start: int, stop: int) -> tuple[Any, Any]:
    """Rows of a batch by the library and by NumPy."""
    fast = render(batch, frame, start, stop)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "library", lambda: None)
        return fast, render(batch, frame, start, stop)


def batch_of(kind: str, size: tuple[int, int], count: int, rng: Any) -> tuple[Any, Any]:
    """A batch of any kind, some of its codes 0 or 1, and its frame."""
    frame, baseline = rng.random((2, 3, *size), np.float32)
    regions, cells = int(rng.integers(1, 257)), int(rng.integers(1, 9))
    if kind == "regions":
        codes = np.clip(rng.uniform(-0.5, 1.5, (count, regions)), 0, 1)
        return RegionMix(codes, rng.integers(0, regions, size), baseline), frame
    if kind == "grids":
        shifts = np.stack([rng.integers(0, -(-side // cells), count) for side in size], axis=1)
        grids = np.clip(rng.uniform(-0.5, 1.5, (count, cells, cells)), 0, 1)
        return GridMix(grids, shifts, baseline), frame
    channels = 1 if kind == "noise1" else 3
    values = channels * size[0] * size[1]
    table = NoiseTable(int(rng.integers(1000)), values + 50)
    offsets = rng.integers(0, 51, count)
    signs = rng.integers(-1, 2, count)
    return NoiseStep(baseline, table, offsets, signs, 0.03, channels), frame


@pytest.mark.parametrize("kind", ["regions", "grids", "noise1", "noise3"])
@given(
    # the third is wider, and of more pixels, than a block
    size=st.tuples(st.integers(1, 40), st.integers(1, 70)) | st.just((3, 4500)),
    count=st.integers(1, 9),
    seed=st.integers(0, 1000),
    data=st.data(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_same_bits(
    compiled_library: Path,
    kind: str,
    size: tuple[int, int],
    count: int,
    seed: int,
    data: st.DataObject,
) -> None:
    batch, frame = batch_of(kind, size, count, np.random.default_rng(seed))
    assert batch.composer(frame).__module__ == compiled.__name__  # not NumPy beside NumPy
    start = data.draw(st.integers(0, count - 1))
    fast, wanted = both(batch, frame, start, data.draw(st.integers(start, count)))
    assert np.array_equal(fast, wanted)


@pytest.mark.parametrize("kind", ["regions", "grids", "noise1", "noise3"])
def test_arrays_that_are_no_rows_of_float32_without_gaps(compiled_library: Path, kind: str) -> None:
    batch, frame = batch_of(kind, (20, 30), 4, np.random.default_rng(0))
    _, wanted = both(batch, frame, 0, 4)
    flipped = np.asfortranarray(frame)
    assert np.array_equal(render(batch, flipped), wanted)
    gaps = np.zeros((8, 3, 20, 30), np.float32)
    batch.composer(frame)(gaps[::2], 0, Scratch())
    assert np.array_equal(gaps[::2], wanted)
    assert not gaps[1::2].any()


@pytest.mark.parametrize("kind", ["regions", "grids", "noise3"])
def test_rows_that_a_batch_has_not(compiled_library: Path, kind: str) -> None:
    batch, frame = batch_of(kind, (20, 30), 4, np.random.default_rng(0))
    with pytest.raises(IndexError):
        batch.composer(frame)(np.zeros((2, 3, 20, 30), np.float32), 3, Scratch())


@pytest.mark.parametrize("kind", ["regions", "grids", "noise3"])
def test_pictures_of_another_size_or_type(compiled_library: Path, kind: str) -> None:
    batch, frame = batch_of(kind, (20, 30), 4, np.random.default_rng(0))
    compose = batch.composer(frame)
    for out in (np.zeros((2, 3, 20, 31), np.float32), np.zeros((2, 3, 20, 30))):
        with pytest.raises(ValueError, match="do not fit"):
            compose(out, 0, Scratch())


def test_what_the_library_is_not_told(compiled_library: Path) -> None:
    """Other types and shapes go to NumPy, which computes with them or says what is wrong."""
    for kind in ("regions", "grids"):
        batch, frame = batch_of(kind, (20, 30), 4, np.random.default_rng(0))
        fast, wanted = both(batch, frame.astype(np.float64), 0, 4)
        assert np.array_equal(fast, wanted)
    batch, frame = batch_of("regions", (20, 30), 4, np.random.default_rng(0))
    with pytest.raises(ValueError, match="broadcast"):
        render(batch, frame[:, :19])
    batch, frame = batch_of("grids", (20, 30), 4, np.random.default_rng(0))
    for place, far in ((0, 1000), (1, 1000), (1, -1)):
        shifts = batch.shifts.copy()
        shifts[2, place] = far
        with pytest.raises((ValueError, IndexError)):
            render(GridMix(batch.grids, shifts, batch.baseline), frame)
    center = np.zeros((3, 2, 4))
    step = NoiseStep(center, NoiseTable(0, 24), np.array([0]), np.array([1]), 1.0)
    wanted = step.table.whole.reshape(1, 3, 2, 4)
    assert np.array_equal(render(step, np.zeros((3, 2, 4), np.float32)), wanted)


def test_noise_beyond_its_table(compiled_library: Path) -> None:
    table = NoiseTable(0, 3 * 8)
    step = NoiseStep(np.zeros((3, 2, 4), np.float32), table, np.array([1]), np.array([1]), 1.0)
    with pytest.raises(ValueError, match="reshape"):
        render(step, np.zeros((3, 2, 4), np.float32))


def test_labels_that_wrap_around(compiled_library: Path) -> None:
    labels = np.full((4, 5), -1)  # as a byte 255, a region that the codes do not have
    frame, baseline = np.zeros((3, 4, 5), np.float32), np.ones((3, 4, 5), np.float32)
    fast, wanted = both(RegionMix(np.zeros((1, 3)), labels, baseline), frame, 0, 1)
    assert np.array_equal(fast, wanted)


@pytest.mark.usefixtures("compiled_library")
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 90)),
    count=st.integers(1, 120),
    levels=st.sampled_from([0, 1, 3, 255]),
    block=st.integers(1, 7),
    seed=st.integers(0, 1000),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(size=(60, 90), count=30, levels=0, block=1, seed=0)  # of one colour
@example(size=(5, 5), count=120, levels=255, block=1, seed=0)  # more are wanted than fit
def test_the_same_superpixels(
    size: tuple[int, int], count: int, levels: int, block: int, seed: int
) -> None:
    """Noise and blocks: many parts are cut, joined to others, or left without a pixel."""
    values = np.random.default_rng(seed).random((3, *size), np.float32)
    coarse = np.round(values * levels) / np.float32(max(levels, 1))
    frame = coarse.repeat(block, 1).repeat(block, 2)[:, : size[0], : size[1]]
    wanted = slic(frame.transpose(1, 2, 0), n_segments=count, start_label=0)
    found = superpixels(frame, count)
    assert found is not None
    assert found.dtype == np.int32
    assert np.array_equal(found, wanted)


@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 30)),
    kinds=st.integers(1, 4),
    least=st.integers(0, 12),
    more=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_same_parts(
    compiled_library: Path, size: tuple[int, int], kinds: int, least: int, more: int, seed: int
) -> None:
    """Parts that are too small or too large, which superpixels seldom are."""
    library = compiled.library()
    assert library is not None
    labels = np.random.default_rng(seed).integers(0, kinds, size)
    [wanted] = _enforce_label_connectivity_cython(
        labels[np.newaxis].astype(np.intp), least, least + more, start_label=0
    )
    found = connected(library, labels.astype(np.int32), least, least + more)
    assert np.array_equal(found, wanted)


@pytest.mark.usefixtures("compiled_library")
def test_the_superpixels_of_a_face() -> None:
    face = load_picture(SOURCES[0].parents[1] / "docs/images/forged.png").rgb
    for size in ((256, 256), (299, 187)):
        frame = fit_to(face, size)
        for count in (50, 12, 200):
            wanted = slic(frame.transpose(1, 2, 0), n_segments=count, start_label=0)
            assert np.array_equal(superpixels(frame, count), wanted)


@pytest.mark.usefixtures("compiled_library")
def test_frames_that_are_left_to_scikit_image() -> None:
    frame = np.random.default_rng(0).random((3, 20, 30), np.float32)
    assert superpixels(frame.astype(np.float64), 5) is None
    frame[0, 3, 4] = np.nan
    assert superpixels(frame, 5) is None
    with pytest.raises(ValueError, match="NaN"):
        region_map("slic:5", frame)


@needs_compiler
def test_the_build_makes_it_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "compiled.so.1"
    monkeypatch.setenv("CC", str(COMPILER))
    assert compile_library(SOURCES, library) is None
    assert [path.name for path in tmp_path.iterdir()] == [library.name]
    library.unlink()
    monkeypatch.setenv("CC", "no-such-compiler")
    assert "no-such-compiler" in str(compile_library(SOURCES, library))
    monkeypatch.setenv("CC", str(COMPILER))
    broken = tmp_path / "broken.c"
    broken.write_text("int whyfake_abi(void) { return")
    assert "broken.c" in str(compile_library([broken], library))
    assert not library.exists()
    assert "nowhere" in str(compile_library(SOURCES, tmp_path / "nowhere" / library.name))


@needs_compiler
def test_a_compiler_that_cannot_choose_when_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "cc"
    script.write_text(f'#!/bin/sh\ncase "$*" in *PLAIN*) exec {COMPILER} "$@";; esac\nexit 1\n')
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    assert compile_library(SOURCES, tmp_path / "compiled.so.1") is None


@pytest.mark.parametrize("compiler", [COMPILER, "false"], ids=["a compiler", "none"])
def test_a_wheel_holds_the_library_or_is_for_any_platform(tmp_path: Path, compiler: Any) -> None:
    if compiler is None:
        pytest.skip("needs a C compiler")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    root = SOURCES[0].parents[1]
    subprocess.run(command, check=True, cwd=root, env={**os.environ, "CC": str(compiler)})
    [wheel] = tmp_path.iterdir()
    held = zipfile.ZipFile(wheel).namelist()
    made = compiler == COMPILER
    assert ("whyfake/compiled.so.1" in held) is made
    assert wheel.name.endswith("-py3-none-any.whl") is not made
    assert not [name for name in held if name.endswith((".c", ".h"))]


@pytest.mark.parametrize("what", ["nothing", "garbage", "older"])
def test_a_library_that_is_none_or_another_version_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    made = tmp_path / "compiled.so.1"
    if what == "garbage":
        made.write_bytes(b"\x7fELF and then nothing")
    if what == "older":
        if COMPILER is None:
            pytest.skip("needs a C compiler")
        older = []
        for source in [*SOURCES, *SOURCES[0].parent.glob("*.h")]:
            old = tmp_path / source.name
            old.write_text(source.read_text().replace("#define ABI ", "#define ABI 9"))
            older += [str(old)] if old.suffix == ".c" else []
        subprocess.run([COMPILER, *FLAGS, "-o", str(made), *older], check=True)
    monkeypatch.setattr(compiled, "LIBRARY", made)
    compiled.library.cache_clear()
    try:
        assert compiled.library() is None
        check = compiled_check()
        assert check.status == "note"
        assert "NumPy" in check.detail
        assert superpixels(np.zeros((3, 20, 30), np.float32), 5) is None
        batch, frame = batch_of("regions", (20, 30), 2, np.random.default_rng(0))
        assert render(batch, frame).shape == (2, 3, 20, 30)
    finally:
        compiled.library.cache_clear()


def test_the_doctor_says_that_it_is_there(compiled_library: Path) -> None:
    assert compiled_check().status == "ok"
