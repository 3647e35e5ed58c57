"""Tables as text, two evaluations compared in closed form, and plots that can be opened."""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from whyfake.cli import app
from whyfake.errors import MissingExtraError, OutputError, UsageError
from whyfake.evaluate.bootstrap import Estimate
from whyfake.evaluation.compare import compare, side
from whyfake.evaluation.facts import gather
from whyfake.evaluation.frame import accepted_columns
from whyfake.evaluation.judging import attack_settings
from whyfake.evaluation.plots import plot
from whyfake.evaluation.tables import tables
from whyfake.explainers import Nes
from whyfake.ledger import Ledger, PictureRow, Record
from whyfake.report.tables import FORMATS, Table, number, text

NAN = float("nan")
NES = Nes(steps=2, pairs=2)


def sample_table() -> Table:
    rows: list[list[Any]] = [
        ["a|b & <c> 50%_#", 1234, Estimate(0.5, 0.25, 0.75, 4)],
        ["plain", 7, Estimate(2 / 3, NAN, NAN, 1)],
    ]
    return Table("Title & more", ["name", "count", "mean"], rows, "A note: ε < 1.")


def test_numbers_have_three_digits_or_so() -> None:
    values = (0.1234, 1.0, 9.876, 12.34, 99.96, 1234.5, -0.5, NAN)
    shown = ["0.123", "1.00", "9.88", "12.3", "100.0", "1,234", "-0.500", "–"]
    assert [number(v) for v in values] == shown
    assert text(Estimate(0.5, 0.25, 0.75, 4)) == "0.500 [0.250, 0.750]"
    assert text(Estimate(0.5, NAN, NAN, 4)) == "0.500"
    assert text(1234) == "1,234"


def test_markdown_has_as_many_bars_in_every_row() -> None:
    lines = FORMATS["md"]([sample_table()]).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 4
    assert {row.replace("\\|", "").count("|") for row in rows} == {4}
    assert lines[0] == "## Title & more"


def test_csv_reads_back_in_full() -> None:
    rows = list(csv.reader(io.StringIO(FORMATS["csv"]([sample_table(), sample_table()]))))
    assert rows[0] == ["table", "name", "count", "mean", "mean, low", "mean, high"]
    assert rows[1] == ["Title & more", "a|b & <c> 50%_#", "1234", "0.5", "0.25", "0.75"]
    assert rows[2][3:] == ["0.666667", "", ""]
    assert rows[3] == []
    assert rows[4:] == rows[:3]


def test_html_and_latex_escape() -> None:
    page = FORMATS["html"]([sample_table()])
    assert html.escape("a|b & <c> 50%_#") in page
    assert "<c>" not in page
    tex = FORMATS["latex"]([sample_table()])
    assert r"a|b \& <c> 50\%\_\# & 1,234 & 0.500 [0.250, 0.750] \\" in tex
    assert r"$\varepsilon$" in tex
    assert tex.count("&") - tex.count(r"\&") == 2 * 3  # two in each of the three rows


# --- two evaluations whose numbers are known


def build(folder: Path, images: Callable[[int], int], heat: np.ndarray, right: int = 3) -> None:
    """Four forged pictures; the first `right` are recognised, flipped at a cost of images(n)."""
    blob = zlib.compress(heat.astype(np.float32).tobytes())
    explanation: dict[str, Any] = {"regions": "grid:2"}
    records, pictures = [], []
    for n in range(4):
        frame = f"f{n}"
        found = [-0.1, -3.0] if n >= right else [-3.0, -0.1]
        pictures.append(PictureRow("d", f"p{n}", frame, "fake", "g", f"c{n}", "x"))
        records.append(Record("d", frame, "detection", "", {}, 0, {"log_probs": found}))
        scores = {"region_scores": [0.1, 0.9, 0.2, 0.3], "shape": list(heat.shape)}
        records.append(Record("d", frame, "explanation", "rise", explanation, 0, scores, blob, 9))
        value = {
            "flipped": n != 2,
            "correct": n == 2,
            "images": images(n),
            "score_before": 0.9,
            "score_after": 0.9 - 0.1 * (n + 1),
        }
        settings = attack_settings(NES, "grid:2", [1])
        records.append(Record("d", frame, "attack", "nes", settings, 0, value, images=images(n)))
        smallest = {"smallest": None if n == 2 else NES.epsilon}
        wider = settings | {"radii": [NES.epsilon / 2, NES.epsilon]}
        records.append(Record("d", frame, "radius", "nes", wider, 0, smallest))
    with Ledger(folder, write=True) as ledger:
        ledger.add_detector("d", {"name": "toy", "classes": ["real", "fake"], "real": ["real"]})
        ledger.add(records, pictures)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    ramp = np.arange(64 * 64).reshape(64, 64)
    build(tmp_path / "a", lambda n: 4 + n, ramp)
    build(tmp_path / "b", lambda n: 1 + n, -ramp[:32], right=4)
    return tmp_path / "a", tmp_path / "b"


