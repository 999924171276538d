"""Thin: proto to domain and back, errors, interceptors. No decisions here."""
