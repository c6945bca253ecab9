"""Fails where a file of tests has fewer of them than it had: a filter may drop tests unseen.

    python .ci/check_counts.py REPORT.xml            compare with .ci/test_counts.json
    python .ci/check_counts.py REPORT.xml --write    keep the report's counts

REPORT is a JUnit report of `make test`. Tests that were skipped count; they were seen.
"""

from __future__ import annotations

import collections
import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

KEPT = Path(__file__).parent / "test_counts.json"


def main(report: str, *options: str) -> int:
    """Print what is missing; 1 where there is something, else 0."""
    cases = ElementTree.parse(report).getroot().iter("testcase")
    found = collections.Counter(str(case.get("classname")) for case in cases)
    if "--write" in options:
        KEPT.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        print(f"written: {KEPT}: {sum(found.values()):,} tests in {len(found)} files")
        return 0
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    fewer = {name: count for name, count in kept.items() if found[name] < count}
    for name, count in fewer.items():
        print(f"{name} had {count} tests and has {found[name]}", file=sys.stderr)
    if fewer:
        print(
            "where they are meant to be gone: python .ci/check_counts.py REPORT.xml --write",
            file=sys.stderr,
        )
    more = sum(found.values()) - sum(kept.values())
    print(f"{sum(found.values()):,} tests in {len(found)} files, {more:+,} on what was kept")
    return 1 if fewer else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
