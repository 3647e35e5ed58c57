"""The detector card: what a model expects and what it returns.

It lives inside the ONNX file (metadata key `whyfake.card`), or beside it as `MODEL.card.json`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .errors import CardError, unknown

METADATA_KEY = "whyfake.card"
ACTIVATIONS = ("logits", "softmax", "sigmoid", "log_softmax")
COLORS = ("RGB", "BGR")
LAYOUTS = ("NCHW", "NHWC")
MAX_SIDE = 8192


@dataclass(frozen=True)
class InputSpec:
    """The picture that the graph wants: `(value·(high − low) + low − mean) / std`, value in [0, 1].

    `range`, `mean` and `std` are in the graph's own units; `mean` and `std` apply after `range`.
    `layout` is read off the graph where the card leaves it out. `neutral` is the RGB colour in
    [0, 1] that the network inside sees as zero, where its normalisation is part of the graph.
    """

    height: int
    width: int
    name: str | None = None
    color: str = "RGB"
    range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    layout: str | None = None
    neutral: tuple[float, float, float] | None = None

    @property
    def neutral_color(self) -> tuple[float, float, float]:
        """The RGB colour in [0, 1] that the network sees as zero (the data set's mean colour)."""
        if self.neutral is not None:
            return self.neutral
        low, high = self.range
        red, green, blue = (min(max((m - low) / (high - low), 0.0), 1.0) for m in self.mean)
        return (blue, green, red) if self.color == "BGR" else (red, green, blue)


@dataclass(frozen=True)
class OutputSpec:
    """What comes out: `activation` as the graph ends, and the class that one column scores."""

    activation: str
    name: str | None = None
    positive: str | None = None


@dataclass(frozen=True)
class DetectorCard:
    """Input, output, class names and which of them mean *real*. `from_dict` checks it.

    `notice` is shown to whoever uses the detector. `parity` is how far the model is from what it
    was made from, `engine` what a compiled engine was built for; both are empty where nothing is
    known, and are written by whyfake.
    """

    name: str
    input: InputSpec
    output: OutputSpec
    classes: tuple[str, ...]
    real: tuple[str, ...]
    crop_margin: float | None = None
    source: str = ""
    license: str = ""
    notice: str = ""
    parity: Mapping[str, Any] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)
    schema: int = 1
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fake(self) -> tuple[str, ...]:
        """Every class that is not *real*."""
        return tuple(name for name in self.classes if name not in self.real)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "card") -> DetectorCard:
        """Build and check a card; `where` names it in messages. Raises CardError."""
        reader = _Reader(data, where)
        schema = reader.take("schema", int, 1)
        if schema != 1:
            raise CardError(f"{where}: schema {schema} is not known to this whyfake, which reads 1")
        source = _Reader(reader.take("input", dict), f"{where}: input")
        spec = InputSpec(
            height=source.size("height"),
            width=source.size("width"),
            name=source.take("name", str, None),
            color=source.choice("color", COLORS, "RGB"),
            range=source.numbers("range", 2, (0.0, 1.0)),
            mean=source.numbers("mean", 3, (0.0, 0.0, 0.0)),
            std=source.numbers("std", 3, (1.0, 1.0, 1.0)),
            layout=source.choice("layout", LAYOUTS, None),
            neutral=source.numbers("neutral", 3, None),
        )
        if spec.range[0] >= spec.range[1]:
            raise CardError(f"{where}: input.range must rise, got {list(spec.range)}")
        if min(spec.std) <= 0:
            raise CardError(f"{where}: input.std must be positive, got {list(spec.std)}")
        if spec.neutral is not None and not all(0 <= value <= 1 for value in spec.neutral):
            raise CardError(f"{where}: input.neutral must lie in [0, 1], got {list(spec.neutral)}")
        source.done()
        sink = _Reader(reader.take("output", dict), f"{where}: output")
        output = OutputSpec(
            activation=sink.choice("activation", ACTIVATIONS),
            name=sink.take("name", str, None),
            positive=sink.take("positive", str, None),
        )
        sink.done()
        margin = reader.take("crop_margin", (float, int), None)
        if margin is not None and not (_is_number(margin) and margin > 0):
            raise CardError(f"{where}: 'crop_margin' must be a positive number, got {margin}")
        card = cls(
            name=reader.take("name", str, Path(where).stem.removesuffix(".card")),
            input=spec,
            output=output,
            classes=reader.names("classes"),
            real=reader.names("real"),
            crop_margin=None if margin is None else float(margin),
            source=reader.take("source", str, ""),
            license=reader.take("license", str, ""),
            notice=reader.take("notice", str, ""),
            parity=reader.record("parity"),
            engine=reader.record("engine"),
            extra=reader.rest(),
        )
        card._check_classes(where)
        return card

    def _check_classes(self, where: str) -> None:
        if len(self.classes) < 2:
            raise CardError(
                f"{where}: a detector needs two classes or more, got {list(self.classes)}; "
                "for a one-logit head name both, and in output.positive the one it scores"
            )
        for field_name, names in (("classes", self.classes), ("real", self.real)):
            if len(set(names)) != len(names):
                raise CardError(f"{where}: '{field_name}' repeats a name: {list(names)}")
        for name in self.real:
            if name not in self.classes:
                raise CardError(f"{where}: real: {unknown('class', name, self.classes)}")
        if not self.real or not self.fake:
            raise CardError(
                f"{where}: 'real' must name at least one class and leave at least one, "
                f"got {list(self.real)} of {list(self.classes)}"
            )
        positive = self.output.positive
        if positive is not None and positive not in self.classes:
            raise CardError(f"{where}: output.positive: {unknown('class', positive, self.classes)}")
        if positive is not None and len(self.classes) != 2:
            raise CardError(
                f"{where}: output.positive is for one-column heads with two classes, "
                f"but there are {len(self.classes)} classes"
            )

    def to_dict(self) -> dict[str, Any]:
        """The card as JSON types; `from_dict` of it is an equal card."""
        data = asdict(self)
        extra = data.pop("extra")
        for part in (data["input"], data["output"], data):
            for key in [key for key, value in part.items() if value is None or value == {}]:
                del part[key]
        return {**json.loads(json.dumps(data)), **extra}


