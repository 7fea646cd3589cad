"""The daemon in trouble: behind a proxy that breaks things, and with processes killed."""
