"""Python's programs with one fault planted: `python planted.py NAME`.

Each is a fault that a client in some language has had, or could well have.
"""

import asyncio
import itertools
import sys
import time

import eldr_client.messages as messages
from eldr.v1.activation_pb2 import ActivationCounts
from eldr.v1.router_pb2 import RegisterSignatureRequest, ReleaseRequest, RouteRequest
from eldr_client import Counts, aio, client, conversation, errors
from eldr_client.breaker import Breaker
from eldr_client.conversation import Call, Conversation
from eldr_client.fallback import FallbackPool
from eldr_client.stream import SignatureStream
from eldr_conformance.python_driver import AioDriver, SyncDriver

encode = Counts.to_proto


def big_endian(counts):
    message = encode(counts)
    message.dense_u16 = counts.array.astype(">u2").tobytes()
    return message


def wide_counts_wrap(counts):
    message = encode(counts)
    if message.dense_u32:
        message.dense_u16 = counts.array.astype("<u2").tobytes()
    return message


def column_major(counts):
    message = encode(counts)
    if message.dense_u16:
        message.dense_u16 = counts.array.T.astype("<u2").tobytes()
    return message


def sparse_from_one(counts):
    message = encode(counts)
    message.sparse.index[:] = [index + 1 for index in message.sparse.index]
    return message


def forgets(name):
    def forgetting(counts):
        message = encode(counts)
        message.ClearField(name)
        return message

    return forgetting


def plant_encoding(encoding):
    Counts.to_proto = encoding


def plant_unchecked_counts():
    Counts.__post_init__ = lambda self: None


call = Conversation.call


def plant_on_requests(change):
    """Every request of a call, as `change` leaves it."""

    def changed(self, method, request, timeout=None):
        copy = type(request)()
        copy.CopyFrom(request)
        change(copy)
        return (yield from call(self, method, copy, timeout))

    Conversation.call = changed


def chunk_is_never_last(request):
    if isinstance(request, RegisterSignatureRequest) or hasattr(request, "route"):
        request.last = False


def chunk_is_always_last(request):
    if isinstance(request, RegisterSignatureRequest) or hasattr(request, "route"):
        request.last = True


def every_chunk_is_the_first(request):
    if isinstance(request, RegisterSignatureRequest):
        request.sequence = 0


def attempt_is_lost(request):
    if isinstance(request, RouteRequest):
        request.attempt = 0


def lease_is_lost(request):
    if isinstance(request, ReleaseRequest):
        request.lease_id = ""


def plant_retry_without_attempt():
    def forgetting(self, method, request, timeout=None):
        steps = call(self, method, request, timeout)
        step, first = next(steps), True
        while True:
            if isinstance(step, Call) and not first and hasattr(step.request, "attempt"):
                step.request.attempt = 0
            first = first and not isinstance(step, Call)
            try:
                answer = yield step
            except BaseException as error:
                send = steps.throw, error
            else:
                send = steps.send, answer
            try:
                step = send[0](send[1])
            except StopIteration as end:
                return end.value

    Conversation.call = forgetting


def plant_double_release():
    release = Conversation.release

    def twice(self, request, timeout=None):
        yield from release(self, request, timeout)
        return (yield from release(self, request, timeout))

    Conversation.release = twice


def plant_no_release_after_a_failure():
    farewell = messages.farewell
    for module in (client, aio):
        module.farewell = lambda route, held, raised, top_k: (
            None if raised else farewell(route, held, raised, top_k)
        )


def plant_every_end_is_well():
    farewell = messages.farewell
    for module in (client, aio):
        module.farewell = lambda route, held, raised, top_k: farewell(route, held, None, top_k)


def plant_given_up_is_not_disowned():
    Conversation.disown = lambda self, request: None


def plant_fallback_is_released():
    for module in (client, aio):
        module.farewell = lambda route, held, raised, top_k: messages.release_request(
            route.model, route.request_id, attempt=route.attempt
        )


def plant_fallback_ignores_the_request():
    allowed = FallbackPool._allowed
    FallbackPool._allowed = lambda self, request: allowed(self, RouteRequest(model=request.model))


def plant_fallback_never_turns():
    init = FallbackPool.__init__

    def still(self, given=()):
        init(self, given)
        self._turn = itertools.repeat(0)

    FallbackPool.__init__ = still


def plant_nothing_is_learnt():
    FallbackPool.learn = lambda self, model, placement: None


