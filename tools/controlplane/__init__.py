"""The real API server and its companions, pinned as Go modules and built once into a cache."""
