"""Small pairs and ratings that the tests of preference learning share."""

from vesalius.align.rows.answer_rows import Layout
from vesalius.data.preference import Pair, Rating

LAYOUT = Layout(rows=2, context=128, shared=True)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def pair(number: int, prompt: str = "", chosen: str = "", rejected: str = "") -> Pair:
    prompt, chosen = prompt or f"What is {number}?", chosen or "It is " + "the sum of " * (number % 4) + f"{number}."
    return Pair([user(prompt)], [said(chosen)], [said(rejected or f"No {number}")], f"pair {number}", str(number))


def pairs(count: int) -> list[Pair]:
    return [pair(number) for number in range(count)]


def ratings(count: int) -> list[Rating]:
    """Two good ones and a bad one by turns."""
    found = []
    for number, one in enumerate(pairs(count)):
        good = number % 3 < 2
        found.append(Rating(one.prompt, one.chosen if good else one.rejected, good, f"rating {number}", str(number)))
    return found
