"""What labels and images say is installed (`spec/cli.md` 3 and 11)."""

from __future__ import annotations

import pytest

from gitopsd.cli.flags import CommandError
from gitopsd.cli.install import distribution, split_image


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("ghcr.io/fluxcd/source-controller:v1.2.3", ("source-controller", "v1.2.3")),
        ("localhost:5000/gitopsd:1", ("gitopsd", "1")),
        ("gitopsd:1", ("gitopsd", "1")),
        ("x/gitopsd:1@sha256:00", ("gitopsd", "1@sha256:00")),
    ],
)
def test_an_image_is_a_base_name_and_a_tag(image, expected):
    """spec/cli.md 11: `<image base name>: <tag>`."""
    assert expected == split_image(image)


@pytest.mark.parametrize("image", ["gitopsd", "localhost:5000/gitopsd", "x/gitopsd@sha256:00", "gitopsd:", ""])
def test_an_image_without_a_tag_is_an_error(image):
    """spec/cli.md 11."""
    with pytest.raises(CommandError, match=f"^missing image tag in image {image}$"):
        split_image(image)


@pytest.mark.parametrize(
    ("part_of", "version", "expected"),
    [("flux", "v2", "flux-v2"), ("flux", "", "flux-"), ("", "v2", "v2"), ("", "", "")],
)
def test_the_distribution_is_two_labels(part_of, version, expected):
    """spec/cli.md 3, 6a."""
    labels = {"app.kubernetes.io/part-of": part_of, "app.kubernetes.io/version": version}
    found = {"metadata": {"labels": {key: value for key, value in labels.items() if value}}}
    assert expected == distribution(found)
