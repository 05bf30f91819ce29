"""Results of a load test: latencies, failures and predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from pydantic_core import from_json

from apex_ml.adapters.mlflow.inference_log import SAMPLE_ROWS
from apex_ml.wording import counted

NO_JSON = "an answer that is no JSON"


@dataclass
class LoadtestResults:
    """The measurements. Times are in milliseconds, one per request."""

    classes: tuple[str, ...]
    started: datetime
    seconds: float = 0.0
    rows: int = 0
    answered: int = 0
    requests: int = 0
    times: list[float] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    predicted: Counter[str] = field(default_factory=Counter)
    confidence_of: dict[str, float] = field(default_factory=dict)
    truth: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(true class, predicted class) of rows whose class is known."""
    versions: Counter[int] = field(default_factory=Counter)
    sample: list[dict[str, Any]] = field(default_factory=list)

    @property
    def success_rate(self) -> float:
        """Share of the rows that were answered."""
        return self.answered / self.rows if self.rows else 1.0

    def quantile(self, q: float) -> float:
        """A quantile of the times; nan without any."""
        return float(np.quantile(self.times, q)) if self.times else float("nan")

    def metrics(self) -> dict[str, float]:
        """The metrics under the names that scoring uses."""
        metrics = {
            "inference_samples": float(self.answered),
            "inference_total_time_ms": self.seconds * 1e3,
            "inference_success_rate": self.success_rate,
            "inference_requests": float(self.requests),
            "inference_rows_per_second": self.answered / self.seconds if self.seconds else 0.0,
        }
        if self.times:
            metrics |= {
                "inference_avg_time_ms": float(np.mean(self.times)),
                "inference_time_ms_p50": self.quantile(0.5),
                "inference_time_ms_p95": self.quantile(0.95),
                "inference_time_ms_p99": self.quantile(0.99),
                "inference_time_ms_max": max(self.times),
            }
        if self.confidences:
            metrics |= {
                "inference_confidence_mean": float(np.mean(self.confidences)),
                "inference_confidence_median": float(np.median(self.confidences)),
            }
        for level in self.classes:
            metrics[f"pred_count_{level}"] = float(self.predicted[level])
            if self.predicted[level]:
                metrics[f"pred_confidence_{level}"] = self.confidence_of[level] / self.predicted[level]
        known = sum(self.truth.values())
        if known:
            metrics["inference_known"] = float(known)
            metrics["inference_accuracy"] = (
                sum(n for (true, predicted), n in self.truth.items() if true == predicted) / known
            )
            for level in self.classes:
                metrics[f"true_count_{level}"] = float(sum(n for (true, _), n in self.truth.items() if true == level))
        return metrics

    def lines(self) -> Iterator[str]:
        """The metrics as text."""
        each = self.requests / self.seconds
        yield f"requests             {self.requests:,} in {self.seconds:.1f} s, {each:,.0f} a second"
        yield f"rows                 {self.rows:,}, {self.answered / self.seconds:,.0f} answered a second"
        yield f"success rate         {self.success_rate:.2%}"
        for reason, count in self.failures.most_common(10):
            yield f"  failed             {counted(count, 'request')}: {reason}"
        if self.times:
            yield (
                f"latency              mean {np.mean(self.times):.2f} ms, median {self.quantile(0.5):.2f},"
                f" p95 {self.quantile(0.95):.2f}, p99 {self.quantile(0.99):.2f}, max {max(self.times):.2f}"
            )
        if self.confidences:
            yield f"confidence           mean {np.mean(self.confidences):.4f}, median {np.median(self.confidences):.4f}"
        yield "model version        " + (
            ", ".join(f"{v} ({counted(n, 'request')})" for v, n in sorted(self.versions.items())) or "none"
        )
        for level in self.classes:
            true = sum(n for (t, _), n in self.truth.items() if t == level)
            right = self.truth[(level, level)]
            beside = f", true {true:,}, of them predicted correctly {right:,}" if self.truth else ""
            yield f"  {level:<18} predicted {self.predicted[level]:,}{beside}"

    def add(self, status: int, body: bytes, milliseconds: float, truth: Sequence[str | None]) -> None:
        """Count one answer."""
        self.requests += 1
        self.rows += len(truth)
        self.times.append(milliseconds)
        if status != 200:
            try:
                message = from_json(body)["message"]
            except (ValueError, KeyError, TypeError):
                message = ""
            self.failures[f"{status} {message}".strip()] += 1
            return
        try:
            answer = from_json(body)
        except ValueError:
            self.failures[f"200 {NO_JSON}"] += 1
            return
        self.answered += len(answer["predictions"])
        self.versions[answer["model"]["version"]] += 1
        for prediction, true in zip(answer["predictions"], truth, strict=True):
            level, confidence = prediction["predicted"], prediction["confidence"]
            self.predicted[level] += 1
            self.confidence_of[level] = self.confidence_of.get(level, 0.0) + confidence
            self.confidences.append(confidence)
            if true is not None:
                self.truth[(true, level)] += 1
        if len(self.sample) < SAMPLE_ROWS:
            self.sample += answer["predictions"][: SAMPLE_ROWS - len(self.sample)]
