"""Routers of other projects, as PyPI has them, before or beside eldr-proxy."""

import asyncio

import pytest
from other_router import SGLANG_ROUTER, VLLM_ROUTER, running_router
from scripted_engine import eventually, running_rig, text_of
from test_proxy_daemon import booked, fit, routed_rig
from test_proxy_prefilled import shim, text

pytestmark = pytest.mark.timeout(300)  # the packages are installed, once
ANSWER = "".join(text_of("Hello", 5))


async def test_vllm_router_prefills_and_decodes_through_the_proxy(shared_daemon, tmp_path):
    async with routed_rig(shared_daemon, accept_prefilled=True, decodes=4) as rig:
        fit(shared_daemon)
        [prefill], decode = rig.prefill, rig.decode
        flags = ["--vllm-pd-disaggregation", "--kv-connector", "nixl"]
        flags += ["--prefill", prefill.url, "--decode", rig.url]
        async with running_router(VLLM_ROUTER, rig.session, tmp_path / "log", *flags) as rig.url:
            served = []
            for half in (0, 1, 0, 1):
                prefill.eldr = shim(half)
                before = [len(engine.decodes) for engine in decode]
                answer, said = await rig.post()
                assert (answer.status, text(said)) == (200, ANSWER)
                served += [e for e, n in zip(decode, before, strict=True) if len(e.decodes) > n]
            assert len(served) == 4
            assert {id(served[0]), id(served[2])}.isdisjoint({id(served[1]), id(served[3])})
            _, said = await rig.post(stream=True)
            assert said.endswith("data: [DONE]\n\n")
        assert not rig.pinned
        asked = [body["kv_transfer_params"] for body in prefill.bodies]
        assert len(asked) == 5
        assert all(each["do_remote_decode"] for each in asked)
        await eventually(lambda: not booked(shared_daemon))


async def test_sglang_router_shares_requests_among_proxies(shared_daemon, tmp_path):
    async with (
        routed_rig(shared_daemon) as rig,
        running_rig(static=False, prefills=0, decodes=0, router=shared_daemon.grpc) as second,
    ):
        await eventually_healthy(second)
        flags = ["--worker-urls", rig.url, second.url]
        proxies = rig.url, second.url
        async with running_router(SGLANG_ROUTER, rig.session, tmp_path / "log", *flags) as rig.url:
            for _ in range(6):
                answer, said = await rig.post()
                assert (answer.status, text(said)) == (200, ANSWER)
            _, said = await rig.post(
                messages=[{"role": "user", "content": "Hello"}],
                path="/v1/chat/completions",
                stream=True,
            )
            assert said.endswith("data: [DONE]\n\n")
        for proxy in proxies:
            async with rig.session.get(proxy + "/metrics") as page:
                lines = (await page.text()).splitlines()
            done = [line for line in lines if line.startswith("eldr_proxy_requests_total{")]
            assert sum(float(line.rsplit(" ", 1)[1]) for line in done) >= 3
        await eventually(lambda: not booked(shared_daemon))


async def eventually_healthy(rig):
    async with asyncio.timeout(15):
        while True:
            async with rig.session.get(rig.url + "/health") as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.05)
