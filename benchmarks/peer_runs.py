"""One run of one package in a process of its own; `peers.py` starts it and reads its JSON line.

    python peer_runs.py CASE ROW '{"images": 1000, "seed": 0, …}'

CASE is a folder that `peers.py` made: `case.npz`, `probabilities.onnx` (pixels (N, 3, h, w) in
[0, 1] to probabilities (N, C)), and for whyfake itself `detector.onnx` with `card.json`. Nothing
of whyfake is imported unless the row is its own, so this file runs in a peer's environment too.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Heat = NDArray[Any]
NODES_PER_ROUND = 32  # of Partition SHAP, whyfake's default: it decides which questions are asked
GRID, P_KEEP, CELLS = 7, 0.5, 8  # RISE's grid and density, SOBOL's and HSIC's cells a side
WARM = {"lime": 20, "shap": 20, "rise": 20, "sobol": 2, "hsic": 20}


class Oracle:
    """Probabilities from one ONNX Runtime session that lives as long as the process.

    A call's images go through it `chunk` at a time: one after the other on a session that has all
    threads, or (`lanes`) from as many Python threads as there are cores on a session with one.
    """

    def __init__(self, model: Path, cores: int, chunk: int = 1, lanes: bool = False) -> None:
        import onnxruntime

        self.seen = 0
        self._chunk, self._lanes = chunk, lanes
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1 if lanes else cores
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self._pool = ThreadPoolExecutor(cores)

    def __call__(self, images: Any) -> NDArray[np.float32]:
        """Probabilities (N, C) of images (N, 3, h, w)."""
        images = np.ascontiguousarray(images, np.float32)
        self.seen += len(images)
        parts = [images[i : i + self._chunk] for i in range(0, len(images), self._chunk)]
        found = self._pool.map(self._run, parts) if self._lanes else map(self._run, parts)
        return np.concatenate(list(found))

    def channels_last(self, images: Any) -> NDArray[np.float32]:
        """The same of images (N, h, w, 3)."""
        return self(np.asarray(images, np.float32).transpose(0, 3, 1, 2))

    def _run(self, part: NDArray[np.float32]) -> NDArray[np.float32]:
        answer: NDArray[np.float32] = self._session.run(None, {self._input: part})[0]
        return answer


class Watch:
    """Starts when made; `spent` gives the wall's and the processor's seconds, all threads'."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def spent(self) -> dict[str, float]:
        """Seconds since."""
        return {
            "seconds": time.perf_counter() - self._wall,
            "cpu_seconds": time.process_time() - self._cpu,
        }


class Case:
    """The frame, its segments and baselines, the explained class, and the detector to ask."""

    def __init__(self, folder: Path, cores: int) -> None:
        self.folder, self.cores = folder, cores
        stored = np.load(folder / "case.npz")
        self.frame, self.labels = stored["frame"], stored["labels"]
        self.rgb, self.blur = stored["rgb"], stored["blur"]
        self.target, self.real = int(stored["target"]), tuple(stored["real"].tolist())
        self.classes = int(stored["classes"])
        self.model = folder / "probabilities.onnx"
        self.image = np.ascontiguousarray(self.frame.transpose(1, 2, 0))


Run = Callable[[Case, Oracle, int, int, int], Heat]
"""(case, oracle, images, seed, batch) → the heat map (h, w)."""


def lime(case: Case, oracle: Oracle, images: int, seed: int, batch: int) -> Heat:
    """Package `lime`; hidden regions show their mean."""
    from lime.lime_image import LimeImageExplainer

    explained = LimeImageExplainer(random_state=seed).explain_instance(
        case.image,
        oracle.channels_last,
        labels=(case.target,),
        top_labels=None,
        num_samples=images,
        batch_size=batch,
        segmentation_fn=lambda _: case.labels,
        random_seed=seed,
    )
    weights = dict(explained.local_exp[case.target])
    return np.array([weights[r] for r in range(len(weights))])[case.labels]


def shap(case: Case, oracle: Oracle, images: int, seed: int, batch: int) -> Heat:
    """Package `shap`, PartitionExplainer with an Image masker that shows a blur."""
    from shap.explainers import PartitionExplainer
    from shap.maskers import Image

    np.random.seed(seed)  # noqa: NPY002 - the package breaks ties by NumPy's global generator
    masker = Image(np.ascontiguousarray(case.blur.transpose(1, 2, 0)))
    explainer = PartitionExplainer(lambda x: oracle.channels_last(x)[:, case.target], masker)
    found = explainer(
        case.image[None], max_evals=images, batch_size=2 * NODES_PER_ROUND, silent=True
    )
    return np.asarray(found.values[0].sum(axis=-1))


