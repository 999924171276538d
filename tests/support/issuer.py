"""An issuer of JSON Web Tokens: keys, their set as a file or over HTTP, and tokens."""

import base64
import hashlib
import hmac
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

NAME, AUDIENCE = "https://issuer.test", "eldr"
MAKERS = {
    "RS256": lambda: rsa.generate_private_key(65_537, 2_048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


class SigningKey:
    def __init__(self, algorithm: str, kid: str, key=None) -> None:
        self.algorithm, self.kid = algorithm, kid
        self.private = key or MAKERS[algorithm]()

    @property
    def public(self) -> dict:
        kinds = jwt.algorithms.get_default_algorithms()
        entry = kinds[self.algorithm].to_jwk(self.private.public_key(), as_dict=True)
        return {**entry, "kid": self.kid, "use": "sig"}

    @property
    def public_pem(self) -> bytes:
        return self.private.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, headers=None, **claims) -> str:
        """A token valid for a minute, unless the claims say otherwise; None omits a claim."""
        return jwt.encode(
            claims_of(**claims),
            self.private,
            self.algorithm,
            headers={
                k: v for k, v in {"kid": self.kid, **(headers or {})}.items() if v is not None
            },
        )


def claims_of(**claims) -> dict:
    usual = {"iss": NAME, "aud": AUDIENCE, "sub": "somebody", "exp": time.time() + 60}
    return {name: value for name, value in (usual | claims).items() if value is not None}


def unsigned(header: dict, **claims) -> str:
    """A token with exactly this header, without a signature."""
    return f"{_base64(json.dumps(header))}.{_base64(json.dumps(claims_of(**claims)))}."


def signed_by_secret(secret: bytes, header: dict, **claims) -> str:
    """A token signed by HMAC: with a public key as the secret, to confuse the verifier."""
    start = unsigned(header, **claims).rstrip(".")
    return f"{start}.{_base64(hmac.digest(secret, start.encode(), hashlib.sha256))}"


def _base64(data: str | bytes) -> str:
    data = data.encode() if isinstance(data, str) else data
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def key_set(*keys: SigningKey) -> str:
    return json.dumps({"keys": [key.public for key in keys]})


class KeyServer:
    """Serves a key set, and counts the requests."""

    def __init__(self, *keys: SigningKey) -> None:
        self.body, self.status, self.asked, self.delay = key_set(*keys), 200, 0, 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked += 1
                time.sleep(outer.delay)
                self.send_response(outer.status)
                self.end_headers()
                self.wfile.write(outer.body.encode())

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/keys"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
