"""The state that several replicas share, in Redis or Valkey."""
