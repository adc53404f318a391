"""The chat page in a browser: asked, stopped, repeated, edited, dissected, kept, and quiet about it."""

import json
import re
from collections.abc import Iterator

import pytest
from fake_chat_server import FakeServer, entries
from playwright.sync_api import BrowserContext, Locator, Page, expect

pytestmark = pytest.mark.usefixtures("is_quiet")


@pytest.fixture
def is_quiet(complaints: list[str], request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test ends without a message on the console; only of a server that fails the browser itself may tell."""
    yield
    if "failing" in request.fixturenames:
        assert all(complaint.startswith("Failed to load resource") for complaint in complaints)
    else:
        assert complaints == []


@pytest.fixture
def failing() -> None:
    """Says that the server of this test refuses or is gone."""


INKED = """canvas => {
  const { width, height } = canvas;
  const pen = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  pen.drawImage(canvas, 0, 0);
  const column = (n) => pen.getImageData(n * 8 + 2, 0, 1, height).data;
  return [0, 3].map((n) => column(n).filter((value, at) => at % 4 === 3 && value).length);
}"""  # how many pixels of the first and the fourth cell of a strip are drawn


def ask(page: Page, text: str) -> Locator:
    """Sends a message and waits for the whole answer."""
    answered = page.locator(".answer").count()
    page.get_by_label("Message").fill(text)
    page.keyboard.press("Enter")
    answer = page.locator(".answer").nth(answered)
    expect(answer).to_have_attribute("aria-busy", "false")
    return answer


def dissect(answer: Locator) -> Locator:
    answer.get_by_role("button", name="Dissect").click()
    return answer.get_by_role("option")


def test_answer_is_drawn_with_its_figures(page: Page, server: FakeServer) -> None:
    server.answers["Show"] = "# Head\n\nSome **bold** words.\n\n- one\n- two"
    answer = ask(page, "Show")
    expect(answer.get_by_role("heading", name="Head")).to_be_visible()
    expect(answer.locator("strong")).to_have_text("bold")
    expect(answer.locator("li")).to_have_text(["one", "two"])
    count = len(entries(server.answers["Show"]))
    figures = answer.locator(".figures").inner_text()
    assert re.fullmatch(rf"{count} tokens\s+[\d.,]+ tokens/s\s+[\d.]+ s to the first\s+[\d.]+ bits per token", figures)
    expect(page.locator("#use")).to_have_text(f"{21 + count} of 2,048 tokens of context")


def test_request_asks_for_logprobs_and_usage_and_sends_no_setting_that_nobody_made(
    page: Page, server: FakeServer
) -> None:
    ask(page, "Hello")
    assert server.requests == [
        {
            "model": "tiny-anatomist",
            "messages": [{"role": "user", "content": "Hello"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "logprobs": True,
            "top_logprobs": 5,
        }
    ]


def test_answer_appears_while_it_is_written_and_stops(page: Page, server: FakeServer) -> None:
    server.answers["Count"] = "one two three four five"
    server.pause_after = 3
    page.get_by_label("Message").fill("Count")
    page.get_by_role("button", name="Send").click()
    answer = page.locator(".answer")
    expect(answer.locator(".prose")).to_have_text("one two three")
    expect(answer).to_have_attribute("aria-busy", "true")
    page.get_by_role("button", name="Stop").click()
    expect(answer.locator(".end")).to_have_text("Stopped.")
    expect(answer.locator(".prose")).to_have_text("one two three")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    assert server.left.wait(10)  # the server hears of it and frees its place


def test_escape_stops_and_the_next_question_follows_the_half_answer(page: Page, server: FakeServer) -> None:
    server.answers["Count"] = "one two three"
    server.pause_after = 2
    page.get_by_label("Message").fill("Count")
    page.keyboard.press("Enter")
    expect(page.locator(".prose")).to_have_text("one two")
    page.keyboard.press("Escape")
    expect(page.locator(".end")).to_have_text("Stopped.")
    server.pause_after = None
    ask(page, "On")
    assert [message["content"] for message in server.requests[-1]["messages"]] == ["Count", "one two", "On"]


def test_retry_keeps_the_earlier_answer_beside_the_new_one(page: Page, server: FakeServer) -> None:
    server.answers["Pick"] = "red"
    answer = ask(page, "Pick")
    server.answers["Pick"] = "blue"
    answer.get_by_role("button", name="Retry").click()
    expect(page.locator(".prose")).to_have_text("blue")
    expect(page.get_by_role("img", name="Version 2 of 2")).to_have_text("2/2")
    page.get_by_role("button", name="Earlier version").click()
    expect(page.locator(".prose")).to_have_text("red")
    expect(page.get_by_role("button", name="Earlier version")).to_be_disabled()
    ask(page, "Go on")
    assert server.requests[-1]["messages"][1] == {"role": "assistant", "content": "red"}


def test_edited_question_branches_and_the_way_back_is_open(page: Page, server: FakeServer) -> None:
    ask(page, "First")
    ask(page, "Second")
    question = page.locator(".question").first
    question.hover()
    question.get_by_role("button", name="Edit the question").click()
    field = page.get_by_label("Edited question")
    expect(field).to_be_focused()
    field.fill("Another first")
    page.keyboard.press("Enter")
    expect(page.locator(".prose")).to_have_text("You said: Another first")
    assert server.requests[-1]["messages"] == [{"role": "user", "content": "Another first"}]
    page.get_by_role("button", name="Earlier version").click()
    expect(page.locator(".said")).to_have_text(["First", "Second"])


def test_hovered_token_shows_probability_rank_and_rivals(page: Page, server: FakeServer) -> None:
    server.answers["Bones"] = "The jaw is one bone."
    tokens = dissect(ask(page, "Bones"))
    expect(tokens).to_have_text(["The", " jaw", " is", " one", " bone", "."])
    tokens.nth(3).hover()
    note = page.get_by_role("tooltip")
    expect(note.locator(".where")).to_have_text("token 4 of 6rank 3")
    expect(note.locator(".what")).to_have_text("·one")
    expect(note.locator("dd")).to_have_text(["12.0\u202f%", "3.06 bits"])
    expect(note.locator("li")).to_have_text(["·the50.0\u202f%", "·a25.0\u202f%", "·one12.0\u202f%"])
    expect(note.locator(".taken")).to_have_text("·one12.0\u202f%")
    page.get_by_label("Message").hover()
    expect(note).to_be_hidden()


def test_tokens_are_shaded_by_surprise(page: Page, server: FakeServer) -> None:
    server.answers["Bones"] = "The jaw is one bone."
    tokens = dissect(ask(page, "Bones"))
    expect(tokens.nth(0)).to_have_class("t t0")  # certain
    expect(tokens.nth(3)).to_have_class("t t3")  # 12 %
    grounds = [tokens.nth(n).evaluate("token => getComputedStyle(token).backgroundColor") for n in (0, 3)]
    assert grounds[0] != grounds[1]


def test_strip_and_tokens_point_at_each_other(page: Page, server: FakeServer) -> None:
    server.answers["Bones"] = "The jaw is one bone."
    answer = ask(page, "Bones")
    strip = answer.get_by_role("img", name=re.compile(r"^Surprise of 6 tokens: [\d.]+ bits on average, most at "))
    strip.hover(position={"x": 3 * 8 + 4, "y": 20})
    expect(page.get_by_role("tooltip").locator(".what")).to_have_text("·one")
    strip.click(position={"x": 3 * 8 + 4, "y": 20})
    expect(answer.get_by_role("option").nth(3)).to_be_focused()
    strip.hover(position={"x": 4, "y": 20})
    expect(answer.locator(".pointed")).to_have_text("The")
    pointed = strip.evaluate(INKED)
    page.get_by_label("Message").hover()
    calm = strip.evaluate(INKED)
    assert pointed[0] > calm[0]  # the cell pointed at is drawn in full height
    assert calm[1] > calm[0]  # and surprise is height


def test_long_answer_has_a_column_a_pixel_and_keeps_its_spikes(page: Page) -> None:
    highest = page.evaluate(
        """async () => {
          const { Strip } = await import("/page/strip.js");
          const tokens = Array.from({ length: 5000 }, (_, n) => ["x", n === 3210 ? -8 : -0.01, []]);
          const strip = new Strip(tokens, () => {}, () => {});
          document.getElementById("plate").replaceChildren(strip.element);
          strip.draw();
          const columns = [...strip.columns()];
          const column = columns.findIndex(({ n }) => n === 3210);
          return [columns.length, column, strip.indexAt(columns[column].x + 0.5)];
        }"""
    )
    assert highest[0] == 720
    assert highest[1] == int(3210 * 720 / 5000)
    assert abs(highest[2] - 3210) <= 5000 / 720


def test_exact_prompt_marks_special_tokens_and_shows_ids(page: Page, server: FakeServer) -> None:
    answer = ask(page, "Hi <b>there</b>")
    answer.get_by_role("button", name="Exact prompt of this answer").click()
    dialog = page.get_by_role("dialog", name="The exact prompt")
    expect(dialog.locator(".special")).to_have_text(["<|im_start|>", "<|im_end|>", "<|im_start|>"])
    prompt = "<|im_start|>user\nHi <b>there</b><|im_end|>\n<|im_start|>assistant\n"
    assert dialog.locator("#prompt-body").text_content() == prompt
    count = f"{dialog.locator('.p').count()} tokens, {len(prompt)} characters"
    expect(dialog.locator("#prompt-count")).to_have_text(count)
    first = dialog.locator(".p").first
    content = "token => getComputedStyle(token, '::after').content"
    assert first.evaluate(content) == "none"
    dialog.get_by_label("Token ids").check()
    assert json.loads(first.evaluate(content)) == first.get_attribute("data-id")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()


def test_settings_are_sent_and_the_models_own_are_shown_in_grey(page: Page, server: FakeServer) -> None:
    page.get_by_role("button", name="Settings").click()
    dialog = page.get_by_role("dialog", name="This conversation")
    expect(dialog.get_by_role("spinbutton", name="Temperature")).to_have_attribute("placeholder", "0.7")
    dialog.get_by_label("System prompt").fill("Be brief.")
    for label, value in {"Temperature": "0.3", "Top-k": "40", "Most tokens": "99", "Seed": "7"}.items():
        dialog.get_by_role("spinbutton", name=label).fill(value)
    dialog.get_by_role("spinbutton", name="Top-p").fill("1.5")  # out of range: not taken
    dialog.get_by_label("Stop texts").fill("END\n\\n\\n")
    page.keyboard.press("Escape")
    ask(page, "Hello")
    sent = server.requests[0]
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    assert {name: sent.get(name) for name in ("temperature", "top_k", "max_tokens", "seed", "top_p", "stop")} == {
        "temperature": 0.3, "top_k": 40, "max_tokens": 99, "seed": 7, "top_p": None, "stop": ["END", "\n\n"],
    }  # fmt: skip


def test_settings_go_back_to_the_models_defaults(page: Page, server: FakeServer) -> None:
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("spinbutton", name="Temperature").fill("0.3")
    page.get_by_role("button", name="Back to the model's defaults").click()
    expect(page.get_by_role("spinbutton", name="Temperature")).to_have_value("")
    page.keyboard.press("Escape")
    ask(page, "Hello")
    assert "temperature" not in server.requests[0]


def test_reload_keeps_conversations_branches_and_tokens(page: Page, server: FakeServer) -> None:
    server.answers["Pick"] = "The red one is here."
    ask(page, "Pick").get_by_role("button", name="Retry").click()
    expect(page.get_by_role("img", name="Version 2 of 2")).to_be_visible()
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator(".greeting")).to_be_visible()
    ask(page, "Other")
    page.reload()
    expect(page.locator(".said")).to_have_text("Other")
    page.get_by_role("navigation").get_by_role("button", name="Pick", exact=True).click()
    expect(page.get_by_role("img", name="Version 2 of 2")).to_be_visible()
    tokens = dissect(page.locator(".answer"))
    tokens.nth(3).hover()
    expect(page.get_by_role("tooltip").locator("dd").first).to_have_text("12.0\u202f%")


def test_conversations_go_on_side_by_side(page: Page, server: FakeServer) -> None:
    server.answers["Slow"] = "one two three four"
    server.pause_after = 2
    page.get_by_label("Message").fill("Slow")
    page.keyboard.press("Enter")
    expect(page.locator(".prose")).to_have_text("one two")
    page.get_by_role("button", name="New conversation").click()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.get_by_role("img", name="being written")).to_be_visible()
    server.resume()
    expect(page.get_by_role("img", name="being written")).to_be_hidden()
    page.get_by_role("navigation").get_by_role("button", name="Slow", exact=True).click()
    expect(page.locator(".prose")).to_have_text("one two three four")


def test_conversation_is_renamed_searched_deleted_and_brought_back(page: Page) -> None:
    ask(page, "About bones")
    page.get_by_role("button", name="New conversation").click()
    ask(page, "About muscles")
    shelf = page.get_by_role("navigation")
    titles = shelf.locator(".open-it")
    expect(titles).to_have_text(["About muscles", "About bones"])
    titles.nth(1).hover()
    page.get_by_role("button", name="Rename About bones").click()
    page.get_by_label("Title").fill("The skeleton")
    page.keyboard.press("Enter")
    expect(titles).to_have_text(["About muscles", "The skeleton"])
    page.get_by_label("Search conversations").fill("said bones")  # what was said counts, not only the title
    expect(titles).to_have_text(["The skeleton"])
    page.get_by_label("Search conversations").fill("")
    titles.nth(1).hover()
    page.get_by_role("button", name="Delete The skeleton").click()
    expect(titles).to_have_text(["About muscles"])
    page.get_by_role("button", name="Undo").click()
    expect(titles).to_have_text(["About muscles", "The skeleton"])
    page.reload()
    expect(titles).to_have_text(["About muscles", "The skeleton"])


def test_deleted_conversation_stays_deleted(page: Page) -> None:
    ask(page, "About bones")
    page.get_by_role("navigation").locator(".open-it").hover()
    page.get_by_role("button", name="Delete About bones").click()
    expect(page.locator(".greeting")).to_be_visible()
    page.reload()
    expect(page.get_by_role("navigation").locator(".none")).to_have_text("Conversations are kept in this browser.")


def test_exports_say_everything(page: Page, server: FakeServer) -> None:
    server.answers["Pick"] = "red **one**"
    ask(page, "Pick").get_by_role("button", name="Retry").click()
    expect(page.get_by_role("img", name="Version 2 of 2")).to_be_visible()
    files = {}
    for label in ("Markdown, as shown", "JSON, all branches and tokens"):
        page.get_by_role("button", name="Export").click()
        with page.expect_download() as download:
            page.get_by_role("button", name=label).click()
        files[download.value.suggested_filename] = download.value.path().read_text("utf-8")
    assert files["pick.md"] == "# Pick\n\n## Question\n\nPick\n\n## Answer (tiny-anatomist)\n\nred **one**\n"
    data = json.loads(files["pick.json"])
    assert [node["content"] for node in data["nodes"]] == ["Pick", "red **one**", "red **one**"]
    assert data["nodes"][1]["tokens"][0][:2] == ["red", 0]


def test_code_is_copied_as_it_is(page: Page, server: FakeServer) -> None:
    server.answers["Code"] = "```python\nif a:\n    b()\n```"
    answer = ask(page, "Code")
    answer.get_by_role("button", name="Copy the code").click()
    expect(answer.get_by_role("button", name="Copy the code")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "if a:\n    b()"


def test_hostile_answer_and_question_stay_text(page: Page, server: FakeServer) -> None:
    attack = "<img src=x onerror=alert(1)> [go](javascript:alert(1)) <script>alert(2)</script>"
    server.answers[attack] = attack
    answer = ask(page, attack)
    expect(page.locator(".said")).to_have_text(attack)
    expect(answer.locator(".prose")).to_have_text(attack)
    assert page.locator(".question img, .answer :is(img:not([role]), script, a, iframe)").count() == 0
    expect(dissect(answer).first).to_have_text("<")


def test_policy_stops_what_would_slip_in(page: Page, complaints: list[str]) -> None:
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('img'), {src: 'https://example.org/x.png'}))"
    )
    refused = page.evaluate("(() => { try { document.body.innerHTML = '<b>'; return false } catch { return true } })()")
    assert refused
    expect(page.locator("#draft")).to_be_visible()
    assert any("img-src" in complaint for complaint in complaints)
    assert any("TrustedHTML" in complaint for complaint in complaints)
    complaints.clear()


def test_keyboard_alone_is_enough(page: Page, server: FakeServer) -> None:
    server.answers["Bones"] = "The jaw is one bone."
    keys = page.keyboard
    expect(page.get_by_label("Message")).to_be_focused()
    keys.type("Line one")
    keys.press("Shift+Enter")
    keys.type("line two")
    keys.press("Enter")
    expect(page.locator(".said")).to_have_text("Line one\nline two")
    expect(page.locator(".figures")).to_be_visible()
    keys.press("Control+k")
    expect(page.locator(".greeting")).to_be_visible()
    keys.type("Bones")
    keys.press("Enter")
    answer = page.locator(".answer")
    expect(answer).to_have_attribute("aria-busy", "false")
    dissect_button = answer.get_by_role("button", name="Dissect")
    tabs_to(page, dissect_button, "Shift+Tab")
    keys.press("Enter")
    expect(answer.get_by_role("button", name="Read")).to_be_focused()
    tokens = answer.get_by_role("option")
    tabs_to(page, tokens.first, "Shift+Tab")
    for _ in range(3):
        keys.press("ArrowRight")
    expect(tokens.nth(3)).to_be_focused()
    expect(page.get_by_role("tooltip").locator(".what")).to_have_text("·one")
    spoken = "·one: 12.0\u202f%, 3.06 bits, rank 3; instead: ·the 50.0\u202f%, ·a 25.0\u202f%"
    expect(tokens.nth(3)).to_have_attribute("aria-label", spoken)
    keys.press("End")
    expect(tokens.last).to_be_focused()
    keys.press("Home")
    expect(tokens.first).to_be_focused()
    keys.press("Escape")
    expect(page.get_by_role("tooltip")).to_be_hidden()
    tabs_to(page, page.get_by_role("button", name="Settings"), "Shift+Tab")
    keys.press("Enter")
    expect(page.get_by_role("dialog", name="This conversation")).to_be_visible()
    keys.press("Escape")
    expect(page.get_by_role("button", name="Settings")).to_be_focused()


def tabs_to(page: Page, wanted: Locator, key: str) -> None:
    """Presses a key until the focus is there; a place that cannot be reached fails."""
    for _ in range(40):
        if wanted.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press(key)
    pytest.fail(f"{key} does not lead to {wanted}")


def test_arrows_go_from_line_to_line(page: Page, server: FakeServer) -> None:
    server.answers["Lines"] = "one two three\nfour five six"
    tokens = dissect(ask(page, "Lines"))
    tokens.nth(1).focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator(":focus")).to_have_text(re.compile("^(four| five)$"))
    page.keyboard.press("ArrowUp")
    expect(page.locator(":focus")).to_have_text(re.compile("^(one| two)$"))


def test_focus_is_always_seen(page: Page) -> None:
    ask(page, "Hello")
    for _ in range(14):
        page.keyboard.press("Tab")
        seen = page.evaluate(
            """() => {
              const style = getComputedStyle(document.activeElement);
              const elsewhere = document.activeElement === document.body || document.activeElement.id === "draft";
              return elsewhere || (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2);
            }"""
        )
        assert seen, page.evaluate("document.activeElement.outerHTML.slice(0, 120)")


def test_answer_is_announced_once_and_whole(page: Page, server: FakeServer) -> None:
    server.answers["Count"] = "one two three"
    server.pause_after = 2
    live = page.locator("[aria-live=polite]")
    page.get_by_label("Message").fill("Count")
    page.keyboard.press("Enter")
    expect(page.locator(".prose")).to_have_text("one two")
    expect(live).to_have_text("The answer is being written.")
    server.resume()
    expect(live).to_have_text("Answer: one two three")


def test_every_control_has_a_name(page: Page) -> None:
    ask(page, "Hello")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, select, dialog, [role]")].filter((one) => {
          if (one.getAttribute("role") === "tooltip" || one.getAttribute("role") === "status") return false;
          const label = one.getAttribute("aria-label") || one.getAttribute("aria-labelledby") || one.labels?.length;
          return !label && !one.textContent.trim();
        }).map((one) => one.outerHTML)"""
    )
    assert nameless == []


