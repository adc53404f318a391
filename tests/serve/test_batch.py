"""Files of requests: every answer once, also where the work is interrupted between."""

import asyncio
import json

import pytest
from tiny_server import byte_tokenizer, settings_of, tiny_lm, with_engine

from vesalius.core.errors import UserError, VesaliusError
from vesalius.serve.batch import Batch, run_batch
from vesalius.serve.service import Served, Service

CHAT, COMPLETION, EMBEDDING, RESPONSE = "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"


def line(custom_id, url=CHAT, **body):
    body = body or {
        "model": "tiny",
        "messages": [{"role": "user", "content": custom_id}],
        "max_tokens": 5,
        "temperature": 0,
    }
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body})


def run(lm, source, target, in_flight=3, on_progress=lambda done: None):
    served = Served("tiny", with_engine(lm))
    service = Service(served, settings_of(max_queue=10_000), lambda name: served)
    return asyncio.run(run_batch(service, Batch.open(source, target), in_flight=in_flight, on_progress=on_progress))


def answers(target):
    found = [json.loads(text) for text in target.read_text().splitlines()]
    assert len({answer["custom_id"] for answer in found}) == len(found)
    return {answer["custom_id"]: answer["response"] for answer in found}


@pytest.fixture
def files(tmp_path):
    return tmp_path / "in.jsonl", tmp_path / "out.jsonl"


def test_every_request_gets_the_answer_that_the_server_gives(lm, running, files):
    source, target = files
    lines = [line(f"chat {i}") for i in range(7)]
    lines += [
        line("completion", COMPLETION, prompt="ab", max_tokens=4, temperature=0),
        line("embedding", EMBEDDING, input="ab"),
        line("response", RESPONSE, input="ab", max_output_tokens=4, temperature=0),
        line("refused", CHAT, messages=[]),
        line("elsewhere", CHAT, model="gpt-9", messages=[{"role": "user", "content": "Hi"}]),
    ]
    source.write_text("\n".join(lines) + "\n\n")
    progress = []
    counts = run(lm, source, target, on_progress=progress.append)
    assert progress == list(range(1, 13))
    assert (counts.total, counts.skipped, counts.failed) == (12, 0, 2)
    found = answers(target)
    assert {found[name]["status_code"] for name in ("refused", "elsewhere")} == {400, 404}
    assert found["refused"]["body"]["error"]["param"] == "messages"
    for text in lines[:10]:
        request = json.loads(text)
        served = running.post(request["url"], **request["body"]).json()
        answer = found[request["custom_id"]]["body"]
        assert answer.get("choices") == served.get("choices")
    ours, theirs = found["embedding"]["body"], running.post(EMBEDDING, input="ab").json()
    assert ours["data"][0]["embedding"] == pytest.approx(theirs["data"][0]["embedding"], abs=1e-5)
    assert (
        found["response"]["body"]["output"][0]["content"]
        == running.post(RESPONSE, **json.loads(lines[9])["body"]).json()["output"][0]["content"]
    )


def test_started_again_it_goes_on(lm, files):
    source, target = files
    source.write_text("\n".join(line(f"{i}") for i in range(10)))
    run(lm, source, target)
    whole = answers(target)
    lines = target.read_text().splitlines(keepends=True)
    target.write_text("".join(lines[:4]) + lines[4][:30])  # as a killed process leaves it
    counts = run(lm, source, target)
    assert counts.skipped == 4
    found = answers(target)
    assert found.keys() == whole.keys()
    assert all(found[name]["body"]["choices"] == whole[name]["body"]["choices"] for name in whole)
    before = target.read_text()
    assert run(lm, source, target).skipped == 10
    assert target.read_text() == before


def test_what_failed_by_the_servers_fault_is_tried_again(lm, files):
    source, target = files
    source.write_text(line("a") + "\n" + line("b"))
    failed = {"custom_id": "a", "response": {"status_code": 500, "request_id": "", "body": {}}}
    target.write_text(json.dumps(failed) + "\n")
    assert run(lm, source, target).skipped == 0
    assert {answer["status_code"] for answer in answers(target).values()} == {200}


def test_an_engine_that_breaks_ends_the_batch_and_a_later_one_finishes_it(files):
    source, target = files
    source.write_text("\n".join(line(f"{i}") for i in range(6)))
    lm = tiny_lm(byte_tokenizer())
    served = Served("tiny", with_engine(lm))
    step, steps = served.lm.engine.step, iter(range(12))

    def breaking():
        if next(steps, None) is None:
            raise RuntimeError("out of memory")
        return step()

    served.lm.engine.step = breaking
    service = Service(served, settings_of(max_queue=100), lambda name: served)
    with pytest.raises(VesaliusError, match="out of memory"):
        asyncio.run(run_batch(service, Batch.open(source, target), in_flight=2, on_progress=lambda done: None))
    assert 0 < len(answers(target)) < 6
    run(lm, source, target)
    assert {answer["status_code"] for answer in answers(target).values()} == {200}
    assert len(answers(target)) == 6


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "line 1: the request is not valid JSON"),
        ("[]", 'line 1: expected an object with a "custom_id"'),
        (line("a") + "\n" + line("a"), "line 2: custom_id 'a' is there twice"),
        (line("a", "/v1/nothing"), "line 1: got POST /v1/nothing, expected POST with one of"),
        ('{"custom_id": "a", "method": "GET", "url": "/v1/completions", "body": {}}', "got GET"),
        ('{"custom_id": "a", "url": "/v1/completions"}', 'expected an object as "body"'),
    ],
)
def test_a_line_that_is_no_request_is_told_before_anything_is_computed(lm, files, text, said):
    source, target = files
    source.write_text(text)
    with pytest.raises(UserError, match="line") as raised:
        Batch.open(source, target)
    assert said in str(raised.value)
    assert not target.exists()


def test_anybodys_file_is_not_written_to(files):
    source, target = files
    source.write_text(line("a"))
    target.write_text("Dear diary,\n")
    with pytest.raises(UserError, match="no answer of a batch"):
        Batch.open(source, target)
    assert target.read_text() == "Dear diary,\n"
    with pytest.raises(UserError, match="read and written"):
        Batch.open(source, source)
    with pytest.raises(UserError, match="no file"):
        Batch.open(target.with_name("nothing"), target)
