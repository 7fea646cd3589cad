"""Real servers on loopback that tests talk to: Git over HTTP and SSH, plain HTTP, webhooks, an OCI registry."""
