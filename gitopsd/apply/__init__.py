"""Objects onto a cluster: apply, inventory, prune, health."""
