"""The output of a response as it grows: items, and the events that tell of each step of theirs.

An item (a thought, a message, a call) is open until something of another kind comes. The whole response is what the
same steps leave behind, so that it is what a client puts together from the events.
"""

import secrets
from typing import Any

from vesalius.serve.tools.parsing import CallDelta, Delta

Event = dict[str, Any]


class Items:
    """Output items of one response; all but the last are closed. Methods give the events of what they do."""

    def __init__(self) -> None:
        self.output: list[dict[str, Any]] = []
        self._is_open = False
        self._logprobs: list[dict[str, Any]] = []  # of tokens whose text is still to come

    def add(self, deltas: list[Delta], logprobs: list[dict[str, Any]]) -> list[Event]:
        """What a piece of the answer adds."""
        self._logprobs += logprobs
        events: list[Event] = []
        for delta in deltas:
            if delta.content is not None:
                events += self._text(delta.content)
            elif delta.reasoning_content is not None:
                events += self._thought(delta.reasoning_content)
            elif delta.tool_call is not None:
                events += self._call(delta.tool_call)
        return events

    def close(self, status: str) -> list[Event]:
        """Ends the open item, if there is one."""
        if not self._is_open:
            return []
        self._is_open = False
        item = self._item
        item["status"] = status
        events = []
        if item["type"] == "function_call":
            done = self._event("response.function_call_arguments.done", arguments=item["arguments"], name=item["name"])
            events.append(done)
        else:
            part = item["content"][0]
            kind = part["type"]
            more = {"logprobs": part.get("logprobs", [])} if kind == "output_text" else {}
            events.append(self._event(f"response.{kind}.done", content_index=0, text=part["text"], **more))
            events.append(self._event("response.content_part.done", content_index=0, part=dict(part)))
        return [*events, {"type": "response.output_item.done", "output_index": self._index, "item": dict(item)}]

    @property
    def _item(self) -> dict[str, Any]:
        return self.output[-1]

    @property
    def _index(self) -> int:
        return len(self.output) - 1

    def _text(self, text: str) -> list[Event]:
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        events = self._part_in("message", "msg", {"role": "assistant"}, part)
        logprobs, self._logprobs = self._logprobs, []
        self._item["content"][0]["logprobs"] += logprobs
        return [*events, self._grow("output_text", text, logprobs=logprobs)]

    def _thought(self, text: str) -> list[Event]:
        events = self._part_in("reasoning", "rs", {"summary": []}, {"type": "reasoning_text", "text": ""})
        self._logprobs.clear()
        return [*events, self._grow("reasoning_text", text)]

    def _call(self, call: CallDelta) -> list[Event]:
        events: list[Event] = []
        if call.name is not None:
            item = {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": ""}
            events += self.close("completed") + self._begin("fc", item)
        if call.arguments:
            self._item["arguments"] += call.arguments
            events.append(self._event("response.function_call_arguments.delta", delta=call.arguments))
        return events

    def _part_in(self, kind: str, prefix: str, more: dict[str, Any], part: dict[str, Any]) -> list[Event]:
        """Opens an item of a kind with one part, unless one is open."""
        if self._is_open and self._item["type"] == kind:
            return []
        events = self.close("completed") + self._begin(prefix, {"type": kind, **more, "content": []})
        events.append(self._event("response.content_part.added", content_index=0, part=dict(part)))
        self._item["content"].append(part)
        return events

    def _grow(self, kind: str, text: str, **more: Any) -> Event:
        self._item["content"][0]["text"] += text
        return self._event(f"response.{kind}.delta", content_index=0, delta=text, **more)

    def _begin(self, prefix: str, item: dict[str, Any]) -> list[Event]:
        self._is_open = True
        self.output.append({"id": f"{prefix}_{secrets.token_hex(12)}", **item, "status": "in_progress"})
        shown = {name: [] if isinstance(value, list) else value for name, value in self._item.items()}
        return [{"type": "response.output_item.added", "output_index": self._index, "item": shown}]

    def _event(self, kind: str, **more: Any) -> Event:
        return {"type": kind, "item_id": self._item["id"], "output_index": self._index, **more}
