"""Recorded behaviour of the reference implementation, played against gitopsd and compared (`goldens/README.md`)."""
