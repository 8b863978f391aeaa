"""What a switch publishes of itself, and those who look at it: docs/telemetry.md."""
