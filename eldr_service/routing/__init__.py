"""Decides and books: the one place where choosing and counting are one step. No gRPC, no clock."""
