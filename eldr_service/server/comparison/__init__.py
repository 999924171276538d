"""What load alone would have done with the same requests, in thought."""
