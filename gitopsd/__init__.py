"""gitopsd: Git, registries, chart repositories and buckets become objects in Kubernetes clusters."""
