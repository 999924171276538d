"""PolicyService: which policies are installed, and which is in force."""

import asyncio

import grpc
from eldr.v1 import policy_pb2 as pb
from eldr.v1 import policy_pb2_grpc

from eldr_service.policies.registry import create_prepared, installed
from eldr_service.routing.chosen import Chosen
from eldr_service.routing.router import Router
from eldr_service.server.rpc import reading, writing
from eldr_service.server.rpc.agreement import Agreed, at_once
from eldr_service.server.rpc.caller import CALLER
from eldr_service.server.rpc.telemetry import Telemetry
from eldr_service.server.rpc.unary import unary


class PolicyService(policy_pb2_grpc.PolicyServiceServicer):
    """Reads messages, switches policies, writes answers."""

    def __init__(
        self, router: Router, chosen: Chosen, telemetry: Telemetry, agreed: Agreed = at_once
    ) -> None:
        self.telemetry = telemetry
        self._router = router
        self._chosen = chosen
        self._agreed = agreed

    @unary
    async def ListPolicies(  # noqa: N802
        self, request: pb.ListPoliciesRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListPoliciesResponse:
        """Answer with the installed policies and those in force."""
        may_touch = CALLER.get().may_touch
        return pb.ListPoliciesResponse(
            policies=map(writing.policy_info, installed().values()),
            active=[
                writing.active_policy(name, model.policy)
                for name, model in sorted(self._router.models.items())
                if may_touch(name)
            ],
        )

    @unary
    async def SetPolicy(  # noqa: N802
        self, request: pb.SetPolicyRequest, context: grpc.aio.ServicerContext
    ) -> pb.SetPolicyResponse:
        """Put a policy in force."""
        model = reading.model_name(request)
        self._router.model(model)  # an unknown model fails at once
        # Compiling may take seconds, during which the current policy decides.
        policy = await asyncio.to_thread(create_prepared, request.name, dict(request.parameters))
        async with self._agreed(model):
            self._chosen.set_policy(model, policy)
        return pb.SetPolicyResponse(active=writing.active_policy(model, policy))
