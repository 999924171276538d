"""Decides and books: the one place where choosing and counting are one act. No gRPC, no clock."""
