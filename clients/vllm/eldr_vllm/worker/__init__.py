"""In each worker process: captures the MoE layers' experts and counts them."""
