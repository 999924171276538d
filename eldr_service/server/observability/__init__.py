"""What people and programs can see of the daemon: logs, metrics, health."""
