"""gitopsd: Git, registries, chart repositories and buckets become objects in Kubernetes clusters."""

__version__ = "0.1.0"
