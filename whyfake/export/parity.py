"""How far a model's scores are from those of what it was made from, on pictures and on noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DetectorError
from ..perturbation import FloatArray

Scorer = Callable[[FloatArray], NDArray[np.floating[Any]]]
"""Pictures float32 (n, 3, h, w) RGB in [0, 1] → scores (n, C), for any n; each call is one batch
where the model's own batch is not fixed."""

BATCHES = (1, 7, 32)
_PICTURES = ("astronaut", "chelsea", "coffee", "rocket", "retina")  # in scikit-image's wheel


@dataclass(frozen=True)
class Parity:
    """|Δ| between a candidate's scores and its reference's, over inputs, batches and classes.

    `max_abs` and `mean_abs` are in the scores' own unit (logits or log-probabilities). `flips` are
    decisions that differ, at any of the batch sizes; `batch_effect` is how far apart a picture's
    scores are in the candidate's own batches, and `spread` the reference's standard deviation over
    the inputs (mean of the classes), to measure the others by.
    """

    inputs: int
    batches: tuple[int, ...]
    max_abs: float
    mean_abs: float
    flips: int
    batch_effect: float
    spread: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, for a card's `parity`."""
        return {**asdict(self), "batches": list(self.batches)}


def parity_inputs(size: tuple[int, int], count: int = 64, seed: int = 0) -> FloatArray:
    """Pictures (count, 3, h, w) float32 RGB in [0, 1]: crops of natural ones and noise, in turn.

    The crops are of scikit-image's bundled photographs, in 8 bits as frames are; the noise is
    white, smooth, or of low contrast. The same seed gives the same bits.
    """
    from skimage import data

    rng = np.random.default_rng(seed)
    photographs = [getattr(data, name)() for name in _PICTURES]
    makers = (_crop, _white, _crop, _smooth, _crop, _faint)
    images = np.empty((count, 3, *size), np.float32)
    for index in range(count):
        photograph = photographs[rng.integers(len(photographs))]
        images[index] = makers[index % len(makers)](photograph, size, rng)
    return images


def _crop(photograph: NDArray[np.uint8], size: tuple[int, int], rng: np.random.Generator) -> Any:
    """A box of the frame's shape, a third to all of what fits, at random, mirrored or not."""
    import cv2

    height, width = photograph.shape[:2]
    scale = min(height / size[0], width / size[1]) * rng.uniform(1 / 3, 1)
    rows, columns = max(1, int(size[0] * scale)), max(1, int(size[1] * scale))
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    box = photograph[top : top + rows, left : left + columns, :3]
    if rng.random() < 0.5:
        box = box[:, ::-1]
    box = cv2.resize(np.ascontiguousarray(box), size[::-1], interpolation=cv2.INTER_AREA)
    return box.transpose(2, 0, 1).astype(np.float32) / np.float32(255)


def _white(_: Any, size: tuple[int, int], rng: np.random.Generator) -> Any:
    return rng.random((3, *size), np.float32)


def _smooth(_: Any, size: tuple[int, int], rng: np.random.Generator) -> Any:
    import cv2

    coarse = rng.random((8, 8, 3), np.float32)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_LINEAR).transpose(2, 0, 1)


def _faint(_: Any, size: tuple[int, int], rng: np.random.Generator) -> Any:
    color = rng.random((3, 1, 1), np.float32)
    noise = rng.normal(0, 0.02, (3, *size)).astype(np.float32)
    return np.clip(color + noise, 0, 1)


def measure_parity(
    reference: Scorer,
    candidate: Scorer,
    inputs: FloatArray,
    batches: Sequence[int] = BATCHES,
    tick: Callable[[int], None] | None = None,
) -> Parity:
    """Hold a candidate's scores against the reference's, of each picture alone.

    The candidate is asked for all inputs (N, 3, h, w) at each batch size, in an order of its own,
    so that a picture has other neighbours each time. `tick` is told how many images were asked.
    Costs N images of the reference and N·len(batches) of the candidate. Raises DetectorError where
    scores are not finite or not of one shape.
    """
    wanted = _asked(reference, inputs, 1, tick, "the reference")
    answers = []
    for batch in batches:
        got = _asked(candidate, inputs, batch, tick, "the model")
        if got.shape != wanted.shape:
            raise DetectorError(
                f"the model gives {got.shape[1]} scores an image, its reference {wanted.shape[1]}"
            )
        answers.append(got)
    scores = np.stack(answers)
    apart = np.abs(scores - wanted)
    return Parity(
        inputs=len(inputs),
        batches=tuple(batches),
        max_abs=float(apart.max()),
        mean_abs=float(apart.mean()),
        flips=int((decisions(scores) != decisions(wanted)).any(axis=0).sum()),
        batch_effect=float(np.ptp(scores, axis=0).max()),
        spread=float(wanted.std(axis=0).mean()),
    )


def decisions(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """The class that scores (…, C) decide for; of a one-column head, whether its logit is > 0."""
    if scores.shape[-1] == 1:
        return (scores[..., 0] > 0).astype(np.int64)
    chosen: NDArray[np.int64] = scores.argmax(axis=-1)
    return chosen


def require_independence(
    scorer: Scorer,
    inputs: FloatArray,
    tolerance: float,
    what: str,
    tick: Callable[[int], None] | None = None,
) -> None:
    """Refuse a model that answers otherwise for the same picture in other company, or asked twice.

    `tolerance` is relative where scores are larger than one, as rounding is; parity's is not. Costs
    2N + 1 images, alone and in batches of seven. Raises DetectorError.
    """
    alone = _asked(scorer, inputs, 1, tick, what)
    tolerance *= max(1.0, float(np.abs(alone).max()))
    again = _asked(scorer, inputs[:1], 1, tick, what)
    if (drift := float(np.abs(again - alone[:1]).max())) > tolerance:
        raise DetectorError(
            f"{what} gives the same picture other scores when it is asked again (by {drift:.2g}): "
            "dropout or noise is still on; export it in evaluation mode"
        )
    together = _asked(scorer, inputs, 7, tick, what)
    if (effect := float(np.abs(together - alone).max())) > tolerance:
        raise DetectorError(
            f"{what}: a picture's scores depend on the others in its batch (by {effect:.2g}), "
            "which no explanation can bear: is a BatchNorm in training mode?"
        )


def _asked(
    scorer: Scorer,
    inputs: FloatArray,
    batch: int,
    tick: Callable[[int], None] | None,
    what: str,
) -> NDArray[np.float64]:
    """Scores (N, C) of all inputs, asked in batches of that size in an order of the size's own."""
    order = np.random.default_rng(batch).permutation(len(inputs))
    rows: list[NDArray[np.float64]] = []
    for start in range(0, len(inputs), batch):
        part = inputs[order[start : start + batch]]
        scores = np.asarray(scorer(part), np.float64)
        if scores.shape[:1] != (len(part),) or scores.ndim != 2:
            raise DetectorError(f"{what} gave scores {scores.shape} for {len(part)} pictures")
        rows.append(scores)
        if tick is not None:
            tick(len(part))
    found = np.empty((len(inputs), rows[0].shape[1]))
    found[order] = np.concatenate(rows)
    bad = int((~np.isfinite(found)).any(axis=1).sum())
    if bad:
        raise DetectorError(
            f"{what} gave NaN or infinite scores for {bad} of {len(inputs)} pictures"
        )
    return found
