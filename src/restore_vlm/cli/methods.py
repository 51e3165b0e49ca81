"""``restore-vlm methods``: what there is to choose from."""

from __future__ import annotations

from typing import Annotated

import typer


def methods(
    method: Annotated[str | None, typer.Argument(help="Show the settings of one method.")] = None,
    recipe: Annotated[str, typer.Option(help="default, or one of the method's recipes.")] = "default",
) -> None:
    """List the methods, or show the settings of one."""
    import tomli_w

    from restore_vlm.method import describe
    from restore_vlm.method.presets import load_recipe, recipes
    from restore_vlm.method.presets import methods as known
    from restore_vlm.terminal import table

    if method is None:
        rows, datasets = [], recipes("clip")[1:]
        for name in known():
            parts, short = load_recipe(name), describe.short_recipes(recipes(name), datasets)
            words = describe.learned(parts), describe.rules(parts), short, describe.short_source(parts)
            rows.append([name, *words])
        table("Methods", "method", "learns", "learns by", "recipes", "source", rows=rows, words=True)
        return
    print(f"# Recipes of {method}: {', '.join(recipes(method))}. This is {recipe}.")
    print(tomli_w.dumps(describe.essential(load_recipe(method, recipe))), end="")
