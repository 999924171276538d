"""The decision log: all that decisions saw and what they were, in files of a bounded size.

`recorder` is told what happens, `writer` brings it to the disk in a thread of its own, `reader`
reads it again. protos/eldr/v1/decision_log.proto has the format, docs/replay.md the rest.
"""
