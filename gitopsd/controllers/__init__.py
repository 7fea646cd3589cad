"""The three controllers: sources, Kustomizations, HelmReleases."""
