"""DDL that depends on the contract: the table of scored orders and the views over it. Changed only by adding."""

from __future__ import annotations

from apex_ml.contract.masks import literal, quoted
from apex_ml.contract.model import Contract

SQL_TYPES = {"string": "text", "double": "double precision", "int64": "bigint", "date": "date"}
SCORED = "apex.scored_orders"


def probability_column(level: str) -> str:
    """Name of the column that holds the probability of a class."""
    return f"p_{level.lower()}"


def scored_columns(contract: Contract) -> dict[str, str]:
    """Columns of the scored orders with their SQL types, in order."""
    columns = {"run_id": "bigint NOT NULL", "row_nr": "bigint NOT NULL"}
    columns |= {
        c.name: f"{SQL_TYPES[c.type]} NOT NULL" for c in contract.columns.values() if c.role in ("entity", "timestamp")
    }
    columns |= {"predicted": "text NOT NULL"}
    columns |= {probability_column(level): "real" for level in contract.classes}
    return columns | {
        "confidence": "real NOT NULL",
        "model_version": "integer NOT NULL",
        "scored_at": "timestamptz NOT NULL",
    }


def _comment(kind: str, name: str, text: str) -> str:
    return f"COMMENT ON {kind} {name} IS {literal(text)}"


def scored_orders_ddl(contract: Contract) -> list[str]:
    """Statements that bring table and views to the contract's state; running them again changes nothing."""
    columns = scored_columns(contract)
    body = ", ".join(f"{quoted(name)} {kind}" for name, kind in columns.items())
    added = [n for n in columns if n.startswith("p_")]
    entity, when = quoted(contract.entity), quoted(contract.timestamp)
    statements = [
        f"CREATE TABLE IF NOT EXISTS {SCORED} ({body}, PRIMARY KEY (run_id, row_nr)) PARTITION BY RANGE (run_id)",
        *(f"ALTER TABLE {SCORED} ADD COLUMN IF NOT EXISTS {quoted(n)} {columns[n]}" for n in added),
        f"CREATE TABLE IF NOT EXISTS {SCORED}_shared PARTITION OF {SCORED} FOR VALUES FROM (MINVALUE) TO (MAXVALUE)",
        f"CREATE INDEX IF NOT EXISTS scored_orders_entity ON {SCORED} ({entity}, {when})",
        _comment(
            "TABLE", SCORED, "One row a scored order of a scoring run; row_nr is its position in the drop, from 0."
        ),
        f"""CREATE OR REPLACE VIEW apex.scored_orders_current AS
            SELECT r.drop_id, r.mlflow_run_id, s.* FROM {SCORED} AS s JOIN apex.scoring_runs AS r USING (run_id)
            WHERE s.run_id IN (SELECT run_id FROM apex.drop_summary WHERE superseded_by IS NULL)""",
        _comment(
            "VIEW",
            "apex.scored_orders_current",
            "One row an order of every drop that is not superseded, from the latest run.",
        ),
        f"""CREATE OR REPLACE VIEW apex.channel_mix_daily AS
            SELECT {when} AS day, predicted, count(*) AS orders,
                   count(*)::double precision / sum(count(*)) OVER (PARTITION BY {when}) AS share
            FROM apex.scored_orders_current GROUP BY 1, 2""",
        _comment(
            "VIEW", "apex.channel_mix_daily", "One row an order day and predicted channel, with its share of that day."
        ),
        f"""CREATE OR REPLACE VIEW apex.confidence_daily AS
            SELECT {when} AS day, model_version, count(*) AS orders, avg(confidence) AS mean_confidence,
                   percentile_cont(0.5) WITHIN GROUP (ORDER BY confidence) AS median_confidence
            FROM apex.scored_orders_current GROUP BY 1, 2""",
        _comment(
            "VIEW",
            "apex.confidence_daily",
            "One row an order day and model version, with the confidence of its predictions.",
        ),
        f"""CREATE OR REPLACE VIEW apex.lineage AS
            SELECT s.run_id, s.row_nr, s.{entity}, s.{when}, s.predicted, s.confidence, s.scored_at,
                   d.name AS drop_name, d.sha256 AS drop_sha256, r.feature_snapshot, r.model_name, r.model_version,
                   r.mlflow_run_id, v.data_sha256, v.contract_sha256, v.git_commit, v.step_run AS training_run
            FROM {SCORED} AS s JOIN apex.scoring_runs AS r USING (run_id) JOIN apex.drops AS d USING (drop_id)
            LEFT JOIN apex.model_versions AS v
                ON v.model_name = r.model_name AND v.model_version = r.model_version""",
        _comment(
            "VIEW", "apex.lineage", "One row a scored order, back to its drop, model version, training data and code."
        ),
    ]
    views = ("scored_orders_current", "channel_mix_daily", "confidence_daily", "lineage")
    return statements + [f"GRANT SELECT ON apex.{view} TO apex_reader" for view in views]