@pytest.mark.parametrize("width", [360, 390, 768, 1024, 1280, 1600])
def test_nothing_runs_over_the_edge(page: Page, server: FakeServer, width: int) -> None:
    server.answers["Wide"] = (
        f"| {'a | ' * 20}\n| {'-|' * 20}\n| {'word | ' * 20}\n\n```\n{'x' * 400}\n```\n\n{'y' * 300}"
    )
    page.set_viewport_size({"width": width, "height": 800})
    answer = ask(page, "Wide")
    scroll = """() => {
      const thread = document.getElementById("thread");
      return [document.documentElement.scrollWidth, thread.scrollWidth - thread.clientWidth];
    }"""
    assert page.evaluate(scroll) == [width, 0]
    dissect(answer).nth(3).hover()
    note = page.get_by_role("tooltip").bounding_box()
    assert note is not None
    assert note["x"] >= 0
    assert note["x"] + note["width"] <= width
    assert page.evaluate(scroll) == [width, 0]


def test_shelf_slides_over_a_phone_and_away(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    ask(page, "Hello")
    expect(page.get_by_label("Search conversations")).to_be_hidden()
    page.get_by_role("button", name="Conversations").click()
    expect(page.get_by_label("Search conversations")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_label("Search conversations")).to_be_hidden()
    page.get_by_role("button", name="Conversations").click()
    page.get_by_role("button", name="New conversation").click()
    expect(page.get_by_label("Search conversations")).to_be_hidden()
    expect(page.get_by_label("Message")).to_be_focused()


def test_theme_follows_the_system_and_the_button_and_is_kept(page: Page) -> None:
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(ground)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(ground)
    assert dark != light
    page.get_by_role("button", name="Light or dark").click()
    assert page.evaluate(ground) == light
    page.reload()
    assert page.evaluate(ground) == light


def test_motion_is_still_for_those_who_ask(page: Page, server: FakeServer) -> None:
    page.emulate_media(reduced_motion="reduce")
    server.pause_after = 0
    page.get_by_label("Message").fill("Hello")
    page.keyboard.press("Enter")
    pulse = page.locator(".writing .prose")
    expect(pulse).to_be_attached()
    assert pulse.evaluate("prose => getComputedStyle(prose, '::after').animationName") == "none"


def test_key_is_asked_for_kept_for_the_tab_and_asked_again_when_wrong(
    context: BrowserContext, server: FakeServer, complaints: list[str]
) -> None:
    server.key = "scalpel"
    page = context.new_page()
    page.goto(server.url)
    dialog = page.get_by_role("dialog", name="Key")
    expect(dialog).to_contain_text("This server asks for a key.")
    dialog.get_by_label("Key of the server").fill("wrong")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("This key is not known.")
    dialog.get_by_label("Key of the server").fill("scalpel")
    page.keyboard.press("Enter")
    expect(page.locator("#model-name")).to_have_text("tiny-anatomist")
    expect(ask(page, "Hello").locator(".prose")).to_have_text("You said: Hello")
    page.reload()
    expect(page.locator(".said")).to_have_text("Hello")
    expect(dialog).to_be_hidden()
    assert page.evaluate("JSON.stringify(localStorage)").find("scalpel") == -1


@pytest.mark.usefixtures("failing")
def test_declined_key_leaves_a_way_to_try_again(page: Page, server: FakeServer) -> None:
    server.key = "scalpel"
    page.get_by_label("Message").fill("Hello")
    page.keyboard.press("Enter")
    page.get_by_role("dialog", name="Key").wait_for()
    page.keyboard.press("Escape")
    expect(page.get_by_role("alert")).to_have_text("This key is not known.")
    page.get_by_role("button", name="Try again").click()
    page.get_by_label("Key of the server").fill("scalpel")
    page.keyboard.press("Enter")
    expect(page.locator(".prose")).to_have_text("You said: Hello")


@pytest.mark.usefixtures("failing")
@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (429, {"Retry_After": "7"}, "The server is busy with other answers. Try again in 7 seconds."),
        (429, {"Retry_After": "1"}, "The server is busy with other answers. Try again in 1 second."),
        (429, {}, "The server is busy with other answers. Try again in a moment."),
        (400, {}, "max_tokens = 0, expected a whole number from 1"),
        (503, {}, "max_tokens = 0, expected a whole number from 1"),
    ],
)
def test_refusals_are_told_and_tried_again(
    page: Page, server: FakeServer, status: int, headers: dict[str, str], words: str
) -> None:
    server.refuse(status, "max_tokens = 0, expected a whole number from 1", **headers)
    answer = ask(page, "Hello")
    expect(answer.get_by_role("alert")).to_have_text(words)
    answer.get_by_role("button", name="Try again").click()
    expect(page.locator(".prose")).to_have_text("You said: Hello")
    assert server.requests[0]["messages"] == server.requests[1]["messages"]


