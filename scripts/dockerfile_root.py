"""Runs the steps of a Dockerfile's target in fresh roots made by debootstrap, without Docker.

What differs from Docker: a stage that starts from an image starts from Debian of the release that
the image's tag names, with Debian's own Python, or a copy of another one; every stage is a folder;
and only the instructions below are known. Steps run as in a build, as root in a chroot with mounts
and processes of their own; what the target starts runs as its USER.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import string
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_parts import Context, Instruction, Stage, exec_form, needed

RELEASES = ("trixie", "bookworm")
_PACKAGES = "ca-certificates,python3,python3-venv"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_APART = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
"""Runs a command with mounts and processes of its own, which end with it."""
_PASSED = re.compile(r"(?i)PIP_\w+|\w+_PROXY|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE")
"""Settings of this machine's pip and network that the build's steps are given."""


class NotRunError(Exception):
    """The steps cannot be run here; the message says why."""


class StepError(Exception):
    """A step failed."""


@dataclass
class Root:
    """A folder that is a stage's file system, and the settings in force."""

    folder: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": _PATH})
    workdir: str = "/"
    user: str = "0"
    entrypoint: list[str] = field(default_factory=list)

    def inside(self, path: str) -> Path:
        """Where a path of the stage lies on this machine; relative ones start at WORKDIR."""
        return self.folder / (Path("/") / self.workdir / path).relative_to("/")

    def expand(self, text: str) -> str:
        """`text` with the stage's variables in place; unknown ones are empty, as in Docker."""
        names = re.findall(r"\$\{?(\w+)", text)
        known = {name: self.env.get(name, "") for name in names}
        return string.Template(text).safe_substitute(known)


def why_not() -> str | None:
    """Why the steps cannot be run on this machine; None where they can."""
    if os.geteuid() != 0:
        return "it needs root, for chroot"
    for tool, package in (("debootstrap", "debootstrap"), ("unshare", "util-linux")):
        if shutil.which(tool) is None:
            return f"{tool} is not installed (apt-get install {package})"
    if subprocess.run([*_APART, "true"], capture_output=True, check=False).returncode:
        return "this machine forbids new mount namespaces (an unprivileged container?)"
    return None


