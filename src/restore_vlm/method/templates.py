"""Hand-written prompt templates: a class name goes where ``{}`` is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from restore_vlm.runtime.files import bundled, parse_json

PROMPTSRC = "promptsrc_60"


@cache
def sets() -> Mapping[str, tuple[str, ...]]:
    """The bundled sets, all of CLIP's prompts for ImageNet.

    ``imagenet_80`` are CLIP's own (arXiv 2103.00020), ``imagenet_7`` its choice of seven, ``imagenet_8``
    TaskRes's: the seven and "a photo of a {}." (arXiv 2211.10277), ``promptsrc_60`` those that PromptSRC
    averages (arXiv 2307.06948).
    """
    content = parse_json(bundled(__package__, "templates.json"))
    return {name: tuple(templates) for name, templates in content.items()}


def templates(ensemble: bool | str | tuple[str, ...] = True) -> tuple[str, ...]:
    """The templates of an ensemble; none of ``False``."""
    if isinstance(ensemble, bool):
        return sets()[PROMPTSRC] if ensemble else ()
    return sets()[ensemble] if isinstance(ensemble, str) else ensemble


def checked_template(template: str) -> str:
    """The template.

    Raises:
        ValueError: If it has not exactly one place for the class name.
    """
    if template.count("{}") != 1 or template.count("{") != 1 or template.count("}") != 1:
        raise ValueError(f'template {template!r} needs one "{{}}", where the class name goes')
    return template


def checked_ensemble(ensemble: bool | str | tuple[str, ...]) -> bool | str | tuple[str, ...]:
    """The ensemble; the 60 of PromptSRC have but one name, true.

    Raises:
        ValueError: If it is no bundled set and no list of templates.
    """
    if isinstance(ensemble, str) and ensemble not in sets():
        raise ValueError(f"there is no set of templates {ensemble!r}; there are {', '.join(sets())}")
    if isinstance(ensemble, tuple):
        if not ensemble:
            raise ValueError("a list of templates needs at least one")
        for template in ensemble:
            checked_template(template)
    return True if ensemble == PROMPTSRC else ensemble
