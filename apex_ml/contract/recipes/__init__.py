"""Recipes of features, one module each. A module of this package that defines a :class:`Recipe` registers it."""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module
from typing import Annotated, Any, Union

from pydantic import Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema

from apex_ml.contract.recipes.interface import Recipe

RECIPES: dict[str, type[Recipe]] = {}
"""The classes of recipes by their names in contracts."""


def register(recipe: type[Recipe]) -> None:
    """Register a recipe under its name. Existing contract models must be rebuilt."""
    (name,) = recipe.model_fields["recipe"].annotation.__args__  # type: ignore[union-attr]  # it is a Literal
    RECIPES[name] = recipe


class _ByName:
    """Validates a recipe as the registered class of its name."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        classes = tuple(RECIPES.values())
        return handler.generate_schema(Annotated[Union[classes], Field(discriminator="recipe")])  # noqa: UP007


for _module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
    for _, _class in inspect.getmembers(import_module(f"{__name__}.{_module.name}"), inspect.isclass):
        if issubclass(_class, Recipe) and not inspect.isabstract(_class):
            register(_class)

HistoryRecipe = Annotated[Recipe, _ByName()]