@pytest.mark.usefixtures("failing")
def test_server_that_is_gone_is_told_and_tried_again(page: Page, context: BrowserContext) -> None:
    context.set_offline(True)
    answer = ask(page, "Hello")
    expect(answer.get_by_role("alert")).to_have_text("The server cannot be reached. Is it still running?")
    context.set_offline(False)
    answer.get_by_role("button", name="Try again").click()
    expect(page.locator(".prose")).to_have_text("You said: Hello")


def test_error_amid_an_answer_keeps_what_came(page: Page, server: FakeServer) -> None:
    server.answers["Count"] = "one two three"
    server.break_after = 2
    answer = ask(page, "Count")
    expect(answer.locator(".prose")).to_have_text("one two")
    expect(answer.get_by_role("alert")).to_have_text("the model met its end")


def test_server_without_logprobs_has_no_dissection(page: Page, server: FakeServer) -> None:
    server.with_logprobs = False
    answer = ask(page, "Hello")
    expect(answer.locator(".prose")).to_have_text("You said: Hello")
    expect(answer.get_by_role("button", name="Dissect")).to_be_hidden()
    expect(answer.locator("canvas")).to_be_hidden()


def test_thoughts_are_folded_away_from_the_answer(page: Page, server: FakeServer) -> None:
    server.thoughts = "Let me see.\nA greeting."
    answer = ask(page, "Hello")
    expect(answer.locator(".prose")).to_have_text("You said: Hello")
    expect(answer.locator(".thoughts p")).to_be_hidden()
    answer.get_by_text("Thoughts").click()
    expect(answer.locator(".thoughts p")).to_have_text("Let me see.\nA greeting.")
    ask(page, "Go on")
    assert server.requests[1]["messages"][1] == {"role": "assistant", "content": "You said: Hello"}