def _dianna_rise(case: Case, model: Any, images: int, seed: int, **options: Any) -> Heat:
    import dianna

    np.random.seed(seed)  # noqa: NPY002 - dianna's RISE has no seed of its own
    return np.asarray(
        dianna.explain_image(
            model, case.frame, "RISE", [case.target], axis_labels={0: "channels"},
            n_masks=images, feature_res=GRID, p_keep=P_KEEP, **options,
        )[0]
    )  # fmt: skip


def dianna_rise(case: Case, oracle: Oracle, images: int, seed: int, batch: int) -> Heat:
    """dianna's RISE, given a callable that keeps one session."""
    return _dianna_rise(case, oracle, images, seed, batch_size=batch)


def dianna_rise_documented(case: Case, oracle: Oracle, images: int, seed: int, batch: int) -> Heat:
    """dianna's RISE, given a model's path at the default batch, as its documentation shows."""
    return _dianna_rise(case, str(case.model), images, seed)


def _dianna_lime(case: Case, model: Any, images: int, seed: int, **options: Any) -> Heat:
    # not `explain_image`, which refuses segments
    from dianna.methods.lime_image import LIMEImage

    explainer = LIMEImage(kernel_width=0.25, random_state=seed, axis_labels={0: "channels"})
    return np.asarray(
        explainer.explain(
            model, case.frame, [case.target], num_samples=images, num_features=100000,
            return_masks=False, segmentation_fn=lambda _: case.labels, random_seed=seed, **options,
        )[0]
    )  # fmt: skip


def dianna_lime(case: Case, oracle: Oracle, images: int, seed: int, batch: int) -> Heat:
    """dianna's LIME, given a callable that keeps one session."""
    return _dianna_lime(case, oracle, images, seed, batch_size=batch)


def dianna_lime_documented(case: Case, oracle: Oracle, images: int, seed: int, batch: int) -> Heat:
    """dianna's LIME, given a model's path at the default batch, as its documentation shows."""
    return _dianna_lime(case, str(case.model), images, seed)


def _xplique(case: Case, explainer: Any) -> Heat:
    one_hot = np.zeros((1, case.classes), np.float32)
    one_hot[0, case.target] = 1
    return np.asarray(explainer.explain(case.image[None], one_hot))[0, :, :, 0]


def xplique_lime(case: Case, oracle: Oracle, images: int, seed: int, batch: int) -> Heat:
    """xplique's LIME with `lime`'s kernel and ridge; it can hide with one colour only: gray."""
    import tensorflow as tf
    from sklearn.linear_model import Ridge
    from xplique.attributions import Lime

    def kernel(_image: Any, codes: Any, _copies: Any) -> Any:
        visible = tf.reduce_mean(tf.cast(codes, tf.float32), axis=1)
        return tf.sqrt(tf.exp(-((1 - tf.sqrt(visible)) ** 2) / 0.25**2))

    tf.random.set_seed(seed)
    labels = tf.constant(case.labels, tf.int32)
    return _xplique(
        case,
        Lime(
            oracle.channels_last, batch_size=batch, interpretable_model=Ridge(alpha=1),
            similarity_kernel=kernel, map_to_interpret_space=lambda _: labels,
            ref_value=np.full(3, 0.5, np.float32), nb_samples=images,
        ),
    )  # fmt: skip


def xplique_rise(case: Case, oracle: Oracle, images: int, seed: int, batch: int) -> Heat:
    """xplique's RISE; hidden pixels are black."""
    import tensorflow as tf
    from xplique.attributions import Rise

    tf.random.set_seed(seed)
    options = {"nb_samples": images, "grid_size": GRID, "preservation_probability": P_KEEP}
    return _xplique(case, Rise(oracle.channels_last, batch_size=batch, **options))


def xplique_sobol(case: Case, oracle: Oracle, images: int, seed: int, batch: int) -> Heat:
    """xplique's SOBOL; `images` is the design's number of rows; hidden pixels are black."""
    from xplique.attributions import SobolAttributionMethod

    options = {"grid_size": CELLS, "nb_design": images, "batch_size": batch}
    return _xplique(case, SobolAttributionMethod(oracle.channels_last, **options))


def xplique_hsic(case: Case, oracle: Oracle, images: int, seed: int, batch: int) -> Heat:
    """xplique's HSIC; hidden pixels are black."""
    from xplique.attributions import HsicAttributionMethod

    options = {"grid_size": CELLS, "nb_design": images, "batch_size": batch}
    return _xplique(case, HsicAttributionMethod(oracle.channels_last, **options))


