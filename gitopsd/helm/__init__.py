"""Helm's releases and their life cycle."""
