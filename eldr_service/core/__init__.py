"""The domain: pure Python and NumPy, without gRPC, clock or I/O."""
