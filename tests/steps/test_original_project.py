"""The original project's way: its features and rules, compared with plain Python, never promoted."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apex_ml.contract.model import Contract
from apex_ml.core.estimator import Encoder
from apex_ml.core.evaluation import row_losses
from apex_ml.core.split import PARTS
from apex_ml.core.strategies.legacy import LegacyRules, legacy_columns, legacy_identifiers
from apex_ml.pipelines import load_pipeline
from apex_ml.services.holdout import class_indexes
from apex_ml.settings import Settings
from apex_ml.steps.elt import elt
from apex_ml.steps.promote import promote
from apex_ml.steps.split import split
from apex_ml.steps.validate import validate
from tests.support.apex_home import Apex

EIGHT = [
    "pais_cd",
    "tipo_cliente_cd",
    "madurez_digital_cd",
    "estrellas_txt",
    "frecuencia_visitas_cd",
    "cajas_fisicas",
    "fecha_pedido_dt_day_of_week",
    "fecha_pedido_dt_quarter",
]
SUMMED = ("facturacion_usd_val", "materiales_distintos_val", "cajas_fisicas")


@pytest.fixture(scope="module")
def divided(raw: Path, lasting_databases: Any, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Apex:
    """A separate home with a run up to the legacy split."""
    settings = Settings.load(
        home=tmp_path_factory.mktemp("original"),
        raw_url=str(raw),
        mlflow_tracking_uri=mlflow_server,
        model_name="original",
        threads=1,
        **lasting_databases.migrated(),
    )
    context = Apex(settings).context("legacy")
    validate(context, raw=None, as_of=None, force=False)
    elt(context)
    assert not split(context, strategy="legacy").to_json()["promotable"]
    return Apex(settings)


def parts(apex: Apex) -> dict[str, pa.Table]:
    return {part: pq.read_table(apex.processed / "legacy" / "split" / f"{part}.parquet") for part in PARTS}


def test_sums_include_the_last_order(divided: Apex, orders: pa.Table, contract: Contract) -> None:
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    last: dict[str, Any] = {}
    for row in orders.to_pylist():
        for place, measure in enumerate(SUMMED):
            sums[row["cliente_id"]][place] += row[measure]
        last[row["cliente_id"]] = max(last.get(row["cliente_id"], row["fecha_pedido_dt"]), row["fecha_pedido_dt"])
    rows = pa.concat_tables(parts(divided).values()).to_pylist()
    assert sorted(r["cliente_id"] for r in rows) == sorted(sums)
    for row in rows:
        assert [row[m] for m in SUMMED] == pytest.approx(sums[row["cliente_id"]], abs=1e-6)
        day = last[row["cliente_id"]]
        assert row["fecha_pedido_dt"] == day.date()
        assert row["fecha_pedido_dt_day_of_week"] == day.weekday()
        assert row["fecha_pedido_dt_quarter"] == (day.month - 1) // 3 + 1


def test_the_parts_have_equal_class_shares(divided: Apex, contract: Contract) -> None:
    shares = []
    for table in parts(divided).values():
        counts = Counter(table.column(contract.target).to_pylist())
        shares.append([counts[name] / table.num_rows for name in contract.classes])
    assert np.ptp(shares, axis=0).max() < 0.002


def test_the_run_is_registered_compared_and_never_promoted(divided: Apex, contract: Contract) -> None:
    done = divided.call("train", "--run", "legacy")
    assert done.code == 0 and done.result is not None, done.err
    assert done.result["features"] == EIGHT
    original, corrected, ours, prior = done.result["comparison"]
    # balanced weights make the probabilities of a booster wrong, so that even the class prior is better
    assert original["test_log_loss"] > prior["test_log_loss"] > corrected["test_log_loss"]
    assert original["calibration_error"] > 1.5 * corrected["calibration_error"]
    assert corrected["test_log_loss"] == pytest.approx(done.result["test_log_loss"], abs=1e-9)
    assert ours["test_log_loss"] < prior["test_log_loss"]
    y = class_indexes(parts(divided)["test"], contract.target, contract.classes)
    shares = np.bincount(class_indexes(parts(divided)["train"], contract.target, contract.classes)) / 1.0
    p = np.tile(shares / shares.sum(), (len(y), 1))
    assert prior["test_log_loss"] == pytest.approx(row_losses(p, y).mean(), abs=1e-9)
    report = (divided.processed / "legacy" / "train" / "report" / "report.html").read_text()
    assert "The original way beside ours" in report and "agencia_id" in report and "an identifier" in report

    second = divided.call("train", "--run", "legacy", "--reproduce")
    assert second.code == 0 and second.result is not None, second.err
    assert second.result["reproduced"]

    decided = promote(divided.context("legacy"), who="test").to_json()
    assert not decided["promoted"] and decided["champion_version"] is None
    assert any("not temporal" in reason for reason in decided["reasons"])


def test_another_grain_is_refused_with_the_remedy(divided: Apex, tmp_path: Path) -> None:
    written = load_pipeline(divided.settings).file.read_text(encoding="utf-8")
    own = tmp_path / "own.yaml"
    own.write_text(written.replace("grain: last_row_per_entity", "grain: every_row"), encoding="utf-8")
    apex = divided.but(home=tmp_path, processed_url="", contract=own)
    context = apex.context("every")
    validate(context, raw=None, as_of=None, force=True)
    elt(context)
    done = apex.call("split", "--run", "every", "--strategy", "legacy")
    assert done.code == 30
    assert "set grain: last_row_per_entity" in done.err and "Traceback" not in done.err


@pytest.mark.real
def test_the_eight_features_and_the_known_counts_of_the_real_files(
    real_raw: Path, lasting_databases: Any, mlflow_server: str, tmp_path: Path, contract: Contract
) -> None:
    settings = Settings.load(
        home=tmp_path, raw_url=str(real_raw), mlflow_tracking_uri=mlflow_server, **lasting_databases.migrated()
    )
    apex = Apex(settings.with_pipeline_values(model__name="real_original"))
    context = apex.context("legacy")
    validate(context, raw=None, as_of=None, force=False)
    assert elt(context).to_json()["examples"] == 149_960
    counts = split(context, strategy="legacy").to_json()["parts"]
    assert [p["examples"] for p in counts.values()] == [89_976, 29_992, 29_992]
    train = parts(apex)["train"]
    encoder = Encoder.fit(legacy_columns(contract), train)
    verdicts = {
        v.name: v for v in LegacyRules().evaluate(encoder.columns, encoder.encode(train), legacy_identifiers(contract))
    }
    assert [name for name, v in verdicts.items() if v.kept] == EIGHT
    reasons = {name: v.reason for name, v in verdicts.items() if not v.kept}
    assert set(reasons) == {
        *("region_comercial_txt", "facturacion_usd_val", "materiales_distintos_val"),
        *("cliente_id", "agencia_id", "ruta_id"),
    }
    assert "Cramér's V with pais_cd" in reasons["region_comercial_txt"]
    assert "correlation with cajas_fisicas" in reasons["facturacion_usd_val"]
    done = apex.call("train", "--run", "legacy")
    assert done.code == 0 and done.result is not None, done.err
    original, corrected, ours, prior = done.result["comparison"]
    assert original["validation_log_loss"] == pytest.approx(1.0486, abs=0.003)  # what the original project reported
    assert prior["validation_log_loss"] == pytest.approx(1.0308, abs=0.0005)
    assert corrected["validation_log_loss"] < 0.995 and ours["validation_log_loss"] < 0.99
