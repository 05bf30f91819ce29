"""Check the damaged files of some numbers. Print a line of JSON before and after each, which reveals a crash.

``python fuzz_worker.py FOLDER FIRST STOP STEP SOURCE…``
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

CODE = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(CODE), str(Path(__file__).parent)]

from corruptions import Case, corrupt  # noqa: E402
from reference_rules import violations  # noqa: E402

from apex_ml.adapters.duckdb import engine  # noqa: E402
from apex_ml.adapters.duckdb.engine import make_strict  # noqa: E402
from apex_ml.adapters.duckdb.row_checks import check_file  # noqa: E402
from apex_ml.contract.model import Contract  # noqa: E402
from apex_ml.contract.per_use import USES  # noqa: E402
from apex_ml.contract.pipeline_file import load_contract  # noqa: E402
from apex_ml.errors import DataError  # noqa: E402
from apex_ml.settings import Settings  # noqa: E402


def verdict(
    con: duckdb.DuckDBPyConnection, case: Case, number: int, contract: Contract, folder: Path
) -> dict[str, object]:
    """The outcome of a file: refused with a typed error, right, or wrong with the reason."""
    use = USES[number % 2]
    accepted, bad = folder / "accepted.parquet", folder / "bad.parquet"
    bad.unlink(missing_ok=True)
    try:
        report = check_file(make_strict(con), case.path, contract, use, as_of=None, accepted=accepted, quarantined=bad)
    except DataError as error:
        names_file = str(error).startswith(case.path.name)
        return {"state": "refused"} if names_file else {"state": "wrong", "why": f"the file is not named: {error}"}
    except BaseException as error:  # noqa: BLE001  any other error is a finding
        return {"state": "wrong", "why": f"{type(error).__module__}.{type(error).__name__}: {error}"}
    table = pq.read_table(accepted)
    quarantined = pq.read_table(bad) if bad.exists() else None
    held = table.num_rows + (quarantined.num_rows if quarantined is not None else 0)
    if case.certain:
        return {"state": "wrong", "why": "accepted, against its checksum"}
    if (report.rows, report.accepted) != (held, table.num_rows):
        return {"state": "wrong", "why": f"{report.rows} rows in, {held} held"}
    if quarantined is not None:
        for row in quarantined.slice(0, 200).to_pylist():
            if not json.loads(row["reasons"]) or "NaN" in json.dumps(json.loads(row["row"])):
                return {"state": "wrong", "why": f"quarantined badly: {row}"}
    if result := violations(table, contract, use):
        return {"state": "wrong", "why": f"accepted against the contract: {result[:3]}"}
    return {"state": "right", "rows": report.rows, "quarantined": report.quarantined}


def main(folder: Path, first: int, stop: int, step: int, sources: list[Path]) -> None:
    """Work through the numbers; a line before each says which one is at work."""
    contract = load_contract(CODE / "pipelines" / "orders" / "pipeline.yaml")
    with engine.connect(Settings.load(home=folder), folder) as con:  # one for all, as in a run
        for number in range(first, stop, step):
            print(json.dumps({"at": number}), flush=True)
            case = corrupt(number, sources, folder)
            began = time.monotonic()
            result = verdict(con, case, number, contract, folder)
            seconds = round(time.monotonic() - began, 2)
            case.path.unlink()
            print(json.dumps({"number": number, "what": case.what, "seconds": seconds, **result}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]), [Path(name) for name in sys.argv[5:]])
