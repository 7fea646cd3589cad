"""One outside protocol in each module; no Kubernetes."""
