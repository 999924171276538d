"""What the shim captures, per architecture, checked against an independent log."""
