"""Signatures of OCI artifacts."""

from __future__ import annotations

from gitopsd.engine import Engine
from gitopsd.fetch.http import HttpClient
from gitopsd.fetch.registry import Registry


class ImageVerifier:
    """Verifies signatures."""

    def __init__(self, registry: Registry, web: HttpClient, engine: Engine) -> None:
        self._registry = registry
        self._web = web
        self._engine = engine
