"""x"""
import tomllib
from importlib.resources import files


def kinds() -> dict[str, dict[str, str]]:
    return tomllib.loads((files(__package__) / "mini.toml").read_text())["kinds"]
