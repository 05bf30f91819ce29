"""Recipes whose features, or columns of the state, would have one name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from apex_ml.contract.part import Place

if TYPE_CHECKING:
    from apex_ml.contract.model import Contract


def colliding_recipes(contract: Contract) -> Iterator[tuple[Place, str]]:
    """Recipes that make a name of another one, such as the share of a class A_30d and that of A over 30 days.

    Each is returned as (place in the YAML, fault). Two recipes may share a column of the state.
    """
    makers: dict[str, tuple[object, str]] = {}
    for nr, recipe in enumerate(contract.features.history):
        what = f"{recipe.recipe}{recipe.scope.text}"
        for feature in recipe.scoped(contract):
            names = {feature.column.name: (nr, what), **{state.name: (state, what) for state in feature.reads}}
            for name, maker in names.items():
                other, of_other = makers.setdefault(f"{type(maker[0]).__name__} {name.lower()}", maker)
                if other != maker[0]:
                    yield (
                        ("features", "history", nr),
                        f"{what} and {of_other} both make a column {name}: rename one of their columns or classes",
                    )
                    break
