"""What survives a restart, and partitions as files."""
