"""Prints the folder."""

from eldr_client.protos import FOLDER

print(FOLDER)
