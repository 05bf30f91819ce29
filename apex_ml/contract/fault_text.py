"""Explain the errors that pydantic finds in a contract: the rule, the value, and what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from apex_ml.contract.part import Place
from apex_ml.contract.reading import ContractFile
from apex_ml.contract.schema_keys import keys_at
from apex_ml.contract.yaml_scalars import TEXT_TAG, quote_advice, read_as
from apex_ml.wording import counted, did_you_mean, nearest, violated_rule

_BRANCH = re.compile(r"(float|int|date|datetime|str|literal\[.*|tuple\[.*|function-.*)")
"""Pydantic's names for the branches of a union, which are not part of a place in the file."""
_NOUNS = {"levels": "the level ", "map": "the value ", "allowed": "the value "}
_MAX_SHOWN = 80
_EXAMPLES: Mapping[Place, str] = {
    ("version",): "version: 1",
    ("quarantine",): "quarantine: {limit: 0.01}",
    ("batch",): "batch: {recent: 7}",
    ("batch", "recent"): "recent: 7",
    ("features",): "features: {grain: every_row, attributes: [...]}",
    ("features", "grain"): "grain: every_row",
    ("split",): "split: {fractions: {train: 0.6, validation: 0.2, test: 0.2}}",
    ("promotion",): "promotion: {margin: 0.001}",
    ("promotion", "margin"): "margin: 0.001",
}
"""What may stand in the place of a required part that is missing."""


def explain_errors(file: ContractFile, errors: Sequence[Mapping[str, Any]], schema: Mapping[str, Any]) -> list[Any]:
    """Every fault of pydantic as (place, text): the rule, the value, what to do."""
    by_place: dict[Place, list[str]] = {}
    misspelt = _misspelt(errors, schema)
    for error in errors:
        if error["type"] == "missing" and tuple(error["loc"]) in misspelt:
            continue  # the key that was written in its place has an error that asks for it
        if error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]:
            continue  # each of its items has its own error
        place: Place = tuple(error["loc"])
        while place and isinstance(place[-1], str) and _BRANCH.fullmatch(place[-1]):
            place = place[:-1]
        texts = by_place.setdefault(place, [])
        texts += [text for text in [_explain(file, place, error, schema)] if text not in texts]
    return [(place, _joined(texts)) for place, texts in by_place.items()]


def _misspelt(errors: Sequence[Mapping[str, Any]], schema: Mapping[str, Any]) -> set[Place]:
    """Places of keys that are nearly there: an unknown key is probably meant as them."""
    extra = [tuple(error["loc"]) for error in errors if error["type"] == "extra_forbidden"]
    meant = {place: nearest(str(place[-1]), keys_at(schema, place[:-1])) for place in extra}
    return {(*place[:-1], name) for place, name in meant.items() if name is not None}


def _joined(texts: list[str]) -> str:
    """The messages of a union's branches about one value, as one sentence."""
    if any(" is read by YAML as " in text for text in texts):
        return next(text for text in texts if " is read by YAML as " in text)
    ends = {text.partition("; ")[2] for text in texts}
    if len(texts) > 1 and len(ends) == 1:
        starts = [text.partition("; ")[0].removeprefix("must be ") for text in texts]
        return f"must be {' or '.join(starts)}; {ends.pop()}"
    return " or ".join(texts)


def _explain(file: ContractFile, place: Place, error: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    kind, text = str(error["type"]), violated_rule(error)
    if kind == "extra_forbidden":
        keys = keys_at(schema, place[:-1])
        return f"not permitted: no such key here; the keys are {', '.join(keys)}{did_you_mean(str(place[-1]), keys)}"
    if kind == "missing":
        example = _EXAMPLES.get(place)
        return f"{text}: add this key" + (f", for example {example}" if example else "")
    if kind == "union_tag_invalid":
        name, known = error["ctx"]["discriminator"].strip("'"), re.findall(r"'([^']*)'", error["ctx"]["expected_tags"])
        tag = error["ctx"]["tag"]
        return f"there is no {name} {tag!r}{did_you_mean(tag, known)}; the known ones are {', '.join(sorted(known))}"
    if kind == "union_tag_not_found":
        key = error["ctx"]["discriminator"].strip("'")
        given = error["input"] if isinstance(error["input"], dict) else {}
        near = [written for written in map(str, given) if nearest(written, [key])]
        hint = f"; did you mean {key} by {near[0]}?" if near else ""
        return f"the key {key!r} is missing: it says what kind this is{hint}"
    if kind == "value_error":
        return text
    node = file.node_at(place)
    if kind == "string_type" and isinstance(node, yaml.ScalarNode) and not node.style and node.tag != TEXT_TAG:
        if not node.value:
            return f"{text}; the value is empty: write a text, or remove the key"
        noun = next((_NOUNS[part] for part in place if part in _NOUNS), "")
        if noun == _NOUNS["levels"] and isinstance(file.node_at(place[:-1]), yaml.MappingNode):
            noun = "the name "
        return f"{text}: {noun}{quote_advice(node)}"
    if kind in ("float_type", "int_type") and isinstance(node, yaml.ScalarNode) and _is_number(node.value):
        number = _number_text(kind, node)
        if isinstance(error.get("input"), float):
            return f"{text}; found {node.value}{'' if number == node.value else f': write {number}'}"
        return f"{text}; {node.value!r} is read by YAML as text: write {number}"
    return f"{_shape(kind, text, error)}; found {_shown(node, error.get('input'))}{_meant(kind, error)}"


def _number_text(kind: str, node: yaml.ScalarNode) -> str:
    """The number that was probably meant, as YAML reads it."""
    value = float(node.value)
    if node.style:
        return "it without quotes"
    return str(int(value)) if kind == "int_type" and value.is_integer() else repr(value)


def _shape(kind: str, text: str, error: Mapping[str, Any]) -> str:
    """What a value must be, in words of YAML."""
    if kind == "too_short":
        return f"must have at least {counted(error['ctx']['min_length'], 'item')}"
    if kind == "tuple_type":
        return "must be a list, as [a, b]"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return "must be keys with values"
    return f"{text}, without quotes" if kind == "bool_type" else text


def _meant(kind: str, error: Mapping[str, Any]) -> str:
    """The permitted value that is nearest to the given one, as a question."""
    about = error.get("ctx", {})
    expected = re.findall(r"'([^']*)'", str(about.get("expected") or about.get("expected_tags") or error["msg"]))
    given = about.get("tag") or error.get("input")
    if kind == "normalise_step" and isinstance(given, dict):
        given = next(iter(given), None)
    return did_you_mean(given, expected) if isinstance(given, str) else ""


def _is_number(text: str) -> bool:
    try:
        return bool(float(text) or True)
    except ValueError:
        return False


def _shown(node: yaml.Node | None, value: Any) -> str:
    """A value as the file writes it, or as YAML read it."""
    text = repr(value)
    if isinstance(node, yaml.ScalarNode):
        text = node.value or "nothing"
        if node.tag != TEXT_TAG and not node.style and node.value and read_as(node) not in (text, f"the number {text}"):
            text += f", read by YAML as {read_as(node)}"
        elif node.tag == TEXT_TAG:
            text = repr(node.value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
