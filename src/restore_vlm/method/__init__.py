"""Methods as compositions of prompts, surgery, losses, gradient rule and weight averaging."""

from restore_vlm.method.config import MethodConfig, Recipe, TrainingConfig
from restore_vlm.method.losses import Losses
from restore_vlm.method.model import Encoded, PromptedModel

__all__ = ["Encoded", "Losses", "MethodConfig", "PromptedModel", "Recipe", "TrainingConfig"]
