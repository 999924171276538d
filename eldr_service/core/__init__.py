"""The domain: pure Python and NumPy. No gRPC, no clock of its own, no I/O."""
