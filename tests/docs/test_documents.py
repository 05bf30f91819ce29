"""What the documents say exists: commands, settings, views, files."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import psycopg2
import pytest
from documents import DOCUMENTS, INLINE, Document

from apex_ml.cli.main import COMMANDS, apex
from apex_ml.contract.options import SECTIONS
from apex_ml.contract.options_file import option_field, options_of
from apex_ml.pipeline_settings import FILE
from apex_ml.pipeline_values import OVERRIDE
from apex_ml.settings import CODE_ROOT, Settings

README = DOCUMENTS[0]
PAGES = {document.name.removeprefix("docs/"): document for document in DOCUMENTS}
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (CODE_ROOT / "Makefile").read_text(), re.MULTILINE))
QUERIES = [(document, query) for document in DOCUMENTS for query in document.blocks("sql")]

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=[d.name for d in DOCUMENTS])


def test_there_are_ten_queries_and_one_in_the_readme() -> None:
    assert len(PAGES["how-to/query.md"].blocks("sql")) == 10
    assert len(README.blocks("sql")) == 1


@pytest.mark.parametrize(("document", "query"), QUERIES, ids=[f"{d.name}-{n}" for n, (d, _) in enumerate(QUERIES)])
def test_query_runs_as_the_reader_and_finds_something(reader: Any, document: Document, query: str) -> None:
    assert reader.read(query)


def test_reader_changes_nothing(reader: Any) -> None:
    with pytest.raises(psycopg2.Error, match="read-only|permission denied"):
        reader.read("DELETE FROM orders.drops RETURNING 1")


@each_document
def test_make_targets_exist(document: Document) -> None:
    names = {word for text in document.commands for word in re.findall(r"\bmake ([a-z][a-z-]*)", text)}
    assert names <= TARGETS


@each_document
def test_apex_commands_and_options_exist(document: Document) -> None:
    calls = [
        call
        for text in document.written_commands
        for call in re.findall(r"(?<![\w./])apex ([a-z][a-z-]*[^|;&>]*)", text)
    ]
    for call in calls:
        words = shlex.split(call)
        assert words[0] in COMMANDS, call
        command: click.Command | None = apex.get_command(click.Context(apex), words[0])
        if isinstance(command, click.Group) and len(words) > 1:
            below = command.get_command(click.Context(command), words[1])
            command = command if below is None and command.invoke_without_command else below
        assert command is not None, call
        known = {option for parameter in command.params for option in parameter.opts}
        if command.ignore_unknown_options:  # what apex does not know goes to psql
            continue
        inputs = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert inputs <= known, call


def test_every_command_is_documented() -> None:
    """Those that only an image calls are not for people."""
    names = {
        word
        for document in DOCUMENTS
        for text in document.written_commands
        for word in re.findall(r"(?<![\w./])apex ([a-z][a-z-]*)", text)
    }
    assert set(COMMANDS) - names == set()


def test_every_make_target_is_documented() -> None:
    names = {
        word for d in DOCUMENTS for text in d.written_commands for word in re.findall(r"\bmake ([a-z][a-z-]*)", text)
    }
    assert TARGETS - names == set()


MESSAGES = [
    (line.split("|")[1].strip(), part)
    for document in DOCUMENTS
    if document.name == "docs/reference/errors.md"
    for line in document.text.splitlines()
    if line.startswith("| `") and not re.match(r"\| `\w+Error`", line)
    for message in re.findall(r"`([^`]+)`", line.split("|")[1])
    for part in message.split("…")
    if len(part.strip()) > 3
]


def test_every_documented_error_is_in_the_code() -> None:
    """Every documented message exists: each part between its dots is in a text of the code."""
    texts = list(_texts_of_the_code())
    assert len(MESSAGES) > 40
    assert [results for results in MESSAGES if not any(results[1].strip() in text for text in texts)] == []


def _texts_of_the_code() -> Iterator[str]:
    """Every text in the code without its placeholders; scripts unchanged."""
    for folder in ("apex_ml", "plugins", "dags", "deployment"):
        for path in sorted((CODE_ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [str(p.value) if isinstance(p, ast.Constant) else "\0" for p in node.values]
                    yield "".join(parts)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
    for path in sorted((CODE_ROOT / "deployment").rglob("*.sh")):
        yield path.read_text(encoding="utf-8")


@each_document
def test_variables_exist(document: Document) -> None:
    known = {f"APEX_{name.upper()}" for name in Settings.model_fields}
    not_settings = {"APEX_TEST_RAW", "APEX_TEST_REGISTRY", "APEX_TEST_SOAK_SECONDS", "APEX_RESULT"}
    names = set(re.findall(r"\bAPEX_[A-Z_]*[A-Z]", document.written))
    assert {name for name in names if not _replaces_an_option(name)} <= known | not_settings


def _replaces_an_option(variable: str) -> bool:
    """Whether a variable replaces an option of the committed pipeline."""
    match = OVERRIDE.fullmatch(variable)
    if match is None:
        return False
    pipeline, section, key = (part.lower() for part in match.groups())
    return (CODE_ROOT / "pipelines" / pipeline / FILE).exists() and bool(option_field(section, key))


@each_document
def test_options_exist(document: Document) -> None:
    """Every ``section.key`` in inline code is an option, where the section is one of the options."""
    pattern = re.compile(rf"({'|'.join(SECTIONS)})\.([a-z_]+)")
    for text in INLINE.findall(document.prose):
        if match := pattern.fullmatch(text):
            assert option_field(*match.groups()), text


@each_document
def test_yaml_of_a_pipeline_is_accepted(document: Document, tmp_path: Path) -> None:
    """The options in a block of YAML are those of a pipeline's file, with values that it accepts."""
    for number, block in enumerate(document.blocks("yaml")):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block, encoding="utf-8")
        assert options_of(path)


@each_document
def test_links_lead_somewhere(document: Document) -> None:
    for link in LINK.findall(document.prose):
        if "://" in link:
            continue
        place, _, anchor = link.partition("#")
        target = (document.path.parent / place).resolve() if place else document.path
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target.read_text(encoding="utf-8")), link


@each_document
def test_files_named_in_code_exist(document: Document) -> None:
    pattern = re.compile(r"(?:apex_ml|pipelines|dags|plugins|tests|deployment|docs|great_expectations)/[\w./-]*\w")
    for text in document.commands:
        for place in pattern.findall(text) if "<" not in text else ():
            assert (CODE_ROOT / place).exists(), place


@each_document
def test_views_exist(reader: Any, document: Document) -> None:
    there = {row[0] for row in reader.read("SELECT relnamespace::regnamespace || '.' || relname FROM pg_class")}
    pattern = re.compile(r"(?:^|\b(?i:FROM|JOIN|TABLE)\s+)((?:apex|orders)\.[a-z_]+)(?=$|[\s,;)])")
    names = {name for text in document.commands for name in pattern.findall(text)} - {"orders.parquet"}
    assert names <= there


@each_document
def test_documents_contain_no_machine_details(document: Document) -> None:
    places: list[Any] = [str(CODE_ROOT), str(CODE_ROOT.parent) + "/"]
    assert not [place for place in places if len(place) > 2 and place in document.text]


def _anchors(text: str) -> set[str]:
    """Anchors of the headings, as the usual renderers make them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
