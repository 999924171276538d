"""The main job on recorded routing, over gRPC, in virtual time: `make demo`."""
