"""Methods as compositions of parts: prompts, weights, surgery, heads; losses, gradient rule, averaging."""

from restore_vlm.method.choice import choose_recipe
from restore_vlm.method.config import MethodConfig, Recipe, TrainingConfig
from restore_vlm.method.encoded import Encoded
from restore_vlm.method.gradient import Gradient
from restore_vlm.method.model import PromptedModel
from restore_vlm.method.objective import Losses
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
    "methods",
    "recipes",
]
