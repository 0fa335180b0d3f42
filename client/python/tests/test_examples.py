"""Runs the README's session and every example, against the stand-in cluster."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from stub import Cluster

FOLDER = Path(__file__).parent.parent
README = (FOLDER / "README.md").read_text(encoding="utf-8")
SESSIONS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
EXAMPLES = sorted((FOLDER / "examples").glob("*.py"))


def test_there_is_something_to_run() -> None:
    assert len(SESSIONS) == 2
    assert len(EXAMPLES) >= 2


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("text", SESSIONS, ids=["sync", "async"])
def test_a_session(text: str) -> None:
    exec(compile(text, "README.md", "exec"), {"__name__": "__main__"})  # noqa: S102


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example(example: Path, cluster: Cluster) -> None:
    runpy.run_path(str(example), run_name="__main__")
    assert cluster.ran
