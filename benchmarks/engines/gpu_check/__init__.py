"""Whether what the shim does on a device is exact there, and what it costs: `make gpu-check`."""
