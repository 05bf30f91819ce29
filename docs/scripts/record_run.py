"""Run ``make run`` in a fresh clone and keep what the terminal shows as ``docs/assets/make-run.svg``.

    python docs/scripts/record_run.py

The clone, its platform and its data are removed afterwards. Folders of this machine are shown as ``…``, and the ports,
which are free ones, as the default ports. The SVG plays once, with pauses shortened, and then shows the last state.
"""

from __future__ import annotations

import errno
import fcntl
import html
import io
import os
import pty
import re
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.ansi import AnsiDecoder
from rich.console import Console
from rich.text import Text

CHECKOUT = Path(__file__).resolve().parents[2]
PICTURE = CHECKOUT / "docs" / "assets" / "make-run.svg"
WIDTH = 116
PORTS = {"APEX_PG_PORT": 15432, "APEX_MLFLOW_PORT": 5000, "APEX_AIRFLOW_PORT": 8080, "APEX_SERVING_PORT": 8008}
LONGEST_PAUSE, PLAYED = 6.0, 14.0
"""Seconds: a longer pause of the run is cut to the first; the whole is then played in the second."""
MOVE, INCOMPLETE = re.compile(r"(\n|\x1b\[\d*A)"), re.compile(r"\x1b(?:\[[\d;?]*)?$")
ERASE = re.compile(r".*(?:\r|\x1b\[2K|\x1b\[1A)")
CONTROL = re.compile(r"\x1b\[\?25[lh]|\x1b\][^\x07]*\x07")

FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img">
    <style>
    .{unique_id}-matrix {{
        font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
        font-size: {char_height}px;
        line-height: {line_height}px;
    }}
    .{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
    {styles}
    </style>
    <defs>
    <clipPath id="{unique_id}-clip-terminal">
      <rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
    </clipPath>
    {lines}
    </defs>
    {chrome}
    <g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
    {backgrounds}
    <g class="{unique_id}-matrix">
    {matrix}
    </g>
    </g>
</svg>
"""


@dataclass(frozen=True)
class Line:
    """A line that stayed on the terminal, with the seconds since the start at which it was complete."""

    seconds: float
    text: str


def record(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> tuple[list[Line], int]:
    """Run a command on a terminal of its own; return its lines and its exit code."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvpe(command[0], list(command), dict(environment))
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, WIDTH, 0, 0))
    lines: list[Line] = []
    began, rest, code = time.monotonic(), "", None
    while True:
        ready, _, _ = select.select([terminal], [], [], 0.5)
        if not ready and code is not None:  # what the command left running may keep the terminal open
            break
        try:
            chunk = os.read(terminal, 65536) if ready else None
        except OSError as error:
            if error.errno != errno.EIO:  # everybody has closed the other side
                raise
            chunk = b""
        rest = add_lines(lines, rest + (chunk or b"").decode("utf-8", "replace"), time.monotonic() - began)
        if code is None:
            ended, status = os.waitpid(pid, 0 if chunk == b"" else os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if ended else None
        if chunk == b"":
            break
    os.close(terminal)
    return lines, 1 if code is None else code


def add_lines(lines: list[Line], text: str, seconds: float) -> str:
    """Add the complete lines of a text and return its rest. A line that the cursor goes back to is written again.

    >>> lines = []
    >>> add_lines(lines, "one\\nwaiting\\n\\x1b[1A\\x1b[2Kdone\\nre", 1.0), [line.text for line in lines]
    ('re', ['one', 'done'])
    """
    started = INCOMPLETE.search(text)
    text, held = (text[: started.start()], started[0]) if started else (text, "")
    current = ""
    for part in MOVE.split(text):
        if part == "\n":
            lines.append(Line(seconds, final_text(current)))
            current = ""
        elif MOVE.fullmatch(part):
            del lines[max(0, len(lines) - int(part[2:-1] or 1)) :]
            current = ""
        else:
            current += part
    return current + held


def final_text(text: str) -> str:
    """A line as it stays: what a progress display wrote and erased again is left out.

    >>> final_text("waiting\\r\\x1b[2Kdone\\r")
    'done'
    """
    return ERASE.sub("", CONTROL.sub("", text).rstrip("\r"))


def to_svg(lines: Sequence[Line], title: str) -> str:
    """The lines as a picture that plays once."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    shown: list[float] = []
    decoder = AnsiDecoder()
    for line, seconds in zip(lines, _played([line.seconds for line in lines]), strict=True):
        text = decoder.decode_line(line.text)
        rows = text.wrap(console, WIDTH) or [Text()]
        for row in rows:
            console.print(row, no_wrap=True)
        shown += [seconds] * len(rows)
    svg = console.export_svg(title=title, code_format=FORMAT, unique_id="run")
    styles = [f".at{n} {{ animation: show 0s {seconds:.2f}s both; }}" for n, seconds in enumerate(shown)]
    animation = "@keyframes show { from { visibility: hidden; } to { visibility: visible; } }"
    quiet = "@media (prefers-reduced-motion: no-preference) {\n" + "\n".join([animation, *styles]) + "\n}"
    svg = svg.replace("</style>", f"{quiet}\n</style>", 1)
    svg = svg.replace("<style>", f"<title>{html.escape(title)}</title>\n    <style>", 1)
    return re.sub(r'<text class="([^"]*)"([^>]*clip-path="url\(#run-line-(\d+)\)")', r'<text class="\1 at\3"\2', svg)


def _played(seconds: Sequence[float]) -> list[float]:
    """When each line appears in the picture."""
    moments, total, last = [], 0.0, 0.0
    for moment in seconds:
        total += min(moment - last, LONGEST_PAUSE)
        last = moment
        moments.append(total)
    return [moment * PLAYED / total if total else 0.0 for moment in moments]


def _free_ports() -> dict[str, str]:
    with ExitStack() as stack:
        probes = {name: stack.enter_context(socket.socket()) for name in PORTS}
        for probe in probes.values():
            probe.bind(("127.0.0.1", 0))
        return {name: str(probe.getsockname()[1]) for name, probe in probes.items()}


def _without_places(text: str, folder: Path, ports: Mapping[str, str]) -> str:
    text = text.replace(str(folder), "…")
    for name, port in ports.items():
        text = re.sub(rf"\b{port}\b", str(PORTS[name]), text)
    return text


def main() -> int:
    """Clone, run, draw, remove."""
    place = Path(tempfile.mkdtemp(prefix="apex-recording-"))
    place.chmod(0o755)  # Postgres runs as another user when this one is root
    clone, ports = place / "apex", _free_ports()
    environment = {n: v for n, v in os.environ.items() if not n.startswith(("APEX_", "MAKE"))}
    environment |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": str(WIDTH)}
    try:
        subprocess.run(["git", "clone", "--quiet", str(CHECKOUT), str(clone)], check=True)
        lines, code = record(["make", "run"], clone, environment | ports)
    finally:
        if (clone / ".venv").exists():
            subprocess.run(["make", "down"], cwd=clone, env=environment, capture_output=True, check=False)
        shutil.rmtree(place, ignore_errors=True)
    lines = [Line(line.seconds, _without_places(line.text, clone, ports)) for line in lines]
    if code:
        print("\n".join(line.text for line in lines), file=sys.stderr)
        return code
    prompt = Line(0.0, "\x1b[1;32m$\x1b[0m make run")
    PICTURE.write_text(to_svg([prompt, *lines], "make run"), encoding="utf-8")
    print(f"{PICTURE}: {len(lines)} lines, {lines[-1].seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
