"""Names that a contract of an earlier version of Apex may still have."""

from __future__ import annotations

import logging

from apex_ml.contract.reading import ContractFile

logger = logging.getLogger(__name__)
RENAMED_BATCH_RULES = {"lone_future": "future_date_outlier"}


def replace_former_names(file: ContractFile) -> None:
    """Give the batch rules of a contract their present names; warn about each former one, with its line."""
    batch = file.data.get("batch") if isinstance(file.data, dict) else None
    rules = batch.get("rules") if isinstance(batch, dict) else None
    for number, rule in enumerate(rules if isinstance(rules, tuple) else ()):
        former = rule.get("rule") if isinstance(rule, dict) else None
        if isinstance(former, str) and former in RENAMED_BATCH_RULES:
            rule["rule"] = RENAMED_BATCH_RULES[former]
            logger.warning(
                "the batch rule %s is now called %s. It is still read; please rename it (%s, line %s)",
                *(former, rule["rule"], file.path, file.line_of(("batch", "rules", number, "rule"))),
            )
