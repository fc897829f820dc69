"""A native EventSource and the console page in real Chromium, over an edge that is killed in mid-stream."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from ops.invitation import invitation
from schemas.recording import RecordedEvent, RecordingHeader
from schemas.topics import INPUT
from tests.support.slow_clients import SlowSse, connections_of

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.timeout(150)

LISTEN = """
url => {
  window.seen = [];
  window.opened = 0;
  window.source = new EventSource(url);
  source.onopen = () => { window.opened += 1; };
  source.onmessage = message => seen.push([message.lastEventId, JSON.parse(message.data)]);
}
"""


@pytest.fixture
def page(browser: Browser) -> Any:
    context = browser.new_context()
    page = context.new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    yield page
    assert page.problems == []
    context.close()


class Trickle(threading.Thread):
    """Writes lines to a stream, a few at a time, until it is told to end it."""

    def __init__(self, twin: Any, stream: Any) -> None:
        super().__init__(daemon=True)
        self.twin, self.stream = twin, stream
        self.enough = threading.Event()

    def run(self) -> None:
        while not self.enough.is_set():
            self.twin.logs(self.stream, 3)
            time.sleep(0.02)
        self.twin.end(self.stream)

    def finish(self) -> int:
        self.enough.set()
        self.join()
        return int(self.stream.next_seq)


def until(page: Page, expression: str, timeout_s: float = 30.0) -> None:
    """Wait for a condition in the page; by the debugger, as the page's policy allows no eval."""
    deadline = time.monotonic() + timeout_s
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"never true: {expression}"
        page.wait_for_timeout(30)


def wait_for_more(page: Page, count: int) -> None:
    until(page, f"seen.length >= {count}")


def test_a_native_event_source_resumes_after_its_edge_was_killed_and_stops_at_the_end(make_edge, twin, page):
    edge = make_edge()
    stream = twin.open("build-1")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(f"{edge.url}/healthz")
    page.evaluate(LISTEN, f"{edge.url}/v1/streams/build-1/events")
    trickle = Trickle(twin, stream)
    trickle.start()
    for _ in range(2):
        before = page.evaluate("seen.length")
        wait_for_more(page, before + 50)
        edge.kill()
        time.sleep(0.7)  # lines go on to be written while no edge is there
        edge.start()
    before = page.evaluate("seen.length")
    wait_for_more(page, before + 50)
    total = trickle.finish()
    until(page, "seen.at(-1)[1].type === 'end'")
    # The browser asks once more with the cursor of the end, is answered 204, and gives up for good.
    until(page, "source.readyState === EventSource.CLOSED")
    asked = len(requests)
    page.wait_for_timeout(3_000)
    assert len(requests) == asked
    # An edge that has just started may ask to come back once more; that is no event of the stream.
    seen = [(cursor, event) for cursor, event in page.evaluate("seen") if event["type"] != "reconnect"]
    assert [event["seq"] for _, event in seen] == list(range(total))
    assert [event["line"] for _, event in seen[1:-1]] == [f"line {n}" for n in range(1, total - 1)]
    assert len({cursor for cursor, _ in seen}) == total
    assert page.evaluate("opened") >= 3


def test_the_page_shows_a_stream_across_a_kill_with_nothing_missing_or_doubled(make_edge, twin, page):
    edge = make_edge()
    stream = twin.open("build-2", title="The whole build")
    page.goto(f"{edge.url}/console")
    page.get_by_role("link", name="The whole build").click()
    expect(page.locator("#state")).to_have_text("live")
    trickle = Trickle(twin, stream)
    trickle.start()
    until(page, "document.querySelectorAll('#rows .log').length > 40")
    edge.kill()
    expect(page.locator("#state")).to_have_text("reconnecting")
    edge.start()
    expect(page.locator("#state")).to_have_text("live", timeout=20_000)
    rows = page.locator("#rows .log").count()
    until(page, f"document.querySelectorAll('#rows .log').length > {rows} + 40")
    total = trickle.finish()
    expect(page.locator("#state")).to_have_text("ended: completed", timeout=20_000)
    seqs = page.eval_on_selector_all("#rows .row", "rows => rows.map(row => Number(row.dataset.seq))")
    assert seqs == list(range(total))
    lines = page.eval_on_selector_all("#rows .log .what", "all => all.map(one => one.textContent)")
    assert lines == [f"line {n}" for n in range(1, total - 1)]
    facts = page.eval_on_selector("#stream", "element => ({...element.dataset})")
    assert (facts["contiguous"], facts["doubled"], facts["missing"]) == ("true", "0", "0")
    expect(page.locator("#rows .end")).to_contain_text("completed")
    expect(page.locator("#title")).to_have_text("The whole build")
    expect(page.locator("#cursor")).not_to_have_text("none yet")
    expect(page.locator("#cancel")).to_be_disabled()


