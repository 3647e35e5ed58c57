"""On Ray: the numbers of a local run, with two workers, one of which is killed midway."""

from __future__ import annotations

import dataclasses
import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from toys import PATCH, SIZE, planted_detector, planted_frame

from whyfake import load_detector
from whyfake.errors import DetectorError, EngineError, MissingExtraError
from whyfake.evaluate.manifest import Entry
from whyfake.evaluation import Done, Plan, evaluate, make_plan
from whyfake.evaluation.crew import Opening
from whyfake.evaluation.spread import Crew
from whyfake.explainers import Nes
from whyfake.ledger import Ledger, Record
from whyfake.settings import Settings

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("planted")
    planted_detector(root, PATCH, SIZE).close()
    for index in range(8):
        Image.fromarray(planted_frame(PATCH, SIZE, index)).save(root / f"p{index}.png")
    return root


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """One local Ray for all tests: starting it takes seconds."""
    ray = pytest.importorskip("ray")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=40)
        yield ray
        ray.shutdown()


def entries(folder: Path) -> list[Entry]:
    return [Entry(str(folder / f"p{n}.png"), "fake", "g", f"c{n}") for n in range(8)]


def plan() -> Plan:
    settings = Settings(regions="grid:8", nes=Nes(steps=30, pairs=8)).with_budget(64)
    made = make_plan("lime,lime-adv", suite="paper", settings=settings)
    square = dataclasses.replace(made.square, queries=20)
    return dataclasses.replace(made, attack=Nes(steps=10, pairs=8), square=square)


def results(place: Path) -> dict[str, Record]:
    with Ledger(place) as ledger:
        [sha] = ledger.detectors()
        found = ledger.results(sha, blobs=True)
        return {r.key: dataclasses.replace(r, seconds=0.0) for r in found}


@pytest.mark.filterwarnings("ignore")
def test_a_killed_worker_changes_no_number(folder: Path, tmp_path: Path, cluster: Any) -> None:
    with (
        load_detector(folder / "toy.onnx", device="cpu") as detector,
        Ledger(tmp_path / "local", write=True) as ledger,
    ):
        list(evaluate(detector, entries(folder), plan(), ledger))
    opening = Opening(str(folder / "toy.onnx"), device="cpu")
    done: list[Done] = []
    killed = False
    with (
        Crew("local", opening, workers=2) as crew,
        Ledger(tmp_path / "ray", write=True) as ledger,
    ):
        victim = cluster.get(crew._crew[0].actor.__ray_call__.remote(lambda worker: os.getpid()))
        for event in crew.evaluate(entries(folder), plan(), ledger):
            if isinstance(event, Done):
                done.append(event)
                if not killed:
                    killed = True
                    os.kill(victim, signal.SIGKILL)
        again = list(crew.evaluate(entries(folder), plan(), ledger))
    assert killed
    assert sorted(e.path for e in done) == [e.path for e in entries(folder)]
    assert [e.error for e in done] == [None] * 8
    assert results(tmp_path / "ray") == results(tmp_path / "local")
    assert all(isinstance(e, Done) and e.resumed for e in again)


@pytest.mark.filterwarnings("ignore")
def test_errors_are_those_of_a_local_run(folder: Path, tmp_path: Path, cluster: Any) -> None:
    with pytest.raises(DetectorError, match=r"none\.onnx"):
        Crew("local", Opening(str(folder / "none.onnx"), device="cpu"), workers=1)
    broken = tmp_path / "bad.png"
    broken.write_bytes(b"x")
    bad = Entry(str(broken), "fake", "g", "c")
    with (
        Crew("local", Opening(str(folder / "toy.onnx"), device="cpu"), workers=1) as crew,
        Ledger(tmp_path / "out", write=True) as ledger,
    ):
        events = list(crew.evaluate([bad, *entries(folder)[:1]], plan(), ledger))
    ends = {e.path: e.error for e in events if isinstance(e, Done)}
    assert "is not a picture that can be read" in str(ends[str(broken)])
    assert ends[entries(folder)[0].path] is None


@pytest.mark.filterwarnings("ignore")
def test_a_worker_that_always_dies_ends_the_run(folder: Path, tmp_path: Path, cluster: Any) -> None:
    """Three deaths at one chunk are an error that names it; what was stored stays."""
    opening = Opening(str(folder / "toy.onnx"), device="cpu")
    with (
        Crew("local", opening, workers=1) as crew,
        Ledger(tmp_path / "out", write=True) as ledger,
    ):

        class Deadly(Plan):
            def __reduce__(self) -> Any:
                return os._exit, (1,)

        deadly = Deadly(**{f.name: getattr(plan(), f.name) for f in dataclasses.fields(Plan)})
        with pytest.raises(EngineError, match=r"workers died 3 times at p0.png, p1.png"):
            list(crew.evaluate(entries(folder)[:2], deadly, ledger))


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'whyfake\[ray\]'"):
        Crew("local", Opening("bundled"))
