"""Results that programs read: YAML and JSON, sorted, without anything a terminal would obey.

Knows no verb. Both formats carry hostile text harmlessly by themselves: control characters are escaped in JSON, and
YAML quotes what it cannot print.
"""

from __future__ import annotations

import json
from typing import Any


def as_json(value: Any, *, sort: bool = True) -> str:
    """Indented JSON with a final newline."""
    return json.dumps(value, indent=2, sort_keys=sort, ensure_ascii=False) + "\n"


def as_yaml(value: Any) -> str:
    """A YAML document with sorted keys and a final newline."""
    from gitopsd.krm.documents import dump

    return dump(value)
