"""Short-lived credentials from clouds: who we are there, and what that opens."""
