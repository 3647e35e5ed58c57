"""The rules that our Dockerfile keeps; each is a function that yields what breaks it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dockerfile_parts import (
    Context,
    Instruction,
    Stage,
    after,
    arguments,
    chain,
    commands,
    exec_form,
    parse,
)

TARGETS = {"cpu": ("cpu", "video"), "gpu": ("gpu", "pycuda", "video")}
"""The targets, and the extras of the project that each must hold."""
STANDS_FOR = {"tensorrt-cu13": "tensorrt"}
"""The distribution that is installed → the one that the project asks for."""
KNOWN = frozenset(
    {"ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "ONBUILD"}
    | {"RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"}
)
_COMPILERS = re.compile(
    r"build-essential|(gcc|g\+\+|clang|llvm|gfortran|cpp)(-[\d.]+)?|c?make|ninja-build|cargo|rustc"
    r"|nvidia-cuda-toolkit|cuda-(nvcc|toolkit|compiler)[\w.-]*|[\w.+-]+-dev"
)
_VALUED = ("-r", "--requirement", "-c", "--constraint", "-w", "--wheel-dir", "-d", "--dest")
_VALUED += ("-f", "--find-links", "-i", "--index-url", "--extra-index-url", "--no-binary")
_VALUED += ("--only-binary", "--target", "-t")


@dataclass(frozen=True)
class Problem:
    """What breaks a rule, and where."""

    rule: str
    line: int
    text: str


@dataclass(frozen=True)
class Case:
    """A Dockerfile with all that rules look at."""

    stages: list[Stage]
    context: Context

    def targets(self) -> Iterator[tuple[str, list[Stage]]]:
        """Each target that is there, with the stages that it starts from, itself first."""
        names = [stage.name for stage in self.stages]
        yield from ((name, chain(self.stages, name)) for name in TARGETS if name in names)

    def last(self, stages: list[Stage], name: str) -> Instruction | None:
        """The last instruction of a kind in a target, its own before that of its base."""
        return next((found[-1] for stage in stages if (found := stage.named(name))), None)


Found = Iterator[tuple[int, str]]


def _targets(case: Case) -> Found:
    names = [stage.name for stage in case.stages]
    for target in TARGETS:
        if target not in names:
            yield 1, f"there is no stage '{target}'"
    for stage in case.stages:
        if names.count(stage.name) > 1:
            yield stage.line, f"there are two stages '{stage.name}'"


def _instructions(case: Case) -> Found:
    for stage in case.stages:
        for item in stage.instructions:
            if item.name not in KNOWN:
                yield item.line, f"there is no instruction {item.name}"


def _pinned_image(image: str) -> bool:
    if "@sha256:" in image:
        return True
    _, colon, tag = image.rpartition(":")
    return bool(colon and re.match(r"\d+\.\d+\.\d+", tag))


def _bases(case: Case) -> Found:
    earlier: list[str] = []
    for stage in case.stages:
        if stage.base not in earlier and not _pinned_image(stage.base):
            yield stage.line, f"'{stage.base}' names no full version (name:1.2.3…) and no digest"
        earlier.append(stage.name)


def _copy_from(case: Case) -> Found:
    earlier: list[str] = []
    for number, stage in enumerate(case.stages):
        for item in stage.named("COPY"):
            source = item.flags.get("from")
            if source is None or source in earlier or source in map(str, range(number)):
                continue
            if not _pinned_image(source):
                yield item.line, f"--from={source} is no earlier stage and no pinned image"
        earlier.append(stage.name)


def _sources(case: Case) -> Found:
    for stage in case.stages:
        for item in stage.named("COPY"):
            for source in item.words()[:-1] if "from" not in item.flags else []:
                if ".." in source.split("/"):
                    yield item.line, f"'{source}' is outside the context"
                elif not case.context.sent(source):
                    there = any(case.context.folder.glob(source.strip("/") or "*"))
                    why = "is kept away by .dockerignore" if there else "does not exist"
                    yield item.line, f"'{source}' {why}"


def _context(case: Case) -> Found:
    for name in (".git/config", ".venv/bin/python", ".env", "frames/face.png"):
        if not case.context.ignores(name):
            yield 1, f"the context would hold '{name}': let .dockerignore send what is copied only"


def _add(case: Case) -> Found:
    for stage in case.stages:
        for item in stage.named("ADD"):
            yield item.line, "ADD fetches and unpacks in silence: use COPY"


def _user(case: Case) -> Found:
    for name, stages in case.targets():
        user = case.last(stages, "USER")
        if user is None:
            yield stages[0].line, f"target {name} runs as root: it has no USER"
        elif user.value.split(":")[0].strip() in ("root", "0"):
            yield user.line, f"target {name} runs as root"


def _compiler(case: Case) -> Found:
    for name, stages in case.targets():
        if "devel" in stages[-1].base:
            yield stages[-1].line, f"target {name} is built on '{stages[-1].base}', with compilers"
        for item in (run for stage in stages for run in stage.named("RUN")):
            for words in commands(item.value):
                for package in after(words, "apt", "install") or []:
                    if _COMPILERS.fullmatch(package.partition("=")[0]):
                        yield item.line, f"target {name} installs '{package}'"


def _entrypoint(case: Case) -> Found:
    for name, stages in case.targets():
        entry = case.last(stages, "ENTRYPOINT")
        if entry is None:
            yield stages[0].line, f"target {name} has no ENTRYPOINT"
        elif exec_form(entry.value) != ["whyfake"]:
            yield entry.line, f'target {name}: wanted ENTRYPOINT ["whyfake"], got {entry.value}'


def _labels(case: Case) -> Found:
    for name, stages in case.targets():
        said = " ".join(item.value for stage in stages for item in stage.named("LABEL"))
        for label in ("title", "description", "licenses"):
            if f"org.opencontainers.image.{label}=" not in said:
                yield stages[0].line, f"target {name} has no label {label}"


def _pip(case: Case) -> Found:
    """Every `pip install`, `wheel` and `download` names exact versions, or files that do."""
    for stage in case.stages:
        for item in stage.named("RUN"):
            for words in commands(item.value):
                for verb in ("install", "wheel", "download"):
                    given = after(words, "pip", verb)
                    if given is not None:
                        yield from ((item.line, text) for text in _loose(given, case.context))


def _loose(given: list[str], context: Context) -> Iterator[str]:
    options, rest = arguments(given, _VALUED)
    for name in [*options.get("-r", []), *options.get("--requirement", [])]:
        if not context.sent(name):
            yield f"pip reads '{name}', which the context does not hold"
    for package in rest:
        local = package.startswith((".", "/")) or package.endswith(".whl")
        if local and "--no-deps" not in options:
            yield f"pip installs '{package}' with whatever it asks for: say --no-deps"
        if not local and not re.fullmatch(r"[\w.\[\],-]+==[\w.!+$]+", package):
            yield f"pip installs '{package}': wanted name==version, or -r FILE of such lines"


def pins(file: Path) -> dict[str, str]:
    """The `name==version` lines of a file. Raises ValueError at a line that is none."""
    from packaging.utils import canonicalize_name

    found = {}
    for number, line in enumerate(file.read_text().splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = re.fullmatch(r"([\w.-]+)==([\w.!+]+)", text)
        if match is None:
            raise ValueError(f"{file.name}, line {number}: wanted name==version, got '{text}'")
        found[str(canonicalize_name(match[1]))] = match[2]
    return found


def _constraints(case: Case) -> Found:
    """The pinned versions are exact, and are all that the project asks for."""
    folder = case.context.folder / "docker"
    for file in sorted(folder.glob("constraints-*.txt")):
        try:
            pins(file)
        except ValueError as error:
            yield 1, str(error)
            return
    for name, extras in TARGETS.items():
        file = folder / f"constraints-{name}.txt"
        if not file.is_file():
            yield 1, f"docker/{file.name} does not exist"
        else:
            yield from ((1, f"{file.name}: {text}") for text in _lacking(case, pins(file), extras))


def _lacking(case: Case, have: dict[str, str], extras: tuple[str, ...]) -> Iterator[str]:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    have = have | {STANDS_FOR[name]: have[name] for name in STANDS_FOR if name in have}
    project = _project(case.context.folder / "pyproject.toml")
    wanted = list(project["dependencies"])
    for extra in extras:
        wanted += project["optional-dependencies"].get(extra, [])
    for text in wanted:
        asked = Requirement(text)
        if asked.marker is not None and not asked.marker.evaluate({"python_version": "3.12"}):
            continue
        version = have.get(str(canonicalize_name(asked.name)))
        if version is None:
            yield f"'{asked.name}', which pyproject.toml asks for, is not pinned"
        elif not asked.specifier.contains(version, prereleases=True):
            yield f"{asked.name}=={version}, pyproject.toml asks for {asked.specifier}"


def _project(file: Path) -> dict[str, object]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(file.read_text())["project"]


RULES: dict[str, Callable[[Case], Found]] = {
    "targets": _targets,
    "instructions": _instructions,
    "pinned-base": _bases,
    "copy-from": _copy_from,
    "copy-source": _sources,
    "context": _context,
    "no-add": _add,
    "non-root": _user,
    "no-compiler": _compiler,
    "entrypoint": _entrypoint,
    "labels": _labels,
    "pinned-pip": _pip,
    "constraints": _constraints,
}


def check(text: str, folder: Path) -> list[Problem]:
    """All that is wrong with a Dockerfile whose context is `folder`, in the order of its lines."""
    case = Case(parse(text), Context(folder))
    found = [Problem(rule, *hit) for rule, function in RULES.items() for hit in function(case)]
    return sorted(found, key=lambda problem: problem.line)
