"""The migrations name the schema apex; this rewrites their SQL for a schema of another name."""

from __future__ import annotations

import re

from apex_ml.sql.quote import identifier

WRITTEN_FOR = "apex"
"""The schema that the numbered files name."""
_PART = re.compile(
    r"""
      --[^\n]* | /\*.*?\*/                                                    # a comment of the file
    | \b(?:current_setting|set_config)\s*\(\s*'(?:[^']|'')*'                  # settings have names like apex.x, too
    | \b(?:SET|RESET|SHOW)\s+(?:LOCAL\s+|SESSION\s+)?apex\.\w+
    | \$(?P<tag>\w*)\$(?P<body>.*?)\$(?P=tag)\$                               # a function's body is SQL
    | (?P<format>\bformat\s*\(\s*)?'(?P<text>(?:[^']|'')*)'                   # so can be a text, or it names a table
    | (?<![\w$.@"])(?P<prefix>apex|"apex")(?=\s*\.)
    | (?P<before>\bSCHEMA\s+(?:IF\s+(?:NOT\s+)?EXISTS\s+)?|\bsearch_path\s*(?:=|\bTO\b)\s*)(?P<schema>apex\b|"apex")
    | "(?:[^"]|"")*"
    """,
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)


def for_schema(text: str, schema: str) -> str:
    """SQL that was written for the schema apex, for another one: tables, functions, texts that name them, comments.

    What has the same name and is no schema stays: the database, the roles, and the setting apex.clock_offset.

    >>> print(for_schema("GRANT SELECT ON apex.drops TO apex_reader", "claims"))
    GRANT SELECT ON "claims".drops TO apex_reader
    >>> print(for_schema("SELECT to_regclass('apex.drops'), current_setting('apex.clock_offset')", "claims"))
    SELECT to_regclass('"claims".drops'), current_setting('apex.clock_offset')
    """
    return text if schema == WRITTEN_FOR else _rewritten(text, identifier(schema))


def _rewritten(text: str, name: str) -> str:
    def replace(match: re.Match[str]) -> str:
        whole = match[0]
        if match["body"] is not None:
            mark = f"${match['tag']}$"
            return f"{mark}{_rewritten(match['body'], name)}{mark}"
        if match["text"] is not None:
            # the text of format() has % for its arguments, and every text has ' for its own end
            inner = (name.replace("%", "%%") if match["format"] else name).replace("'", "''")
            return f"{match['format'] or ''}'{_rewritten(match['text'], inner)}'"
        if match["prefix"] is not None:
            return name
        if match["schema"] is not None:
            return f"{match['before']}{name}"
        return whole

    return _PART.sub(replace, text)
