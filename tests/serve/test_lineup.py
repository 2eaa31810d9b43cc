"""Cascades are loaded, compared and taken back while requests go on."""

import asyncio
from collections import Counter

import httpx
import polars as pl
import pytest
from services import client_of

from corellarec.cascade.cascade import Cascade
from corellarec.serve.app import build_app

USERS = [str(user) for user in range(1, 41)]
ITEMS = ["3", "9", "27", "44"]


def ask(client, user):
    found = client.post("/v1/score", json={"user": user, "candidates": ITEMS})
    assert found.status_code == 200, found.text
    found = found.json()
    return found["model"], [row["p"] for row in found["candidates"]]


def roles(client):
    found = client.get("/v1/admin/models").json()["models"]
    return {row["role"]: row["version"] for row in found}


def post(client, route, **body):
    found = client.post(f"/v1/admin/{route}", json=body or None)
    assert found.status_code == 200, found.text
    return roles(client)


def test_another_cascade_goes_live_and_back(make_service, other, load):
    service = make_service(load=load)
    with client_of(service) as client:
        first = ask(client, "3")
        assert roles(client) == {"live": "v1"}
        assert client.post("/v1/admin/rollback").status_code == 409
        loaded = post(client, "models", path=str(other))
        assert loaded["previous"] == "v1"
        second = ask(client, "3")
        assert second[0] == loaded["live"] != "v1"
        assert all(b > a + 0.02 for a, b in zip(first[1], second[1], strict=True))
        assert post(client, "rollback") == {"live": "v1", "previous": loaded["live"]}
        assert ask(client, "3") == first
        text = client.get("/metrics").text
        assert f'role="previous",version="{loaded["live"]}"' in text


@pytest.mark.parametrize("damage", ["absent", "damaged"])
def test_what_cannot_be_served_changes_nothing(make_service, run, load, tmp_path, damage):
    place = tmp_path / "cascade"
    if damage == "damaged":
        Cascade.load(run, device="cpu").save(place)
        (place / "crm.safetensors").write_bytes(b"damaged")
    service = make_service(load=load)
    with client_of(service) as client:
        found = client.post("/v1/admin/models", json={"path": str(place)})
        assert found.status_code == 422
        assert str(place) in found.json()["detail"]
        assert roles(client) == {"live": "v1"}
        assert ask(client, "3")[0] == "v1"


def test_a_share_of_the_users_has_the_other_cascade(make_service, other, load):
    service = make_service(load=load)
    with client_of(service) as client:
        loaded = post(client, "models", path=str(other), mode="share", share=0.4)
        found = {user: ask(client, user)[0] for user in USERS}
        assert found == {user: ask(client, user)[0] for user in USERS}
        counts = Counter(found.values())
        assert counts.keys() == {"v1", loaded["share"]}
        assert 8 <= counts[loaded["share"]] <= 24
        assert post(client, "rollback") == {"live": "v1"}
        assert {ask(client, user)[0] for user in USERS} == {"v1"}
        for wrong in ({"mode": "share"}, {"share": 0.5}, {"mode": "share", "share": 1.5}):
            body = {"path": str(other), **wrong}
            assert client.post("/v1/admin/models", json=body).status_code == 422


def test_a_shadow_answers_and_nobody_is_served(make_service, other, load, tmp_path):
    folder = tmp_path / "log"
    service = make_service(load=load, decisions={"directory": str(folder)})
    with client_of(service) as client:
        before = ask(client, "3")
        loaded = post(client, "models", path=str(other), mode="shadow")
        assert ask(client, "3") == before
        ask(client, "4")
        while service.shadow_tasks:
            client.get("/livez")
        assert "corellarec_shadow_difference_count 8.0" in client.get("/metrics").text
    log = pl.concat([pl.read_parquet(path) for path in folder.glob("*/*.parquet")])
    assert set(log["model"]) == {loaded["shadow"]}  # the live one's LLM is off: nothing to decide
    assert set(log["reason"]) == {"shadow"}
    assert log.height == 8
    assert not log["eligible"].any()
    assert (log["p"].to_numpy()[:4] > [p + 0.02 for p in before[1]]).all()


def test_items_and_erasures_reach_every_cascade(make_service, other, load):
    service = make_service(load=load)
    with client_of(service) as client:
        assert client.put("/v1/items/n1", json={"title": "One"}).json() == {"added": True}
        post(client, "models", path=str(other))
        assert client.put("/v1/items/n2", json={"title": "Two"}).json() == {"added": True}
        body = {"user": "3", "candidates": ["n1", "n2"]}
        now = client.post("/v1/score", json=body)
        post(client, "rollback")
        then = client.post("/v1/score", json=body)
        assert now.status_code == then.status_code == 200
        client.delete("/v1/users/3")
        for _ in range(2):
            erased = ask(client, "3")
            assert erased == ask(client, "nobody")
            post(client, "rollback")


def test_no_request_is_lost_or_answered_by_a_mix(make_service, other, load, request):
    service = make_service(load=load, answer={"deadline_ms": 30_000})
    count, swaps = (5000, 20) if request.config.getoption("--hard") else (600, 4)
    with client_of(service) as client:
        expected = {(user, *ask(client, user)[:1]): ask(client, user)[1] for user in USERS}
        post(client, "models", path=str(other))
        expected |= {(user, ask(client, user)[0]): ask(client, user)[1] for user in USERS}

    service = make_service(load=load, answer={"deadline_ms": 30_000})
    app = build_app(service, [])
    answers = []

    async def work():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            waiting = iter(range(count))

            async def send():
                for place in waiting:
                    user = USERS[place % len(USERS)]
                    body = {"user": user, "candidates": ITEMS}
                    found = await client.post("/v1/score", json=body, timeout=60)
                    answers.append((user, found.status_code, found.json()))

            async def swap():
                await client.post("/v1/admin/models", json={"path": str(other)})
                for done in range(1, swaps):
                    while len(answers) < done * count // swaps:
                        await asyncio.sleep(0.005)
                    assert (await client.post("/v1/admin/rollback")).status_code == 200

            await asyncio.gather(swap(), *(send() for _ in range(8)))

    asyncio.run(work())
    assert len(answers) == count
    assert {status for _, status, _ in answers} == {200}
    versions = Counter(found["model"] for _, _, found in answers)
    assert len(versions) == 2
    assert min(versions.values()) > count / 20
    for user, _, found in answers:
        ps = [row["p"] for row in found["candidates"]]
        assert ps == pytest.approx(expected[user, found["model"]], abs=1e-6)
