"""Whether the shim's capture is exact on a device, and what it costs: `make gpu-check`."""
