<<<<<<< HEAD
"""Thin: proto to domain and back, errors, interceptors. No decisions here."""
=======
"""Thin: messages to the domain and back, errors, who may call. No decisions here."""
>>>>>>> platform
