"""In each worker process: listens to the MoE layers and counts."""