def test_the_address_that_the_demo_prints_shows_the_stream_at_once(make_edge, twin, page):
    edge = make_edge()
    stream = twin.open("unit:tests.1", title="The unit tests")
    twin.logs(stream, 3)
    printed = re.findall(r"http://\S+/console\S*", invitation(edge.url, "unit:tests.1", os.getpid()))
    assert len(printed) == 1
    page.goto(printed[0])
    expect(page.locator("#title")).to_have_text("The unit tests")
    expect(page.locator("#rows .log")).to_have_count(3)
    # The page knows which one of its list it shows.
    expect(page.get_by_role("link", name="The unit tests")).to_have_attribute("aria-current", "true")


def test_the_address_that_a_served_recording_prints_shows_it_at_once(page, tmp_path: Path):
    header = RecordingHeader("acme", "build:7", "log", "2026-11-23T00:00:00Z")
    parts: list[tuple[str, dict[str, object]]] = [
        ("open", {"title": "A recorded build"}),
        ("log", {"line": "linking"}),
        ("end", {"reason": "completed"}),
    ]
    lines = [header.line()]
    for seq, (type_name, payload) in enumerate(parts):
        lines.append(RecordedEvent(0, f"e-{seq}", type_name, seq, "2026-11-23T00:00:00Z", payload).line())
    file = tmp_path / "build.stream.jsonl"
    file.write_bytes(b"".join(lines))
    words = [sys.executable, "-m", "ops", "replay", "--serve", "0", str(file)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stdout is not None
            page.goto(serving.stdout.readline().split()[-1])
            expect(page.locator("#title")).to_have_text("A recorded build")
            expect(page.locator("#rows .log")).to_have_text(re.compile("linking"))
            expect(page.locator("#state")).to_have_text("ended: completed")
        finally:
            serving.terminate()


HOSTILE = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07and \x1b[2Jcleared",
    'first\n\ndata: {"type":"end"}\n\nid: stolen',
    "\u202eright to left",
]  # fmt: skip


def test_hostile_lines_stay_text(make_edge, twin, page):
    edge = make_edge()
    stream = twin.open("hostile", title="<b>bold</b>")
    twin.write(stream, [("log", {"line": line, "level": "<i>"}) for line in HOSTILE])
    page.goto(f"{edge.url}/console#default/hostile")
    until(page, "document.querySelectorAll('#rows .log').length === 5")
    lines = page.eval_on_selector_all("#rows .log .what", "all => all.map(one => one.textContent)")
    assert lines == [HOSTILE[0], HOSTILE[1], "red and cleared", HOSTILE[3], "\ufffdright to left"]
    assert page.evaluate("window.hacked") is None
    assert page.locator("#rows script, #rows img, #rows i, #title b").count() == 0
    assert page.locator("#title").text_content() == "<b>bold</b>"
    assert page.locator("#state").text_content() == "live"


def test_each_type_is_shown_as_what_it_is(make_edge, twin, page):
    edge = make_edge()
    stream = twin.open("all", title="All types")
    twin.write(
        stream,
        [
            ("token", {"text": "wrong ", "role": "assistant"}),
            ("reset", {"from_seq": 1, "reason": "the provider failed"}),
            ("token", {"text": "right ", "role": "assistant"}),
            ("usage", {"provider": "p", "model": "m", "calls": 1, "input_tokens": 1200, "output_tokens": 7}),
            ("token", {"text": "answer", "role": "assistant"}),
            ("progress", {"done": 30, "total": 120, "unit": "files", "message": "linking"}),
            ("log", {"line": "it failed", "level": "error", "stream": "stderr"}),
            ("gap", {"from_seq": 4, "to_seq": 6, "count": 3, "reason": "missing_input"}),
            ("state", {"name": "phase", "value_json": '{"at":"link"}'}),
            ("message", {"from": "ada", "text": "is it done?"}),
            ("cancel", {"reason": "enough", "by": "bob"}),
            ("end", {"reason": "upstream_error", "message": "exit 2", "exit_code": 2}),
        ],
    )
    page.goto(f"{edge.url}/console#default/all")
    expect(page.locator("#state")).to_have_text("ended: upstream error")
    text = page.eval_on_selector_all("#rows .row", "rows => rows.map(row => row.lastChild.textContent)")
    assert text == [
        "opened", "assistantwrong ", "started over from seq 1 the provider failed", "assistantright answer",
        "p m 1,200 tokens in, 7 out, cost unknown, 0 ms", "it failed",
        "3 events are missing (the producer's 4 to 6): they never came in", 'phase{\n  "at": "link"\n}',
        "adais it done?", "cancel was asked for by bob: enough", "upstream error, exit code 2: exit 2",
    ]  # fmt: skip
    assert page.locator(".row.void").all_text_contents() == [page.locator(".row.text").first.text_content()]
    expect(page.locator("#percent")).to_have_text("25 %")
    expect(page.locator("#doing")).to_have_text("30 of 120 files · linking")
    assert page.locator(".row.error.stderr").count() == 1
    assert page.eval_on_selector("#stream", "element => element.dataset.contiguous") == "true"
    page.locator("#filter").fill("FAILED")
    expect(page.locator("#rows .row:visible")).to_have_count(2)


def test_a_script_from_elsewhere_would_not_run_on_the_page(make_edge, page):
    edge = make_edge()
    page.goto(f"{edge.url}/console")
    blocked = page.evaluate(
        """async () => {
          const violation = new Promise(done => addEventListener('securitypolicyviolation', done));
          const script = document.createElement('script');
          script.textContent = 'window.hacked = 1';
          document.body.append(script);
          return (await violation).effectiveDirective;
        }"""
    )
    assert blocked.startswith("script-src")
    assert page.evaluate("window.hacked") is None


def test_the_cancel_button_asks_twice_and_then_appends_a_cancel(make_edge, twin, page, kafka_options):
    edge = make_edge()
    twin.open("long-job", kind="job", title="A long job")
    page.goto(f"{edge.url}/console#default/long-job")
    expect(page.locator("#state")).to_have_text("live")
    page.get_by_role("button", name="Cancel").click()
    appended = []
    page.on("response", lambda answer: appended.append((answer.request.method, answer.status)))
    with page.expect_response(lambda answer: answer.url.endswith("/cancel?tenant=default")) as answer:
        page.get_by_role("button", name="Really cancel?").click()
    assert answer.value.status == 202
    records = twin.records(INPUT)
    assert [event.type for event in records] == ["cancel"]
    assert records[0].stream_id == "long-job"


def test_slow_clients_are_shown_by_name_with_what_their_kinds_policy_did(make_edge, twin, page):
    edge = make_edge(write_stall_ms_max=300_000)
    room = twin.open("room-7", kind="chat")
    client = SlowSse(edge, "room-7")
    client.next()
    page.goto(f"{edge.url}/console")
    page.get_by_role("link", name="clients", exact=True).click()
    expect(page.locator("#howmany")).to_have_text("0 behind or taking nothing.")
    said = [("message", {"from": "ann", "text": "x" * 20_000})] * 40
    deadline = time.monotonic() + 60
    while not (shown := connections_of(edge, "?slow=true")) or shown[0]["bytes_behind"] < 2 << 20:
        assert time.monotonic() < deadline
        twin.write(room, said)  # what the network holds for it is filled, and then its bound passed
    expect(page.locator("#slow")).to_have_text("1 slow client")
    row = page.locator("#connections tr")
    expect(row.locator("th")).to_have_text(client.peer)
    cells = row.locator("td").all_text_contents()
    assert [*cells[:5], *cells[9:]] == ["-", "sse", "room-7", "drop_new", "paused", "0", "-"]
    assert [bool(re.fullmatch(r"[\d,]+ \([\d.]+ [KM]iB\)", cells[place])) for place in (5, 8)] == [True, True]
    assert re.fullmatch(r"[\d.]+ s", cells[7])

    twin.write(room, [("message", {"from": "ann", "text": "the last"})])
    while (event := client.next())["seq"] < room.next_seq - 1:
        pass
    assert (event["type"], event["reason"]) == ("gap", "slow")
    expect(row).to_have_count(0)
    expect(page.locator("#slow")).to_have_text("clients")
    page.get_by_label("All clients").check()
    expect(page.locator("#howmany")).to_have_text("1 with a stream.")
    expect(row.locator("td").nth(4)).to_have_text("abreast")
    assert row.locator("td").all_text_contents()[9:] == ["1", f"{event['count']:,} drop_new"]
    row.get_by_role("link").click()
    expect(page.locator("#title")).to_have_text("room-7")
    expect(page.locator("#clients")).to_be_hidden()
    client.close()


# The page as a browser treats one in the background: hidden, and no frame is ever drawn.
BACKGROUND = """
  window.background = false;
  Object.defineProperty(Document.prototype, "hidden", { get: () => window.background });
  const frames = window.requestAnimationFrame.bind(window);
  window.requestAnimationFrame = draw => window.stuck ? 1e9 : frames(draw);
  window.show = on => { background = !on; document.dispatchEvent(new Event("visibilitychange")); };
  window.messages = 0;
  window.EventSource = class extends EventSource {
    constructor(url) {
      super(url);
      window.source = this;
      this.addEventListener("message", () => messages += 1);
    }
  };
  window.longest = 0;  // of all lists that events are put into
  const push = Array.prototype.push;
  Array.prototype.push = function (...items) {
    const length = push.apply(this, items);
    if (items[0]?.event_id) longest = Math.max(longest, length);
    return length;
  };
"""


def test_a_page_that_is_hidden_goes_on_drawing_and_one_that_does_not_draw_keeps_no_more_than_it_shows(
    make_edge, twin, page
):
    edge = make_edge()
    stream = twin.open("tab", title="A tab in the background")
    page.add_init_script(BACKGROUND)
    page.goto(f"{edge.url}/console#default/tab")
    expect(page.locator("#title")).to_have_text("A tab in the background")
    page.evaluate("stuck = true")  # a frame is asked for, and then the page is hidden
    twin.logs(stream, 3)
    until(page, "messages === 4")
    assert page.locator("#rows .log").count() == 0
    page.evaluate("show(false)")
    until(page, "document.querySelectorAll('#rows .log').length === 3")
    twin.logs(stream, 3)
    until(page, "document.querySelectorAll('#rows .log').length === 6")

    page.evaluate("show(true)")  # shown, but no frame comes: nothing is drawn at all
    twin.logs(stream, 12_000)
    until(page, "messages === 12007")
    assert 5_000 < page.evaluate("longest") <= 10_001
    page.evaluate("stuck = false, show(true)")
    expect(page.locator("#rows .row")).to_have_count(5_000)
    expect(page.locator("#earlier")).to_have_text("7,007 earlier rows are not shown; they are in the stream.")
    seqs = page.eval_on_selector_all("#rows .row", "rows => rows.map(row => Number(row.dataset.seq))")
    assert seqs == list(range(7_007, 12_007))


def test_what_waited_to_be_drawn_of_one_stream_is_not_drawn_into_the_next(make_edge, twin, page):
    edge = make_edge()
    first = twin.open("one", title="The first")
    twin.logs(twin.open("two", title="The second"), 2)
    page.add_init_script(BACKGROUND)
    page.goto(f"{edge.url}/console#default/one")
    expect(page.locator("#title")).to_have_text("The first")
    page.evaluate(
        """() => {
          show(false);
          source.addEventListener("message", () => { location.hash = "#default/two"; });
        }"""
    )
    twin.write(first, [("log", {"line": "of the first"})])
    until(page, "document.querySelectorAll('#rows .log').length >= 2")
    page.wait_for_timeout(600)  # more than twice the time after which a hidden page draws
    assert page.locator("#rows .log .what").all_text_contents() == ["line 1", "line 2"]


def test_the_page_is_used_by_keyboard_and_at_the_width_of_a_phone(make_edge, twin, page):
    edge = make_edge()
    for number in range(3):
        twin.open(f"job-{number}", kind="job", title=f"Job {number}")
    page.set_viewport_size({"width": 360, "height": 640})
    page.goto(f"{edge.url}/console")
    expect(page.get_by_role("link", name="Job 2")).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("job-")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent").startswith("Job 2")  # newest first
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#title")).to_have_text("Job 1")
    expect(page.locator(".streams")).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.keyboard.press("Escape")
    expect(page.locator(".streams")).to_be_visible()
