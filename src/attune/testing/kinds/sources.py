"""A source recognises what is its own and reads it without swallowing anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.core.errors import AttuneError

if TYPE_CHECKING:
    from attune.testing.suite import Subject

PER_TASK = False
STRANGE = ("", "no such thing", "https://example.org/x", "../..", "a" * 300, "*.nothing", "postgresql://u@h/d")


def check_recognising_never_fails(subject: Subject) -> None:
    """`recognises` answers yes or no to any location, also to one that is not there."""
    for location in STRANGE:
        said = subject.plug.recognises(location, subject.folder)
        assert isinstance(said, bool), f"recognises({location!r}) is {said!r}, not a bool"


def check_nothing_to_read_is_an_error_with_a_way_out(subject: Subject) -> None:
    """Reading what is not there raises an Attune error that says what to do, rather than giving no rows."""
    refused: AttuneError | None = None
    try:
        list(subject.plug.read("no-such-file-anywhere.xyz", subject.folder))
    except AttuneError as error:
        refused = error
    assert refused is not None, "nothing was raised"
    assert refused.fix, f"the error does not say what to do: {refused}"
