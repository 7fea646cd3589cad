"""What every controller shares: queue, loop, triggers, status, events."""
