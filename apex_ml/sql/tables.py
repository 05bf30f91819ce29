"""DDL that depends on the contract: the table of scored rows and its views. Columns are only added, never changed."""

from __future__ import annotations

from apex_ml.contract.columns import Column
from apex_ml.contract.encoded_names import probability_columns
from apex_ml.contract.model import Contract
from apex_ml.contract.names import online_names
from apex_ml.contract.roles import ROLES_OF_A_DROP, STORED_ROLES
from apex_ml.sql.quote import identifier, identifiers, literal
from apex_ml.sql.row_time import postgres_day_sql

_SQL_TYPES = {
    "string": "text",
    "double": "double precision",
    "int64": "bigint",
    "date": "date",
    "boolean": "boolean",
    "decimal": "numeric",
}
SCORED = "scored"
SHADOW = "shadow_scores"
ONLINE = "online_rows"
"""Names of the generated tables, in the schema of a pipeline."""


def sql_type(column: Column) -> str:
    """The type of a column's values in Postgres."""
    if column.type == "timestamp":
        return f"timestamp with{'out' if column.timezone is None else ''} time zone"
    return _SQL_TYPES[column.type]


def scored_columns(contract: Contract) -> dict[str, str]:
    """Columns of the scored rows with their SQL types, in row."""
    columns = {"run_id": "bigint NOT NULL", "row_nr": "bigint NOT NULL"}
    for name in contract.named(*STORED_ROLES):
        column = contract.columns[name]
        # keys and columns that are passed through may come into the contract of a table that has rows
        columns[name] = sql_type(column) + (" NOT NULL" if column.role in ("entity", "timestamp") else "")
    columns |= {"predicted": "text NOT NULL"}
    columns |= dict.fromkeys(probability_columns(contract.classes).values(), "real")
    return columns | {
        "confidence": "real NOT NULL",
        "model_version": "integer NOT NULL",
        "scored_at": "timestamptz NOT NULL",
    }


def partition_indexes(contract: Contract, table: str) -> list[str]:
    """Statements that give a filled table the indexes of a partition of the scored rows."""
    lookup = [f"CREATE INDEX ON {table} ({identifiers(names)})" for names in _indexed(contract).values()]
    return [f"ALTER TABLE {table} ADD PRIMARY KEY (run_id, row_nr)", *lookup]


def _indexed(contract: Contract) -> dict[str, tuple[str, ...]]:
    """The columns of each index of the scored rows, by its name."""
    indexes = {"scored_entity": contract.named("entity", "timestamp"), "scored_key": contract.named("key")}
    return {name: columns for name, columns in indexes.items() if columns}


def scored_day(contract: Contract, scored: str) -> str:
    """SQL of the day of a scored row: that of its timestamp, or without one that of its scoring, in UTC."""
    if contract.has_timestamp:
        return postgres_day_sql(contract, scored)
    return f"({scored}.scored_at AT TIME ZONE 'UTC')::date"


def scored_cluster(contract: Contract, scored: str) -> str:
    """SQL of the cluster of a scored row: its entity, or without one the row itself."""
    if contract.has_entity:
        return f"{scored}.{identifier(contract.entity)}"
    return f"{scored}.run_id || '/' || {scored}.row_nr"


def _comment(kind: str, name: str, text: str) -> str:
    return f"COMMENT ON {kind} {name} IS {literal(text)}"


def _view(name: str, query: str, comment: str) -> list[str]:
    """Statements that create a view, or replace it, with its comment."""
    return [f"CREATE OR REPLACE VIEW {name} AS {query}", _comment("VIEW", name, comment)]


VIEWS = (
    "scored_current",
    "class_mix_daily",
    "confidence_daily",
    "lineage",
    "shadow_comparison",
    "drop_outcomes",
    "outcome_coverage",
    "online_answers",
    "pipeline_state",
)
"""The views that readers may query."""


