"""Promotion: whether the challenger replaces the champion. See :mod:`apex_ml.core.promotion.gate`."""

from apex_ml.core.promotion.contenders import Contender, Holdout, Serving
from apex_ml.core.promotion.evidence import ComparedVersions, Evidence
from apex_ml.core.promotion.gate import PromotionDecision, decide, level_of_look

__all__ = [
    "ComparedVersions",
    "Contender",
    "Evidence",
    "Holdout",
    "PromotionDecision",
    "Serving",
    "decide",
    "level_of_look",
]
