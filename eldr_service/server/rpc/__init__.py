"""Thin: messages to the domain and back, errors, who may call. No decisions here."""
