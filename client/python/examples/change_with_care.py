"""Change a value only if nobody else has changed it since it was read, and undo it again.

Two operators who do this at the same time never overwrite each other: one of them gets
`ConflictOutcome` and reads again.
"""

from __future__ import annotations

import tiebeam

PATH = "app/example/replicas"


def raise_by_one(client: tiebeam.Client) -> int:
    """Adds one to the value and returns the revision that did it."""
    while True:
        tree = client.config_get("app") or {}
        newest = client.exec("config_log", {"limit": 1}).output[-1]["revision"]
        value = tree.get("example", {}).get("replicas", 0)
        try:
            change = client.config_set(PATH, value + 1, expect_revision=newest, reason="scale up")
        except tiebeam.ConflictOutcome:
            continue
        assert change.revision is not None  # noqa: S101  # a changed value makes a revision
        return change.revision


def main() -> None:
    """Shows the change and takes it back."""
    with tiebeam.Client.from_environment() as client:
        client.config_set(PATH, 1)
        revision = raise_by_one(client)
        print("revision", revision, "has", client.config_get(PATH))
        client.config_rollback(revision - 1, "app")
        print("and now", client.config_get(PATH))


if __name__ == "__main__":
    main()
