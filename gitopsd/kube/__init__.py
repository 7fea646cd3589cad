"""The API server: requests, discovery, watches and informers."""
