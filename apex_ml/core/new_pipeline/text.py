"""The file of a new pipeline: YAML with the evidence as comments."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap
from typing import Any

import yaml

from apex_ml.core.new_pipeline.choices import Choices
from apex_ml.core.new_pipeline.columns import ColumnPlan
from apex_ml.core.new_pipeline.proposal import Proposal, lag_note
from apex_ml.core.table_profile.bins import number_text, time_text
from apex_ml.core.table_profile.findings import LEAK_GAIN
from apex_ml.core.table_profile.values import Q05, Q95, ColumnProfile, TableProfile
from apex_ml.text import shortened_line, visible

WIDTH = 118
SHOWN_LEVELS = 5
LABEL_LENGTH = 30


def pipeline_text(name: str, profile: TableProfile, choices: Choices, proposal: Proposal, raw: str | None) -> str:
    """The content of ``pipeline.yaml``. `raw` is the folder of raw files, None for the default one."""
    lines = ["# yaml-language-server: $schema=../pipeline.schema.json"]
    lines += _comment(f"A first contract, made from {_shown(profile.source.name)}: {profile.rows:,} rows. Read it, and"
                      " correct what the data cannot know: descriptions, roles, checks.", "")  # fmt: skip
    for warning in proposal.warnings:
        lines += _comment(f"WARNING: {visible(warning)}", "")
    lines += [f"name: {name}", "version: 1"]
    lines.append(
        f"description: {scalar(f'Rows of {_shown(profile.source.name)}; the target is {_shown(choices.target)}.')}"
    )
    if proposal.repeated_keys is not None:
        lines += _comment("of several rows of one key the newest counts: whether keys repeat is not known", "")
        lines.append(f"repeated_keys: {proposal.repeated_keys}")
    if profile.source.csv is not None:
        lines += ["", *_comment("how the files were read; correct what the first rows of one file cannot say", "")]
        lines.append("files:")
        lines += [f"  {key}: {flow(value)}" for key, value in profile.source.csv.as_yaml().items()]
    lines += ["", "columns:"]
    for column in proposal.columns:
        lines += _column(column, profile)
    if proposal.left_out:
        lines += ["", *_comment("Columns of the data that are not in the contract; they are ignored:", "")]
        for left in proposal.left_out:
            lines += _comment(f"- {_shown(left.name)}: {visible(left.why)}", "", "  ")
    lines += ["", "rules:", *_items(proposal.rules, "  ")]
    lines += ["", "quarantine:"]
    lines += _comment("share of the rows of a batch that may be bad before the step fails", "  ")
    lines.append(f"  limit: {flow(proposal.quarantine)}")
    lines += ["", "batch:", "  recent: 7", "  rules:", *(f"    - {flow(rule)}" for rule in proposal.batch)]
    lines += ["", "features:", *_features(proposal)]
    lines += ["", "split:", "  fractions: {train: 0.6, validation: 0.2, test: 0.2}", "  gap_days: 0"]
    lines += ["", "promotion:", "  margin: 0.001", "  alpha: 0.05", "  mode: sequential"]
    lines += ["", "model:"]
    lines += _comment(
        "the best on validation wins; xgboost_native splits columns of many levels by sets of levels", "  "
    )
    lines += ["  candidates: [xgboost_native, logistic]", "  trials: 0"]
    if raw is not None:
        lines += ["", "locations:", f"  raw: {scalar(raw)}"]
    return "\n".join(lines) + "\n"


def _column(column: ColumnPlan, profile: TableProfile) -> Iterator[str]:
    own = profile.column(column.name)
    yield from _comment(evidence(own, profile), "  ")
    for note in column.notes:
        yield from _comment(note, "  ")
    yield f"  {scalar(column.name)}:"
    yield f"    description: {scalar(_description(own))}"
    for key, value in column.body.items():
        if key == "checks":
            yield "    checks:"
            yield from (f"      - {flow(check)}" for check in value)
        elif key == "domain":
            yield from _domain(value)
        else:
            yield f"    {key}: {flow(value)}"


def _domain(domain: dict[str, Any]) -> Iterator[str]:
    levels = flow(domain["levels"])
    one_line = f"    domain: {{levels: {levels}, closed: {flow(domain['closed'])}}}"
    if len(one_line) <= WIDTH:
        yield one_line
        return
    yield "    domain:"
    yield "      levels:"
    yield from (f"        - {scalar(level)}" for level in domain["levels"])
    yield f"      closed: {flow(domain['closed'])}"


def _description(column: ColumnProfile) -> str:
    return f"{_shown(column.name)}: {column.stored if column.kind == 'other' else column.kind}."


def evidence(column: ColumnProfile, profile: TableProfile) -> str:
    """What is known of a column, in one line.

    It names nulls, different values, range or most frequent values, gain and change.
    """
    parts = [f"made of {', '.join(map(_shown, column.sources))}"] if column.sources else []
    parts.append(f"{column.null_share:.1%} null" if column.nulls else "never null")
    parts.append(f"{column.distinct:,} different")
    if column.numbers is not None:
        n = column.numbers
        parts.append(f"{number_text(n.low)} to {number_text(n.high)}")
        parts.append(f"90 % in {number_text(n.quantiles[Q05])} to {number_text(n.quantiles[Q95])}")
    elif column.times is not None:
        parts.append(f"{time_text(column.times.first)} to {time_text(column.times.last)}")
    elif column.levels and column.levels[0].rows >= 0.005 * column.rows:
        shown = [f"{_shown(level.value)} {level.rows / column.rows:.1%}" for level in column.levels[:SHOWN_LEVELS]]
        parts.append(", ".join(shown) + (" …" if len(column.levels) > SHOWN_LEVELS else ""))
    for association in profile.target.associations if profile.target else ():
        if association.name == column.name and association.gain >= 0.001:
            suspicious = ": may be known only after the target" if association.gain >= LEAK_GAIN else ""
            parts.append(f"gain alone {association.gain:.1%}{suspicious}")
    for drift in profile.time.drifts if profile.time else ():
        if drift.name == column.name and drift.stability >= 0.1:
            parts.append(f"changes over time: {drift.stability:.2f}")
    return "; ".join(parts)


def _features(proposal: Proposal) -> Iterator[str]:
    yield from _comment(proposal.grain_reason, "  ")
    for key, value in proposal.features.items():
        if key in ("attributes", "history") and value:
            yield f"  {key}:"
            yield from (f"    - {flow(item)}" for item in value)
        else:
            if key.startswith("history_lag"):
                yield from _comment(lag_note(proposal.features), "  ")
            yield f"  {key}: {flow(value)}"
    yield from _comment("a feature that alone removes this share of the class prior's log loss is a leak", "  ")
    if proposal.strong:
        yield from _comment(f"the usual limit is {LEAK_GAIN}; this one leaves room for {_shown(proposal.strong)}", "  ")
    yield f"  suspicious_gain: {proposal.suspicious_gain}"


def _items(mappings: list[dict[str, Any]], indent: str) -> Iterator[str]:
    for mapping in mappings:
        for place, (key, value) in enumerate(mapping.items()):
            yield f"{indent}{'  ' if place else '- '}{key}: {flow(value)}"


def _comment(text: str, indent: str, hanging: str = "") -> list[str]:
    width = WIDTH - len(indent)
    lines = wrap(text, width, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False)
    return [f"{indent}# {line}" for line in lines]


def _shown(text: str) -> str:
    return shortened_line(visible(text), LABEL_LENGTH) or "(blank)"


class _OneLine(yaml.SafeDumper):
    """Writes a text with a line break in double quotes, which escape it."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        """A text as a node."""
        breaks = len(f"{text}.".splitlines()) > 1
        return self.represent_scalar("tag:yaml.org,2002:str", text, style='"' if breaks else None)


_OneLine.add_representer(str, _OneLine.represent_str)


def scalar(value: Any) -> str:
    """A value as YAML on one line, quoted where YAML would read something else.

    >>> print(scalar("NO"), scalar("a: b"), scalar(True), scalar("año"), scalar("two" + chr(10) + "lines"))
    'NO' 'a: b' true año "two\\nlines"
    """
    text: str = yaml.dump(value, Dumper=_OneLine, allow_unicode=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")


def flow(value: Any) -> str:
    """A value as YAML in the flow style, on one line."""
    text: str = yaml.dump(
        value, Dumper=_OneLine, default_flow_style=True, allow_unicode=True, width=float("inf"), sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...")
