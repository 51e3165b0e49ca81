"""What everything else stands on: files that are read back, locks."""
