"""What the shim captures, architecture by architecture, held against an independent log."""
