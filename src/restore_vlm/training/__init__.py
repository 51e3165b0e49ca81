"""Training: one loop, its schedule, precision and run folder."""

from restore_vlm.measure.probe import Probe
from restore_vlm.runtime.files import write_atomic, write_json
from restore_vlm.runtime.precision import autocast, resolve_precision
from restore_vlm.runtime.processes import World, join, leave
from restore_vlm.runtime.tensors import read_tensors, write_tensors
from restore_vlm.training.fitting import fit_heads, frozen_features
from restore_vlm.training.loop import Trainer
from restore_vlm.training.run import Progress, RunConfig, Trained, run, training_images
from restore_vlm.training.run_folder import RunFolder
from restore_vlm.training.schedule import learning_rate

__all__ = [
    "Probe",
    "Progress",
    "RunConfig",
    "RunFolder",
    "Trained",
    "Trainer",
    "World",
    "autocast",
    "fit_heads",
    "frozen_features",
    "join",
    "learning_rate",
    "leave",
    "read_tensors",
    "resolve_precision",
    "run",
    "training_images",
    "write_atomic",
    "write_json",
    "write_tensors",
]
