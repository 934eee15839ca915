"""One module's facts at a time, in memory, in milliseconds."""
