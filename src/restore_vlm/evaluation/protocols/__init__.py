"""The published protocols: each module of this package is one, its ``PROTOCOL``."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from restore_vlm.errors import unknown
from restore_vlm.evaluation.protocol import Protocol

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (import_module(f"{__name__}.{module.name}").PROTOCOL for module in iter_modules(__path__))
}
"""All of them, by name."""


def get_protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        UserError: If there is none.
    """
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
