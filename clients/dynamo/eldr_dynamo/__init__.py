"""ELDR in NVIDIA Dynamo: a component that decodes at the worker which ELDR names."""
