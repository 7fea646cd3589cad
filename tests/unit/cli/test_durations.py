"""Ages and sizes in few letters (`spec/cli.md` 8 and 11)."""

from __future__ import annotations

import pytest

from gitopsd.cli.durations import human_duration, human_size

M, H, D = 60, 3600, 86400


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"),
        (-1.5, "0s"),
        (0.9, "0s"),
        (119, "119s"),
        (2 * M, "2m"),
        (2 * M + 5, "2m5s"),
        (10 * M + 5, "10m"),
        (179 * M, "179m"),
        (3 * H, "3h"),
        (3 * H + 90, "3h1m"),
        (8 * H + 30 * M, "8h"),
        (47 * H, "47h"),
        (48 * H, "2d"),
        (49 * H, "2d1h"),
        (8 * D + 5 * H, "8d"),
        (729 * D, "729d"),
        (730 * D, "2y"),
        (740 * D, "2y10d"),
        (9 * 365 * D + 40 * D, "9y"),
    ],
)
def test_ages_read_as_in_kubectl(seconds, text):
    """spec/cli.md 8, LAST SEEN: human duration."""
    assert text == human_duration(seconds)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "-"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2, "1.0 MiB"),
        (3 * 1024**3 + 1, "3.0 GiB"),
        (5000 * 1024**6, "5000.0 EiB"),
    ],
)
def test_sizes_have_one_decimal(size, text):
    """spec/cli.md 11, STORAGE."""
    assert text == human_size(size)