def plant_own_unavailable_is_silence():
    errors._DOMAIN = "another"


def plant_details_are_not_read():
    errors._DETAILS_KEY = "none"


def plant_no_breaker():
    Breaker.trip = lambda self, model, error: None


def plant_breaker_stays_open():
    Breaker.close = lambda self: None


def plant_unsaid_is_dropped():
    release = Conversation.release

    def dropping(self, request, timeout=None):
        said = len(self._unsent)
        result = yield from release(self, request, timeout)
        while len(self._unsent) > said:
            self._unsent.pop()
        return result

    Conversation.release = dropping


def plant_waits_are_not_added():
    conversation.waits = lambda request: 0.0


def plant_retry_waits_anew():
    conversation.having_waited = lambda request, passed: request


def plant_whole_seconds():
    duration = messages.duration
    messages.duration = lambda seconds: duration(int(seconds))


def plant_no_retry():
    conversation._RETRY_PAUSES = ()


def plant_one_replica_only():
    from eldr_client.channel import Addresses

    Addresses.options = lambda self, sticky=False: (("grpc.lb_policy_name", "pick_first"),)


def plant_token_is_not_sent():
    from eldr_client.channel import Endpoint

    Endpoint.metadata = property(lambda self: ())


def plant_stale_stream():
    """A late answer stays in the stream for the next message."""
    SignatureStream._end = lambda self: None


def plant_stream_each():
    exchange = SignatureStream.exchange

    def anew(self, request, timeout):
        self._end()
        return exchange(self, request, timeout)

    SignatureStream.exchange = anew


def plant_placement_of_another():
    """Answers are taken in the order in which they come."""
    from eldr_conformance import python_driver

    answer, waiting = python_driver.answer, []

    def in_order(number, said):
        waiting.append(number)
        answer(number, said)

    python_driver.answer = in_order
    placed = []
    of = Conversation.route

    def mixed(self, request, timeout, kind):
        started = time.monotonic()
        placed.append(started)
        placement = yield from of(self, request, timeout, kind)
        if placed[-1] != started:  # others came meanwhile: theirs is taken for ours
            return kind.of(self.last)
        self.last = placement
        return placement

    Conversation.route = mixed


FAULTS = {
    "counts big-endian": lambda: plant_encoding(big_endian),
    "wide counts wrap at 65,536": lambda: plant_encoding(wide_counts_wrap),
    "counts column by column": lambda: plant_encoding(column_major),
    "sparse indices from 1": lambda: plant_encoding(sparse_from_one),
    "unknown tokens lost": lambda: plant_encoding(forgets("unknown_tokens")),
    "layer offset lost": lambda: plant_encoding(forgets("layer_offset")),
    "counts not checked": plant_unchecked_counts,
    "last chunk never said": lambda: plant_on_requests(chunk_is_never_last),
    "every chunk the last": lambda: plant_on_requests(chunk_is_always_last),
    "sequence lost": lambda: plant_on_requests(every_chunk_is_the_first),
    "attempt lost": lambda: plant_on_requests(attempt_is_lost),
    "lease lost": lambda: plant_on_requests(lease_is_lost),
    "retry without attempt": plant_retry_without_attempt,
    "double release": plant_double_release,
    "no release after a failure": plant_no_release_after_a_failure,
    "every end completed": plant_every_end_is_well,
    "lost answers not disowned": plant_given_up_is_not_disowned,
    "fallback released": plant_fallback_is_released,
    "fallback ignores the request": plant_fallback_ignores_the_request,
    "fallback never turns": plant_fallback_never_turns,
    "nothing learnt from placements": plant_nothing_is_learnt,
    "UNAVAILABLE taken for silence": plant_own_unavailable_is_silence,
    "error details not read": plant_details_are_not_read,
    "no breaker": plant_no_breaker,
    "breaker stays open": plant_breaker_stays_open,
    "unsaid releases dropped": plant_unsaid_is_dropped,
    "waits not added": plant_waits_are_not_added,
    "retry waits anew": plant_retry_waits_anew,
    "whole seconds": plant_whole_seconds,
    "no retry": plant_no_retry,
    "token not sent": plant_token_is_not_sent,
    "stale stream": plant_stale_stream,
    "a stream each": plant_stream_each,
    "answers mixed up": plant_placement_of_another,
}

if __name__ == "__main__":
    FAULTS[sys.argv[1]]()
    if "--aio" in sys.argv:
        asyncio.run(AioDriver().run())
    else:
        SyncDriver().run()