def test_choice_of_models_is_offered_sent_and_kept(context: BrowserContext, server: FakeServer) -> None:
    server.models = [{"id": "small"}, {"id": "large"}]
    page = context.new_page()
    page.goto(server.url)
    page.get_by_label("Model").select_option("large")
    ask(page, "Hello")
    page.reload()
    expect(page.get_by_label("Model")).to_have_value("large")
    assert server.requests[0]["model"] == "large"


def test_bytes_that_are_no_character_are_shown_as_bytes(page: Page, server: FakeServer) -> None:
    half = {"token": "\ufffd", "logprob": -1.0, "bytes": [0xF0, 0x9F], "top_logprobs": []}
    server.answers["Half"] = [half]
    expect(dissect(ask(page, "Half"))).to_have_text(["‹F0 9F›"])


def test_full_storage_is_said_and_the_answer_stays(page: Page) -> None:
    page.evaluate(
        """() => {
          IDBObjectStore.prototype.put = function () {
            this.transaction.abort();
            Object.defineProperty(this.transaction, "error", { value: new DOMException("full", "QuotaExceededError") });
          };
        }"""
    )
    answer = ask(page, "Hello")
    toast = "This browser's storage is full. Export or delete conversations to keep new ones."
    expect(page.get_by_role("status").filter(has_text="storage")).to_contain_text(toast)
    expect(answer.locator(".prose")).to_have_text("You said: Hello")


def test_only_so_many_conversations_are_kept(page: Page) -> None:
    page.evaluate(
        """async () => {
          const { Store } = await import("/page/store.js");
          const store = await Store.open();
          const writing = (stores) => {
            const one = { title: "One", updated: 0, nodes: [], chosen: {} };
            for (let n = 0; n < 500; n += 1) stores("conversations").put({ ...one, id: `c${n}` });
          };
          await store.write(writing);
        }"""
    )
    ask(page, "One more")
    expect(page.get_by_role("status").filter(has_text="500")).to_contain_text(
        "This browser keeps 500 conversations. Delete one to keep this one too."
    )


def test_long_answer_is_followed_to_its_end(page: Page, server: FakeServer) -> None:
    server.answers["Long"] = "\n\n".join(
        f"Paragraph {n} says **something** of `{n}`, and then it ends." for n in range(330)
    )
    answer = ask(page, "Long")
    expect(answer.locator(".prose p")).to_have_count(330)
    assert len(entries(server.answers["Long"])) > 4900
    drawn = "new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => resolve())))"
    page.evaluate(drawn)
    below = "thread => thread.scrollHeight - thread.scrollTop - thread.clientHeight"
    assert page.locator("#thread").evaluate(below) < 2
