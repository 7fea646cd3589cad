"""What to ask of the engine for a Kustomization, and what to make of its answer."""
