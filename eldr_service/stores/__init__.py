"""What survives a restart: the stores, and partitions as files."""
