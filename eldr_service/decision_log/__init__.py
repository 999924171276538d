"""The decision log: what decisions saw and what they were, in files of bounded size.

`recorder` is told of events, `writer` writes them to disk in a separate thread, `reader` reads
them back. protos/eldr/v1/decision_log.proto has the format, docs/replay.md the rest.
"""
