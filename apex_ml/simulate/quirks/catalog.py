"""All quirks by name, and how an option of the command names one."""

from __future__ import annotations

from apex_ml.errors import ConfigError
from apex_ml.simulate.process import Process
from apex_ml.simulate.quirks import columns, deliveries, values
from apex_ml.simulate.quirks.interface import Quirk, Quirks, Rate
from apex_ml.simulate.quirks.selection import check_rate

DEFAULT_RATE = 0.005
QUIRKS: Quirks = {**values.QUIRKS, **columns.QUIRKS, **deliveries.QUIRKS}


def parse_quirk(text: str, process: Process) -> tuple[str, Rate, list[str] | None]:
    """Read ``NAME[:RATE[:COLUMN,...]]``: name, rate (0.005 when absent), columns (None: the process file's).

    Raises ConfigError for an unknown name, a rate outside (0, 1] that is not ``one``, or an unknown column.

    >>> from apex_ml.simulate.process import load_process
    >>> parse_quirk("nulls:one", load_process())
    ('nulls', 'one', None)
    """
    name, _, rest = text.partition(":")
    rate_text, _, columns_text = rest.partition(":")
    quirk_of(name)
    rate: Rate = DEFAULT_RATE
    if rate_text == "one":
        rate = "one"
    elif rate_text:
        try:
            rate = float(rate_text)
        except ValueError as error:
            raise ConfigError(f"quirk {text!r}: rate {rate_text!r} is neither a number nor 'one'") from error
    check_rate(name, rate)
    columns = columns_text.split(",") if columns_text else None
    if columns and name != "extra_column" and (unknown := [c for c in columns if c not in process.columns]):
        raise ConfigError(f"quirk {text!r}: no column {unknown[0]}; there are {', '.join(process.columns)}")
    return name, rate, columns


def quirk_of(name: str) -> Quirk:
    """One quirk by name; ConfigError lists the known ones."""
    if name not in QUIRKS:
        raise ConfigError(f"quirk {name!r}: unknown; there are {', '.join(QUIRKS)}")
    return QUIRKS[name]
