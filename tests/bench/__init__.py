"""Numbers, not verdicts: what the daemon costs, beside what the API server itself costs in the same run."""
