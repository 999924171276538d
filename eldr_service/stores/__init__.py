"""What survives the daemon: partitions as files, and the stores."""