def pipeline_ddl(contract: Contract, schema: str) -> list[str]:
    """Statements that bring the tables and views of a schema to the contract's state.

    Running them again changes nothing.
    """
    at = f"{identifier(schema)}."
    return [
        *_scored_ddl(contract, at),
        *_current_views(contract, at),
        *_lineage_view(contract, at),
        *_outcome_views(contract, at),
        *_shadow_ddl(contract, at),
        *_online_ddl(contract, at),
        *_state_view(at),
        *(f"GRANT SELECT ON {at}{view} TO apex_reader" for view in VIEWS),
    ]


def _scored_ddl(contract: Contract, at: str) -> list[str]:
    """The table of scored rows."""
    columns = scored_columns(contract)
    body = ", ".join(f"{identifier(name)} {kind}" for name, kind in columns.items())
    added = [*probability_columns(contract.classes).values()]
    added += contract.named("key", "passthrough")
    lookup = [
        f"CREATE INDEX IF NOT EXISTS {name} ON {at}scored ({identifiers(indexed)})"
        for name, indexed in _indexed(contract).items()
    ]
    return [
        f"CREATE TABLE IF NOT EXISTS {at}scored ({body}, PRIMARY KEY (run_id, row_nr)) PARTITION BY RANGE (run_id)",
        *(f"ALTER TABLE {at}scored ADD COLUMN IF NOT EXISTS {identifier(n)} {columns[n]}" for n in added),
        *lookup,
        _comment(
            "TABLE",
            f"{at}scored",
            "One row for each scored row of a scoring run. row_nr is its position in the drop, from 0, or its line of"
            " CSV.",
        ),
    ]


def _current_views(contract: Contract, at: str) -> list[str]:
    """The current scores, and their classes and confidence by day."""
    when = scored_day(contract, "s")
    return [
        *_view(
            f"{at}scored_current",
            f"""
            SELECT r.drop_id, r.mlflow_run_id, s.* FROM {at}scored AS s JOIN {at}scoring_runs AS r USING (run_id)
            WHERE s.run_id IN (SELECT run_id FROM {at}drop_summary WHERE superseded_by IS NULL)""",
            "One row for each scored row of every drop that is not superseded, from the latest run.",
        ),
        *_view(
            f"{at}class_mix_daily",
            f"""
            SELECT {when} AS day, predicted, count(*) AS rows,
                   count(*)::double precision / sum(count(*)) OVER (PARTITION BY {when}) AS share
            FROM {at}scored_current AS s GROUP BY 1, 2""",
            "One row for each day of rows and predicted class, with its share of that day.",
        ),
        *_view(
            f"{at}confidence_daily",
            f"""
            SELECT {when} AS day, model_version, count(*) AS rows, avg(confidence) AS mean_confidence,
                   percentile_cont(0.5) WITHIN GROUP (ORDER BY confidence) AS median_confidence
            FROM {at}scored_current AS s GROUP BY 1, 2""",
            "One row for each day of rows and model version, with the confidence of its predictions.",
        ),
    ]


def _lineage_view(contract: Contract, at: str) -> list[str]:
    """The origin of each scored row."""
    names = ["run_id", "row_nr", *map(identifier, contract.named("entity", "timestamp"))]
    later = "".join(f", s.{identifier(name)}" for name in contract.named("key"))
    return _view(
        f"{at}lineage",
        f"""
            SELECT {", ".join(f"s.{name}" for name in names)}, s.predicted, s.confidence, s.scored_at,
                   d.name AS drop_name, d.sha256 AS drop_sha256, r.feature_snapshot, r.model_name, r.model_version,
                   r.mlflow_run_id, v.data_sha256, v.contract_sha256, v.git_commit, v.step_run AS training_run,
                   coalesce(v.about -> 'tables', '[]'::jsonb) AS training_tables{later}
            FROM {at}scored AS s JOIN {at}scoring_runs AS r USING (run_id) JOIN {at}drops AS d USING (drop_id)
            LEFT JOIN {at}model_versions AS v
                ON v.model_name = r.model_name AND v.model_version = r.model_version""",
        "One row for each scored row: drop, model version, training data and code.",
    )