def fresh_base(image: str, folder: Path, python: Path | None) -> None:
    """Debian of the release that `image` names, in `folder`. Raises NotRunError."""
    release = next((name for name in RELEASES if name in image), RELEASES[0])
    command = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", release, str(folder)]
    # its mounts are gone with it, even where it is killed
    done = subprocess.run([*_APART, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stdout.strip().splitlines() or ["it said nothing"])[-1]
        raise NotRunError(f"debootstrap failed (no network?): {last}")
    if python is None:
        (folder / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        return
    kept_out = shutil.ignore_patterns("test", "tests", "site-packages", "__pycache__", "*.a")
    for part in ("bin", "lib"):
        target = folder / "usr/local" / part
        shutil.copytree(python / part, target, symlinks=True, ignore=kept_out, dirs_exist_ok=True)
    for name in ("python", "python3"):
        link = folder / "usr/local/bin" / name
        link.unlink(missing_ok=True)
        link.symlink_to(next((python / "bin").glob("python3.[0-9]*[0-9]")).name)
    subprocess.run(["chroot", str(folder), "ldconfig"], check=True)


def shared_paths() -> list[Path]:
    """Files and folders that this machine's pip is told of: its settings, certificates, wheels."""
    said = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list", "-v"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    said += "\n".join(value for name, value in os.environ.items() if _PASSED.fullmatch(name))
    found = {Path(path) for path in re.findall(r"(?:file://)?(/[\w./+-]+)", said)}
    # the pages of a local index, in `simple`, point to files beside that folder
    found |= {path.parent for path in found if path.name == "simple"}
    there = sorted(path for path in found if path.exists() and path != Path("/"))
    return [path for path in there if not any(p in there for p in path.parents)]


class Builder:
    """Builds a target's stages, each in a folder of `work`."""

    def __init__(self, context: Context, work: Path, base: Path) -> None:
        self._context, self._work, self._base = context, work, base
        self._shared = shared_paths()
        self._roots: dict[str, Root] = {}

    def build(self, stages: list[Stage], target: str) -> Root:
        """The target's root. Raises StepError."""
        for stage in needed(stages, target):
            parent = self._roots.get(stage.base)
            root = Root(self._work / stage.name)
            if parent is not None:
                root.env, root.workdir, root.user = dict(parent.env), parent.workdir, parent.user
                root.entrypoint = parent.entrypoint
            copy = ["cp", "-a", str(parent.folder if parent else self._base), str(root.folder)]
            subprocess.run(copy, check=True)
            for item in stage.instructions:
                print(f"  {stage.name}: {item.name} {item.value[:90]}", flush=True)
                self._step(root, item)
            self._roots[stage.name] = root
        return self._roots[target]

    def _step(self, root: Root, item: Instruction) -> None:
        value = root.expand(item.value) if item.name in ("ENV", "WORKDIR", "USER", "COPY") else ""
        if item.name == "RUN":
            command = exec_form(item.value) or ["/bin/sh", "-c", item.value]
            done = self.run(root, command, online=True)
            if done.returncode:
                said = (done.stdout + done.stderr).strip()[-2000:]
                raise StepError(f"line {item.line}: RUN ended with {done.returncode}:\n{said}")
        elif item.name == "COPY":
            self._copy(root, item, shlex.split(value))
        elif item.name == "ENV":
            root.env |= dict(word.split("=", 1) for word in shlex.split(value))
        elif item.name == "WORKDIR":
            root.workdir = str(Path("/") / root.workdir / value)
            root.inside("").mkdir(parents=True, exist_ok=True)
        elif item.name == "USER":
            root.user = value
        elif item.name == "ENTRYPOINT":
            root.entrypoint = exec_form(item.value) or ["/bin/sh", "-c", item.value]
        elif item.name not in ("LABEL", "VOLUME", "CMD", "EXPOSE", "STOPSIGNAL"):
            raise StepError(f"line {item.line}: {item.name} cannot be run here")

    def _copy(self, root: Root, item: Instruction, words: list[str]) -> None:
        *sources, to = words
        target = root.inside(to)
        for source in sources:
            if "from" in item.flags:
                base, names = self._roots[item.flags["from"]].folder, [source.lstrip("/")]
            else:
                base, names = self._context.folder, self._context.sent(source)
            if not names or not all((base / name).exists() for name in names):
                raise StepError(f"line {item.line}: COPY finds no '{source}'")
            for name in names:
                into = target
                if not (base / name).is_dir() and (to.endswith("/") or target.is_dir()):
                    into = target / Path(name).name
                self._copy_one(base, name, into, whole="from" in item.flags)

    def _copy_one(self, base: Path, name: str, into: Path, *, whole: bool) -> None:
        """A file to a file; of a folder what is in it, and of the context only what is sent."""
        into.parent.mkdir(parents=True, exist_ok=True)
        if whole:
            subprocess.run(["cp", "-aT", str(base / name), str(into)], check=True)
        elif not (base / name).is_dir():
            shutil.copy(base / name, into)
        else:
            for path in sorted(self._context.paths):
                if path.startswith(f"{name}/") and (base / path).is_file():
                    file = into / Path(path).relative_to(name)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(base / path, file)

    def run(
        self, root: Root, command: list[str], *, online: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a root as its user. `online`: with this machine's pip and network."""
        env = {**root.env}
        lines = ["set -e", 'mount -t proc proc "$0/proc"']
        if online:
            env = {k: v for k, v in os.environ.items() if _PASSED.fullmatch(k)} | env
            for path in [*self._shared, Path("/etc/resolv.conf")]:
                lines += _mount(path, root.folder)
        uid, _, gid = root.user.partition(":")
        inner = f"cd {shlex.quote(root.workdir)} && exec {shlex.join(command)}"
        settings = " ".join(shlex.quote(f"{key}={value}") for key, value in env.items())
        lines.append(
            f'exec chroot --userspec={uid}:{gid or uid} "$0" /usr/bin/env -i {settings} '
            f"/bin/sh -c {shlex.quote(inner)}"
        )
        script = [*_APART, "sh", "-c", "\n".join(lines), str(root.folder)]
        return subprocess.run(script, capture_output=True, text=True, check=False)


def _mount(path: Path, folder: Path) -> list[str]:
    """Show a path of this machine at the same place of the root, to be read only."""
    source = shlex.quote(str(path))
    place = shlex.quote(str(folder / path.relative_to("/")))
    make = f"mkdir -p {place}" if path.is_dir() else f'mkdir -p "$(dirname {place})"; : >> {place}'
    return [make, f"mount --bind {source} {place}", f"mount -o remount,bind,ro {place}"]
