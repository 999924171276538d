"""The program of Python's client for threads with one fault planted: `python planted.py NAME`.

Each is a fault that a client in some language has had, or could well have.
"""

import itertools
import queue
import sys

import eldr_client.messages as messages
import grpc
from eldr.v1.router_pb2 import RegisterSignatureRequest, ReleaseRequest, RouteRequest
from eldr_client import Counts, aio, client, conversation, errors
from eldr_client.breaker import Breaker
from eldr_client.conversation import Call, Conversation
from eldr_client.fallback import FallbackPool
from eldr_client.renewals import Renewals
from eldr_client.stream import BrokenError, SignatureStream
from eldr_conformance.python_driver import SyncDriver

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
            except BaseException as error:  # noqa: BLE001  (it is thrown on)
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

    def exchange(self, request, timeout):
        if self._call is None:
            self._open()
        self._requests.put(request)
        try:
            return self._answers.get(timeout=timeout)
        except queue.Empty:
            raise BrokenError(grpc.StatusCode.DEADLINE_EXCEEDED, "late") from None

    SignatureStream.exchange = exchange


def plant_stream_each():
    exchange = SignatureStream.exchange

    def anew(self, request, timeout):
        self._end()
        return exchange(self, request, timeout)

    SignatureStream.exchange = anew


def plant_no_renewal():
    Renewals.hold = lambda self, request, placement: None


def plant_renewal_without_its_lease():
    take = Renewals.take_due

    def take_without(self):
        messages = take(self)
        for message in messages:
            for lease in message.leases:
                lease.ClearField("lease_id")
        return messages

    Renewals.take_due = take_without


def plant_renewal_after_the_block():
    Renewals.let_go = lambda self, request: None


# What is planted, and a case that must find it.
FAULTS = {
    "counts big-endian": (
        lambda: plant_encoding(big_endian),
        "dense counts are little-endian, two bytes each, row by row",
    ),
    "wide counts wrap at 65,536": (
        lambda: plant_encoding(wide_counts_wrap),
        "counts above 65,535 take four bytes",
    ),
    "counts column by column": (
        lambda: plant_encoding(column_major),
        "dense counts are little-endian, two bytes each, row by row",
    ),
    "sparse indices from 1": (
        lambda: plant_encoding(sparse_from_one),
        "few counts among many zeros are sparse",
    ),
    "unknown tokens lost": (
        lambda: plant_encoding(forgets("unknown_tokens")),
        "tokens with unknown experts are reported beside the counts",
    ),
    "layer offset lost": (
        lambda: plant_encoding(forgets("layer_offset")),
        "a pipeline rank sends its own layers",
    ),
    "counts not checked": (
        plant_unchecked_counts,
        "rows with different sums are refused before anything is sent",
    ),
    "last chunk never said": (
        lambda: plant_on_requests(chunk_is_never_last),
        "every field of a chunk arrives",
    ),
    "every chunk the last": (
        lambda: plant_on_requests(chunk_is_always_last),
        "a chunk that is not the last is not marked as last",
    ),
    "sequence lost": (
        lambda: plant_on_requests(every_chunk_is_the_first),
        "every field of a chunk arrives",
    ),
    "attempt lost": (lambda: plant_on_requests(attempt_is_lost), "every field of a route arrives"),
    "lease lost": (
        lambda: plant_on_requests(lease_is_lost),
        "a block that completes releases once, with lease and tokens",
    ),
    "retry without attempt": (
        plant_retry_without_attempt,
        "a call whose connection broke is retried unchanged",
    ),
    "double release": (
        plant_double_release,
        "a block that completes releases once, with lease and tokens",
    ),
    "no release after a failure": (
        plant_no_release_after_a_failure,
        "a block that fails releases as failed",
    ),
    "every end completed": (plant_every_end_is_well, "a block that fails releases as failed"),
    "lost answers not disowned": (
        plant_given_up_is_not_disowned,
        "a booking whose answer was lost is released once the router answers again",
    ),
    "fallback released": (
        plant_fallback_is_released,
        "a fallback made without asking the router is not released",
    ),
    "fallback ignores the request": (
        plant_fallback_ignores_the_request,
        "a fallback respects the request's constraints",
    ),
    "fallback never turns": (plant_fallback_never_turns, "fallbacks are round robin"),
    "nothing learnt from placements": (
        plant_nothing_is_learnt,
        "fallbacks go to workers that placements named",
    ),
    "UNAVAILABLE taken for silence": (
        plant_own_unavailable_is_silence,
        "the router's own UNAVAILABLE is an answer, not an outage",
    ),
    "error details not read": (
        plant_details_are_not_read,
        "an invalid argument names the field, what was expected and what was found",
    ),
    "no breaker": (
        plant_no_breaker,
        "a frozen router costs one call its deadline, and later calls nothing",
    ),
    "breaker stays open": (plant_breaker_stays_open, "a router that has recovered is asked again"),
    "unsaid releases dropped": (
        plant_unsaid_is_dropped,
        "releases of an outage are sent after it, once each",
    ),
    "waits not added": (plant_waits_are_not_added, "the waits of a call are added to its deadline"),
    "retry waits anew": (plant_retry_waits_anew, "a retry asks only for the rest of the waits"),
    "whole seconds": (plant_whole_seconds, "every field of a route arrives"),
    "no retry": (plant_no_retry, "a call whose connection broke is retried unchanged"),
    "token not sent": (plant_token_is_not_sent, "the token is sent with unary calls"),
    "stale stream": (plant_stale_stream, "a late answer is not mistaken for the next message's"),
    "no renewal": (plant_no_renewal, "a block keeps its lease alive"),
    "renewal without its lease": (
        plant_renewal_without_its_lease,
        "a block keeps its lease alive",
    ),
    "renewal after the block": (
        plant_renewal_after_the_block,
        "a lease is not renewed once its block has ended",
    ),
    "a stream each": (plant_stream_each, "chunks of requests share one stream"),
}

if __name__ == "__main__":
    FAULTS[sys.argv[1]][0]()
    SyncDriver().run()
