"""Which names of TensorRT a Python file uses, found by following its objects through the code.

`trt` is the module. What `trt.Builder(log)` and every method returns is known from the bindings'
own signatures; variables, attributes of `self`, loops, comprehensions and the file's own functions
carry it on. Parameters have no type at run time: NAMES says what they are by name.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

NAMES = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
}
"""What a parameter of this name is, in the files that the test lists."""
ALIASES = {"IParserError": "ParserError"}
"""Names of C++ in signatures that pybind11 was told too late about → those of Python."""
_PLAIN = re.compile(
    r"(None|bool|int|float|str|bytes|object|buffer|capsule|Optional|List|list|Tuple|tuple|Dict|dict"
    r"|numpy\.\w+(\[[\w.]*\])?|typing\.\w+|typing_extensions\.\w+|collections\.abc\.\w+"
    r"|[\[\], |.]|\.\.\.)+"
)


class Kind(NamedTuple):
    """What an expression is: `module`, `class` or `object` of `name`, `list` of objects of `name`,
    `method` of `owner`, or `lost`: TensorRT's, but of a type that nobody can tell.
    """

    what: str
    name: str = ""
    owner: str = ""


MODULE = Kind("module")


@dataclass(frozen=True)
class Call:
    """How something was called: positional arguments, keywords, and whether * or ** was used."""

    positional: int
    keywords: tuple[str, ...]
    open: bool = False


@dataclass(frozen=True)
class Use:
    """One use of a name: `owner` is a class, or empty for the module's own names.

    `guarded`: asked for by hasattr, or by getattr with a default. `stored`: assigned to.
    """

    owner: str
    name: str
    line: int
    call: Call | None = None
    stored: bool = False
    guarded: bool = False

    @property
    def key(self) -> str:
        """As it is written: `BuilderFlag.TF32`, `Builder`."""
        return f"{self.owner}.{self.name}" if self.owner else self.name


@dataclass(frozen=True)
class Override:
    """A Python class on top of one of TensorRT's: its methods, and how many arguments they take."""

    base: str
    methods: dict[str, int]
    line: int


