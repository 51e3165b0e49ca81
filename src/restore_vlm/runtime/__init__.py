"""What everything stands on: files that are read back, locks, processes, precision, memory."""
