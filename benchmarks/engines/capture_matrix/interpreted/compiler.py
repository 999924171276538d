"""The compiler that Triton requires of a backend; the interpreter never calls it."""

from triton.backends.compiler import BaseBackend


class InterpretedBackend(BaseBackend):
    @staticmethod
    def supports_target(target):
        return target.backend == "cpu"

    def hash(self):
        return "interpreted"

    def parse_options(self, options):
        raise RuntimeError("kernels are interpreted: set TRITON_INTERPRET=1")

    def add_stages(self, stages, options, language=None):
        raise RuntimeError("kernels are interpreted: set TRITON_INTERPRET=1")

    def load_dialects(self, context):
        """None."""

    def get_module_map(self):
        return {}
