"""Names that a contract of an earlier version of Apex may still have."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from apex_ml.contract.part import Place
from apex_ml.contract.reading import ContractFile

logger = logging.getLogger(__name__)
RENAMED_BATCH_RULES = {"lone_future": "future_date_outlier"}
RENAMED_GRAINS = {"last_order_per_entity": "last_row_per_entity", "every_order": "every_row"}
RENAMED_POLICY = {"segment_orders": "segment_rows", "max_us_per_order": "max_us_per_row"}


def replace_former_names(file: ContractFile) -> None:
    """Give batch rules, grain and policy of a contract their present names; warn about each former one, with its line.

    A key that is there under both names keeps both, and the former one is refused as unknown.
    """
    contract = file.data if isinstance(file.data, dict) else {}
    batch = contract.get("batch")
    rules = batch.get("rules") if isinstance(batch, dict) else None
    for number, rule in enumerate(rules if isinstance(rules, tuple) else ()):
        former = rule.get("rule") if isinstance(rule, dict) else None
        if isinstance(former, str) and former in RENAMED_BATCH_RULES:
            rule["rule"] = RENAMED_BATCH_RULES[former]
            _warn(file, "batch rule", former, rule["rule"], ("batch", "rules", number, "rule"))
    features, policy = contract.get("features"), contract.get("promotion")
    grain = features.get("grain") if isinstance(features, dict) else None
    if isinstance(features, dict) and isinstance(grain, str) and grain in RENAMED_GRAINS:
        features["grain"] = RENAMED_GRAINS[grain]
        _warn(file, "grain", grain, features["grain"], ("features", "grain"))
    for former, present in RENAMED_POLICY.items():
        if isinstance(policy, dict) and former in policy and present not in policy:
            policy[present] = policy.pop(former)
            _warn(file, "key", f"promotion.{former}", f"promotion.{present}", ("promotion", former))


def _warn(file: ContractFile, what: str, former: str, present: str, place: Place) -> None:
    logger.warning(
        "the %s %s is now called %s. It is still read; please rename it (%s, line %s)",
        *(what, former, present, file.path, file.line_of(place)),
    )


def with_present_names(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a contract's identity, as a model of any version keeps it, with the present name of its grain.

    >>> with_present_names({"features": {"grain": "every_order"}})
    {'features': {'grain': 'every_row'}}
    """
    features = identity.get("features")
    if not isinstance(features, Mapping) or not isinstance(grain := features.get("grain"), str):
        return dict(identity)
    return {**identity, "features": {**features, "grain": RENAMED_GRAINS.get(grain, grain)}}


def with_former_names(contract: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a contract as the first edition wrote it: models are known by a digest of that.

    >>> with_former_names({"features": {"grain": "every_row"}, "promotion": {"margin": 0.1, "segment_rows": 500}})
    {'features': {'grain': 'every_order'}, 'promotion': {'margin': 0.1, 'segment_orders': 500}}
    """
    grains = {present: former for former, present in RENAMED_GRAINS.items()}
    keys = {present: former for former, present in RENAMED_POLICY.items()}
    content = dict(contract)
    content["features"] = {k: grains[v] if k == "grain" else v for k, v in contract["features"].items()}
    if "promotion" in contract:
        content["promotion"] = {keys.get(k, k): v for k, v in contract["promotion"].items()}
    return content
