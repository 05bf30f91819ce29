"""The documents are in plain English, as the code is."""

from __future__ import annotations

import re

import pytest
from documents import DOCUMENTS, Document

from tests.support.language import avoided_texts


@pytest.mark.parametrize("document", DOCUMENTS, ids=[d.name for d in DOCUMENTS])
def test_documents_are_in_plain_english(document: Document) -> None:
    assert avoided_texts(re.sub(r"`[^`]*`", "", document.written)) == []  # names of the code are what the code has
