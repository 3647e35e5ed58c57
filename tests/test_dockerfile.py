"""The Dockerfile keeps the rules, and each rule fails on a Dockerfile that breaks it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("dockerfile_parse")
pytest.importorskip("docker")
import check_dockerfile
import dockerfile_root
from dockerfile_parts import Context, after, chain, commands, needed, parse
from dockerfile_root import Builder, Root
from dockerfile_rules import RULES, check

HERE = Path(__file__).resolve().parents[1]
GOOD = """\
FROM python:3.12.1-slim AS cpu-build
WORKDIR /src
COPY docker/constraints-cpu.txt docker/
RUN pip install -r docker/constraints-cpu.txt && pip wheel --no-deps .
COPY pyproject.toml ./
COPY package package
FROM python:3.12.1-slim AS base
LABEL org.opencontainers.image.title=t org.opencontainers.image.description=d \\
      org.opencontainers.image.licenses=l
USER 10001
ENTRYPOINT ["whyfake"]
FROM base AS cpu
RUN apt-get update && apt-get install -y --no-install-recommends python3.12 libgomp1
COPY --from=cpu-build /opt /opt
FROM base AS gpu
COPY --from=0 /opt /opt
"""
PROJECT = """\
[project]
name = "thing"
dependencies = ["numpy>=2", "tomli; python_version < '3.11'"]
[project.optional-dependencies]
cpu = ["onnxruntime>=1.18"]
gpu = ["tensorrt>=10.3"]
pycuda = []
video = []
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A project that the good Dockerfile builds."""
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "constraints-cpu.txt").write_text("numpy==2.4.6\nonnxruntime==1.32.0\n")
    gpu = "# kept\nnumpy==2.4.6\ntensorrt-cu13==10.16.1.11\n"
    (tmp_path / "docker" / "constraints-gpu.txt").write_text(gpu)
    (tmp_path / "package").mkdir()
    for name in ("__init__.py", "secret.key"):
        (tmp_path / "package" / name).write_text(name)
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "notes.md").touch()
    ignore = "# send\n*\n!docker\n!pyproject.toml\n!package\n**/*.key\n"
    (tmp_path / ".dockerignore").write_text(ignore)
    return tmp_path


def broken(text: str, context: Path) -> set[str]:
    return {problem.rule for problem in check(text, context)}


def test_our_dockerfile_keeps_the_rules() -> None:
    assert check((HERE / "Dockerfile").read_text(), HERE) == []


def test_a_good_dockerfile_breaks_none(context: Path) -> None:
    assert check(GOOD, context) == []


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        ("targets", "FROM base AS gpu", "FROM base AS cuda"),
        ("targets", "AS base", "AS cpu-build"),
        ("instructions", "WORKDIR /src", "WORKDRI /src"),
        ("pinned-base", "python:3.12.1-slim AS cpu-build", "python:3.12-slim AS cpu-build"),
        ("pinned-base", "python:3.12.1-slim AS cpu-build", "python:latest AS cpu-build"),
        ("pinned-base", "python:3.12.1-slim AS cpu-build", "python AS cpu-build"),
        ("pinned-base", "python:3.12.1-slim AS base", "gpu AS base"),
        ("copy-from", "--from=cpu-build", "--from=cpu-biuld"),
        ("copy-from", "--from=cpu-build", "--from=gpu"),
        ("copy-from", "--from=0", "--from=7"),
        ("copy-from", "--from=0", "--from=alpine"),
        ("copy-source", "COPY package package", "COPY packages package"),
        ("copy-source", "COPY package package", "COPY notes.md package"),
        ("copy-source", "COPY package package", "COPY package/*.key package"),
        ("copy-source", "COPY package package", "COPY ../package package"),
        ("copy-source", "COPY package package", 'COPY ["gone", "package"]'),
        ("no-add", "COPY pyproject.toml", "ADD pyproject.toml"),
        ("non-root", "USER 10001\n", ""),
        ("non-root", "USER 10001", "USER root"),
        ("non-root", "USER 10001", "USER 0:0"),
        ("non-root", "COPY --from=0 /opt /opt", "USER root"),
        ("no-compiler", "libgomp1", "build-essential"),
        ("no-compiler", "libgomp1", "g++-13"),
        ("no-compiler", "libgomp1", "python3-dev=3.12.3"),
        ("no-compiler", "python:3.12.1-slim AS base", "nvidia/cuda:13.0.2-devel AS base"),
        ("entrypoint", 'ENTRYPOINT ["whyfake"]', "ENTRYPOINT whyfake"),
        ("entrypoint", 'ENTRYPOINT ["whyfake"]\n', ""),
        ("entrypoint", 'ENTRYPOINT ["whyfake"]', 'ENTRYPOINT ["sh"]'),
        ("labels", "org.opencontainers.image.licenses", "org.opencontainers.image.license"),
        ("pinned-pip", "install -r docker/constraints-cpu.txt", "install numpy"),
        ("pinned-pip", "install -r docker/constraints-cpu.txt", "install 'numpy>=2'"),
        ("pinned-pip", "install -r docker/constraints-cpu.txt", "install -r other.txt"),
        ("pinned-pip", "wheel --no-deps .", "wheel ."),
        ("pinned-pip", "pip wheel --no-deps .", "python -m pip download -d /x numpy"),
    ],
)
def test_each_rule_fails_on_what_breaks_it(context: Path, rule: str, good: str, bad: str) -> None:
    assert good in GOOD
    assert rule in broken(GOOD.replace(good, bad, 1), context)


@pytest.mark.parametrize(
    "line",
    [
        "RUN pip install numpy==2.4.6",
        "RUN (cd /x; /opt/bin/pip3 --python /p install 'numpy[all]==2.4.6')",
        'RUN ["pip", "--version"]',
        "RUN echo pip is not asked to || true",
    ],
)
def test_what_is_pinned_is_let_through(context: Path, line: str) -> None:
    assert broken(GOOD.replace("WORKDIR /src", line), context) == set()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("constraints-cpu.txt", "numpy>=2\nonnxruntime==1.32.0\n"),
        ("constraints-cpu.txt", "onnxruntime==1.32.0\n"),
        ("constraints-cpu.txt", "numpy==1.26.0\nonnxruntime==1.32.0\n"),
        ("constraints-cpu.txt", "numpy==2.4.6\n"),
        ("constraints-gpu.txt", "numpy==2.4.6\ntensorrt-cu13==10.2.0\n"),
    ],
)
def test_constraints_must_be_exact_and_all_that_the_project_asks_for(
    context: Path, file: str, text: str
) -> None:
    (context / "docker" / file).write_text(text)
    assert broken(GOOD, context) == {"constraints"}


def test_a_context_that_is_not_chosen_is_refused(context: Path) -> None:
    (context / ".dockerignore").write_text("__pycache__\n")
    assert broken(GOOD, context) == {"context"}


def test_every_rule_is_tested() -> None:
    here = Path(__file__).read_text()
    assert [rule for rule in RULES if f'("{rule}"' not in here and f'"{rule}"' not in here] == []


# --- the parts


def test_stages_and_what_a_target_needs() -> None:
    stages = parse(GOOD)
    assert [s.name for s in stages] == ["cpu-build", "base", "cpu", "gpu"]
    assert [s.name for s in chain(stages, "cpu")] == ["cpu", "base"]
    assert [s.name for s in needed(stages, "cpu")] == ["cpu-build", "base", "cpu"]
    (copied,) = stages[2].named("COPY")
    assert copied.flags == {"from": "cpu-build"}
    assert copied.words() == ["/opt", "/opt"]
    with pytest.raises(ValueError, match="before the first FROM"):
        parse("RUN true\nFROM x")


def test_commands_of_a_shell_line() -> None:
    script = "a -x 'b && c' && (pip install d==1; e) || f | g"
    assert list(commands(script)) == [
        ["a", "-x", "b && c"],
        ["pip", "install", "d==1"],
        ["e"],
        ["f"],
        ["g"],
    ]
    assert after(["/opt/bin/pip3", "--quiet", "install", "x"], "pip", "install") == ["x"]
    assert after(["echo", "x"], "pip", "install") is None


def test_copies_take_what_is_sent_and_nothing_else(context: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "base").mkdir(parents=True)
    builder = Builder(Context(context), work, work / "base")
    text = (
        "FROM a:1.0.0 AS one\nWORKDIR /src\nENV A=b PATH=/x:$PATH\nCOPY package pyproject.toml ./\n"
        "COPY pyproject.toml renamed\nCOPY docker docker\n"
        'FROM one AS two\nUSER 7:8\nCOPY --from=one /src/docker /away\nENTRYPOINT ["x"]\n'
    )
    root = builder.build(parse(text), "two")
    copied = {p.relative_to(root.folder).as_posix() for p in root.folder.rglob("*") if p.is_file()}
    assert copied == {
        "src/__init__.py",
        "src/pyproject.toml",
        "src/renamed",
        "src/docker/constraints-cpu.txt",
        "src/docker/constraints-gpu.txt",
        "away/constraints-cpu.txt",
        "away/constraints-gpu.txt",
    }
    assert root.env["A"] == "b"
    assert root.env["PATH"].startswith("/x:/usr/local/sbin")
    assert (root.user, root.entrypoint, root.workdir) == ("7:8", ["x"], "/src")


def test_variables_are_expanded_as_docker_does() -> None:
    root = Root(Path("/r"), {"A": "1", "B_C": "2"})
    assert root.expand("$A/${B_C}/$GONE:$A") == "1/2/:1"
    assert root.inside("/opt/x") == Path("/r/opt/x")


def test_the_script_says_what_it_did(tmp_path: Path) -> None:
    """Rules and hadolint only: the steps take minutes, and root."""
    script = [sys.executable, str(HERE / "scripts" / "check_dockerfile.py"), "--lint-only"]
    done = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"rules: {len(RULES)} looked at, 0 problems" in done.stdout
    assert "hadolint: passed" in done.stdout or "hadolint: not run" in done.stdout


def test_where_the_steps_cannot_run_one_line_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reasons = []
    with monkeypatch.context() as patch:
        patch.setattr("os.geteuid", lambda: 1000)
        reasons.append(dockerfile_root.why_not())
        patch.setattr("os.geteuid", lambda: 0)
        patch.setattr(
            "shutil.which", lambda tool: None if tool == "debootstrap" else f"/bin/{tool}"
        )
        reasons.append(dockerfile_root.why_not())
    assert reasons == [
        "it needs root, for chroot",
        "debootstrap is not installed (apt-get install debootstrap)",
    ]
    monkeypatch.setattr(dockerfile_root, "why_not", lambda: "no reason")
    for arguments, code in (([], 0), (["--require-run"], 1)):
        monkeypatch.setattr("sys.argv", ["check_dockerfile.py", *arguments])
        assert check_dockerfile.main() == code
        assert capsys.readouterr().out.endswith("target cpu: not run: no reason\n")
