"""Fails where tests of a JUnit report were skipped for a reason that must not occur, or none ran.

    python .ci/check_skips.py REPORT.xml REASON...

Each REASON is a part of the skip's message.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree


def main(report: str, *reasons: str) -> int:
    """Print what was skipped against the rules; 1 where there is something, else 0."""
    cases = ElementTree.parse(report).getroot().findall(".//testcase")
    ran = [case for case in cases if case.find("skipped") is None]
    wrong = [
        f"{case.get('classname')}::{case.get('name')}: {message}"
        for case in cases
        for skip in case.findall("skipped")
        if any(reason in (message := skip.get("message", "")) for reason in reasons)
    ]
    print(f"{len(ran)} tests ran, {len(cases) - len(ran)} were skipped")
    for line in wrong:
        print(f"must not be skipped here: {line}", file=sys.stderr)
    return 1 if wrong or not ran else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
