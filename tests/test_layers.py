"""The shape of the code: who may import whom, and what a bare import costs."""

from __future__ import annotations

import importlib.util
import pkgutil
import subprocess
import sys

import pytest

import whyfake

HEAVY = ("torch", "tensorrt", "tensorrt_rtx", "pycuda", "cuda", "onnxruntime", "ray", "onnx")
SLOW = ("cv2", "skimage", "scipy", "PIL")
MODULES = sorted(m.name for m in pkgutil.walk_packages(whyfake.__path__, "whyfake."))


def loaded_by(statement: str, suspects: tuple[str, ...]) -> str:
    code = f"import sys; {statement}; print([m for m in {suspects!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def test_layers() -> None:
    """import-linter holds the contract in pyproject.toml: parts never import one another."""
    pytest.importorskip("importlinter")
    from importlinter import cli

    assert cli.lint_imports(no_cache=True) == 0


def test_no_module_loads_a_heavy_package_by_being_imported() -> None:
    assert len(MODULES) > 20
    imports = "import " + ", ".join(MODULES)
    assert loaded_by(imports, HEAVY + SLOW) == "[]"


def test_the_command_line_answers_without_numpy() -> None:
    statement = (
        "import whyfake.cli; from typer.testing import CliRunner; "
        "r = CliRunner().invoke(whyfake.cli.app, ['--help']); assert r.exit_code == 0"
    )
    assert loaded_by(statement, (*HEAVY, *SLOW, "numpy")) == "[]"


def test_public_names_exist() -> None:
    for name in whyfake.__all__:
        assert getattr(whyfake, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'explian'"):
        _ = whyfake.explian
    assert importlib.util.find_spec("whyfake.cli") is not None
