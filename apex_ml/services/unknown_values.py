"""At scoring time: does a drop hold far more unknown values or nulls than the training examples of the champion?

The scores are still written, since the other features carry information and the exact rows stay on record. The alert is
part of the drop's transaction: the scores and the alert become visible together.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.postgres.alerts import SMALL_DROPS, UNKNOWN_VALUES, PostgresAlerts
from apex_ml.adapters.postgres.scoring_runs import PostgresScoringRuns
from apex_ml.adapters.postgres.session import Session
from apex_ml.contract.columns import Column
from apex_ml.contract.model import Contract
from apex_ml.core.features import features_of_entity, kind_of
from apex_ml.core.profile import Bins
from apex_ml.core.unknown_values import MIN_LOST, UnknownJump, escaped, matters, summed, unknown_jumps
from apex_ml.sql.unknown_values import select_known_entity, top_unknown_entities, top_unknown_values

if TYPE_CHECKING:
    from apex_ml.services.scorer import Scorer

logger = logging.getLogger(__name__)
EXAMPLES = 5
"""The number of unknown values that an alert shows."""
SMALL_DROP_ROWS = 100
"""A drop of fewer rows has too few to prove a jump; it is tested together with the small drops of the last day."""
REMEDY = (
    "Check the source of the drop. If the values are wrong, deliver a corrected file under the same name, or correct"
    " them with `normalise` in the contract. If they are right, retrain: "
)


def alert_unknown_values(
    scorer: Scorer,
    con: engine.StrictConnection,
    session: Session,
    counts: Mapping[str, np.ndarray],
    accepted: str,
    name: str,
) -> str | None:
    """Raise an alert when unknown values or nulls of a feature jumped in a drop; return its message, None without one.

    `counts` are the drop's rows by feature and bin, `accepted` is SQL of its rows. History counts only when the model
    uses it; every attribute counts.
    """
    contract, alpha = scorer.contract, scorer.context.pipeline.options.monitoring.drift_alpha
    profile = scorer.model.info.profile
    references = [r for r in (profile.features, profile.recent) if r]
    kinds: dict[str, str] = {f: kind for f in scorer.bins if f in counts and (kind := kind_of(contract, f)) in MIN_LOST}
    if not references or not kinds:
        return None
    categorical = {feature: scorer.bins[feature].levels is not None for feature in kinds}
    rows = int(np.sum(next(iter(counts.values()))))
    jumps = unknown_jumps(counts, references, kinds, categorical, alpha=alpha)
    subject, drops = name, f"drop {name} ({rows:,} rows)"
    if not jumps and rows < SMALL_DROP_ROWS and _may_be_jump(counts, references, kinds, categorical):
        earlier = PostgresScoringRuns(session).small_profiles(
            scorer.version.name, scorer.version.version, SMALL_DROP_ROWS
        )
        together = summed([{"features": counts}, *earlier])
        jumps = unknown_jumps(together, references, kinds, categorical, alpha=alpha)
        subject = f"{SMALL_DROPS}, version {scorer.version.version}"
        drops = f"drop {name} and {len(earlier)} more small drops of the last day"
    if not jumps:
        return None
    lines = _lines(scorer, con, contract, jumps, accepted, name)
    message = (
        f"{drops}: {'; '.join(lines)}. The drop is scored all the same by version {scorer.version.version}"
        f"{_consequence(scorer, jumps)}. {REMEDY}{scorer.context.pipeline.command('retrain --force')}"
    )
    logger.error("unknown_values drop=%s message=%s", name, message)
    PostgresAlerts(session).raise_unless_open(UNKNOWN_VALUES, subject, message)
    return message


def _may_be_jump(
    counts: Mapping[str, np.ndarray],
    references: Sequence[Mapping[str, Sequence[int]]],
    kinds: Mapping[str, str],
    categorical: Mapping[str, bool],
) -> bool:
    """Whether a feature of a small drop lost enough values for more rows to prove a jump."""
    return any(
        counts[f][place]
        and all(
            matters(int(counts[f][place]), int(np.sum(counts[f])), r[f][place], sum(r[f]), MIN_LOST[kind])
            for r in references
            if f in r
        )
        for f, kind in kinds.items()
        for place in ((-2, -1) if categorical[f] else (-1,))
    )


def _lines(
    scorer: Scorer,
    con: engine.StrictConnection,
    contract: Contract,
    jumps: Sequence[UnknownJump],
    accepted: str,
    name: str,
) -> list[str]:
    """What happened to each column; history, which is lost as a whole, is one line."""
    lines, of_entity = [], features_of_entity(contract)
    for jump in jumps:
        if jump.feature in of_entity:
            continue
        what = "null" if jump.kind == "null" else "unknown to the model"
        line = f"{jump.share:.1%} of {jump.feature} is {what}, {jump.usual_share:.1%} in training"
        if jump.feature not in scorer.model.encoder.names:
            line += " (the model does not use this column)"
        if jump.kind == "unknown":
            values = _unknown_values(con, accepted, contract.columns[jump.feature], scorer.bins[jump.feature], name)
            line += "; most frequent unknown values: " + ", ".join(f"{escaped(v)} ({n:,})" for v, n in values)
        lines.append(line)
    history = [jump for jump in jumps if jump.feature in of_entity]
    if history:
        worst = max(history, key=lambda jump: jump.share - jump.usual_share)
        names = ", ".join(dict.fromkeys(jump.feature for jump in history))
        line = (
            f"{worst.share:.1%} of the rows have no history of their {contract.entity}, {worst.usual_share:.1%} in"
            f" training ({names})"
        )
        unknown, known = _unknown_entities(con, contract, accepted, scorer.snapshot, name)
        if unknown:
            line += f"; most frequent without history: {', '.join(f'{escaped(v)} ({n:,})' for v, n in unknown)}"
        if known is not None:
            line += f"; the history snapshot holds values such as {escaped(known)}"
        lines.append(line)
    return lines


def _unknown_values(
    con: engine.StrictConnection, accepted: str, column: Column, bins: Bins, drop: str
) -> list[tuple[str, int]]:
    query = top_unknown_values(accepted, column, EXAMPLES)
    with engine.errors_name(drop):
        return con.execute(query, {"levels": list(bins.levels or ())}).fetchall()


def _unknown_entities(
    con: engine.StrictConnection, contract: Contract, accepted: str, snapshot: Path, drop: str
) -> tuple[list[tuple[str, int]], str | None]:
    """The most frequent entities of a drop that the snapshot does not hold, and one that it holds."""
    with engine.errors_name(drop):
        unknown = con.execute(top_unknown_entities(accepted, contract.entity, snapshot, EXAMPLES)).fetchall()
        (example,) = engine.one_row(con, select_known_entity(contract.entity, snapshot))
    return unknown, example


def _consequence(scorer: Scorer, jumps: Sequence[UnknownJump]) -> str:
    used = scorer.model.encoder.names
    lost = {jump.feature for jump in jumps if jump.feature in used}
    if lost and lost >= {n for n in used if kind_of(scorer.contract, n) != "calendar"}:
        return ", but every feature that the model uses is affected: its predictions are little better than a guess"
    return f", with {len(lost)} of the {len(used)} features that the model uses affected"
