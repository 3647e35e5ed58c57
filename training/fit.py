"""Fits the network to pairs: seeded, resumable after every round, on CPU or GPU."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from whyfake.errors import UsageError
from whyfake.evaluate.forge import SelfBlend
from whyfake.files import write_file

from .faces import Face, FolderError, read_faces
from .metrics import auc
from .network import Network, normalise
from .pairs import Pair, make_pair

VALIDATION_ROUND = 1_000_000  # a key that no training round has


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what is learnt, beside the faces themselves."""

    seed: int = 0
    size: int = 128
    rounds: int = 100
    passes: int = 2  # over the pairs of a round; every second one is mirrored
    batch: int = 16  # pairs
    rate: float = 1.5e-3
    decay: float = 0.02
    where_weight: float = 1.0
    pair_weight: float = 1.0  # of the fake scoring above the real one of its own pair
    easy: float = 0.15  # share of the rounds over which forgeries get from coarse to fine

    def __post_init__(self) -> None:
        if self.size < 64 or self.size % 16:
            raise UsageError(f"size must be a multiple of 16 from 64 on, got {self.size}")
        for name in ("rounds", "passes", "batch"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.seed < 0:
            raise UsageError(f"seed must be 0 or more, got {self.seed}")

    def blend(self, turn: int) -> SelfBlend:
        """The forgeries of a round: coarse ones first, or nothing is learnt for a long time."""
        fine = SelfBlend()
        ease = max(0.0, 1 - turn / max(1.0, self.easy * self.rounds))
        return SelfBlend(
            colour=fine.colour * (1 + 1.5 * ease),
            contrast=fine.contrast * (1 + ease),
            detail=fine.detail * (1 - ease / 2),
            shift=fine.shift * (1 + 1.5 * ease),
            scale=fine.scale * (1 + 1.5 * ease),
            ratios=fine.ratios if ease < 0.5 else (1.0,),
        )


class Pairs(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """The pairs of one round: each face once, forged anew."""

    def __init__(self, faces: list[Face], recipe: Recipe, turn: int, repeats: int = 1) -> None:
        self.faces, self.recipe, self.turn, self.repeats = faces, recipe, turn, repeats
        self.how = recipe.blend(turn)

    def __len__(self) -> int:
        return len(self.faces) * self.repeats

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        face = self.faces[index % len(self.faces)]
        pair = make_pair(face, [self.recipe.seed, self.turn, index], self.recipe.size, self.how)
        return tensors(pair)


def tensors(pair: Pair) -> tuple[Tensor, Tensor, Tensor]:
    """A pair as torch takes it."""
    return torch.from_numpy(pair.real), torch.from_numpy(pair.fake), torch.from_numpy(pair.mask)


def _quiet_worker(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops them
    cv2.setNumThreads(0)
    os.nice(2)


def loader(pairs: Pairs, recipe: Recipe, *, shuffle: bool, workers: int) -> DataLoader[Any]:
    """Batches of pairs, in an order that depends on seed and round alone."""
    order = torch.Generator().manual_seed(recipe.seed * 1_000_003 + pairs.turn)
    return DataLoader(
        pairs,
        recipe.batch,
        shuffle=shuffle,
        generator=order,
        num_workers=workers,
        drop_last=shuffle,
        worker_init_fn=_quiet_worker,
    )


class Fit:
    """One run in a folder: its recipe, its checkpoint, its curve."""

    def __init__(self, run: Path, recipe: Recipe, device: str, workers: int) -> None:
        self.run, self.recipe, self.workers = run, recipe, workers
        self.device = torch.device(device)
        torch.manual_seed(recipe.seed)
        self.network = Network().to(self.device, memory_format=torch.channels_last)
        self.average = AveragedModel(self.network, use_buffers=True)
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        kept = [p for p in self.network.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": recipe.decay}, {"params": kept}]
        self.optimiser = torch.optim.AdamW(groups, lr=recipe.rate, weight_decay=0.0)
        self.turn = 0
        self.step = 0
        self.curve: list[dict[str, float]] = []
        self._resume()

    def _resume(self) -> None:
        path = self.run / "checkpoint.pt"
        if not path.exists():
            return
        try:
            saved = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:  # noqa: BLE001 - pickle, zip and torch raise kinds of their own
            reason = " ".join(str(error).split())[:120]
            raise FolderError(f"{path} is damaged: remove it to start anew ({reason})") from None
        if saved["recipe"] != asdict(self.recipe):
            raise FolderError(
                f"{path} was made with another recipe, {saved['recipe']}: "
                "give the same options, or another --run"
            )
        self.network.load_state_dict(saved["network"])
        self.average.load_state_dict(saved["average"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.turn, self.step, self.curve = saved["turn"], saved["step"], saved["curve"]

    def save(self) -> None:
        """Write the checkpoint and the curve, each whole or not at all."""
        self.run.mkdir(parents=True, exist_ok=True)
        state = {
            "recipe": asdict(self.recipe),
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "turn": self.turn,
            "step": self.step,
            "curve": self.curve,
        }
        fresh = self.run / ".checkpoint.new"
        torch.save(state, fresh)
        fresh.replace(self.run / "checkpoint.pt")
        record = {"recipe": asdict(self.recipe), "curve": self.curve}
        write_file(self.run / "curve.json", (json.dumps(record, indent=1) + "\n").encode())

    def train_round(self, faces: list[Face], tick: Any) -> float:
        """One round: forge every face anew, and pass over the pairs. Returns the mean loss."""
        batches: list[tuple[Tensor, ...]] = []
        losses = []
        pairs = Pairs(faces, self.recipe, self.turn)
        steps = len(pairs) // self.recipe.batch
        total = steps * self.recipe.passes * self.recipe.rounds
        self.network.train()
        torch.manual_seed(self.recipe.seed * 1_000_003 + self.turn)  # dropout, resumed or not
        for batch in loader(pairs, self.recipe, shuffle=True, workers=self.workers):
            batches.append(batch)
            losses.append(self._learn(batch, total))
            tick()
        order = np.random.default_rng([self.recipe.seed, self.turn])
        for number in range(1, self.recipe.passes):
            for index in order.permutation(len(batches)):
                batch = batches[index]
                if number % 2:
                    batch = tuple(part.flip(-1) for part in batch)
                losses.append(self._learn(batch, total))
                tick()
        self.turn += 1
        return float(np.mean(losses))

    def _learn(self, batch: tuple[Tensor, ...], total: int) -> float:
        real, fake, mask = (part.to(self.device) for part in batch)
        share = self.step / total
        warm = min(1.0, self.step / 200)
        rate = self.recipe.rate * warm * (0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        images = normalise(torch.cat([real, fake]))
        labels = torch.cat([torch.zeros(len(real)), torch.ones(len(fake))]).to(self.device)
        places = torch.cat([torch.zeros_like(mask), mask])
        with torch.autocast(self.device.type, torch.bfloat16):
            logits, where = self.network(images)
        bce = nn.functional.binary_cross_entropy_with_logits
        logits = logits.float()
        above = nn.functional.softplus(logits[: len(real)] - logits[len(real) :]).mean()
        loss = bce(logits, labels) + self.recipe.pair_weight * above
        loss = loss + self.recipe.where_weight * bce(where.float(), places)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimiser.step()
        self.step += 1
        # a short memory at first: the average must not carry the random start along
        self.average.multi_avg_fn = get_ema_multi_avg_fn(min(0.998, self.step / (self.step + 10)))
        self.average.update_parameters(self.network)
        return float(loss.detach())


@torch.no_grad()
def logits_of(network: nn.Module, images: Tensor, device: torch.device) -> np.ndarray:
    """Logits of *fake* for uint8 images (N, 3, h, w), in float32, as float64 (N,)."""
    network.eval()
    parts = [network(normalise(part.to(device)))[0].cpu() for part in images.split(64)]
    return torch.cat(parts).double().numpy()


def fit(faces_folder: Path, run: Path, recipe: Recipe, device: str, workers: int) -> Fit:
    """Train, or go on where a run stopped, until its rounds are done."""
    train = read_faces(faces_folder, "train", recipe.seed)
    held_out = read_faces(faces_folder, "validation", recipe.seed)
    if len(train) < recipe.batch:
        raise FolderError(
            f"{faces_folder}: {len(train)} faces to train on are fewer than a batch, {recipe.batch}"
        )
    state = Fit(run, recipe, device, workers)
    if state.turn >= recipe.rounds:
        return state
    console = Console(stderr=True, highlight=False)
    console.print(
        f"{len(train)} faces to train on, {len(held_out)} held out; "
        f"round {state.turn + 1} of {recipe.rounds}; stop with Ctrl-C, go on with the same command"
    )
    checks = Pairs(held_out, recipe, VALIDATION_ROUND, repeats=3)
    batches = list(loader(checks, recipe, shuffle=False, workers=workers))
    real, fake = (torch.cat([batch[side] for batch in batches]) for side in (0, 1))
    labels = np.arange(2 * len(real)) >= len(real)
    steps = len(train) // recipe.batch * recipe.passes
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task("training", total=steps * recipe.rounds, completed=state.step)
        while state.turn < recipe.rounds:
            loss = state.train_round(train, lambda: bar.advance(task))
            scores = logits_of(state.average.module, torch.cat([real, fake]), state.device)
            figure = auc(scores, labels)
            state.curve.append({"round": state.turn, "loss": loss, "validation_auc": figure})
            state.save()
            console.print(f"round {state.turn}: loss {loss:.4f}, AUC on held-out {figure:.4f}")
    return state
