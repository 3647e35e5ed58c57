"""The command `python -m training`: its options, its table, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from training_toys import synthetic_folder

pytest.importorskip("onnxscript")
import training.__main__ as command
from training.fit import Recipe

pytestmark = [pytest.mark.training, pytest.mark.usefixtures("one_thread")]

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_folder(tmp_path_factory.mktemp("data") / "faces")


def test_every_field_of_a_recipe_is_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {item.name: type(item.default)(item.default * 3 + 1) for item in fields(Recipe)}
    flags = [
        part
        for name, value in values.items()
        for part in ("--" + name.replace("_", "-"), str(value))
    ]
    monkeypatch.setattr(sys, "argv", ["training", "faces", "--run", "runs/a", *flags])
    options = command._parse()
    assert {name: getattr(options, name) for name in values} == values
    assert all(type(getattr(options, f.name)) is type(f.default) for f in fields(Recipe))
    monkeypatch.setattr(sys, "argv", ["training", "faces", "--run", "runs/a"])
    options = command._parse()
    assert Recipe(**{f.name: getattr(options, f.name) for f in fields(Recipe)}) == Recipe()
    assert (options.faces, options.run, options.out) == (Path("faces"), Path("runs/a"), None)


def test_table() -> None:
    rows: list[dict[str, Any]] = [
        {"set": "a", "real": 3, "fake": 4, "groups": 12, "auc": 0.91666, "auc_95": [0.8, 1.0]},
        {"set": "b", "real": 5, "fake": 0, "groups": 1, "accuracy": 0.5, "false_alarms": 0.125},
    ]
    assert command.table(rows).splitlines() == [
        "| set | real / fake | groups | AUC | accuracy | false alarms | found |",
        "|---|---:|---:|---|---|---|---|",
        "| a | 3 / 4 | 12 | 0.917 (0.800–1.000) | – | – | – |",
        "| b | 5 / 0 | 1 | – | 0.500 | 0.125 | – |",
    ]


def test_missing_test_sets_are_said_before_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = [str(folder), "--run", str(tmp_path / "run"), "--data", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["training", *where])
    with pytest.raises(SystemExit, match=r"^error: .*: wanted a folder ffpp_pairs in it$"):
        command.main()
    assert not (tmp_path / "run").exists()


def test_a_bad_folder_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "training", "nowhere", "--run", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: nowhere/landmarks68.csv: ")
    assert not (tmp_path / "run").exists()