class Reader(ast.NodeVisitor):
    """Reads one file; `uses`, `overrides` and `problems` (line, text) are what it found.

    `api` is the description of some version, for the types of what methods return.
    """

    def __init__(self, source: str, api: dict[str, Any]) -> None:
        self._api = api
        self._tree = ast.parse(source)
        self._attributes: dict[str, Kind] = {}
        self._results: dict[str, Kind] = {}
        self._scopes: list[dict[str, Kind]] = [{}]
        self._calls: dict[int, ast.Call] = {}
        self._functions: list[str] = []
        for _ in range(3):  # what is assigned below may be used above
            self.uses: list[Use] = []
            self.overrides: list[Override] = []
            self.problems: list[tuple[int, str]] = []
            self._seen: set[int] = set()
            self.visit(self._tree)

    # --- statements

    def visit_Import(self, node: ast.Import) -> None:
        for item in node.names:
            if item.name in ("tensorrt", "tensorrt_rtx"):
                self._bind(item.asname or item.name, MODULE)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        scope: dict[str, Kind] = {}
        for item in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            if item.arg == "trt":
                scope[item.arg] = MODULE
            elif item.arg in NAMES:
                scope[item.arg] = Kind("object", NAMES[item.arg])
        self._scopes.append(scope)
        self._functions.append(node.name)
        self.generic_visit(node)
        self._functions.pop()
        self._scopes.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            kind = self.kind(base)
            if kind is not None and kind.what == "class":
                methods = {
                    item.name: len(item.args.args) - 1
                    for item in node.body
                    if isinstance(item, ast.FunctionDef)
                }
                self.overrides.append(Override(kind.name, methods, node.lineno))
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._assign(target, node.value)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._assign(node.target, node.value)
        self.generic_visit(node)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self._assign(node.target, node.value)
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        kind = self.kind(node.value) if node.value is not None else None
        if kind is not None and self._functions:
            self._results[self._functions[-1]] = kind
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        self._loop(node.target, node.iter)
        self.generic_visit(node)

    def generic_visit(self, node: ast.AST) -> None:
        for item in getattr(node, "generators", ()):  # a comprehension's loops come before its body
            self._loop(item.target, item.iter)
        if isinstance(node, ast.expr):
            self.kind(node)
        super().generic_visit(node)

    def _loop(self, target: ast.expr, source: ast.expr) -> None:
        kind = self.kind(source)
        if kind is not None and kind.what == "list" and isinstance(target, ast.Name):
            self._bind(target.id, Kind("object", kind.name))

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, other in zip(target.elts, value.elts, strict=False):
                self._assign(one, other)
            return
        kind = self.kind(value)
        if isinstance(target, ast.Name):
            self._bind(target.id, kind)
        elif isinstance(target, ast.Attribute):
            owner = self.kind(target.value)
            if owner is None and kind is not None:
                self._attributes[target.attr] = kind
            elif owner is not None:
                self._use(target, owner, target.attr, stored=True)

    def _bind(self, name: str, kind: Kind | None) -> None:
        if kind is not None:
            self._scopes[-1][name] = kind
        else:
            self._scopes[-1].pop(name, None)

    # --- expressions

    def kind(self, node: ast.expr) -> Kind | None:
        """What an expression is; None for what is not TensorRT's."""
        if isinstance(node, ast.Name):
            return next((s[node.id] for s in reversed(self._scopes) if node.id in s), None)
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, (ast.ListComp, ast.GeneratorExp)):
            for item in node.generators:
                self._loop(item.target, item.iter)
            kind = self.kind(node.elt)
            return Kind("list", kind.name) if kind is not None and kind.what == "object" else None
        if isinstance(node, ast.Subscript):
            kind = self.kind(node.value)
            return Kind("object", kind.name) if kind is not None and kind.what == "list" else None
        if isinstance(node, ast.IfExp):
            return self.kind(node.body) or self.kind(node.orelse)
        if isinstance(node, ast.BoolOp):
            return next((kind for part in node.values if (kind := self.kind(part))), None)
        return None

    def _attribute(self, node: ast.Attribute) -> Kind | None:
        owner = self.kind(node.value)
        if owner is not None:
            return self._use(node, owner, node.attr)
        if node.attr == "module":  # of a TensorRt, which holds the imported one
            return MODULE
        found = self._attributes.get(node.attr)
        if found is None and "_" in node.attr.strip("_") and self._known(node.attr):
            text = f"'{node.attr}' is a name of TensorRT's, but nothing says what it is asked of"
            self._problem(node, text)
        return found

    def _known(self, name: str) -> bool:
        return any(name in members for members in self._api["classes"].values())

    def _call(self, node: ast.Call) -> Kind | None:
        if isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            return self._asked(node)
        self._calls[id(node.func)] = node
        target = self.kind(node.func)
        if target is None:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            name = node.func.id if isinstance(node.func, ast.Name) else name
            return self._results.get(name)
        if target.what == "class":
            self._record(node, Use(target.name, "__init__", node.lineno, _shape(node)))
            return Kind("object", target.name)
        if target.what == "method":
            members = self._api["classes"].get(target.owner, {}) if target.owner else {}
            said = members.get(target.name, {}).get("signatures", [])
            if not target.owner:
                said = self._api["functions"].get(target.name, [])
            return self._typed(next((s["returns"] for s in said), ""))
        return None

    def _asked(self, node: ast.Call) -> Kind | None:
        """getattr and hasattr: a name as text, which versions may lack if there is a way out."""
        owner = self.kind(node.args[0])
        if owner is None:
            return None
        name = node.args[1]
        if not isinstance(name, ast.Constant):
            self._problem(node, "a name that is made at run time cannot be checked")
            return None
        hasattr_ = isinstance(node.func, ast.Name) and node.func.id == "hasattr"
        guarded = hasattr_ or len(node.args) > 2
        kind = self._use(node, owner, str(name.value), guarded=guarded)
        return None if hasattr_ else kind

    def _use(
        self,
        node: ast.expr,
        owner: Kind,
        name: str,
        *,
        stored: bool = False,
        guarded: bool = False,
    ) -> Kind | None:
        """Record that `name` is asked of `owner`; what that gives."""
        if owner.what in ("list", "method"):
            return None
        if owner.what == "lost":
            self._problem(node, f"'{name}' is asked of {owner.name}, which is no known class")
            return None
        place = "" if owner.what == "module" else owner.name
        called = self._calls.get(id(node))
        found = self._given(place, name)
        call = _shape(called) if called is not None and found != Kind("class", name) else None
        self._record(node, Use(place, name, node.lineno, call, stored, guarded))
        return found

    def _given(self, owner: str, name: str) -> Kind | None:
        if not owner:
            if name in self._api["classes"]:
                return Kind("class", name)
            return Kind("method", name) if name in self._api["functions"] else None
        member = self._api["classes"].get(owner, {}).get(name)
        if member is None:
            return None
        if member["kind"] == "method":
            return Kind("method", name, owner)
        if member["kind"] == "property":
            return self._typed(member["returns"])
        return Kind("object", owner) if member["kind"] == "member" else None

    def _typed(self, text: str) -> Kind | None:
        """What a signature says is returned."""
        names = [ALIASES.get(n, n) for n in re.findall(r"(?:\w+(?:\.|::))*(\w+)", text)]
        known = [name for name in names if name in self._api["classes"]]
        if known:
            return Kind("list" if "ist[" in text else "object", known[0])
        return None if not text or _PLAIN.fullmatch(text) else Kind("lost", text)

    def _record(self, node: ast.AST, use: Use) -> None:
        if id(node) not in self._seen:
            self._seen.add(id(node))
            self.uses.append(use)

    def _problem(self, node: ast.expr, text: str) -> None:
        if (node.lineno, text) not in self.problems:
            self.problems.append((node.lineno, text))


def _shape(node: ast.Call) -> Call:
    loose = any(isinstance(item, ast.Starred) for item in node.args)
    names = tuple(item.arg for item in node.keywords if item.arg is not None)
    return Call(len(node.args), names, loose or len(names) < len(node.keywords))
