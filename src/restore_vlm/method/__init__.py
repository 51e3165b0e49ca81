"""Methods as compositions of prompts, surgery, losses, gradient rule and weight averaging."""

from restore_vlm.method.averaging import make_average
from restore_vlm.method.choice import choose_recipe
from restore_vlm.method.config import MethodConfig, Recipe, TrainingConfig
from restore_vlm.method.gradient import Gradient
from restore_vlm.method.losses import Losses
from restore_vlm.method.model import Encoded, PromptedModel
from restore_vlm.method.presets import chooses_depth, load_recipe, methods, recipes

__all__ = [
    "Encoded",
    "Gradient",
    "Losses",
    "MethodConfig",
    "PromptedModel",
    "Recipe",
    "TrainingConfig",
    "choose_recipe",
    "chooses_depth",
    "load_recipe",
    "make_average",
    "methods",
    "recipes",
]
