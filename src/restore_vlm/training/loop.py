"""The one training loop: deterministic, resumable, unaware of methods."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

from restore_vlm.data import Images, loader
from restore_vlm.errors import UserError
from restore_vlm.measure.probe import Probe
from restore_vlm.method import Gradient, Losses, PromptedModel, TrainingConfig
from restore_vlm.runtime.files import DamagedFile, add_lines
from restore_vlm.runtime.memory import freed_memory_kept
from restore_vlm.runtime.precision import autocast
from restore_vlm.runtime.processes import World
from restore_vlm.runtime.tensors import alike, write_tensors
from restore_vlm.training.run_folder import ANEW, RunFolder
from restore_vlm.training.schedule import learning_rate

CHECKPOINT_SECONDS = 20.0
APART = 2_654_435_761
"""Between the seeds of two processes; generators on the CPU see 32 bits of a seed."""
OnStep = Callable[[int, int, dict[str, float]], None]
"""Called with steps done, steps in all and the step's metrics."""
OnShift = Callable[[dict[str, Any]], None]
"""Called with a line of ``shift.jsonl``."""


class Trainer:
    """Trains the learned parts of a model.

    A run is a function of its configuration alone: the order of the images and their random
    crops depend on (seed, epoch, image), what a step draws on (seed, step), so one resumed from a
    checkpoint ends with the same bits as one never interrupted (CPU, fp32).

    Args:
        model: Holding the training classes; its learned tensors are fp32.
        images: Training images.
        config: The optimisation.
        seed: Of the order of the images and of dropout.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        folder: Where metrics and checkpoints go; None keeps everything in memory.
        world: The processes that share every batch; they start with the same weights.
        probe: Where to log feature shift before training and after every epoch; None does not.

    Raises:
        UserError: If a batch does not divide among the processes.
    """

    def __init__(
        self,
        model: PromptedModel,
        images: Images,
        config: TrainingConfig,
        seed: int,
        precision: str,
        folder: RunFolder | None = None,
        world: World | None = None,
        probe: Probe | None = None,
    ) -> None:
        self.model, self.images, self.config, self.seed = model, images, config, seed
        self.precision, self.folder, self.world = precision, folder, world or World()
        self.device = model.backbone.device
        self.losses = Losses(model.config, model, self.world.mean).to(self.device)
        self.gradient = Gradient(self.losses, model)
        self.learned = model.trainable()
        self.optimiser = make_optimiser(config, self.learned.values())
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        averaging = model.config.averaging
        self.average = averaging.build(self.epochs, self.learned) if averaging else None
        self.step, self.seconds, self.epoch_loss = 0, 0.0, 0.0
        self.part = share_of_batch(config, len(images), self.world)
        self.pending: list[dict[str, Any]] = []
        self.shifts: list[dict[str, Any]] = []
        self.probe = probe if self.world.main else None
        self.frozen = self.probe.frozen(model) if self.probe else None

    @property
    def batch(self) -> int:
        return min(self.config.batch, len(self.images))

    @property
    def steps_per_epoch(self) -> int:
        """An epoch's last batch, where it is incomplete, is dropped unless the recipe keeps it."""
        full, left = divmod(len(self.images), self.batch)
        return full + (self.config.keep_last and left > 0)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.config.iterations or self.steps_per_epoch * self.config.epochs

    @property
    def epochs(self) -> int:
        """Epochs begun by the end of the run; the last may be cut short by ``iterations``."""
        return math.ceil(self.steps / self.steps_per_epoch)

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        if self.config.schedule == "epoch":
            return learning_rate(self.config, self.step // self.steps_per_epoch, self.epochs)
        return learning_rate(self.config, self.step / self.steps_per_epoch, self.steps / self.steps_per_epoch)

    @freed_memory_kept()
    def run(self, on_step: OnStep | None = None, on_shift: OnShift | None = None) -> None:
        """Trains to the end, from the checkpoint if there is one.

        Args:
            on_step: Called after every step.
            on_shift: Called with what the probe found, where there is one.

        Raises:
            UserError: If a loss is not finite; names the step, the learning rate and the term.
        """
        self._resume()
        if self.step == 0:
            self._measure(0, None, on_shift)
        self.model.train()
        began = saved = time.monotonic()
        before = self.seconds
        while self.step < self.steps:
            epoch, done = divmod(self.step, self.steps_per_epoch)
            for images, labels in self._batches(epoch, done):
                metrics = self._train_step(images.to(self.device), labels.to(self.device), epoch)
                self.pending.append(metrics)
                if on_step:
                    on_step(self.step, self.steps, metrics)
                self.seconds = before + time.monotonic() - began
                if time.monotonic() - saved > CHECKPOINT_SECONDS and self.step % self.steps_per_epoch:
                    self._save()
                    saved = time.monotonic()
            self._end_epoch(epoch)
            loss = self.epoch_loss / (self.step - epoch * self.steps_per_epoch)
            self._measure(epoch + 1, loss, on_shift)
            self.epoch_loss = 0.0
            self._save()
            saved = time.monotonic()
        if self.average:
            for name, value in self.average.state.items():
                self.learned[name].data.copy_(value)
        self.model.eval()

    def _batches(self, epoch: int, skip: int) -> Any:
        self.images.set_epoch(epoch)
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.images), generator=rng).tolist()
        last = min(self.steps_per_epoch, self.steps - epoch * self.steps_per_epoch)
        share = order[skip * self.batch : last * self.batch][self.world.rank :: self.world.size]
        return loader(self.images, self.part, share)

    def _train_step(self, images: Tensor, labels: Tensor, epoch: int) -> dict[str, Any]:
        rate = self.learning_rate
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with self._random(), autocast(self.precision, self.device):
            out, terms = self.gradient.backward(self.model, images, labels, self._scale())
        values = {name: term.item() for name, term in terms.items()}
        self._check_finite(values, rate, epoch)
        if self.config.clip_norm:
            self.scaler.unscale_(self.optimiser)
            torch.nn.utils.clip_grad_norm_(self.learned.values(), self.config.clip_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad()
        self.step += 1
        (accuracy,) = self.world.mean([(out.logits.argmax(-1) == labels).float().mean()])
        total = {"loss": sum(values.values()), **values, "accuracy": accuracy.item()}
        self.epoch_loss += total["loss"]
        return {"step": self.step, "epoch": epoch + 1, "lr": rate, **total}

    @contextmanager
    def _random(self) -> Iterator[None]:
        """What is drawn inside depends on (seed, step, process) and leaves no trace outside."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed((self.seed * 1_000_003 + self.step + self.world.rank * APART) % 2**63)
            yield

    def _scale(self) -> float:
        """What the loss is multiplied by; scaling anything is what makes the scaler begin."""
        return self.scaler.scale(torch.ones((), device=self.device)).item()

    def _check_finite(self, values: dict[str, float], rate: float, epoch: int) -> None:
        for name, value in values.items():
            if value - value != 0:
                where = f"step {self.step + 1} (epoch {epoch + 1})"
                kept = f"; the last good checkpoint is {self.folder.checkpoint}" if self.folder else ""
                raise UserError(
                    f"Training stopped at {where}: the {name} loss is {value} at learning rate {rate:g}; "
                    f"lower training.lr or the weight of {name}{kept}."
                )

    def _end_epoch(self, epoch: int) -> None:
        self.model.end_epoch(epoch, self.epochs)
        if self.average:
            self.average.add(epoch, {n: p.detach() for n, p in self.learned.items()})

    def _measure(self, epoch: int, loss: float | None, on_shift: OnShift | None) -> None:
        if self.probe is None:
            return
        found = self.probe.measure(self.model, self.frozen)
        self.model.train()
        text, image = ([s.relative.mean for s in tower] for tower in (found.text, found.image))
        line = {
            "epoch": epoch, "step": self.step, "loss": loss, "shift_text": mean(text),
            "shift_image": mean(image), "discrepancy": found.total_discrepancy, "text": text, "image": image,
        }  # fmt: skip
        self.shifts.append(line)
        if on_shift:
            on_shift(line)

    def _save(self) -> None:
        """Writes metrics first, then the checkpoint that vouches for them."""
        if (
            self.folder is None
            or not self.world.main
            or not all(bool(p.isfinite().all()) for p in self.learned.values())
        ):
            return
        add_lines(self.folder.metrics, self.pending)
        add_lines(self.folder.shift, self.shifts)
        self.pending, self.shifts = [], []
        tensors = {f"model.{n}": t for n, t in self.model.adapter_state().items()}
        tensors |= {f"losses.{n}": t for n, t in self.losses.state_dict().items()}
        for name, parameter in self.learned.items():
            state = self.optimiser.state.get(parameter, {})
            tensors |= {f"optimiser.{key}.{name}": t for key, t in state.items() if t is not None}
        if self.average:
            tensors |= {f"average.{n}": t for n, t in self.average.state.items()}
        header = {
            "step": self.step, "seconds": round(self.seconds, 2), "epoch_loss": self.epoch_loss,
            "scaler": self.scaler.state_dict(),
        }  # fmt: skip
        write_tensors(self.folder.checkpoint, tensors, header)

    def _resume(self) -> None:
        folder = self.folder
        if folder is None:
            return
        tensors, header = self.world.once(lambda: self._last(folder))
        if not tensors:
            return

        def part(prefix: str) -> dict[str, Tensor]:
            return {
                n.removeprefix(prefix): t.to(self.device) for n, t in tensors.items() if n.startswith(prefix)
            }

        try:
            expected = {"model.": self.model.adapter_state(), "losses.": self.losses.state_dict()}
            if header["step"] > self.steps or not all(alike(part(n), e) for n, e in expected.items()):
                raise ValueError
            self.model.load_state_dict(part("model."), strict=False)
            self.losses.load_state_dict(part("losses."))
            self._resume_optimiser(part("optimiser."))
            if self.average:
                self.average.state = self._like_learned(part("average."))
            self.scaler.load_state_dict(header["scaler"])
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError):
            raise DamagedFile.because(folder.checkpoint, "it is of another run", ANEW) from None
        self.step, self.seconds = header["step"], header["seconds"]
        self.epoch_loss = header.get("epoch_loss", 0.0)

    def _last(self, folder: RunFolder) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The checkpoint, empty if there is none; what was logged of later steps is forgotten."""
        if not folder.checkpoint.exists():
            folder.forget_lines()
            return {}, {}
        tensors, header = folder.read_checkpoint()
        step = header["step"]
        folder.keep_lines(step, self.epochs if step == self.steps else step // self.steps_per_epoch)
        return tensors, header

    def _resume_optimiser(self, tensors: dict[str, Tensor]) -> None:
        names = {name: i for i, name in enumerate(self.learned)}
        kinds: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            kind, _, name = key.partition(".")
            kinds.setdefault(kind, {})[name] = tensor
        state: dict[int, dict[str, Tensor]] = {}
        for kind, of_kind in kinds.items():
            for name, tensor in self._like_learned(of_kind).items():
                state.setdefault(names[name], {})[kind] = tensor
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})

    def _like_learned(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of learned ones' names, each a number or of its shape and type.

        Raises:
            KeyError: For another name.
            ValueError: For another shape or type.
        """
        for name, tensor in tensors.items():
            if tensor.ndim and not alike({name: tensor}, {name: self.learned[name]}):
                raise ValueError
        return tensors


def share_of_batch(config: TrainingConfig, images: int, world: World) -> int:
    """Images of a batch that every process takes.

    Raises:
        UserError: If a batch, or an incomplete one that is kept, does not divide among the processes.
    """
    batch = min(config.batch, images)
    share = world.part(batch)
    if config.keep_last and images % batch % world.size:
        raise UserError(
            f"The last batch of an epoch has {images % batch} images, which do not divide among {world.size} "
            "processes; use --set training.keep_last=false or fewer processes."
        )
    return share


def make_optimiser(config: TrainingConfig, learned: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with momentum, Adam or AdamW over the learned tensors."""
    if config.optimiser == "sgd":
        return torch.optim.SGD(
            learned, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
    kind = torch.optim.AdamW if config.optimiser == "adamw" else torch.optim.Adam
    return kind(learned, lr=config.lr, eps=config.eps, weight_decay=config.weight_decay)
