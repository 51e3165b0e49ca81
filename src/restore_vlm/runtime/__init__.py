"""What everything stands on: processes, precision, memory."""
