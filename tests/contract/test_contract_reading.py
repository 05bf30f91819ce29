"""A faulty contract file: one error with all faults, each with line, key, rule, value and remedy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from apex_ml.contract.pipeline_file import load_contract
from apex_ml.errors import ConfigError

TEXT = """\
name: shop
version: 1
description: Orders of a shop.
columns:
  client: {description: Who orders., type: string, role: entity}
  day: {description: When., type: date, role: timestamp}
  kind:
    description: What is predicted.
    type: string
    role: target
    required: {train: true, score: false}
    nullable: {train: false, score: true}
    domain: {levels: [A, B], closed: {train: true, score: false}}
  leadtime:
    description: Days ahead.
    type: string
    role: attribute
  amount: {description: How much., type: double, role: measure, decimals: 2, nullable: true, required: false}
rules:
  - {name: once, description: Each once., rule: unique, columns: all}
quarantine: {limit: 0.5}
batch: {recent: 3}
features: {grain: every_row, attributes: [leadtime]}
split: {fractions: {train: 0.6, validation: 0.2, test: 0.2}}
promotion: {margin: 0.001}
"""
KEYS = (
    "checks, decimals, derive, description, domain, encoding, identifier, min_level_rows, normalise, nullable,"
    " required, role, timezone, type, unit"
)


def faults(folder: Path, text: str | bytes) -> list[str]:
    """The messages about a file, one per line, without its path."""
    path = folder / "shop.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as raised:
        load_contract(path)
    return [line.strip().removeprefix(str(path)).removeprefix(":") for line in str(raised.value).splitlines()]


MISSING = {
    "quarantine: {limit: 0.5}\n": "quarantine: is missing: add this key, for example quarantine: {limit: 0.01}",
    "batch: {recent: 3}\n": "batch: is missing: add this key, for example batch: {recent: 7}",
    "promotion: {margin: 0.001}\n": "promotion: is missing: add this key, for example promotion: {margin: 0.001}",
    "grain: every_row, ": "features.grain: is missing: add this key, for example grain: every_row",
}


@pytest.mark.parametrize("part", MISSING)
def test_a_missing_part_is_named_with_an_example(tmp_path: Path, part: str) -> None:
    assert TEXT.count(part) == 1
    assert any(MISSING[part] in message for message in faults(tmp_path, TEXT.replace(part, "")))


def test_an_unknown_recipe_is_named_with_the_known_ones(tmp_path: Path) -> None:
    text = TEXT.replace("attributes: [leadtime]", "history: [{recipe: sum, columns: [amount]}]")
    message = (
        "there is no recipe 'sum'; the known ones are count, count_distinct, days_since_last, last, last_target, max,"
    )
    assert any(message in fault for fault in faults(tmp_path, text))


def test_the_file_itself_is_right(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    for content in (TEXT.encode(), b"\xef\xbb\xbf" + TEXT.encode(), TEXT.replace("\n", "\r\n").encode()):
        path.write_bytes(content)
        assert load_contract(path).classes == ("A", "B")


# (the line, its replacement, the message)
VALUE = "must be text: "
TRAPS = [
    ("levels: [A, B]", "levels: [A, NO]", f"{VALUE}the level NO is read by YAML as false; quote it: 'NO'"),
    ("levels: [A, B]", "levels: [A, Yes]", f"{VALUE}the level Yes is read by YAML as true; quote it: 'Yes'"),
    ("levels: [A, B]", "levels: [on, B]", f"{VALUE}the level on is read by YAML as true; quote it: 'on'"),
    ("levels: [A, B]", "levels: [off, B]", f"{VALUE}the level off is read by YAML as false; quote it: 'off'"),
    ("levels: [A, B]", "levels: [0, B]", f"{VALUE}the level 0 is read by YAML as the number 0; quote it: '0'"),
    ("levels: [A, B]", "levels: [1.0, B]", f"{VALUE}the level 1.0 is read by YAML as the number 1.0; quote it: '1.0'"),
    ("levels: [A, B]", "levels: [010, B]", f"{VALUE}the level 010 is read by YAML as the number 8; quote it: '010'"),
    (
        "levels: [A, B]",
        "levels: [12:30, B]",
        f"{VALUE}the level 12:30 is read by YAML as the number 750; quote it: '12:30'",
    ),
    (
        "levels: [A, B]",
        "levels: [2024-01-02, B]",
        f"{VALUE}the level 2024-01-02 is read by YAML as the date 2024-01-02; quote it: '2024-01-02'",
    ),
    ("levels: [A, B]", "levels: [null, B]", f"{VALUE}the level null is read by YAML as nothing; quote it: 'null'"),
    ("levels: [A, B]", "levels: [~, B]", f"{VALUE}the level ~ is read by YAML as nothing; quote it: '~'"),
    (
        "    role: attribute",
        "    role: attribute\n    normalise: [{map: {x: off}}]",
        f"{VALUE}the value off is read by YAML as false; quote it: 'off'",
    ),
    (
        "    role: attribute",
        "    role: attribute\n    normalise: [{map: {NO: x}}]",
        "the key NO is read by YAML as false; quote it: 'NO'",
    ),
    ("    role: attribute", "    role: attribute\n    on: 1", "the key on is read by YAML as true; quote it: 'on'"),
    ("    role: attribute", "    role: attribute\n    unit: no", f"{VALUE}no is read by YAML as false; quote it: 'no'"),
    (
        "Days ahead.",
        "",
        "must be text; the value is empty: write a text, or remove the key",
    ),
    ("decimals: 2", "decimals: 010", "010 is read by YAML as the number 8; write that number"),
    ("margin: 0.001", "margin: 1:30.5", "1:30.5 is read by YAML as the number 90.5; write that number"),
    (
        "    role: attribute",
        "    role: attribute\n    role: measure",
        "the key role occurs twice, first on line 17; YAML would keep the last: remove one",
    ),
    ("name: shop", "name: !shop shop", "the tag !shop is not known; remove it"),
    ("margin: 0.001", "margin: 2024-13-01", "2024-13-01 is no timestamp: month must be in 1..12"),
    ("margin: 0.001", "margin: .inf", "must be a finite number; found .inf, read by YAML as the number inf"),
]


@pytest.mark.parametrize(("old", "new", "words"), TRAPS, ids=[t[1].strip() or "nothing" for t in TRAPS])
def test_a_trap_of_yaml_is_named_with_its_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    text = TEXT.replace(old, new, 1)
    line = text[: text.index(new) + len(new)].count("\n") + 1 if new else 15
    messages = faults(tmp_path, text)
    assert [t for t in messages if t.startswith(f"{line}: ") and t.endswith(f": {words}")], messages


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (TEXT.encode("utf-16"), "the file is in UTF-16 or UTF-32; save it as UTF-8"),
        (TEXT.encode("utf-16-le"), "the file is in UTF-16 or UTF-32; save it as UTF-8"),
        (
            TEXT.replace("When.", "Día").encode("latin-1"),
            "6: the byte 0xed is not UTF-8; save the file as UTF-8",
        ),
        (TEXT.replace("  day:", "\tday:"), "6: not YAML: there is a tab; YAML indents with blanks only"),
        (TEXT + "---\nname: shop\n", "expected a single document"),
        ("a: " + "[" * 3000, "nested too deep"),
        (TEXT.replace("Who orders.", "\x01"), "not YAML: unacceptable character #x0001"),
    ],
    ids=["utf-16", "utf-16 without a mark", "latin-1", "a tab", "two documents", "too deep", "a control character"],
)
def test_a_file_that_is_not_utf8_yaml_is_refused(tmp_path: Path, content: str | bytes, words: str) -> None:
    (messages,) = faults(tmp_path, content)
    assert words in messages


MISSPELT = [
    ("    role: attribute", "    role: atribute", "found 'atribute'; did you mean attribute?"),
    ("    role: attribute", "    rolle: attribute", f"not permitted: no such key here; the keys are {KEYS};"),
    ("    role: attribute", "    rolle: attribute", "did you mean role?"),
    ("type: double", "type: duoble", "'decimal' or 'timestamp'; found 'duoble'; did you"),
    ("rule: unique", "rule: uniqe", "did you mean unique?"),
    ("quarantine:", "quarantene:", "did you mean quarantine?"),
    ("limit: 0.5", "limits: 0.5", "the keys are limit; did you mean limit?"),
    ("columns: all", "columns: [lead_time]", "no such column ['lead_time']; did you mean leadtime?"),
    ("attributes: [leadtime]", "attributes: [lead_time]", "the contract has no such column; did you mean leadtime?"),
    ("attributes: [leadtime]", "attributes: [amount]", "not a column with the role attribute: its role is measure"),
    (
        "attributes: [leadtime]",
        "history: [{recipe: mean, columns: [Amount]}]",
        "Amount is not a column with the role measure: the contract has no such column; did you mean amount?",
    ),
    ("attributes: [leadtime]", "history: [{recipe: cuont}]", "did you mean count?"),
    ("attributes: [leadtime]", "history: [{recipe: target_trend, level: a, shrinkage: 1}]", "did you mean A?"),
    ("margin: 0.001", "margin: 0.001, forbidden_features: [lead_time]", "no column or feature lead_time; did you mean"),
    ("    role: attribute", "    role: attribute\n    normalise: [{mapp: {a: b}}]", "did you mean map?"),
    ("    role: attribute", "    role: attribute\n    normalise: [trimm]", "found 'trimm'; did you mean trim?"),
]


@pytest.mark.parametrize(("old", "new", "words"), MISSPELT, ids=[f"{m[1].strip()}:{m[2][-25:]}" for m in MISSPELT])
def test_a_near_name_is_suggested(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in TEXT
    messages = faults(tmp_path, TEXT.replace(old, new, 1))
    assert any(words in t for t in messages), messages


# faults that loading once accepted, and that broke a later step or differed between files and requests
ATTRIBUTE = "    role: attribute"
DAY = "role: timestamp"
TYPE = "type: string\n    role: attribute"
TIMES = "type: timestamp\n    role: attribute\n    normalise: [{date_formats: ['%s']}]"
LATE = [
    (ATTRIBUTE, f"{ATTRIBUTE}\n    checks: [{{rule: pattern, regex: 'a(?=b)b'}}]", "RE2 and Python read alike"),
    (ATTRIBUTE, f"{ATTRIBUTE}\n    checks: [{{rule: pattern, regex: 'a{{,3}}'}}]", "write {0,n} for {,n}"),
    (ATTRIBUTE, f"{ATTRIBUTE}\n    checks: [{{rule: pattern, regex: '[[:alpha:]]+'}}]", "RE2 and Python read alike"),
    (
        ATTRIBUTE,
        f"{ATTRIBUTE}\n    normalise: [upper]\n    domain: {{levels: [a], closed: true}}",
        "write the level as 'A'",
    ),
    (
        ATTRIBUTE,
        f"{ATTRIBUTE}\n    normalise: [{{map: {{a: b}}}}]\n    domain: {{levels: [a, b], closed: true}}",
        "the level 'a' never occurs, as normalise makes it 'b': remove it",
    ),
    (TYPE, "type: date\n    role: attribute\n    normalise: [{date_formats: ['%Q']}]", "%Q"),
    (
        TYPE,
        "type: date\n    role: attribute\n    normalise: [{date_formats: ['%d.%m.']}]",
        "has no year",
    ),
    (
        TYPE,
        TIMES % "%Y-%m-%dT%H:%M:%S+02:00" + "\n    timezone: UTC",
        "has the offset +02:00 as plain text",
    ),
    (
        TYPE,
        TIMES % "%d/%m/%Y %H:%M -05",
        "write %d/%m/%Y %H:%M %z",
    ),
    (
        TYPE,
        TIMES % "%Y-%m-%d%z %H:%M",
        "which reads an offset from UTC at the end",
    ),
    (
        TYPE,
        TIMES % "%Y-%m-%dT%H:%M:%S%z",
        "reads instants: add timezone: UTC, or another zone",
    ),
    (
        TYPE,
        TIMES % "%Y-%m-%dT%H:%M:%SZ" + "\n    timezone: Europe/Madrid",
        "has Z as plain text, so that its times would be read on the clock of Europe/Madrid",
    ),
    (
        TYPE,
        "type: date\n    role: attribute\n    normalise: [microsecond_of_timestamp]",
        "normalise microsecond_of_timestamp is for timestamps, the type is date: remove it",
    ),
    (
        TYPE,
        "type: date\n    role: attribute\n    checks: [{rule: range, min: 3, max: 2024-01-01}]",
        "one is a date and the other a number",
    ),
    (
        TYPE,
        "type: int64\n    role: attribute\n    checks: [{rule: range, max: 9007199254740993}]",
        "9007199254740993 is too large to be compared exactly",
    ),
    (
        TYPE,
        "type: double\n    role: attribute\n    checks: [{rule: range, max: .nan}]",
        "finite number",
    ),
    (ATTRIBUTE, f"{ATTRIBUTE}\n    decimals: 2", "decimals need a number type"),
    (ATTRIBUTE, f"{ATTRIBUTE}\n    timezone: Europe/Madrid", "a timezone is for dates and timestamps, the type is "),
    (DAY, f"{DAY}, timezone: Europe/Madird", "'Europe/Madird' is no IANA zone, such as Europe/Madrid; did you mean"),
    (DAY, f"{DAY}, timezone: Romance Standard Time", "'Romance Standard Time' is no IANA zone"),
    ("rule: unique, columns: all", "rule: unique, columns: []", "at least 1 item"),
    ("rule: unique, columns: all", "rule: unique, columns: [day, day]", "the column day is listed twice"),
    ("rule: unique, columns: all", "rule: pairs, columns: [kind, leadtime], allowed: {}", "at least 1 item"),
    ("rule: unique, columns: all", "rule: pairs, columns: [kind, leadtime], allowed: {A: []}", "at least 1 item"),
    (
        "rule: unique, columns: all",
        "rule: pairs, columns: [kind, amount], allowed: {A: [x]}",
        "amount is of type double: pairs are of strings",
    ),
    (
        "rules:\n",
        "rules:\n  - {name: once, description: x, rule: unique, columns: [day]}\n",
        "another rule has the same name",
    ),
    ("attributes: [leadtime]", "attributes: [leadtime, leadtime]", "leadtime is listed twice"),
    ("attributes: [leadtime]", "calendar: [month, month]", "month is listed twice"),
    (
        "attributes: [leadtime]",
        "history: [{recipe: target_share, smoothing: 1}, {recipe: target_share, smoothing: 2}]",
        "two recipes make the feature target_share",
    ),
    (
        "recent: 3",
        "recent: 3, rules: [{rule: future_date_outlier, max_days: 3}, {rule: future_date_outlier, max_days: 9, share: 0.9}]",  # noqa: E501
        "use the same share",
    ),
    ("levels: [A, B], closed: {train: true", "levels: [A, B], closed: {train: false", "whose class is known"),
    ("levels: [A, B]", "levels: [A]", "the target has the one class A: add the others"),
]


@pytest.mark.parametrize(("old", "new", "words"), LATE, ids=[t[2] + str(n) for n, t in enumerate(LATE)])
def test_contradictions_are_refused_while_loading(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in TEXT
    messages = faults(tmp_path, TEXT.replace(old, new, 1))
    assert any(words in t for t in messages), messages


def test_missing_roles_are_reported_with_all_other_faults(tmp_path: Path) -> None:
    text = re.sub("role: (entity|timestamp|target)", "role: attribute", TEXT)
    text = text.replace("version: 1", "version: one").replace("levels: [A, B]", "levels: [A, NO]")
    text = text.replace("attributes: [leadtime]", "attributes: [lead_time]").replace("margin: 0.001", "margin: -1")
    text = text.replace("decimals: 2, ", "")
    messages = faults(tmp_path, text)
    assert messages == [
        "the contract contradicts itself:",
        "2: version: must be a whole number; found 'one'",
        "4: columns: exactly one column has the role target, found none: give it to the column that is predicted",
        "13: columns.kind.domain.levels.1: must be text: the level NO is read by YAML as false; quote it: 'NO'",
        "18: columns.amount: a double measure needs decimals, so that its sums do not depend on the order of rows: add"
        " them",
        "23: features.attributes.0: lead_time is not a column with the role attribute: the contract has no such"
        " column; did you mean leadtime?",
        "25: promotion.margin: must be greater than or equal to 0; found -1",
    ]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "attributes: [leadtime]",
            "history: [{recipe: count}, {recipe: count, windw: 7d}]",
            "not permitted: no such key here; the keys are by, name, recipe, window; did you mean window?",
        ),
        ("margin: 0.001", "margn: 0.001", "did you mean margin?"),
        ("    role: attribute", "    rol: attribute", "did you mean role?"),
        ("role: entity", "rle: entity", "did you mean role?"),
        ("decimals: 2, ", "decimas: 2, ", "did you mean decimals?"),
        ("attributes: [leadtime]", "history: [{recip: count}]", "did you mean recipe by recip?"),
        ("levels: [A, B]", "levels: [A, B, B]", "the level 'B' is listed twice: remove one, or rename it"),
    ],
)
def test_one_misspelt_key_or_level_is_one_fault(tmp_path: Path, old: str, new: str, words: str) -> None:
    _, *messages = faults(tmp_path, TEXT.replace(old, new, 1))
    assert len(messages) == 1 and words in messages[0], messages


def test_every_fault_of_a_list_of_levels_is_reported(tmp_path: Path) -> None:
    levels = "    normalise: [upper]\n    domain: {levels: [A, NO, B, 010, b, A]"
    _, *result = faults(tmp_path, TEXT.replace("    domain: {levels: [A, B]", levels))
    expected = ["the level NO is", "the level 010 is", "the level 'A' is listed twice", "the level 'b' never occurs"]
    assert len(result) == len(expected) and all(any(words in line for line in result) for words in expected), result


def test_two_targets_and_two_faults_of_one_column_are_all_reported(tmp_path: Path) -> None:
    text = TEXT.replace("    role: attribute", "    role: target\n    colour: red\n    normalise: [day_of_timestamp]")
    messages = faults(tmp_path, text)
    assert any(
        "exactly one column has the role target, found ['kind', 'leadtime']: leave it to one" in t for t in messages
    )
    assert any(t.startswith("18: columns.leadtime.colour: not permitted") for t in messages)
    assert any("columns.leadtime: normalise day_of_timestamp is for dates" in t for t in messages)
    assert any("columns.leadtime: the target needs a domain" in t for t in messages)


def test_a_column_that_cannot_be_read_makes_no_other_faults(tmp_path: Path) -> None:
    messages = faults(
        tmp_path, TEXT.replace("    type: string\n    role: attribute", "    type: text\n    role: attribute")
    )
    types = "'string', 'double', 'int64', 'date', 'boolean', 'decimal' or 'timestamp'"
    assert messages[1:] == [f"16: columns.leadtime.type: must be {types}; found 'text'"]


def test_merge_keys_and_aliases_are_read(tmp_path: Path) -> None:
    text = TEXT.replace("  client: {", "  client: &text {").replace(
        "  leadtime:\n", "  more: {<<: *text, role: attribute, description: More.}\n  leadtime:\n"
    )
    path = tmp_path / "shop.yaml"
    path.write_text(text)
    column = load_contract(path).columns["more"]
    assert (column.type, column.role, column.description) == ("string", "attribute", "More.")


def test_the_former_name_of_a_batch_rule_is_read_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "shop.yaml"
    rules = "\n    - {rule: row_count, low: 0.5, high: 2}\n    - {rule: lone_future, max_days: 9}"
    path.write_text(TEXT.replace("batch: {recent: 3}", f"batch:\n  recent: 3\n  rules:{rules}"))
    assert [rule.rule for rule in load_contract(path).batch.rules] == ["row_count", "future_date_outlier"]
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.endswith(f"future_date_outlier. It is still read; please rename it ({path}, line 26)")


def test_former_names_of_grain_and_policy_are_read_with_warnings_and_have_the_same_digests(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    present = TEXT.replace("promotion: {margin: 0", "promotion: {segment_rows: 9, max_us_per_row: 8, margin: 0")
    former = present.replace("every_row", "every_order").replace("segment_rows", "segment_orders")
    former = former.replace("max_us_per_row", "max_us_per_order")
    paths = tmp_path / "present.yaml", tmp_path / "former.yaml"
    contracts = []
    for path, text in zip(paths, (present, former), strict=True):
        path.write_text(text)
        contracts.append(load_contract(path))
    assert contracts[0] == contracts[1] and contracts[0].features.grain == "every_row"
    assert (contracts[1].promotion.segment_rows, contracts[1].promotion.max_us_per_row) == (9, 8)
    messages = [record.getMessage() for record in caplog.records]
    assert [message.split(" is now called ")[0] for message in messages] == [
        "the grain every_order",
        "the key promotion.segment_orders",
        "the key promotion.max_us_per_order",
    ]
    line = former[: former.index("every_order")].count("\n") + 1
    assert messages[0].endswith(f"every_row. It is still read; please rename it ({paths[1]}, line {line})")
    # models are known by these: the values are those of the version before the names changed
    assert {c.digest() for c in contracts} == {"758805fdf9a4937b048978c4f8442590001c1b4f9644ce9c911a610050d4ec8b"}
    assert {c.features_digest() for c in contracts} == {
        "03cea1bb4d06d84d23cc72a1c5d4d3ec3372e796652df9c0e2898e0861ac5b6c"
    }


def test_a_key_under_both_names_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(TEXT.replace("promotion: {margin: 0", "promotion: {segment_rows: 9, segment_orders: 9, margin: 0"))
    with pytest.raises(ConfigError, match="promotion.segment_orders"):
        load_contract(path)