def test_facts_of_known_records(two: tuple[Path, Path]) -> None:
    with Ledger(two[0]) as ledger:
        made = {t.title: t for t in tables(gather(ledger, "d"))}
    [row] = made["Images to flip (nes)"].rows
    mean: Any = row[3]
    assert mean.mean == pytest.approx((4 + 5 + NES.images()) / 3)  # the third failed: all of it
    heads = ["group", "method", "pictures", "images, top-1", "flipped, top-1"]
    assert made["Images to flip (nes)"].columns == heads
    area: Any = made["Accuracy over radii (nes)"].rows[0][3]
    assert area.mean == pytest.approx((0.75 + 0.75 + 1) / 3)
    paper: Any = made["Accuracy and sufficiency (nes)"].rows[0]
    assert [cell.mean for cell in paper[2:4]] == pytest.approx([1 / 3, 0.2])
    pictures = dict(zip(made["Pictures"].columns, made["Pictures"].rows[-1], strict=True))
    assert (pictures["judged"], pictures["misclassified"], pictures["accuracy"]) == (3, 1, 0.75)


def test_attacks_of_another_seed_are_not_mixed_in(two: tuple[Path, Path]) -> None:
    """The same regions attacked with other draws: the table is of the explanation's own seed."""
    with Ledger(two[0], write=True) as ledger:
        before = tables(gather(ledger, "d"))
        for record in list(ledger.results("d", "attack")):
            value = record.value | {"images": 1}
            ledger.add([dataclasses.replace(record, seed=7, value=value, key="")])
        assert len(list(ledger.results("d", "attack"))) == 8
        assert tables(gather(ledger, "d")) == before


@pytest.mark.parametrize(
    ("label", "columns"),
    [("real", (0,)), ("fake", (1, 2, 3)), ("FaceSwap", (3,)), ("Deepfakes", (1,))],
)
def test_what_counts_as_correct_on_a_detector_of_kinds(
    label: str, columns: tuple[int, ...]
) -> None:
    card = SimpleNamespace(classes=("Real", "Deepfakes", "Face2Face", "FaceSwap"))
    detector: Any = SimpleNamespace(card=card, real=(0,))
    assert accepted_columns(label, detector) == columns


def test_comparison_in_closed_form(two: tuple[Path, Path]) -> None:
    made = {t.title: t for t in compare(side(str(two[0])), side(f"{two[1]}:rise"))}
    assert made["Decisions"].rows[0][1:] == [4, 3, 0, 1, 0]
    likeness: Any = made["Likeness of maps"].rows[0][2]
    assert likeness.mean == pytest.approx(-1)  # of another size, and upside down
    rows: Any = {row[1]: row for row in made["Paired differences"].rows}
    flips = rows["images to flip, top-1"]
    assert flips[2] == 3  # judged on both sides
    assert flips[5].mean == pytest.approx((-3 - 3 + 0) / 3)
    same = compare(side(str(two[0])), side(str(two[0])))
    differences: Any = next(t for t in same if t.title == "Paired differences").rows
    assert {row[5].mean for row in differences} == {0.0}


def test_what_cannot_be_compared(two: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown method 'lime'"):
        side(f"{two[0]}:lime")
    with pytest.raises(OutputError, match=r"there is no ledger\.sqlite3"):
        side(str(tmp_path / "none"))
    with Ledger(tmp_path / "empty", write=True):
        pass
    with pytest.raises(UsageError, match="wanted an evaluation of one detector, got 0"):
        side(str(tmp_path / "empty"))


def test_plots_are_pictures(two: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with Ledger(two[0]) as ledger:
        written = plot(gather(ledger, "d"), tmp_path / "plots")
    names = [path.name for path in written]
    assert names == ["flips-nes.png", "sufficiency-nes.png", "radii-nes.png"]
    for path in written:
        with Image.open(path) as image:
            assert min(image.size) > 150
            assert len(np.unique(np.asarray(image.convert("L")))) > 10
    result = CliRunner().invoke(app, ["plot", str(two[0])])
    assert result.exit_code == 0, result.output
    assert (two[0] / "plots" / "radii-nes.png").is_file()


def test_without_matplotlib_the_extra_is_named(
    two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with Ledger(two[0]) as ledger, pytest.raises(MissingExtraError, match=r"whyfake\[plot\]"):
        plot(gather(ledger, "d"), tmp_path)
