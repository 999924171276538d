"""A small worker on Dynamo's real runtime, which answers as `dynamo.vllm`'s do.

A prefill worker returns what ELDR's connector would return: counts by the prompt's first byte, as
if prompts in capital letters used other experts than those in small ones. A decode worker writes
its own letter, as often as requested. `dynamo_engine.py ROLE ENDPOINT MODEL LETTER`
"""

import asyncio
import base64
import json
import sys

import uvloop
from dynamo.llm import ModelInput, ModelType, WorkerType, register_model
from dynamo.llm.exceptions import InvalidArgument
from dynamo.runtime import dynamo_worker
from dynamo_counts import counts_on_half

PAUSE = 0.02  # seconds per token
# First tokens of special prompts: counts that are not a message, or do not add up; none at all; a
# prompt that is refused; one that fails.
BROKEN, UNEVEN, SILENT, REFUSED, FAULTY = (ord(letter) - 33 for letter in "!%?#$")


def handed_on(request_id, token_ids):
    half = int(token_ids[0] < 64)  # the tokenizer numbers "A" to "Z" from 32, "a" to "z" from 64
    counts = counts_on_half(half, len(token_ids)).to_proto()
    if token_ids[0] == UNEVEN:
        counts.num_tokens += 1
    message = counts.SerializeToString()
    eldr = {"model": "tiny", "request_id": request_id, "epoch": 0}
    eldr["counts"] = base64.b64encode(message).decode()
    if token_ids[0] == BROKEN:
        eldr["counts"] = eldr["counts"][:-5] + "~"
    params = {"do_remote_prefill": True, "remote_block_ids": [1]}
    return params if token_ids[0] == SILENT else {**params, "eldr": eldr}


@dynamo_worker()
async def main(runtime, role, name, model, letter):
    endpoint = runtime.endpoint(name)
    is_prefill = role == "prefill"

    def say(**what):
        print(json.dumps({"letter": letter, **what}), flush=True)

    async def prefill(request, context):
        params = handed_on(context.id(), request["token_ids"])
        yield {
            "token_ids": [request["token_ids"][0]],
            "disaggregated_params": {"kv_transfer_params": params},
        }

    async def decode(request, context):
        params = request["prefill_result"]["disaggregated_params"]["kv_transfer_params"]
        say(request=context.id(), params=params)
        if request["token_ids"][0] == REFUSED:
            raise InvalidArgument("this prompt is refused")
        if request["token_ids"][0] == FAULTY:
            raise RuntimeError("the engine has a fault")
        left = request["stop_conditions"]["max_tokens"]
        while left and not context.is_stopped():
            await asyncio.sleep(PAUSE)
            left -= 1
            said = {"token_ids": [ord(letter) - 33]}
            yield said if left else {**said, "finish_reason": "length"}
        say(ended=context.id(), left=left)

    await register_model(
        ModelInput.Tokens,
        ModelType.Prefill if is_prefill else ModelType.Chat | ModelType.Completions,
        endpoint,
        model,
        "tiny",
        worker_type=WorkerType.Prefill if is_prefill else WorkerType.Decode,
        needs=[[WorkerType.Decode if is_prefill else WorkerType.Prefill]],
        ignore_weights=True,
    )
    say(instance=f"{endpoint.connection_id():x}")
    await endpoint.serve_endpoint(prefill if is_prefill else decode)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