_IN_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "an object",
}


def _is_number(value: Any) -> bool:
    """Whether it is a finite number; JSON knows integers that no float holds."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) <= sys.float_info.max
    )


class _Reader:
    """Takes typed fields out of a mapping, with messages that name the field."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        if not isinstance(data, Mapping):
            raise CardError(f"{where}: expected a JSON object, got {type(data).__name__}")
        self._data = dict(data)
        self._where = where
        self._known: list[str] = []

    def take(self, key: str, kind: Any, *default: Any) -> Any:
        self._known.append(key)
        if key not in self._data:
            if default:
                return default[0]
            raise CardError(f"{self._where}: '{key}' is missing")
        value = self._data.pop(key)
        if value is None and default:
            return default[0]
        if not isinstance(value, kind) or isinstance(value, bool):
            wanted = _IN_WORDS[kind[0] if isinstance(kind, tuple) else kind]
            raise CardError(f"{self._where}: '{key}' must be {wanted}, got {value!r}")
        return value

    def size(self, key: str) -> int:
        value: int = self.take(key, int)
        if not 1 <= value <= MAX_SIDE:
            raise CardError(f"{self._where}: '{key}' must be 1 to {MAX_SIDE}, got {value}")
        return value

    def choice(self, key: str, known: tuple[str, ...], *default: Any) -> Any:
        value = self.take(key, str, *default)
        if value is not None and value not in known:
            raise CardError(f"{self._where}: {unknown(key, value, known)}")
        return value

    def numbers(self, key: str, count: int, default: tuple[float, ...] | None) -> Any:
        value = self.take(key, (list, tuple), default)
        if value is None:
            return None
        if len(value) != count or not all(_is_number(v) for v in value):
            raise CardError(f"{self._where}: '{key}' must be {count} numbers, got {list(value)}")
        return tuple(float(v) for v in value)

    def names(self, key: str) -> tuple[str, ...]:
        value = self.take(key, (list, tuple))
        if not all(isinstance(v, str) and v for v in value):
            raise CardError(f"{self._where}: '{key}' must be a list of names, got {value!r}")
        return tuple(value)

    def record(self, key: str) -> dict[str, Any]:
        value: dict[str, Any] = self.take(key, dict, {})
        self._plain(key, value)
        return value

    def rest(self) -> dict[str, Any]:
        for key, value in self._data.items():
            self._plain(key, value)
        return self._data

    def _plain(self, key: str, value: Any) -> None:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise CardError(f"{self._where}: '{key}' is not plain JSON: {value!r}") from None

    def done(self) -> None:
        """Nothing may be left: a misspelt field would be a default silently taken."""
        for key in self._data:
            raise CardError(f"{self._where}: {unknown('field', key, self._known)}")


def card_from_json(text: str, where: str) -> DetectorCard:
    """Parse a card from JSON text. Raises CardError naming `where`."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CardError(f"{where}: not valid JSON: {error}") from None
    return DetectorCard.from_dict(data, where)


def read_card(path: str | Path) -> DetectorCard:
    """Read a card from a JSON file. Raises CardError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise CardError(f"{path}: cannot read the card: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise CardError(f"{path}: the card is not UTF-8 text: {error}") from None
    return card_from_json(text, str(path))


def find_card(
    model: Path, metadata: Mapping[str, str], explicit: str | Path | None = None
) -> tuple[DetectorCard, str]:
    """The card of a model and where it was found: explicit, in the graph's metadata, or beside it.

    Raises CardError if there is none.
    """
    if explicit is not None:
        return read_card(explicit), str(explicit)
    if METADATA_KEY in metadata:
        where = f"{model} (metadata)"
        return card_from_json(metadata[METADATA_KEY], where), where
    beside = model.with_suffix(".card.json")
    if beside.exists():
        return read_card(beside), str(beside)
    raise CardError(
        f"{model} has no detector card, in its metadata or as {beside.name}: write one "
        f"(`whyfake inspect {model}` prints a start), or pass --card FILE"
    )
