"""Words that must not come back into the documents. A reminder: it does not replace reading them aloud."""

from __future__ import annotations

import re

import pytest
from documents import DOCUMENTS, Document

AVOIDED = {
    r"\b(?:is|are|was|were|be) told\b|\btells of\b": "reports, shows, error message",
    r"\bjudge[ds]?\b|\bjudgement\b": "evaluate, detect, predict, check",
    r"\bby hand\b|\bperson's word\b": "manual override, on the command line",
    r"\bsurely\b": "significantly, 95 % lower bound",
    r"\bwhat (?:became|becomes) of\b": "outcome of",
    r"\bwhat proves it\b|\bwhat is not promised\b|\bhow it is kept\b": "Tests, Limitations, How it works",
    r"\bstands? once\b|\bso long the\b": "unique, timeout",
    r"\bturned down\b|\bas of the moment\b": "rejected, point in time",
    r"\banew\b": "again",
}


@pytest.mark.parametrize("document", DOCUMENTS, ids=[d.name for d in DOCUMENTS])
def test_documents_are_in_plain_english(document: Document) -> None:
    text = re.sub(r"`[^`]*`", "", document.written)  # names of the code are what the code has
    result = [
        f"{match[0]!r}: write {better}"
        for word, better in AVOIDED.items()
        for match in re.finditer(word, text, re.IGNORECASE)
    ]
    assert result == []
