"""The product serves any table: its code, SQL, pages and messages say rows, entities and classes.

The words of the example pipeline `orders` are its own. They are in `pipelines/orders`, in the simulator and in the
tests. A new use of one of them elsewhere fails here, with its file and line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("apex_ml", "plugins", "dags", "deployment", "benchmarks")
SUFFIXES = (".py", ".sql", ".j2", ".js", ".html", ".css", ".yaml", ".yml", ".sh")
SIMULATION = (
    *("apex_ml/simulate", "apex_ml/cli/simulate.py", "apex_ml/cli/simulated_year.py"),
    *("apex_ml/platform/simulated_year.py", "apex_ml/platform/job_drop.py"),
)
"""The simulator of orders, and the commands that call it."""
FORMER = {
    "apex_ml/adapters/postgres/former_schema.py": "views of the first edition by their names",
    "apex_ml/contract/former_names.py": "former keys of the contract",
    "apex_ml/core/recorded_evidence.py": "former keys of recorded evidence",
    "apex_ml/pipeline_settings.py": "the first edition's one pipeline and its model",
    "apex_ml/pipeline_values.py": "former variables",
}
"""Files that read what the first edition, which knew one table, wrote."""
LINES = {
    "apex_ml/contract/names.py": "history_orders",  # feature names are recorded in models, snapshots and drift
    "apex_ml/contract/requests/model.py": '"orders"',  # former keys of the online API
    "apex_ml/core/degradation.py": '"orders"',
    "apex_ml/services/results.py": '"orders"',
    "apex_ml/serving/answers.py": "clients?",
    "apex_ml/sql/quote.py": '"order"',  # a reserved word of SQL
}
"""Former keys and recorded names: a pattern of what a file may have."""
SORTING = re.compile(
    r"ORDER BY|order_by|preserve_insertion_order|\bin_order\b|(?:byte )?order mark"
    r"|\b(?:in|the|no|any|an|another|their|its|given|[a-z]+'s) order\b(?! channel)",
    re.IGNORECASE,
)
"""The order in which things are sorted: `ORDER BY`, "in the order of", "the contract's order"."""
BENCHMARKED = re.compile(
    r"\borders_(?:score|\{)|\borders\.\w+|APEX_ORDERS__|[\"'/ ]orders[\"'/?]|simulate_orders|_orders\b|\bORDERS\b"
    r"|\borders(?:_a_week)?=|\bpipeline orders\b|\bclients?\b|CLIENT"
)
"""Benchmarks run on the example pipeline: its schema, DAGs, file, variables, and its simulator."""
CONNECTS = re.compile(
    r"\b(?:MlflowClient|APIClient|AsyncClient|TestClient|ClientDisconnect|client_addr|client_min_messages)\b"
    r"|\b(?:http|xmlrpc|serving|mlflow)\.client\b|(?:prometheus|supervisor)_client|httpx\.Client"
)
"""Clients of a server by the names of libraries and modules."""
CLIENTS = (
    *("apex_ml/adapters/mlflow/experiments.py", "apex_ml/adapters/mlflow/tracking.py", "apex_ml/surroundings.py"),
    *("apex_ml/adapters/postgres/errors.py", "apex_ml/contract/names.py", "apex_ml/serving/client.py"),
    *("apex_ml/platform/airflow_api.py", "apex_ml/platform/backup.py", "apex_ml/platform/embedded/supervision.py"),
    "apex_ml/adapters/storage/stores.py",
    *("apex_ml/platform/embedded/supervisor_client.py", "apex_ml/serving/app.py", "apex_ml/serving/guard.py"),
    *("apex_ml/serving/loadtest.py", "apex_ml/serving/rate_limit.py", "apex_ml/serving/server.py"),
    *("deployment/docker/healthy.py", "deployment/docker/platform.sh", "plugins/apex_airflow/runtimes/container.py"),
)
"""Files about programs that connect to a server."""
ALERTS = (
    *("apex_ml/adapters/__init__.py", "apex_ml/adapters/alerts", "apex_ml/adapters/postgres/alerts.py"),
    *("apex_ml/cli/alerts.py", "apex_ml/services/alert_delivery.py", "apex_ml/services/scoring_results.py"),
    *("apex_ml/discovery.py", "apex_ml/setting_fields.py", "apex_ml/setting_types.py", "apex_ml/settings.py"),
    *("apex_ml/platform/containers/prepare.py",),
)
"""Files about the channels that alerts are sent by."""
# a part of a snake-case or camel-case name, or a word
WORD = re.compile(
    r"(?<![a-z])(?:orders?|clients?|channels?)(?![a-z])|(?:Order|Client|Channel)s?(?![a-z])"
    r"|(?<![A-Z])(?:ORDER|CLIENT|CHANNEL)S?(?![A-Z])"
)
FILES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.suffix in SUFFIXES and not path.relative_to(ROOT).as_posix().startswith(SIMULATION)
    if path.relative_to(ROOT).as_posix() not in FORMER
    if path.parent.name != "migrations" or path.name >= "0021"  # an applied migration never changes
)


def words_of(name: str, text: str) -> Iterator[str]:
    """The words of the example in a file, with their lines."""
    allowed = [SORTING, CONNECTS]
    allowed += [BENCHMARKED] if name.startswith("benchmarks/") else []
    allowed += [re.compile(LINES[name])] if name in LINES else []
    allowed += [re.compile("clients?", re.IGNORECASE)] if name in CLIENTS else []
    allowed += [re.compile("channels?", re.IGNORECASE)] if name.startswith(ALERTS) else []
    for number, line in enumerate(text.splitlines(), 1):
        rest = line
        for pattern in allowed:
            rest = pattern.sub("", rest)
        for word in WORD.findall(rest):
            yield f"{name}:{number}: {word!r}: {line.strip()}"


@pytest.mark.parametrize("path", FILES, ids=[path.relative_to(ROOT).as_posix() for path in FILES])
def test_no_word_of_the_example_is_in_the_product(path: Path) -> None:
    assert list(words_of(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("def load_orders(client: str) -> SortedOrders:", ["orders", "client", "Orders"]),
        ("MAX_ORDERS = 1  # of each client's channel", ["ORDERS", "client", "channel"]),
        ("SELECT count(*) AS orders FROM x ORDER BY order_day", ["orders", "order"]),
        ("an earlier order of the order channel, in the order of rows", ["order", "order", "channel"]),
        ("border: 1px; recorder; ordered; in no order; the contract's order; MlflowClient; prometheus_client", []),
    ],
)
def test_the_rule_finds_words_in_names_and_texts(line: str, words: list[str]) -> None:
    assert [entry.split("'")[1] for entry in words_of("apex_ml/any.py", line)] == words


def test_every_exception_is_needed() -> None:
    for name in (*FORMER, *LINES, *CLIENTS):
        assert WORD.search((ROOT / name).read_text(encoding="utf-8")), name
    for name in (*SIMULATION, *ALERTS):
        assert (ROOT / name).exists(), name
