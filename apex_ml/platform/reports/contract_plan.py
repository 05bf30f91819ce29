"""The plan of a contract as text."""

from __future__ import annotations

from apex_ml.services.contract_plan import ChampionPlan, ContractPlan
from apex_ml.text import visible_lines


def plan_text(plan: ContractPlan) -> str:
    """A title, then the differences, the columns, the champion, warnings and the next steps."""
    lines = [f"{plan.pipeline}: {_title(plan)}"]
    lines += [f"  {difference}" for difference in plan.differences]
    lines += [f"  refused: {reason}" for reason in plan.refused]
    lines += [f"  new column {column}" for column in plan.new_columns]
    if plan.champion is not None:
        lines.append(f"  champion: {_champion(plan.champion)}")
        lines += [f"  champion: {option}" for option in plan.champion.options]
    lines += [f"  WARNING: {advice}" for advice in plan.advice]
    lines += [f"  → {step}" for step in plan.steps]
    return visible_lines("\n".join(lines))


def _title(plan: ContractPlan) -> str:
    match plan.kind:
        case kind if plan.refused and kind != "new_pipeline":
            return "the registered model is that of another pipeline"
        case None:
            return "there is no contract of its tables yet"
        case "same" if plan.differences:
            return "the tables have this contract, and the registered model is another one"
        case "same" if plan.unused_champions:
            return "the tables have this contract, and the registered model has no champion"
        case "same":
            return "nothing to do: the tables have this contract"
        case "additive":
            return "the contract has changed, and everything of before can be computed"
        case "retrain":
            return "the contract has changed, and a feature of before can no longer be computed"
        case "new_pipeline":
            return "the contract has changed into that of another pipeline"


def _champion(champion: ChampionPlan) -> str:
    text = f"version {champion.version}"
    if champion.usable is None:
        return f"{text}, of which is unknown whether it can score: {'; '.join(champion.reasons)}"
    if not champion.usable:
        return f"{text} cannot score: {'; '.join(champion.reasons)}"
    if champion.same_contract:
        return f"{text} was trained under this contract"
    return f"{text} can score, with the features of its own contract"
