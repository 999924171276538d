"""Thin: converts messages and errors, and checks who may call. No decisions here."""
