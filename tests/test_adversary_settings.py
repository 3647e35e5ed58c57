"""Which adversary makes a sample: settings, keys, what results say of it, the command line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from games import random_frame
from half import HALF_SIZE, half_detector
from toys import bright_detector, bright_picture
from typer.testing import CliRunner

import whyfake
from whyfake import Detector, Explanation, Settings
from whyfake.cli import app
from whyfake.errors import OutputError, UsageError
from whyfake.evaluation import make_plan
from whyfake.explainers import (
    ADVERSARIES,
    EXPLAINERS,
    Bisect,
    Hsic,
    Nes,
    Square,
    SquareBisect,
    SquareNes,
    options,
)
from whyfake.index import unfinished
from whyfake.making import Maker
from whyfake.request import make_request
from whyfake.results import Results
from whyfake.runtime import drive
from whyfake.settings import PRESETS


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Detector]:
    folder = tmp_path_factory.mktemp("bright")
    with bright_detector(folder) as detector:
        yield detector


def test_what_is_new_is_left_out_of_keys_until_it_is_used() -> None:
    """Pinned to what versions before wrote: ledgers and clips of theirs go on."""
    old = {"sigma", "pairs", "alpha", "epsilon", "steps", "noise"}
    assert set(options(Nes())) == old
    assert set(options(Nes(cell=4))) == {*old, "cell"}
    assert set(options(Nes(momentum=0.5))) == {*old, "momentum"}
    assert set(options(Nes(differences="forward"))) == {*old, "differences"}
    assert set(options(Nes(move="gradient"))) == {*old, "move"}
    assert set(options(Square())) == {"epsilon", "queries", "share"}
    assert options(Square(candidates=2))["candidates"] == 2
    plain = Settings().plain()
    assert set(plain) == {"nes", "lime", "shap", "sobol", "rise", "regions"}
    changed = Settings(square=Square(queries=9), bisect=Bisect(2, 2))
    assert Settings(hsic=Hsic(samples=9)).plain()["hsic"]["samples"] == 9
    assert changed.plain() == plain  # what is not chosen makes no difference
    chosen = dataclasses.replace(changed, adversary="square-bisect").plain()
    assert chosen["square-bisect"]["square"]["queries"] == 9
    assert chosen["square-bisect"]["bisect"] == {"cuts": 2, "rounds": 2}


def test_another_adversary_never_shares_an_evaluations_keys() -> None:
    digests, keys = set(), set()
    for name in ADVERSARIES:
        plan = make_plan("lime,lime-adv", settings=Settings(adversary=name))
        digests.add(plan.digest)
        keys.add(json.dumps(plan.explanation_settings("lime-adv")))
        assert plan.explanation_settings("lime") == make_plan("lime").explanation_settings("lime")
    assert len(digests) == len(keys) == len(ADVERSARIES) == 4
    old = make_plan("lime-adv").explanation_settings("lime-adv")
    assert set(old) == {"regions", "explainer", "nes"}


def test_settings_files_choose_and_set_the_adversary() -> None:
    changes = {
        "adversary": "square-nes",
        "square": {"candidates": 4},
        "refine": {"steps": 1, "pairs": 7},
        "nes": {"sigma": 0.01},
        "bisect": {"rounds": 3},
    }
    settings = Settings().merge(changes, "test")
    wanted = SquareNes(Square(candidates=4), Bisect(rounds=3), Nes(sigma=0.01, pairs=7), steps=1)
    assert settings.attack() == wanted
    assert wanted.images() == 1001 + 18 + 1 * (15 + 1 + 18)
    for name in ADVERSARIES:
        assert Settings(adversary=name).attack().name == name
    with pytest.raises(UsageError, match="did you mean 'square'"):
        Settings(adversary="sqare")
    for wrong, message in (
        ({"square": {"candidates": 0}}, "candidates must be 1 or more"),
        ({"bisect": {"cuts": 0}}, "cuts must be 1 or more"),
        ({"bisect": {"rounds": 0}}, "rounds must be 1 or more"),
        ({"refine": {"steps": 0}}, "steps must be 1 or more"),
        ({"nes": {"cell": 0}}, "cell must be 1 or more"),
        ({"nes": {"momentum": 1.0}}, r"momentum must lie in \[0, 1\)"),
        ({"nes": {"differences": "forwards"}}, "did you mean 'forward'"),
        ({"nes": {"move": "signs"}}, "did you mean 'sign'"),
    ):
        with pytest.raises(UsageError, match=message):
            Settings().merge(wrong, "test")


@pytest.mark.parametrize("name", ADVERSARIES)
def test_an_explanation_says_what_made_its_sample(planted: Detector, name: str) -> None:
    settings = Settings(adversary=name).with_budget(60)
    picture = bright_picture()
    seen = planted.images_seen
    made = list(whyfake.explain_many(planted, [picture], method="all", settings=settings))
    assert planted.images_seen - seen == sum(e.images for e in made)
    found = next(e for e in made if e.adversary is not None)
    assert found.adversary is not None
    assert found.adversary.method == name
    assert found.adversary.flipped
    assert found.settings[name] == options(settings.attack())
    assert found.image_counts["adversary"] == found.adversary.images
    folder = Path(whyfake.__file__).parent / "schema"
    schema = json.loads((folder / "explanation.schema.json").read_text())
    jsonschema.validate(found.to_dict(), schema)
    data = found.to_dict()
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**data, "adversary": {**data["adversary"], "method": "x"}}, schema)


def test_an_older_explanation_was_made_by_nes(planted: Detector, tmp_path: Path) -> None:
    picture = bright_picture()
    made = whyfake.explain(planted, picture, settings=Settings().with_budget(60))
    made.save(tmp_path / "e")
    path = tmp_path / "e" / "explanation.json"
    data = json.loads(path.read_text())
    del data["adversary"]["method"]
    path.write_text(json.dumps(data))
    assert Explanation.load(tmp_path / "e") == made


def test_resuming_with_another_adversary_is_refused(planted: Detector, tmp_path: Path) -> None:
    from PIL import Image

    source = str(tmp_path / "face.png")
    Image.fromarray(bright_picture()).save(source)
    few = Settings(adversary="square").with_budget(60)
    results = Results(tmp_path / "out")
    results.save(whyfake.explain(planted, source, settings=few))
    request = make_request("lime-adv", settings=few)
    assert unfinished([source], request, planted, results) == []
    other = make_request("lime-adv", settings=dataclasses.replace(few, adversary="nes"))
    with pytest.raises(OutputError, match=r"adversary: .square., now .nes."):
        unfinished([source], other, planted, results)


def test_coarse_arithmetic_concerns_only_what_takes_differences() -> None:
    with half_detector(np.float16) as coarse:
        maker = Maker(random_frame(HALF_SIZE), coarse, 0)
        for attack in (Square(), SquareBisect()):
            chosen, trust = drive(maker.trusted(attack), coarse, maker.frame)
            assert (chosen, trust) == (attack, 1.0)
        assert coarse.images_seen == 0
        nes, trust = drive(maker.trusted(Nes()), coarse, maker.frame)
        refined, same = drive(maker.trusted(SquareNes()), coarse, maker.frame)
        assert refined == SquareNes(nes=nes)
        assert nes.sigma > Nes().sigma
        assert trust == same < 1


def test_the_command_line_names_what_it_does_not_know(tmp_path: Path) -> None:
    from PIL import Image

    source = tmp_path / "face.png"
    Image.fromarray(bright_picture()).save(source)
    for command in (["explain", str(source)], ["evaluate", "x.csv"], ["video", "x.mp4"]):
        found = CliRunner().invoke(app, [*command, "--adversary", "pgd"])
        assert found.exit_code == 2
        assert "unknown adversary 'pgd'" in found.output


def test_the_fast_preset_asks_a_sixth_of_the_papers_images_at_most() -> None:
    fast, paper = (
        1 + settings.attack().images() + settings.lime.images()
        for settings in (PRESETS["fast"], PRESETS["paper"])
    )
    assert 6 * fast <= paper == 8482


@pytest.mark.parametrize("method", EXPLAINERS)
def test_the_fast_preset_asks_a_quarter_of_every_method_s_images_at_most(method: str) -> None:
    fast, usual = (PRESETS[name].explainer(method).images() for name in ("fast", "default"))
    assert 4 * fast <= usual
