"""Plain Kubernetes objects: reading, comparing and judging them, without I/O."""