PEERS: dict[str, Run] = {
    "lime.lime": lime,
    "lime.dianna": dianna_lime,
    "lime.dianna-documented": dianna_lime_documented,
    "lime.xplique": xplique_lime,
    "shap.shap": shap,
    "rise.dianna": dianna_rise,
    "rise.dianna-documented": dianna_rise_documented,
    "rise.xplique": xplique_rise,
    "sobol.xplique": xplique_sobol,
    "hsic.xplique": xplique_hsic,
}
"""METHOD.PACKAGE → its run."""

TRIALS = sorted(
    {
        (batch, min(chunk, batch), lanes)
        for batch, (chunk, lanes) in itertools.product(
            (1, 8, 64), ((64, False), (4, False), (1, True), (4, True))
        )
        if batch > 1 or not lanes
    }
)
"""Ways to drive a session: the peer's batch, images a session's call, lanes."""


def peer(case: Case, row: str, options: dict[str, Any]) -> dict[str, Any]:
    """One timed run of a peer, driven as `driver` says."""
    run, warm = PEERS[row], WARM[row.partition(".")[0]]
    batch, chunk, lanes = options["driver"]
    began = time.perf_counter()
    oracle = Oracle(case.model, case.cores, chunk, lanes)
    loaded, began = time.perf_counter() - began, time.perf_counter()
    run(case, oracle, warm, options["seed"] + 1, batch)  # imports, compilers, first calls
    first = time.perf_counter() - began
    oracle.seen = 0
    watch = Watch()
    heat = run(case, oracle, options["images"], options["seed"], batch)
    spent = watch.spent()
    np.save(options["heat"], heat)
    return {
        "load_seconds": loaded,
        "first_seconds": first,
        **spent,
        # a package that opens the model itself is not counted by our session
        "images": oracle.seen or options["images"],
    }


def tune(case: Case, row: str, options: dict[str, Any]) -> dict[str, Any]:
    """The fastest of TRIALS: two rounds, each with a small run to warm it."""
    run, warm = PEERS[row], WARM[row.partition(".")[0]]
    walls: dict[tuple[int, int, bool], float] = {}
    for trial in TRIALS * 2:
        oracle = Oracle(case.model, case.cores, *trial[1:])
        run(case, oracle, warm, 1, trial[0])
        began = time.perf_counter()
        run(case, oracle, options["images"], 1, trial[0])
        walls[trial] = min(walls.get(trial, np.inf), time.perf_counter() - began)
    best = min(walls, key=lambda trial: walls[trial])
    return {"driver": best, "trials": [[*trial, wall] for trial, wall in walls.items()]}


def nes_of_paper(case: Case, options: dict[str, Any]) -> dict[str, Any]:
    """The paper's NES as described, one image a call on one session with all threads."""
    from paper_nes import paper_nes

    began = time.perf_counter()
    oracle = Oracle(case.model, case.cores)
    oracle(case.frame[None])
    loaded = time.perf_counter() - began
    rng = np.random.RandomState(options["seed"])
    watch = Watch()
    sample = paper_nes(
        case.frame, lambda image: oracle(image[None])[0], case.real, rng, steps=options["steps"]
    )
    spent = {**watch.spent(), "peak_mb": peak_mb()}
    return {"load_seconds": loaded, **spent, **fate_of_sample(case, oracle, sample)}


def fate_of_sample(case: Case, oracle: Oracle, sample: Any) -> dict[str, Any]:
    """Where a sample lies, and whether it is still called real once it is a picture."""
    held = np.clip(sample.image, 0, 1)
    return {
        "images": sample.images,
        "steps": sample.steps,
        "flipped": sample.flipped,
        "linf": float(np.abs(sample.image - case.frame).max() * 255),
        "low": float(sample.image.min()),
        "high": float(sample.image.max()),
        "outside": float(np.mean((sample.image < 0) | (sample.image > 1))),
        "flipped_as_picture": int(np.argmax(oracle(held[None])[0])) in case.real,
    }


def peak_mb() -> float:
    """This process's peak memory in MB; not ru_maxrss, which keeps that of its parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def versions(*packages: str) -> dict[str, str]:
    """The versions of those that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Run one row and print one line of JSON."""
    folder, row, options = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    warnings.simplefilter("ignore")
    case = Case(folder, options["cores"])
    name = row.partition(".")[2]
    if row == "nes.paper":
        result = nes_of_paper(case, options)
    elif name.startswith("whyfake"):
        from peer_ours import ours

        result = ours(case, row, options)
    else:
        result = (tune if options.get("tune") else peer)(case, row, options)
    package = name.partition("-")[0]
    result["versions"] = versions(package, "onnxruntime", "numpy", "tensorflow-cpu", "tensorflow")
    print(json.dumps({"peak_mb": peak_mb(), **result}))


if __name__ == "__main__":
    main()
