"""As ``peers``, on W5, W3 and W4 with fewer rounds."""

from __future__ import annotations

from peers import compare
from result import Record
from section import Options


def run(record: Record, options: Options) -> None:
    compare(record, options, ("W5", "W3") if options.small else ("W5", "W3", "W4"), 2 if options.small else 5)