def _outcome_views(contract: Contract, at: str) -> list[str]:
    """The known outcomes of scored rows, by drop and by day."""
    when = scored_day(contract, "s")
    return [
        *_view(
            f"{at}drop_outcomes",
            f"""
            SELECT d.drop_id, d.name, d.run_id, d.model_version, s.predicted, o.observed, count(*) AS rows,
                   avg(s.confidence) AS mean_confidence
            FROM {at}outcomes AS o JOIN {at}scored AS s USING (run_id, row_nr)
            JOIN {at}drop_summary AS d USING (run_id)
            GROUP BY 1, 2, 3, 4, 5, 6""",
            "One row for each drop, predicted class and observed class: rows of the latest run with a known outcome.",
        ),
        *_view(
            f"{at}outcome_coverage",
            f"""
            SELECT {when} AS day, count(*) AS scored, count(o.observed) AS with_outcome,
                   count(o.observed)::double precision / count(*) AS share
            FROM {at}scored_current AS s LEFT JOIN {at}outcomes AS o USING (run_id, row_nr) GROUP BY 1""",
            "One row for each day of rows: scored rows, and how many of them have a known outcome.",
        ),
    ]


def _shadow_ddl(contract: Contract, at: str) -> list[str]:
    """The scores of shadow challengers, and their comparison with the champion's on the same rows."""
    columns = {name: level for level, name in probability_columns(contract.classes).items()}
    body = ", ".join(f"{identifier(name)} real" for name in columns)

    def loss(table: str) -> str:
        # a float32 probability can be 0, which has no logarithm; without an outcome the loss is null
        observed = " ".join(
            f"WHEN {literal(level)} THEN CASE WHEN {table}.{identifier(name)} < 1e-15 THEN 1e-15 ELSE"
            f" {table}.{identifier(name)}::double precision END"
            for name, level in columns.items()
        )
        return f"avg(-ln(CASE o.observed {observed} END))"

    return [
        f"CREATE TABLE IF NOT EXISTS {at}shadow_scores (run_id bigint NOT NULL, model_version integer NOT NULL,"
        f" row_nr bigint NOT NULL, predicted text NOT NULL, {body}, PRIMARY KEY (run_id, model_version, row_nr))",
        *(f"ALTER TABLE {at}shadow_scores ADD COLUMN IF NOT EXISTS {identifier(n)} real" for n in columns),
        _comment(
            "TABLE",
            f"{at}shadow_scores",
            "One row for each row and shadow challenger. The keys are those of scored.",
        ),
        *_view(
            f"{at}shadow_comparison",
            f"""
            SELECT h.run_id, d.name AS drop_name, r.model_version AS champion_version,
                   h.model_version AS challenger_version, h.state, h.reason, h.rows_scored AS rows,
                   avg((s.predicted = c.predicted)::integer)::double precision AS same_prediction,
                   count(o.observed) AS outcomes, {loss("s")} AS challenger_log_loss,
                   {loss("c")} AS champion_log_loss, h.finished_at
            FROM {at}shadow_runs AS h JOIN {at}scoring_runs AS r USING (run_id) JOIN {at}drops AS d USING (drop_id)
            LEFT JOIN {at}shadow_scores AS s ON s.run_id = h.run_id AND s.model_version = h.model_version
            LEFT JOIN {at}scored AS c ON c.run_id = s.run_id AND c.row_nr = s.row_nr
            LEFT JOIN {at}outcomes AS o ON o.run_id = s.run_id AND o.row_nr = s.row_nr
            GROUP BY h.run_id, h.model_version, d.drop_id, r.run_id""",
            "One row for each scored drop and challenger: share of equal predictions, and both log losses where the"
            " outcome is known.",
        ),
    ]


def online_columns(contract: Contract) -> dict[str, str]:
    """Columns of the recorded online answers with their SQL types, in order, without the generated key."""
    columns = {"request_id": "text NOT NULL", "place": "integer NOT NULL"}
    own_names = online_names(contract)
    for name in contract.named(*ROLES_OF_A_DROP):
        column = contract.columns[name]
        is_required = column.role in ("entity", "timestamp")
        columns[own_names[name]] = sql_type(column) + (" NOT NULL" if is_required else "")
    columns |= {"known_entity": "boolean NOT NULL", "predicted": "text NOT NULL"}
    columns |= dict.fromkeys(probability_columns(contract.classes).values(), "real")
    return columns | {
        "confidence": "real NOT NULL",
        "model_name": "text NOT NULL",
        "model_version": "integer NOT NULL",
        "answered_at": "timestamptz NOT NULL",
    }


