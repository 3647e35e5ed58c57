"""An engine with its card: pixels in, log-probabilities out, and every picture counted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from ..card import DetectorCard
from ..errors import DetectorError, UsageError, unknown
from ..onnx_graph import check_one_column
from ..perturbation import FloatArray, PerturbationBatch, Pixels, RegionMix
from .choosing import choose
from .engine import Engine
from .lane import Copies, Lane, Stages
from .layout import Found, settle
from .shelves import Memory
from .stem import StemCopies, Stems
from .throughput import Layout, layout_of

COMPOSITIONS = ("auto", "host", "device")


class Detector:
    """A detector that answers with log-probabilities and counts what it is asked.

    `engine` takes `whyfake_pixels` (batch, 3, h, w) and gives `whyfake_scores`; `stripped` says
    that a closing Sigmoid or Softmax was taken off, so that the scores are logits. `compose` says
    where copies are composed, `host` or `device`, to the same within 1e-6; `auto` is the host on a
    CPU, and on a GPU what `composition_rates` finds faster when the detector is first asked.
    Raises UsageError where the engine cannot.

    `stems`, where there are some: what `auto` makes use of where copies are composed on the host.
    """

    def __init__(
        self,
        engine: Engine,
        card: DetectorCard,
        *,
        sha256: str = "",
        stripped: bool = False,
        compose: str = "auto",
    ) -> None:
        if compose not in ("auto", *engine.compositions):
            raise UsageError(unknown("compose", compose, ("auto", *engine.compositions)))
        self.engine = engine
        self._compose = compose
        self._settled = False
        self.card = card
        self.sha256 = sha256
        self.layout = Found(layout_of(engine), "rule")
        self.reopen: Callable[[Layout], Engine] | None = None
        self.stems: Stems | None = None
        self.real = tuple(card.classes.index(name) for name in card.real)
        self._stripped = stripped
        self.stages = Stages()
        self._lock = threading.Lock()
        self._settling = threading.Lock()
        self._seen = 0
        self._lane: Lane | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames it wants."""
        return self.card.input.height, self.card.input.width

    @property
    def layout_record(self) -> dict[str, int]:
        """What a record of settings says of the layout: nothing where the rule holds."""
        engine = self.engine
        if engine.batch == (engine.rule_batch or engine.batch) and engine.threads == 1:
            return {}
        return {"batch": engine.batch, "threads": engine.threads}

    @property
    def exact(self) -> bool:
        """Whether it computes in float32 throughout, so that small differences are real."""
        return self.engine.precision == "fp32"

    @property
    def images_seen(self) -> int:
        """Pictures shown to it so far; rows that only fill up a batch do not count."""
        return self._seen

    def lane(self) -> Lane:
        """A place for one thread to compose and run batches."""
        return self.lane_on(self.settle_composition())

    def lane_on(self, composition: str) -> Lane:
        """One that composes on the `host` or on the `device`, whatever is settled."""
        return Lane(self, composition)

    def settle_composition(self) -> str:
        """Where copies are composed, `engine.composition`; found out the first time it matters."""
        with self._settling:
            if not self._settled:
                asked = self._compose, "as asked"
                found = choose(self) if self._compose == "auto" else asked
                self.engine.composition, self.engine.composition_why = found
                self._settled = True
        return self.engine.composition

    def log_probs(self, images: FloatArray) -> FloatArray:
        """Log-probabilities (N, C) float32 of images (N, 3, h, w) float32 RGB in [0, 1].

        Costs N images. Raises DetectorError if the shape or type is wrong or a score is not finite.
        """
        if not np.issubdtype(images.dtype, np.floating):
            raise DetectorError(
                f"{self.card.name} wants images as floats in [0, 1], got {images.dtype}"
            )
        if images.ndim != 4 or images.shape[1:] != (3, *self.size):
            raise DetectorError(
                f"{self.card.name} wants images (N, 3, {self.size[0]}, {self.size[1]}), "
                f"got {images.shape}"
            )
        if not len(images):
            return np.empty((0, len(self.card.classes)), np.float32)
        return self.ask(Pixels(images), images[0])

    def ask(
        self, batch: PerturbationBatch, frame: FloatArray, memory: Memory | None = None
    ) -> FloatArray:
        """Log-probabilities (N, C) of a batch of perturbed copies of `frame`. Costs N images.

        `memory`: of the questions before, which may save work.
        """
        return self.decode(self.raw(batch, frame, memory))

    def raw(
        self, batch: PerturbationBatch, frame: FloatArray, memory: Memory | None = None
    ) -> NDArray[np.float32]:
        """What the engine gives (N, columns) for a batch, for `decode`. Costs N images."""
        lane, copies = self._own_lane(), self.prepare(batch, frame, memory)
        rows, most = [], lane.most(self.engine_of(copies))
        for start in range(0, len(batch), most):
            rows.append(lane.ask([(copies, start, min(start + most, len(batch)))]))
        return np.concatenate(rows)

    def prepare(
        self, batch: PerturbationBatch, frame: FloatArray, memory: Memory | None = None
    ) -> Copies:
        """What `Lane.compose` needs to know of a batch of copies of `frame`, in any lane."""
        composition = self.settle_composition()
        usual = composition == "host" and self._compose == "auto"
        if usual and self.stems is not None and isinstance(batch, RegionMix):
            behind = self.stems.copies(batch, frame, memory or Memory())
            if behind is not None:
                return behind
        return self.prepared(batch, frame, composition)

    def prepared(self, batch: PerturbationBatch, frame: FloatArray, composition: str) -> Copies:
        """The same for lanes that compose there."""
        on_device = composition == "device"
        return self.engine.upload(batch, frame) if on_device else batch.composer(frame)

    def engine_of(self, copies: Copies) -> Engine:
        """What runs them: the engine, or what it has behind a stem."""
        return copies.engine if isinstance(copies, StemCopies) else self.engine

    @property
    def bytes_up(self) -> int:
        """Bytes handed over to engines so far."""
        return self.engine.bytes_up + (self.stems.bytes_up if self.stems is not None else 0)

    def _own_lane(self) -> Lane:
        if self._lane is None:
            self._lane = self.lane()
        return self._lane

    def tune(self, planned: int) -> None:
        """Measure the layout, and go on with what is found, if `planned` images are worth it.

        Only where the rule holds so far, and while no lane is at work. Costs no images.
        """
        if self.layout.how == "rule" and self.reopen is not None and self.layout.key is not None:
            self.engine, self.layout = settle(
                self.engine, self.reopen, self.layout.key, self.size, planned
            )
            self._lane = None
            if self.stems is not None:
                self.stems.close()

    def account(self, lane: Lane) -> None:
        """Add what a lane did to `stages`, once it is done."""
        with self._lock:
            self.stages.add(lane.stages)
        lane.stages = Stages()

    def _count(self, images: int) -> None:
        with self._lock:
            self._seen += images

    def decode(self, raw: NDArray[np.float32]) -> FloatArray:
        """Log-probabilities (N, C) from what lanes gave (N, columns).

        Raises DetectorError if a score is NaN or infinite, or belies the card.
        """
        if raw.shape[1] == 1:
            check_one_column(self.card, self.card.name)
        elif raw.shape[1] != len(self.card.classes):
            raise DetectorError(
                f"{self.card.name} gave {raw.shape[1]} scores an image, the card names "
                f"{len(self.card.classes)} classes"
            )
        with np.errstate(invalid="ignore"):  # NaN is counted and reported here
            log_probs = log_probs_from_scores(raw, self.card, stripped=self._stripped)
        bad = int(np.isnan(log_probs).any(axis=1).sum())
        if bad:
            raise DetectorError(
                f"{self.card.name} gave NaN or infinite scores for {bad} of {len(raw)} pictures: "
                "the model, its precision or the card's range, mean and std is wrong"
            )
        return log_probs

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()
        if self.stems is not None:
            self.stems.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def log_probs_from_scores(
    raw: NDArray[np.float32], card: DetectorCard, *, stripped: bool
) -> FloatArray:
    """Log-probabilities (N, C) from what the graph gave (N, C), or (N, 1) for one-logit heads.

    `stripped`: the closing activation was taken off, `raw` is what went into it. Independent
    sigmoids are normalised over the classes. Rows with a score that is not finite become NaN.
    Raises DetectorError where the values belie the card's activation.
    """
    z = raw.astype(np.float64)
    z[~np.isfinite(z).all(axis=1)] = np.nan
    activation = card.output.activation
    if activation in ("softmax", "sigmoid") and not stripped:
        z = _undo(z, raw, card)
    if z.shape[1] == 1:
        columns = [-np.logaddexp(0, -z[:, 0]), -np.logaddexp(0, z[:, 0])]
        if card.output.positive == card.classes[1]:
            columns.reverse()
        return np.stack(columns, axis=1).astype(np.float32)
    if activation == "sigmoid":
        z = -np.logaddexp(0, -z)
    log_sum = np.logaddexp.reduce(z, axis=1, keepdims=True)
    if activation == "log_softmax" and not stripped:
        _refuse(np.abs(log_sum[:, 0]) > 1e-2, raw, card)
    normal: FloatArray = (z - log_sum).astype(np.float32)
    return normal


def _refuse(bad: NDArray[np.bool_], raw: NDArray[np.float32], card: DetectorCard) -> None:
    """Raise DetectorError with the first bad row, where there is one."""
    if bad.any():
        activation = card.output.activation
        kind = "log-probabilities" if activation == "log_softmax" else "probabilities"
        raise DetectorError(
            f"{card.name}: the card says {activation}, but the scores are not {kind} "
            f"(for example {np.round(raw[bad][0].astype(np.float64), 3).tolist()}): "
            "correct output.activation"
        )


def _undo(
    p: NDArray[np.float64], raw: NDArray[np.float32], card: DetectorCard
) -> NDArray[np.float64]:
    """Logits from probabilities; what float32 cannot tell from 0 or 1 is held just inside."""
    _refuse(np.asarray(((p < -1e-3) | (p > 1 + 1e-3)).any(axis=1)), raw, card)
    if card.output.activation == "softmax":
        _refuse(np.abs(p.sum(axis=1) - 1) > 1e-2, raw, card)
        return np.asarray(np.log(np.maximum(p, 1e-30)))
    p = np.clip(p, 2.0**-24, 1 - 2.0**-24)
    return np.asarray(np.log(p) - np.log1p(-p))
