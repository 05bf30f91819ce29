"""The result of a night on a sample in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from apex_ml.core.plain_models import PlainModel
from apex_ml.core.selection import FeatureVerdict
from apex_ml.core.split import PARTS
from apex_ml.platform.trial_run import TrialRun
from apex_ml.text import visible
from apex_ml.wording import counted

MAX_FEATURES = 60


def show_trial_run(run: TrialRun, console: Console) -> None:
    """Show the sample, the examples, the features that stay, and the scores beside plain models."""
    for line in [*sample_lines(run), *example_lines(run)]:
        console.print(Text(line))
    console.print(_features(run))
    if (hidden := len(run.development.verdicts) - MAX_FEATURES) > 0:
        console.print(Text(f"… and {counted(hidden, 'feature')} of less importance"))
    console.print(_scores(run))
    test = run.parts.parts["test"].examples
    console.print(
        Text(
            f"All are scored on the same {counted(test, 'test row')}, from which none has learned. The last column is"
            " in nats of log loss, with the 95 % interval. The plain models use all features, and learn from the"
            " training and the validation rows."
        )
    )


def sample_lines(run: TrialRun) -> list[str]:
    """What was drawn from the accepted rows."""
    sample = run.sample
    lines = []
    if run.superseded:
        lines.append(f"Left out, as their key has a later row: {counted(run.superseded, 'row')}")
    if sample.is_whole:
        return [*lines, f"Sample: all {counted(sample.rows, 'accepted row')}"]
    what = "" if sample.entities is None else f", the whole history of {sample.entities:,} entities"
    lines.append(f"Sample: {sample.rows:,} of {counted(sample.of_rows, 'accepted row')}{what}")
    if sample.splits_entities:
        lines.append("A few entities hold most rows, so single rows were drawn: histories are shorter than in a run")
    return lines


def example_lines(run: TrialRun) -> list[str]:
    """The examples, the parts of the split, and whether the time was too short."""
    parts = run.parts
    sizes = ", ".join(f"{name} {parts.parts[name].examples:,}" for name in PARTS)
    repeated = f" ({counted(run.examples.repeated, 'row')} delivered twice)" if run.examples.repeated else ""
    lines = [f"Examples: {run.examples.examples:,}{repeated}, split {parts.strategy}: {sizes}"]
    if run.was_short:
        remedy = "--minutes, or model.time_budget_minutes"
        lines.append(f"The training ended early: the scores may be better with more time, by {remedy}")
    return lines


def ranked_verdicts(run: TrialRun) -> list[FeatureVerdict]:
    """The verdicts about the features: first those that stay, each by importance."""
    return sorted(run.development.verdicts, key=lambda v: (not v.kept, -(v.importance or 0.0)))


def _features(run: TrialRun) -> Table:
    done = run.development
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("feature", overflow="fold")
    table.add_column("stays")
    table.add_column("importance", justify="right")
    table.add_column("why", overflow="fold")
    verdicts = ranked_verdicts(run)
    for verdict in verdicts[:MAX_FEATURES]:
        importance = "" if verdict.importance is None else f"{verdict.importance:.5f}"
        table.add_row(*map(Text, (visible(verdict.name), "yes" if verdict.kept else "no", importance, verdict.reason)))
    if not verdicts:  # the contract selects no features
        for name in done.model.encoder.names[:MAX_FEATURES]:
            table.add_row(*map(Text, (visible(name), "yes", "", "model.selection is none")))
    return table


def _scores(run: TrialRun) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("model")
    extra = extra_scores(run.compared)
    for name in ("features", "log loss", "accuracy", *extra, "Apex is better by"):
        table.add_column(name, justify="right")
    for nr in range(len(run.compared)):
        table.add_row(*map(Text, score_row(run, nr, extra)))
    return table


def score_row(run: TrialRun, nr: int, extra: Mapping[str, Sequence[float | None]]) -> tuple[str, ...]:
    """The scores of one of the compared models, with the `extra` ones, as text."""
    model = run.compared[nr]
    way = model.way if model.gain else f"{model.way} ({run.development.winner})"
    gain = "" if model.gain is None else "{:+.4f} ({:+.4f} to {:+.4f})".format(*model.gain)
    more = ["" if values[nr] is None else f"{values[nr]:.4f}" for values in extra.values()]
    return (way, f"{model.features}", f"{model.log_loss:.4f}", f"{model.accuracy:.2%}", *more, gain)


def extra_scores(compared: Sequence[PlainModel]) -> dict[str, list[float | None]]:
    """Scores that only some pipelines have: of two classes, and of decisions by cost."""
    scores = {"AUC": [model.auc for model in compared], "mean cost": [model.mean_cost for model in compared]}
    return {name: values for name, values in scores.items() if any(value is not None for value in values)}