def _online_ddl(contract: Contract, at: str) -> list[str]:
    """The recorded answers of the online service."""
    columns = online_columns(contract)
    body = ", ".join(f"{identifier(name)} {kind}" for name, kind in columns.items())
    own_names = online_names(contract)
    added = [own_names[name] for name in contract.named("attribute", "key", "passthrough")]
    added += probability_columns(contract.classes).values()
    return [
        f"CREATE TABLE IF NOT EXISTS {at}online_rows"
        f" (answer_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, {body})",
        *(f"ALTER TABLE {at}online_rows ADD COLUMN IF NOT EXISTS {identifier(n)} {columns[n]}" for n in added),
        f"CREATE INDEX IF NOT EXISTS online_rows_answered ON {at}online_rows (answered_at)",
        _comment("TABLE", f"{at}online_rows", "One row for each sampled row that the online service scored."),
        *_view(
            f"{at}online_answers",
            # all columns of the table: later columns of the contract come last in both
            f"SELECT 'online' AS source, o.* FROM {at}online_rows AS o",
            "One row for each recorded answer of the online service: the row, its place in the request (from 0), the"
            " prediction and the model version. A sample, by the option serving.record_share.",
        ),
    ]


STATE_WEEKS = 24
"""Rows of quality by week and version in the state of a pipeline."""


def _state_view(at: str) -> list[str]:
    """The state of a pipeline in one row, for the overview of all: its cost does not grow with the number of drops."""
    # by the numbers of drops: those of runs are not in the order of time
    return _view(
        f"{at}pipeline_state",
        f"""
            SELECT p.model_name, p.to_version AS champion_version, p.decided_at AS champion_since,
                   d.name AS drop_name, d.state AS drop_state, d.reason AS drop_reason, d.received_at,
                   r.rows_scored, r.finished_at,
                   (SELECT coalesce(sum(rows_scored), 0)::bigint FROM {at}scoring_runs WHERE drop_id > coalesce(
                       (SELECT drop_id FROM {at}drops WHERE received_at < now() - interval '7 days'
                        ORDER BY drop_id DESC LIMIT 1), 0)) AS rows_scored_7_days,
                   (SELECT coalesce(jsonb_object_agg(kind, alerts), '{{}}') FROM
                       (SELECT kind, count(*) AS alerts FROM {at}alerts WHERE resolved_at IS NULL GROUP BY kind)
                       AS k) AS open_alerts,
                   (SELECT coalesce(jsonb_agg(jsonb_build_object('week', week, 'log_loss', log_loss,
                       'prior_log_loss', prior_log_loss, 'worse', worse OR coalesce(sustained, false))), '[]') FROM
                       (SELECT week, log_loss, prior_log_loss, worse, sustained FROM {at}model_quality AS q
                        WHERE q.model_name = p.model_name AND log_loss IS NOT NULL
                        ORDER BY week DESC, outcomes DESC, model_version DESC LIMIT {STATE_WEEKS}) AS w) AS quality
            FROM (SELECT 1) AS one_row
            LEFT JOIN (SELECT drop_id, name, state, reason, received_at FROM {at}drops ORDER BY drop_id DESC LIMIT 1)
                AS d ON true
            LEFT JOIN LATERAL (SELECT rows_scored, finished_at FROM {at}scoring_runs AS s
                WHERE s.drop_id = d.drop_id ORDER BY run_id DESC LIMIT 1) AS r ON true
            LEFT JOIN LATERAL (SELECT model_name, to_version, decided_at FROM {at}promotions
                WHERE state = 'done' AND action <> 'reject' ORDER BY promotion_id DESC LIMIT 1) AS p ON true""",
        "One row: the champion, the newest drop, the rows scored of the drops of seven days, the open alerts by kind,"
        " and the quality of the newest weeks, of each week the version with the most outcomes first.",
    )
