"""HTTP served by the daemon: probes, metrics, artifact files."""
