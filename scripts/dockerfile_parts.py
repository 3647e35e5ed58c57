"""A Dockerfile as stages of instructions, and the files that its build would be sent."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Instruction:
    """One instruction: `flags` are its `--name=value`, `value` the rest on one line."""

    name: str
    value: str
    line: int
    flags: dict[str, str] = field(default_factory=dict)

    def words(self) -> list[str]:
        """The rest as words: a JSON list, or words of the shell."""
        return exec_form(self.value) or shlex.split(self.value)


@dataclass(frozen=True)
class Stage:
    """A stage: the image or stage that it starts from, and its instructions after FROM."""

    name: str
    base: str
    line: int
    instructions: list[Instruction]

    def named(self, name: str) -> list[Instruction]:
        """Its instructions of one kind."""
        return [item for item in self.instructions if item.name == name]


def exec_form(value: str) -> list[str] | None:
    """The words of `["a", "b"]`; None for anything else."""
    try:
        words = json.loads(value)
    except ValueError:
        return None
    return words if isinstance(words, list) and all(isinstance(w, str) for w in words) else None


def parse(text: str) -> list[Stage]:
    """The stages of a Dockerfile. Raises ValueError for an instruction before the first FROM."""
    from dockerfile_parse import DockerfileParser

    stages: list[Stage] = []
    for item in DockerfileParser(fileobj=io.BytesIO(text.encode())).structure:
        name, value, line = item["instruction"], item["value"], item["startline"] + 1
        if name == "COMMENT":
            continue
        flags = {}
        while value.startswith("--"):
            flag, _, value = value.partition(" ")
            key, _, setting = flag[2:].partition("=")
            flags[key], value = setting, value.lstrip()
        if name == "FROM":
            base, _, alias = value.partition(" ")
            stage = alias.split()[1] if alias.upper().startswith("AS ") else str(len(stages))
            stages.append(Stage(stage, base, line, []))
        elif not stages:
            raise ValueError(f"line {line}: {name} before the first FROM")
        else:
            stages[-1].instructions.append(Instruction(name, value, line, flags))
    return stages


def chain(stages: list[Stage], target: str) -> list[Stage]:
    """A target, the stage that it starts from, and so on; the first one starts from an image."""
    by_name = {stage.name: stage for stage in stages}
    found = [by_name[target]]
    while found[-1].base in by_name and by_name[found[-1].base] not in found:
        found.append(by_name[found[-1].base])
    return found


def needed(stages: list[Stage], target: str) -> list[Stage]:
    """The stages that a target is built from, in the order of the file."""
    by_name = {stage.name: stage for stage in stages}
    open_names, found = [target], set()
    while open_names:
        name = open_names.pop()
        if name in by_name and name not in found:
            found.add(name)
            open_names.append(by_name[name].base)
            open_names += [c.flags.get("from", "") for c in by_name[name].named("COPY")]
    return [stage for stage in stages if stage.name in found]


def ignore_patterns(context: Path) -> list[str]:
    """The patterns of .dockerignore; none where there is no such file."""
    file = context / ".dockerignore"
    lines = file.read_text().splitlines() if file.is_file() else []
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


class Context:
    """The files of a folder that a build is sent, as Docker's own client chooses them."""

    def __init__(self, folder: Path) -> None:
        from docker.utils.build import PatternMatcher, exclude_paths

        self.folder = folder
        patterns = ignore_patterns(folder)
        self._matcher = PatternMatcher(patterns)
        # the client sends these two always, but they cannot be copied from
        always = {p for p in (".dockerignore", "Dockerfile") if self.ignores(p)}
        self.paths = {path for path in exclude_paths(str(folder), patterns) if path not in always}

    def ignores(self, path: str) -> bool:
        """Whether .dockerignore keeps a path away, be it there or not."""
        return bool(self._matcher.matches(path))

    def sent(self, source: str) -> list[str]:
        """The files and folders of the context that a source of COPY means, globs included."""
        pattern = source.strip("/")
        if pattern in ("", "."):
            return sorted(self.paths)
        hits = [p.relative_to(self.folder).as_posix() for p in self.folder.glob(pattern)]
        return sorted(hit for hit in hits if hit in self.paths)


def commands(script: str) -> Iterator[list[str]]:
    """The simple commands of a RUN, as words: split at && || ; | and parentheses."""
    lexer = shlex.shlex(script, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[str] = []
    for word in lexer:
        if set(word) <= set("();<>|&"):
            yield from [found] if found else []
            found = []
        else:
            found.append(word)
    yield from [found] if found else []


def after(words: list[str], *names: str) -> list[str] | None:
    """The arguments after a program and its command, as in `pip install`; None for another one."""
    for index, word in enumerate(words):
        if word.rsplit("/", 1)[-1].startswith(names[0]):
            rest = words[index + 1 :]
            if names[1:] and names[1] not in rest:
                return None
            return rest[rest.index(names[1]) + 1 :] if names[1:] else rest
    return None


def arguments(
    words: Iterable[str], valued: Iterable[str]
) -> tuple[dict[str, list[str]], list[str]]:
    """Options with their values, and the rest; `valued` are the options that take one."""
    options: dict[str, list[str]] = {}
    rest: list[str] = []
    items = iter(words)
    for word in items:
        key, _, setting = word.partition("=")
        if not word.startswith("-"):
            rest.append(word)
        elif key in valued:
            options.setdefault(key, []).append(setting or next(items, ""))
        else:
            options.setdefault(key, []).append(setting)
    return options, rest
