"""Who may ask."""

import openai
import pytest
from tiny_server import serving, with_engine

from vesalius.core.errors import UserError
from vesalius.serve.settings import ServerSettings

KEYS = ("first-key", "second-key")


@pytest.fixture(scope="module")
def locked(lm):
    """A server that wants a key."""
    with serving(with_engine(lm), api_keys=KEYS) as server:
        yield server


@pytest.mark.parametrize("key", KEYS)
def test_every_key_opens(locked, key):
    assert [model.id for model in locked.client(api_key=key).models.list()] == ["tiny"]


@pytest.mark.parametrize("key", ["wrong", "first-ke", "first-key2", "é", "first-key,second-key"])
def test_another_key_does_not(locked, key):
    with locked.http() as http:
        answer = http.get("/v1/models", headers={"Authorization": b"Bearer " + key.encode()})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_openais_client_knows_the_error(locked):
    with pytest.raises(openai.AuthenticationError):
        locked.client(api_key="wrong").models.list()


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/openapi.json", "/v1/nothing", "/healthy"])
def test_without_a_key_nothing_is_told(locked, path):
    with locked.http() as http:
        assert http.get(path).status_code == 401


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_whoever_watches_needs_no_key(locked, path):
    with locked.http() as http:
        assert http.get(path).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "10.0.0.1"])
def test_a_page_of_another_site_cannot_ask_a_server_without_keys(running, host):
    with running.http() as http:
        answer = http.get("/v1/models", headers={"Host": host})
    assert answer.status_code == 403


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "[::1]"])
def test_this_machine_may_be_called_by_its_names(running, host):
    with running.http() as http:
        assert http.get("/v1/models", headers={"Host": host}).status_code == 200


def test_with_a_key_the_host_does_not_matter(locked):
    with locked.http() as http:
        headers = {"Host": "model.example", "Authorization": "Bearer first-key"}
        assert http.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_other_machines_are_let_in_only_with_a_key_or_when_told(host):
    with pytest.raises(UserError, match="--api-key"):
        ServerSettings(host=host)
    ServerSettings(host=host, api_keys=("key",))
    ServerSettings(host=host, allow_open=True)


@pytest.mark.parametrize(
    "changes", [{"port": 70000}, {"timeout": 0}, {"max_queue": -1}, {"api_keys": ("",)}, {"api_keys": ("a b",)}]
)
def test_settings_that_make_no_sense_are_refused(changes):
    with pytest.raises(UserError, match=r"expected|API key"):
        ServerSettings(**changes)
